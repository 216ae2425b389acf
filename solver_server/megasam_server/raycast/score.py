"""How far the results of a solve are from the truth of a rendered clip."""

from __future__ import annotations

import json
from dataclasses import dataclass

import cv2
import numpy as np
import OpenImageIO as oiio

from megasam_server.export.result_folder import ResultFolder
from megasam_server.geometry.trajectory import compare, read_tum
from megasam_server.raycast.clip import RenderedClip


@dataclass(frozen=True)
class ResultErrors:
    """Errors of a result folder.

    Attributes:
        frames, posed: of the clip; with a camera.
        rotation_rms_deg, rotation_max_deg: degrees, after the best common rotation.
        ate_percent: RMS position error after the best similarity, % of the true path.
        ate_m: the same in metres of the truth.
        focal_percent: median over frames of |fx / true fx - 1|, %.
        mask_iou: moving pixels in both / in either, over all frames, 0-1.
        depth_percent: median over static pixels of all frames of |z / true z - 1|, %, after one
            scale for the whole clip (the median ratio: a solve has no scale of its own).
    """

    frames: int
    posed: int
    rotation_rms_deg: float
    rotation_max_deg: float
    ate_percent: float
    ate_m: float
    focal_percent: float
    mask_iou: float
    depth_percent: float


def score_results(folder: ResultFolder, clip: RenderedClip) -> ResultErrors:
    """Compare the files of a solve with the truth, as they lie on disk.

    Raises:
        OSError: a file of the result is missing.
    """
    extrinsics = json.loads(folder.camera_extrinsics.read_text("utf-8"))
    numbers = extrinsics["frame_numbers"]
    poses = read_tum(folder.poses_tum)
    path = compare(poses, clip.cameras.world_from_cam)
    focal = np.loadtxt(folder.intrinsics, ndmin=2)[:, 1]
    true_focal = clip.cameras.intrinsics.fx[: len(focal)]
    return ResultErrors(
        frames=len(clip.rgb),
        posed=len(poses),
        rotation_rms_deg=path.rotation_rms_deg,
        rotation_max_deg=path.rotation_max_deg,
        ate_percent=path.ate_percent,
        ate_m=path.ate,
        focal_percent=100.0 * float(np.median(np.abs(focal / true_focal - 1.0))),
        mask_iou=_mask_iou(folder, numbers, clip),
        depth_percent=_depth_percent(folder, numbers, clip),
    )


def _files(folder, numbers: list[int]) -> list:
    """The files of a folder with one file for each frame, in frame order."""
    files = sorted(folder.iterdir())
    if len(files) != len(numbers):
        raise FileNotFoundError(f"{folder} has {len(files)} files for {len(numbers)} frames.")
    return files


def _mask_iou(folder: ResultFolder, numbers: list[int], clip: RenderedClip) -> float:
    both = either = 0
    for file, true in zip(_files(folder.masks, numbers), clip.moving, strict=True):
        found = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) > 127
        both += int((found & true).sum())
        either += int((found | true).sum())
    return both / either if either else 1.0


def _depth_percent(folder: ResultFolder, numbers: list[int], clip: RenderedClip) -> float:
    ratios = []
    for index, file in enumerate(_files(folder.depth, numbers)):
        found = np.squeeze(oiio.ImageBuf(str(file)).get_pixels(oiio.FLOAT))
        size = (found.shape[1], found.shape[0])
        true = cv2.resize(clip.depth[index], size, interpolation=cv2.INTER_NEAREST)
        moving = cv2.resize(
            clip.moving[index].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST
        )
        usable = (true > 0) & (moving == 0) & np.isfinite(found) & (found > 0)
        ratios.append((found[usable] / true[usable])[::7])
    ratio = np.concatenate(ratios)
    if not ratio.size:
        return float("nan")
    return 100.0 * float(np.median(np.abs(ratio / np.median(ratio) - 1.0)))
