"""A peer for comparison: copy-move detection as textbooks have it, with nothing of Pentimento's own.

    python textbook_copy_move.py PICTURE MASK

1. SIFT keypoints; each is matched with others of the same picture by the g2NN test: neighbours are taken as long as
   the distance of one is less than `RATIO` times that of the next (Amerini et al. 2011, 10.1109/TIFS.2011.2129512).
2. The places of matched keypoints are clustered (DBSCAN; Ester et al. 1996).
3. Between every two clusters an affine map is fitted by RANSAC (Fischler & Bolles 1981, 10.1145/358669.358692).

Prints n / (n + ENOUGH) for the n inliers of the best map, and writes the hulls of all maps' inliers with at least
`ENOUGH` as the mask. The constants are the papers' or customary; nothing is tuned on any data set.
"""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict

import cv2
import numpy as np
from sklearn.cluster import DBSCAN

STRONGEST = 4_000
"""Keypoints used at most: matching takes time by the square of their number."""
RATIO = 0.5
NEIGHBOURS = 10
APART = 10.0
"""Matches nearer than this, in pixels, are the same place."""
CLUSTER_RADIUS = 48.0
CLUSTER_SIZE = 3
REPROJECTION = 3.0
ENOUGH = 4
"""Inliers from which a picture is called forged: one more than any three points in general position satisfy."""


def matches(points: np.ndarray, descriptors: np.ndarray) -> np.ndarray:
    """Pairs of indices (n, 2) of keypoints that pass the g2NN test and lie apart."""
    pairs = set()
    count = min(NEIGHBOURS + 1, len(points))
    for found in cv2.BFMatcher(cv2.NORM_L2).knnMatch(descriptors, descriptors, k=count):
        others = [match for match in found if match.trainIdx != match.queryIdx]
        for near, next_ in itertools.pairwise(others):
            if near.distance >= RATIO * next_.distance:
                break
            if np.hypot(*(points[near.queryIdx] - points[near.trainIdx])) > APART:
                pairs.add((min(near.queryIdx, near.trainIdx), max(near.queryIdx, near.trainIdx)))
    return np.array(sorted(pairs), dtype=np.intp).reshape(-1, 2)


def affine_inliers(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Which of the pairs (bool, (n,)) agree with the best affine map."""
    if len(source) < 3:
        return np.zeros(len(source), dtype=np.bool_)
    cv2.setRNGSeed(0)
    matrix, inliers = cv2.estimateAffine2D(source, target, method=cv2.RANSAC, ransacReprojThreshold=REPROJECTION)
    return np.zeros(len(source), dtype=np.bool_) if matrix is None else inliers.ravel().astype(np.bool_)


def main() -> int:
    """Measures one picture."""
    grey = cv2.imread(sys.argv[1], cv2.IMREAD_GRAYSCALE)
    if grey is None:
        print("the picture cannot be read", file=sys.stderr)
        return 1
    keypoints, descriptors = cv2.SIFT_create(nfeatures=STRONGEST).detectAndCompute(grey, None)
    if len(keypoints) < NEIGHBOURS:
        print("NA")
        return 0
    points = np.array([keypoint.pt for keypoint in keypoints], dtype=np.float32)
    pairs = matches(points, descriptors)
    mask = np.zeros(grey.shape, np.uint8)
    best = 0
    if len(pairs):
        matched = np.unique(pairs)
        labels = DBSCAN(eps=CLUSTER_RADIUS, min_samples=CLUSTER_SIZE).fit_predict(points[matched])
        cluster = dict(zip(matched.tolist(), labels.tolist(), strict=True))
        groups = defaultdict(list)
        for first, second in pairs.tolist():
            one, other = cluster[first], cluster[second]
            if one >= 0 and other >= 0 and one != other:
                groups[min(one, other), max(one, other)].append((first, second) if one < other else (second, first))
        for group in groups.values():
            ends = np.array(group)
            source, target = points[ends[:, 0]], points[ends[:, 1]]
            inliers = affine_inliers(source, target)
            count = int(inliers.sum())
            best = max(best, count)
            if count >= ENOUGH:
                for side in (source, target):
                    hull = cv2.convexHull(side[inliers]).round().astype(np.int32)
                    cv2.fillConvexPoly(mask, hull, 255)
    cv2.imwrite(sys.argv[2], mask)
    print(best / (best + ENOUGH))
    return 0


if __name__ == "__main__":
    sys.exit(main())
