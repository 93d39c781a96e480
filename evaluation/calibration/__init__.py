"""Calibration: from detectors' scores to likelihood ratios, and from many to one.

`fit` makes an artefact from scored pictures, `artefact` saves and loads it and guards its sources;
`services.common.calibration` is the same artefact where it is applied.
"""
