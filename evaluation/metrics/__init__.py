"""Metrics by the field's definitions, one concept a file, each with its convention named.

Common to all of them: arrays in, frozen dataclasses out, no files. Labels are True for a false picture (generated or
edited) and False for an honest one; a higher score is more suspicious; a picture is an alarm when its score is at or
above the threshold. A group is the source that pictures were made from: what shares a source is not independent.

- `detection`: TPR and FPR at a threshold, TPR at a fixed FPR, ROC, PR, AUC, AP, balanced accuracy, EER.
- `localization`: pixel F1, IoU, MCC at a fixed threshold, pixel AUC; per-image means and pooled.
- `boxes`: recall, precision, AP at IoU 0.5.
- `calibration`: ECE, Brier, reliability curve, Cllr and its minimum.
- `intervals`: cluster bootstrap, Wilson, Clopper-Pearson, proportions of clustered pictures.
- `coverage`: how often a detector applied. `drift`: population stability index. `pav`: isotonic regression.
- `errors`: what the functions refuse, and why.
"""
