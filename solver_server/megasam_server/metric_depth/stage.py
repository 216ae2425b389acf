"""Stage 2: what metric depth of some frames says about the whole clip."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from megasam_shared.errors import MegasamError
from megasam_shared.quality import Notice
from torch import Tensor

from megasam_server.media.frame_store import FrameStore
from megasam_server.metric_depth.alignment import (
    ClipAlignment,
    align_clip,
    focal_from_fov,
    relative_alignment,
)
from megasam_server.metric_depth.input_size import metric_input_size


class MetricPrediction(Protocol):
    depth: Tensor  # [B,H,W] metres
    horizontal_fov: Tensor  # [B] degrees


class MetricDepthNetwork(Protocol):
    """:class:`megasam_server.models.unidepth.UniDepthV2` is one."""

    def infer(self, images: Tensor, intrinsics: Tensor | None = None) -> MetricPrediction:
        """RGB uint8 [B,3,H,W]; fx, fy, cx, cy [B,4] of a known camera, pixel corners at 0."""


@dataclass(frozen=True)
class DepthScale:
    """What stage 2 hands on.

    Attributes:
        alignment: from relative disparity to depth; None without usable mono depth.
        focal_per_width: estimated focal length over the width of the picture; None when it was
            not estimated.
        notices: for the artist.
    """

    alignment: ClipAlignment | None
    focal_per_width: float | None
    notices: list[Notice]


@dataclass(frozen=True)
class MetricFrames:
    """Metric depth of some frames: ``depths`` float32 [h,w] in metres, by frame; ``fov`` degrees."""

    depths: Mapping[int, np.ndarray]
    fov: Sequence[float]


def estimate_metric_depth(
    frames: FrameStore,
    every: int,
    focal_per_width: float | None,
    network: MetricDepthNetwork,
    chunk_size: int,
    device: torch.device,
    path: Path,
    report: Callable[[int, int], None],
) -> MetricFrames:
    """Metric depth of every ``every``-th frame.

    Args:
        focal_per_width: known focal length over the picture's width; None: it is estimated.
        path: file that holds the depths, memory-mapped.
        report: told how many of how many frames are done.
    """
    width, height = metric_input_size(frames.width, frames.height)
    numbers = list(range(0, frames.num_frames, every))
    shape = (len(numbers), height, width)
    depths = np.memmap(path, np.float32, mode="w+", shape=shape)
    fov: list[float] = []
    for start in range(0, len(numbers), chunk_size):
        chunk = numbers[start : start + chunk_size]
        pictures = [
            cv2.resize(frames.frame(n), (width, height), interpolation=cv2.INTER_AREA)
            for n in chunk
        ]
        images = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2)  # [B,3,h,w]
        known = None
        if focal_per_width is not None:
            focal = focal_per_width * width
            lens = torch.tensor([focal, focal, width / 2, height / 2], device=device)
            known = lens.expand(len(chunk), 4)  # [B,4]
        found = network.infer(images, known)
        depths[start : start + len(chunk)] = found.depth.float().cpu().numpy()
        fov += found.horizontal_fov.float().cpu().tolist()
        report(len(fov), len(numbers))
    return MetricFrames(dict(zip(numbers, depths, strict=True)), fov)


def scale_of_clip(
    disparities: Sequence[np.ndarray] | None, metric: MetricFrames | None
) -> DepthScale:
    """Scale and field of view of the clip from what the depth networks said.

    Args:
        disparities: relative disparity float32 [h,w] of each frame; None without mono depth.
        metric: None when stage 2 did not run.
    """
    focal = None if metric is None else float(focal_from_fov(metric.fov, 1.0))
    notices: list[Notice] = []
    if disparities is None:
        return DepthScale(None, focal, notices)
    if metric is not None:
        try:
            return DepthScale(align_clip(disparities, metric.depths), focal, notices)
        except MegasamError as error:
            notices.append(Notice(error.code, error.message, "The solve has no scale in metres."))
    try:
        return DepthScale(relative_alignment(disparities), focal, notices)
    except MegasamError as error:
        notices.append(Notice(error.code, error.message, "Solved without a depth prior."))
        return DepthScale(None, focal, notices)


def write_scale(path: Path, scale: DepthScale) -> None:
    """Write a result to a JSON file; floats come back to the last bit."""
    path.write_text(json.dumps(asdict(scale)), encoding="utf-8")


def read_scale(path: Path) -> DepthScale:
    """What :func:`write_scale` wrote."""
    data = json.loads(path.read_text("utf-8"))
    alignment = data["alignment"] and ClipAlignment(**data["alignment"])
    notices = [Notice(**notice) for notice in data["notices"]]
    return DepthScale(alignment, data["focal_per_width"], notices)
