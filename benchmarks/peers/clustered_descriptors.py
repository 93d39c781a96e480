"""A peer for comparison: the way of simple copy-move scripts, and of this project's predecessor.

    python clustered_descriptors.py PICTURE MASK

SIFT descriptors (not places, not matches) are clustered by DBSCAN, and any cluster at all is called a forgery. No map
between the places is asked for, so whatever looks alike twice (windows, letters, leaves) accuses a picture.

Prints 0 without a cluster, else 0.5 and up to 1 with the share of keypoints that lie in clusters, and writes discs
around those as the mask. `RADIUS` and `SIZE` are those that such scripts commonly have.
"""

from __future__ import annotations

import sys

import cv2
import numpy as np
from sklearn.cluster import DBSCAN

RADIUS = 60.0
"""Of a neighbourhood, in the 128 dimensions of OpenCV's SIFT (each 0-255)."""
SIZE = 2
STRONGEST = 4_000
"""Keypoints used at most: clustering takes time by the square of their number."""


def main() -> int:
    """Measures one picture."""
    grey = cv2.imread(sys.argv[1], cv2.IMREAD_GRAYSCALE)
    if grey is None:
        print("the picture cannot be read", file=sys.stderr)
        return 1
    keypoints, descriptors = cv2.SIFT_create(nfeatures=STRONGEST).detectAndCompute(grey, None)
    if not keypoints:
        print("NA")
        return 0
    clustered = DBSCAN(eps=RADIUS, min_samples=SIZE, algorithm="brute").fit_predict(descriptors) >= 0
    mask = np.zeros(grey.shape, np.uint8)
    for keypoint, inside in zip(keypoints, clustered, strict=True):
        if inside:
            cv2.circle(mask, (round(keypoint.pt[0]), round(keypoint.pt[1])), max(4, round(keypoint.size)), 255, -1)
    cv2.imwrite(sys.argv[2], mask)
    print(0.5 + 0.5 * float(clustered.mean()) if clustered.any() else 0.0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
