"""SIFT tracks between keyframes: they bridge big steps and return to old places without drift."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pycolmap

from megasam_server.geometry.small_matrices import one_blas_thread
from megasam_server.media.frame_store import FrameStore
from megasam_server.media.in_order import map_in_order
from megasam_server.tracking.tracks import Tracks

_MAX_FEATURES = 2000
_RATIO = 0.8
_WINDOW = 8
_LOOP_NEIGHBOURS = 6
_EPIPOLAR_PX = 2.0
_MIN_MATCHES = 20


def detect_features(gray: np.ndarray, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """SIFT keypoints and RootSIFT descriptors (Arandjelovic & Zisserman 2012).

    Args:
        gray: uint8 [H,W]. allowed: uint8 [H,W], 0 where no feature may lie; None = everywhere.

    Returns:
        xy float32 [K,2], pixel centres at integers; unit-length descriptors float32 [K,128].
    """
    sift = cv2.SIFT_create(
        nfeatures=_MAX_FEATURES,
        contrastThreshold=0.015,
        edgeThreshold=10,
        enable_precise_upscale=True,
    )
    keypoints, descriptors = sift.detectAndCompute(gray, allowed)
    if descriptors is None:
        return np.empty((0, 2), np.float32), np.empty((0, 128), np.float32)
    xy = np.array([k.pt for k in keypoints], np.float32)
    # One place can carry several orientations: keep one, or a track would see itself twice.
    _, first = np.unique(np.round(xy, 1), axis=0, return_index=True)
    descriptors = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-6))
    return xy[first], descriptors[first]


def match_features(descriptors_a: np.ndarray, descriptors_b: np.ndarray) -> np.ndarray:
    """Mutual nearest neighbours that pass the ratio test, int64 [K,2]."""
    if min(len(descriptors_a), len(descriptors_b)) < 2:
        return np.empty((0, 2), np.int64)
    similarity = descriptors_a @ descriptors_b.T
    best = similarity.argmax(axis=1)
    rows = np.arange(len(similarity))
    top = similarity[rows, best]
    mutual = similarity.argmax(axis=0)[best] == rows
    similarity[rows, best] = -1
    second = similarity.max(axis=1)
    # |a-b|^2 = 2 - 2ab for unit vectors
    distinct = (1 - top) < _RATIO**2 * (1 - second)
    keep = mutual & distinct & (top > 0.75)
    return np.stack([rows[keep], best[keep]], axis=1)


def _verified(xy_a: np.ndarray, xy_b: np.ndarray) -> np.ndarray:
    """Matches that one rigid motion of the camera explains, bool [K]."""
    if len(xy_a) < _MIN_MATCHES:
        return np.zeros(len(xy_a), bool)
    # Distinct mutual matches are mostly right: few trials find the consensus. On a pan, where the fundamental matrix is
    # not unique, more would only search on.
    options = pycolmap.RANSACOptions(
        max_error=_EPIPOLAR_PX,
        min_num_trials=50,
        max_num_trials=1000,
        confidence=0.999,
        random_seed=0,
    )
    answer = pycolmap.estimate_fundamental_matrix(xy_a, xy_b, options)
    if answer is None or answer["num_inliers"] < _MIN_MATCHES:
        return np.zeros(len(xy_a), bool)
    return np.asarray(answer["inlier_mask"])


def match_keyframes(
    frames: FrameStore,
    user_masks: FrameStore | None,
    keyframes: list[int],
    report: Callable[[int, int], None],
) -> Tracks:
    """SIFT tracks over the keyframes: neighbours, and far pairs that look alike (loops).

    Args:
        frames: N frames, RGB. user_masks: 1 = leave out. keyframes: ascending indices.
        report: called with (steps done, steps).

    Returns:
        tracks of at least two observations, only in keyframes.
    """
    num = len(keyframes)

    def detect(index: int) -> tuple[np.ndarray, np.ndarray]:
        gray = cv2.cvtColor(frames.frame(index), cv2.COLOR_RGB2GRAY)
        allowed = None if user_masks is None else 1 - user_masks.frame(index)
        return detect_features(gray, allowed)

    xy, descriptors, looks = [], [], []
    for done, (points, described) in enumerate(map_in_order(detect, keyframes)):
        xy.append(points)
        descriptors.append(described)
        looks.append(described.mean(axis=0) if len(described) else np.zeros(128, np.float32))
        report(done + 1, 2 * num)
    offsets = np.cumsum([0, *map(len, xy)])

    def match(pair: tuple[int, int]) -> np.ndarray:
        a, b = pair
        matches = match_features(descriptors[a], descriptors[b])
        good = matches[_verified(xy[a][matches[:, 0]], xy[b][matches[:, 1]])]
        return good + offsets[[a, b]]

    edges = []
    pairs = _pairs_to_match(np.array(looks))
    with one_blas_thread():
        for done, found in enumerate(map_in_order(match, pairs)):
            edges.append(found)
            report(num + (done + 1) * num // max(len(pairs), 1), 2 * num)
    owner = np.repeat(np.arange(num), np.diff(offsets))
    track = _link(np.concatenate(edges) if edges else np.empty((0, 2), int), owner)
    positions = np.concatenate(xy).astype(np.float64)
    return Tracks.from_observations(track, np.array(keyframes)[owner], positions).with_min_length(2)


def _pairs_to_match(looks: np.ndarray) -> list[tuple[int, int]]:
    """Keyframe pairs: a window of neighbours, and for each the farther ones most alike."""
    num = len(looks)
    pairs = {(a, b) for a in range(num) for b in range(a + 1, min(a + _WINDOW + 1, num))}
    looks = looks - looks.mean(axis=0)
    looks /= np.maximum(np.linalg.norm(looks, axis=1, keepdims=True), 1e-6)
    similarity = looks @ looks.T
    for a in range(num):
        far = np.abs(np.arange(num) - a) > _WINDOW
        ranked = np.argsort(-np.where(far, similarity[a], -2))[: min(_LOOP_NEIGHBOURS, far.sum())]
        pairs.update((min(a, int(b)), max(a, int(b))) for b in ranked)
    return sorted(pairs)


def _link(edges: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Join matched features into tracks that see each keyframe at most once.

    Args:
        edges: pairs of feature indices, int64 [E,2], best pairs first.
        owner: keyframe of each feature, int64 [F].

    Returns:
        track id of each feature, int64 [F].
    """
    root = np.arange(len(owner))
    members: dict[int, set[int]] = {}

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for a, b in edges:
        ra, rb = find(int(a)), find(int(b))
        if ra == rb:
            continue
        frames_a = members.get(ra) or {int(owner[ra])}
        frames_b = members.get(rb) or {int(owner[rb])}
        if frames_a & frames_b:
            continue  # one of the two matches is wrong; the earlier one stays
        root[rb] = ra
        members[ra] = frames_a | frames_b
        members.pop(rb, None)
    return np.array([find(i) for i in range(len(owner))])
