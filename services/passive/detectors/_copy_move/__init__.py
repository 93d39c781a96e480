"""How copies within a picture are found: one step a module.

    keypoints   candidate maps out of matched SIFT keypoints
    field       candidate maps out of a dense field of nearest neighbours, where keypoints see nothing
    verify      one candidate map against the pixels: masks and measurements
    repetition  a copy, or honest repetition: the measurements' verdict
    search      the steps together
    geometry    affine maps

`services.passive.detectors.copy_move` asks `search` and words the answer.
"""
