"""How copies within a picture are found: one step a module.

    keypoints   candidate maps out of matched SIFT keypoints
    field       candidate maps out of a dense field of nearest neighbours, where keypoints see nothing
    verify      one candidate map against the pixels: masks and measurements
    repetition  a copy, or honest repetition: the measurements' verdict
    search      the steps together
    full_size   what was found in a reduced picture, aligned and outlined at full size
    geometry    affine maps

`services.passive.detectors.copy_move` asks `search` and `full_size`, and words the answer.
"""
