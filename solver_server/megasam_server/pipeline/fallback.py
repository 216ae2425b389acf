"""What a job returns when its engine cannot run: a camera that stands still and says so."""

from __future__ import annotations

import numpy as np
from megasam_shared.quality import Quality
from megasam_shared.settings import SolveSettings

from megasam_server.geometry.camera import CameraPath, Intrinsics
from megasam_server.geometry.point_cloud import PointCloud
from megasam_server.media.frame_store import FrameStore
from megasam_server.media.plate import PlateInfo
from megasam_server.pipeline.engines import EngineChoice
from megasam_server.pipeline.solved_shot import SolvedShot

# Horizontal field of view of about 53 degrees, a usual lens, when nobody knows the real one.
USUAL_FOCAL_PER_WIDTH = 1.0


def identity_shot(
    plate: PlateInfo, frames: FrameStore, settings: SolveSettings, choice: EngineChoice
) -> SolvedShot:
    """N identity cameras with the given focal length or a usual one, depth 1 everywhere, no masks.

    The quality's verdict is ``failed``, so nothing of it is usable.
    """
    count = plate.num_frames
    focal_px = settings.focal_px_at(plate.width) or USUAL_FOCAL_PER_WIDTH * plate.width
    intrinsics = Intrinsics.centred(plate.width, plate.height, np.full(count, focal_px))
    no_points = PointCloud(
        xyz=np.zeros((0, 3)),
        rgb=np.zeros((0, 3), np.uint8),
        error_px=np.zeros(0),
        seen_point=np.zeros(0, np.int64),
        seen_frame=np.zeros(0, np.int64),
        seen_xy=np.zeros((0, 2)),
    )
    quality = Quality(
        verdict="failed",
        reasons=[f"Nothing was solved. {notice.message}" for notice in choice.notices],
        rms_px=0.0,
        per_frame_rms_px=[None] * count,
        coverage=0.0,
        moving_share=0.0,
        baseline_to_depth=0.0,
        median_track_length=0.0,
        num_points=0,
        focal_profile=None,
        scale_is_metric=False,
    )
    # One value seen as N pictures: as long as the clip is, it takes no memory.
    shape = (count, frames.height, frames.width)
    return SolvedShot(
        plate=plate,
        cameras=CameraPath(np.tile(np.eye(4), (count, 1, 1)), intrinsics),
        points=no_points,
        depth=np.broadcast_to(np.float32(1.0), shape),
        depth_near_far=(0.5, 2.0),
        motion_masks=np.broadcast_to(np.uint8(0), shape),
        quality=quality,
        source=choice.source,
        solving_method="none: identity cameras",
        status=choice.status,
    )
