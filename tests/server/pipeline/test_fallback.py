"""The camera that stands still when an engine cannot run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from megasam_server.media.frame_store import FrameStore
from megasam_server.media.plate import PlateInfo
from megasam_server.pipeline.engines import choose_engine
from megasam_server.pipeline.fallback import identity_shot
from megasam_shared.settings import SolveSettings


def shot_of(**settings):
    plate = PlateInfo("sh010", "sequence", 1920, 1080, 24.0, [1001, 1002], [0, 1 / 24], [], [])
    frames = FrameStore(Path("unread"), 2, 1024, 576, 3)
    wanted = SolveSettings(engine="megasam", **settings)
    return identity_shot(plate, frames, wanted, choose_engine(wanted))


def test_identity_cameras_are_never_usable_and_say_why():
    shot = shot_of()
    assert np.array_equal(shot.cameras.world_from_cam, np.tile(np.eye(4), (2, 1, 1)))
    assert shot.source == "MegaSAM_fallback"
    assert shot.status.startswith("⚠ Missing ")
    assert shot.quality.verdict == "failed"
    assert not shot.quality.usable
    assert shot.quality.reasons
    assert shot.depth.shape == shot.motion_masks.shape == (2, 576, 1024)
    assert not shot.motion_masks.any()


def test_a_known_lens_is_kept():
    assert shot_of(focal_length_px=1500.0).cameras.intrinsics.fx.tolist() == [1500.0, 1500.0]
    by_lens = shot_of(focal_mm=35.0, film_back_mm=36.0)
    assert by_lens.cameras.intrinsics.fx[0] == 1920 * 35 / 36
