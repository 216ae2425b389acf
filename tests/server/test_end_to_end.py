"""``megasam solve`` as a user runs it: server, worker and client in their own processes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from megasam_server.export.result_folder import ResultFolder
from megasam_server.geometry.trajectory import compare, read_tum
from megasam_shared.extrinsics import validate_extrinsics
from megasam_shared.stages import STAGES

SCENE_FILES = ("maya_scene", "usd_scene", "alembic_scene", "fbx_scene", "nuke_chan", "report")


def write_sequence(folder: Path, frames: np.ndarray, first: int) -> None:
    folder.mkdir()
    for number, rgb in enumerate(frames, start=first):
        cv2.imwrite(str(folder / f"sh010.{number}.png"), rgb[..., ::-1])


def test_a_movie_becomes_a_camera_with_everything_beside_it(room_clip, megasam, tmp_path):
    out = tmp_path / "shot"
    done = megasam("solve", room_clip.movie, "--out", out, "--json")
    assert done.code == 0, done.err + done.out[-2000:]

    folder = ResultFolder(out)
    count = len(room_clip.rgb)
    extrinsics = json.loads(folder.camera_extrinsics.read_text())
    validate_extrinsics(extrinsics)
    assert extrinsics["num_frames"] == count
    assert extrinsics["source"] == "Classical"
    assert extrinsics["frame_numbers"] == list(range(1, count + 1))
    assert extrinsics["has_translation"]

    true = room_clip.take.cameras()
    error = compare(read_tum(folder.poses_tum), true.world_from_cam)
    assert len(error.rotation_deg) == count
    assert error.rotation_rms_deg < 0.3
    assert error.ate_percent < 3
    true_focal = float(np.median(true.intrinsics.fx))
    assert abs(extrinsics["focal_length_px"] / true_focal - 1) < 0.1

    for name in SCENE_FILES:
        assert getattr(folder, name).stat().st_size > 0, name
    for images in (folder.depth, folder.depth_preview, folder.masks):
        assert len(list(images.iterdir())) == count
    assert len(list(folder.colmap.iterdir())) >= 3

    result = done.events[-1]
    assert result["event"] == "result"
    assert result["usable"] is True
    assert result["quality"]["verdict"] in ("good", "check")
    ran = {"plate", "tracking", "flow", "video_depth", "conversion"}
    assert set(result["timings"]["seconds"]) == set(result["timings"]["peak_mib"]) == ran
    assert any(warning["code"].startswith("missing_") for warning in result["warnings"])

    progress = [event for event in done.events if event["event"] == "progress"]
    fractions = [event["fraction"] for event in progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert set(progress[-1]["skipped"]) == {stage.key for stage in STAGES} - ran


def test_a_range_of_a_sequence_with_masks_and_a_known_lens_keeps_its_numbers(
    room_clip, megasam, tmp_path
):
    write_sequence(tmp_path / "plate", room_clip.rgb, 1001)
    masks = np.zeros_like(room_clip.rgb)
    masks[:, 200:, :120] = 255
    write_sequence(tmp_path / "masks", masks, 1001)
    out = tmp_path / "shot"
    done = megasam(
        *("solve", tmp_path / "plate", "--out", out, "--frames", "1004-1019", "--preset", "fast"),
        *("--masks", tmp_path / "masks", "--focal-mm", 430 / 480 * 36, "--film-back", 36),
        *("--coordinate-system", "opencv"),
    )
    assert done.code == 0, done.err + done.out
    assert "Verdict" in done.out
    folder = ResultFolder(out)
    extrinsics = json.loads(folder.camera_extrinsics.read_text())
    assert extrinsics["frame_numbers"] == list(range(1004, 1020))
    assert np.allclose(extrinsics["focal_length_px_per_frame"], 430.0)
    assert folder.depth_image("sh010", 1004).exists()
    assert not folder.depth_image("sh010", 1003).exists()
    true = room_clip.take.cameras().world_from_cam[3:19]
    error = compare(read_tum(folder.poses_tum), true)
    assert len(error.rotation_deg) == 16
    assert error.rotation_rms_deg < 0.3


def test_an_engine_that_cannot_run_gives_a_camera_that_nobody_takes_for_a_solve(
    room_clip, megasam, tmp_path
):
    out = tmp_path / "shot"
    done = megasam("solve", room_clip.movie, "--out", out, "--engine", "megasam", "--json")
    assert done.code == 1
    extrinsics = json.loads(ResultFolder(out).camera_extrinsics.read_text())
    assert extrinsics["source"] == "MegaSAM_fallback"
    assert extrinsics["usable"] is False
    assert extrinsics["status"].startswith("⚠ Missing ")
    assert np.allclose(extrinsics["matrix_c2w"], np.eye(4))
    assert done.events[-1]["usable"] is False

    refused = megasam(
        *("solve", room_clip.movie, "--out", tmp_path / "none", "--engine", "megasam"),
        *("--fallback-policy", "fail"),
    )
    assert refused.code == 2
    assert "engine" in refused.err
    assert not (tmp_path / "none").exists()
