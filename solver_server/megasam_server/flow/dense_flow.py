"""Dense optical flow (OpenCV DIS) between frames whose cameras are solved.

The second frame is first brought over the first one by the homography that the cameras predict for
a plane at the scene's middle depth, so that rotation, zoom and most of the travel are gone before
the flow starts: long steps and whip pans stay within the reach of the search.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from megasam_server.flow.dense_frames import DenseFrames
from megasam_server.flow.flow_store import FlowStore
from megasam_server.geometry.camera import CameraPath
from megasam_server.geometry.two_view import TwoView, pixel_grid
from megasam_server.media.in_order import map_in_order


def make_dis(quality_preset: str) -> cv2.DISOpticalFlow:
    """The DIS solver of a preset.

    ``fast`` descends shorter; ``best`` overlaps patches more, descends longer and adds refinement
    by variational smoothing, which otherwise costs more time than it gains. All of them end at half
    size: from a quarter, thin things and their borders are lost.
    """
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setGradientDescentIterations({"fast": 12, "balanced": 25, "best": 32}[quality_preset])
    if quality_preset == "best":
        dis.setPatchStride(2)
        dis.setVariationalRefinementIterations(10)
    else:
        dis.setVariationalRefinementIterations(0)
    return dis


def _warp(image: np.ndarray, homography: np.ndarray) -> np.ndarray:
    """``image`` resampled so that pixel x shows what lies at ``homography`` x."""
    return cv2.warpPerspective(
        image,
        homography,
        (image.shape[1], image.shape[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean(cv2.absdiff(a[::4, ::4], b[::4, ::4])))


def guided_flow(
    dis: cv2.DISOpticalFlow, source: np.ndarray, target: np.ndarray, homography: np.ndarray
) -> np.ndarray:
    """Flow from ``source`` to ``target`` (uint8 [h,w]) about a predicted ``homography``.

    A prediction that fits worse than no motion at all (a wrongly solved frame) is not used.

    Returns:
        float32 [2,h,w], pixels.
    """
    height, width = source.shape
    aligned = _warp(target, homography)
    if _difference(source, aligned) > _difference(source, target):
        homography, aligned = np.eye(3), target
    rest = dis.calc(source, aligned, None)
    x, y = pixel_grid(height, width)
    h = homography.astype(np.float32)
    at_x, at_y = x + rest[..., 0], y + rest[..., 1]
    z = h[2, 0] * at_x + h[2, 1] * at_y + h[2, 2]
    z = np.where(np.abs(z) > 1e-6, z, np.float32(1e-6))
    flow = np.stack(
        [
            (h[0, 0] * at_x + h[0, 1] * at_y + h[0, 2]) / z - x,
            (h[1, 0] * at_x + h[1, 1] * at_y + h[1, 2]) / z - y,
        ]
    )
    return np.clip(flow, -4 * width, 4 * width)


def round_trip_trust(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Trust in ``forward`` [2,h,w]: 1 where it and then ``backward`` lead home, float32 [h,w].

    The error allowed is half a pixel plus 2 % of the motion; trust falls to 0 at three times that.
    Pixels that leave the picture have trust 0.
    """
    height, width = forward.shape[1:]
    x, y = pixel_grid(height, width)
    to_x, to_y = x + forward[0], y + forward[1]
    back = [
        cv2.remap(backward[axis], to_x, to_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for axis in (0, 1)
    ]
    error = np.hypot(forward[0] + back[0], forward[1] + back[1])
    allowed = 0.5 + 0.02 * np.hypot(forward[0], forward[1])
    trust = np.clip(1.5 - 0.5 * error / allowed, 0, 1)
    inside = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
    return (trust * inside).astype(np.float32)


def compute_flow(
    frames: DenseFrames,
    cameras: CameraPath,
    edges: np.ndarray,
    middle_inverse_depth: np.ndarray,
    quality_preset: str,
    folder: Path,
    report: Callable[[int], None],
) -> FlowStore:
    """Flow of both directions of every edge, written to ``folder``.

    Args:
        frames: at the size to compute at.
        cameras: at the same size.
        edges: int [E,2], sorted, i < j.
        middle_inverse_depth: [N] typical inverse depth of each frame; 0 = far away or unknown.
        quality_preset: ``fast``, ``balanced`` or ``best``.
        report: called with the number of frames done.
    """
    width, height = cameras.intrinsics.width, cameras.intrinsics.height
    store = FlowStore.create(folder, edges, width, height)
    own = threading.local()

    def both_ways(edge: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        if not hasattr(own, "dis"):
            own.dis = make_dis(quality_preset)
        flows = []
        for a, b in (edge, edge[::-1]):
            homography = TwoView.between(cameras, a, b).plane_homography(middle_inverse_depth[a])
            flows.append(guided_flow(own.dis, frames.grey(a), frames.grey(b), homography))
        trusts = [round_trip_trust(*flows), round_trip_trust(*flows[::-1])]
        return list(zip(flows, trusts, strict=True))

    for edge, results in zip(edges, map_in_order(both_ways, edges), strict=True):
        for flow, trust in results:
            store.append(flow, trust)
        report(int(edge[0]) + 1)
    return store
