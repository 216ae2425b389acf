"""What a solve hands to the exporters and the report."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from megasam_shared.quality import Quality

from megasam_server.geometry.camera import CameraPath
from megasam_server.geometry.point_cloud import PointCloud
from megasam_server.media.plate import PlateInfo


@dataclass(frozen=True)
class SolvedShot:
    """A solved plate.

    Attributes:
        plate: what was solved; N frames.
        cameras: N cameras, intrinsics at plate resolution.
        points: static points.
        depth: z-depth in world units, float16/float32 [N,h,w] (memory-mapped), same aspect as the plate.
        depth_near_far: nearest and farthest depth over the whole clip that previews map to white and black.
        motion_masks: uint8 [N,h,w] (memory-mapped), 1 = moving, 0 = static.
        quality: numbers, verdict and warnings.
        source: "MegaSAM", "Classical" or "MegaSAM_fallback".
        solving_method: one line, e.g. "classical: perspective, unknown focal length".
        status: one line for the artist.
        stage_seconds, stage_peak_mib, stage_peak_vram_mib: by stage key; the last is empty without a GPU.
        checkpoint_licences: [(name, licence)] of every checkpoint that was used.
    """

    plate: PlateInfo
    cameras: CameraPath
    points: PointCloud
    depth: np.ndarray
    depth_near_far: tuple[float, float]
    motion_masks: np.ndarray
    quality: Quality
    source: str
    solving_method: str
    status: str
    stage_seconds: dict[str, float] = field(default_factory=dict)
    stage_peak_mib: dict[str, float] = field(default_factory=dict)
    stage_peak_vram_mib: dict[str, float] = field(default_factory=dict)
    checkpoint_licences: list[tuple[str, str]] = field(default_factory=list)
