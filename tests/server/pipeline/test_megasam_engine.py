"""The engine megasam from plate to result folder, every stage real but the networks' answers."""

from __future__ import annotations

import json
import os
import signal
import sys

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from megasam_server.pipeline.beside import Beside  # noqa: E402
from megasam_server.pipeline.on_tracks import refined_on_tracks  # noqa: E402
from megasam_server.pipeline.progress import SilentProgress  # noqa: E402
from megasam_shared.errors import MegasamError  # noqa: E402
from megasam_shared.extrinsics import validate_extrinsics  # noqa: E402

from tests.server.pipeline.known_clips import FOCAL, pan_take, solve, walk_take  # noqa: E402
from tests.server.pipeline.network_doubles import (  # noqa: E402
    DoubleNetworks,
    KnownClip,
    all_doubles,
)

ALL_STAGES = ["mono_depth", "metric_depth", "tracking", "flow"]


class Watching(SilentProgress):
    """Remembers what a solve says on its way, and stops it at a stage if asked to."""

    def __init__(self, stop_at: str | None = None) -> None:
        self.skipped: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self.last: dict[str, float] = {}
        self.shown: list[tuple[str, int]] = []
        self._stop_at = stop_at

    def update(self, stage: str, done: float, total: float, note: str = "") -> None:
        assert 0 <= done <= total
        assert done / total >= self.last.get(stage, 0.0) - 1e-9, f"{stage} goes backwards"
        self.last[stage] = done / total
        self.notes[stage] = note
        if stage == self._stop_at:
            raise InterruptedError(stage)

    def preview(self, stage: str, frame: int, jpeg: bytes) -> None:
        self.shown.append((stage, frame))

    def skip(self, stage: str, reason: str) -> None:
        self.skipped[stage] = reason


@pytest.fixture(scope="module")
def walk() -> KnownClip:
    return KnownClip.of(walk_take(10))


@pytest.fixture(scope="module")
def pan() -> KnownClip:
    return KnownClip.of(pan_take(12))


def test_path_lens_depth_and_masks_of_a_walk_are_found_in_metres(walk, tmp_path, monkeypatch):
    networks = DoubleNetworks(all_doubles(walk))
    watching = Watching()
    solved = solve(walk, networks, tmp_path / "a", monkeypatch, progress=watching)
    print(solved.errors)
    # Corners of a plate 208 pixels wide, in ten frames: the doubles know better than they.
    assert solved.errors.rotation_max_deg < 0.1
    assert solved.errors.ate_percent < 0.3
    assert solved.errors.focal_percent < 1
    assert "refined on tracks of points" in solved.result["extrinsics"]["solving_method"]
    assert solved.errors.mask_iou > 0.6
    assert solved.errors.depth_percent < 3
    assert networks.borrowed == ALL_STAGES
    assert watching.last["tracking"] == watching.last["flow"] == watching.last["video_depth"] == 1
    assert not watching.skipped
    assert ("flow", 1001) in watching.shown

    extrinsics = json.loads(solved.folder.camera_extrinsics.read_text())
    validate_extrinsics(extrinsics)
    assert extrinsics["source"] == "MegaSAM"
    assert extrinsics["scale_is_metric"]
    assert solved.result["status"].startswith("Solved with the megasam engine: camera path")
    # A thousandth of 208 pixels, the bound of a good solve, is what corners of such a plate are good for.
    assert all("Reprojection error" in reason for reason in solved.quality["reasons"])
    assert solved.quality["rms_px"] < 0.25
    assert solved.quality["num_points"] > 200
    assert solved.quality["coverage"] > 0.9
    # Metres, as wrong as the metric depth is.
    true = walk.clip.cameras.world_from_cam[:, :3, 3]
    found = np.array(extrinsics["matrix_c2w"])[:, :3, 3]
    length = [np.linalg.norm(np.diff(path, axis=0), axis=1).sum() for path in (found, true)]
    assert length[0] / length[1] == pytest.approx(1.02, abs=0.04)


def test_without_depth_networks_the_path_is_found_and_the_status_says_so(
    walk, tmp_path, monkeypatch
):
    doubles = all_doubles(walk, mono_depth=False, metric_depth=False)
    watching = Watching()
    solved = solve(walk, DoubleNetworks(doubles), tmp_path / "a", monkeypatch, progress=watching)
    print(solved.errors)
    # Ten frames tell less of the lens than the shots of test_megasam_oracle.py.
    assert solved.errors.rotation_max_deg < 0.2
    assert solved.errors.ate_percent < 0.3
    assert solved.errors.focal_percent < 4
    assert solved.errors.depth_percent < 3
    assert "without a depth prior" in solved.result["status"]
    assert not solved.quality["scale_is_metric"]
    assert set(watching.skipped) == {"mono_depth", "metric_depth"}


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_solve_outlives_the_process_that_adjusts_to_tracks(walk, tmp_path, monkeypatch):
    submit = Beside.submit

    def submit_and_kill(self, function, *args):
        if function is refined_on_tracks:
            self.submit(os.kill, self.submit(os.getpid), signal.SIGKILL)
        return submit(self, function, *args)

    monkeypatch.setattr(Beside, "submit", submit_and_kill)
    solved = solve(walk, DoubleNetworks(all_doubles(walk)), tmp_path / "a", monkeypatch)
    assert solved.errors.rotation_max_deg < 0.2
    assert "refined" not in solved.result["extrinsics"]["solving_method"]
    (notice,) = (w for w in solved.result["warnings"] if w["code"] == "not_refined")
    assert "ran out of memory" in notice["message"]


def test_a_focal_length_that_is_known_is_held_and_told_to_the_depth_network(
    walk, tmp_path, monkeypatch
):
    doubles = all_doubles(walk)
    solved = solve(
        walk,
        DoubleNetworks(doubles),
        tmp_path / "a",
        monkeypatch,
        focal_length_px=FOCAL,
        quality_preset="fast",
        metric_depth_every=5,
    )
    assert solved.result["extrinsics"]["focal_length_px"] == pytest.approx(FOCAL, rel=1e-5)
    metric = doubles["metric_depth"]
    assert metric.asked == [0, 5]
    # Of the picture that it was shown, 640 pixels wide.
    assert float(metric.intrinsics[0][0, 0]) == pytest.approx(FOCAL * 640 / 208)
    assert solved.errors.rotation_max_deg < 0.1
    # Fast does not optimise the depth: it is the depth network's, on the tracker's scale.
    assert solved.errors.depth_percent < 6


def test_a_pan_is_a_tripod_shot_and_an_unseen_lens_is_a_doubt(pan, tmp_path, monkeypatch):
    solved = solve(pan, DoubleNetworks(all_doubles(pan)), tmp_path / "a", monkeypatch)
    print(solved.errors)
    assert not solved.result["extrinsics"]["has_translation"]
    assert "tripod" in solved.result["status"]
    assert solved.errors.rotation_max_deg < 0.3
    assert solved.quality["baseline_to_depth"] == 0

    doubles = all_doubles(pan, mono_depth=False, metric_depth=False)
    alone = solve(pan, DoubleNetworks(doubles), tmp_path / "b", monkeypatch)
    print(alone.errors)
    # The noise of the flow passes for a little parallax: then at least nobody calls it good.
    assert alone.quality["verdict"] == "check"
    assert any("hardly moves" in reason for reason in alone.quality["reasons"])


@pytest.mark.slow
def test_what_the_artist_masks_does_not_count(walk, tmp_path, monkeypatch):
    """A mover that the network takes for static bends the path, unless it is masked."""
    doubles = all_doubles(walk)
    tracking = doubles["tracking"]
    true_update = tracking.update
    moving = torch.from_numpy(walk.cells.moving)

    def fooled(net, inp, corr, motion, ii, with_upmask):
        update = true_update(net, inp, corr, motion, ii, with_upmask)
        source = corr[:, 0, 0, 0].long()
        later = (corr[:, 1, 0, 0] - corr[:, 0, 0, 0])[:, None, None]
        update.delta[..., 0] += 0.15 * later * moving[source]
        weight = torch.full_like(update.motion_weight, 0.8)
        static = torch.ones_like(update.static_probability)
        return type(update)(update.net, update.delta, update.eta, weight, static)

    tracking.update = fooled
    masks = tmp_path / "masks"
    masks.mkdir()
    for number, mask in enumerate(walk.clip.moving, start=1001):
        grown = cv2.dilate(mask.astype(np.uint8) * 255, np.ones((9, 9), np.uint8))
        cv2.imwrite(str(masks / f"m.{number}.png"), grown)
    fast = {"quality_preset": "fast", "metric_depth_every": 6}
    bent = solve(walk, DoubleNetworks(doubles), tmp_path / "a", monkeypatch, **fast)
    right = solve(walk, DoubleNetworks(doubles), tmp_path / "b", monkeypatch, masks=masks, **fast)
    print(bent.errors, right.errors)
    assert right.errors.ate_percent < 0.5 * bent.errors.ate_percent
    assert right.errors.mask_iou > 0.5


def test_a_solve_goes_on_where_it_was_stopped_and_repeats_only_what_changes(
    walk, tmp_path, monkeypatch
):
    cache = tmp_path / "cache"
    networks = DoubleNetworks(all_doubles(walk))
    with pytest.raises(InterruptedError):
        stopped = Watching(stop_at="flow")
        solve(walk, networks, tmp_path / "a", monkeypatch, progress=stopped, cache=cache)
    assert networks.borrowed == ALL_STAGES
    networks.borrowed.clear()
    first = solve(walk, networks, tmp_path / "b", monkeypatch, cache=cache, cvd_iterations=2)
    assert networks.borrowed == ["flow"]
    networks.borrowed.clear()
    watching = Watching()
    again = solve(
        walk,
        networks,
        tmp_path / "c",
        monkeypatch,
        cache=cache,
        progress=watching,
        run_cvd=False,
    )
    assert networks.borrowed == []
    assert watching.notes["tracking"] == watching.notes["flow"] == "kept from an earlier solve"
    assert first.result["extrinsics"]["matrix_c2w"] == again.result["extrinsics"]["matrix_c2w"]
    # Another focal length is another track, but the same depth and flow.
    solve(
        walk,
        networks,
        tmp_path / "d",
        monkeypatch,
        cache=cache,
        optimize_focal=True,
        focal_length_px=200.0,
        run_cvd=False,
    )
    assert networks.borrowed == ["metric_depth", "tracking"]


@pytest.mark.parametrize(
    ("stage", "failures", "status"),
    [
        pytest.param(
            "mono_depth", 1, "⚠ Reduced mono depth (chunk 4 to 2)", marks=pytest.mark.slow
        ),
        pytest.param("mono_depth", 9, "⚠ Reduced mono depth (skipped)", marks=pytest.mark.slow),
        pytest.param(
            "metric_depth", 2, "⚠ Reduced metric alignment (chunk 4 to 1)", marks=pytest.mark.slow
        ),
        pytest.param(
            "metric_depth", 9, "⚠ Reduced metric alignment (skipped)", marks=pytest.mark.slow
        ),
        ("tracking", 1, "⚠ Reduced camera tracking (chunk 8 to 4)"),
        pytest.param("flow", 3, "⚠ Reduced optical flow (chunk 8 to 1)", marks=pytest.mark.slow),
    ],
)
def test_out_of_memory_walks_down_the_ladder_and_says_so(
    walk, tmp_path, monkeypatch, stage, failures, status
):
    networks = DoubleNetworks(all_doubles(walk), {stage: failures})
    solved = solve(walk, networks, tmp_path / "a", monkeypatch, run_cvd=False)
    assert solved.result["status"].startswith(status)
    assert "reduced_for_memory" in [warning["code"] for warning in solved.result["warnings"]]
    assert solved.errors.rotation_max_deg < 0.1
    assert solved.quality["usable"]
    skipped = "skipped" in status
    assert solved.quality["scale_is_metric"] == (not skipped)
    assert ("without a depth prior" in solved.result["status"]) == (
        skipped and stage == "mono_depth"
    )


@pytest.mark.parametrize("stage", ["tracking", pytest.param("flow", marks=pytest.mark.slow)])
def test_a_gpu_that_is_too_small_for_what_must_run_is_a_clear_error(
    walk, tmp_path, monkeypatch, stage
):
    networks = DoubleNetworks(all_doubles(walk), {stage: 99})
    with pytest.raises(MegasamError) as error:
        solve(walk, networks, tmp_path / "a", monkeypatch, run_cvd=False)
    assert error.value.code == "out_of_gpu_memory"
    assert "lower quality preset" in error.value.hint
    assert not (tmp_path / "a" / "results").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("failures", "status"), [(1, "resolution 1 to 0.5"), (99, "skipped")])
def test_consistent_depth_that_does_not_fit_is_coarser_or_left_out(
    walk, tmp_path, monkeypatch, failures, status
):
    from megasam_server.video_depth import clip_depth

    make_consistent, tried = clip_depth.make_consistent, []

    def short_of_memory(prior, *arguments):
        tried.append(prior.shape[1:])
        if len(tried) <= failures:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return make_consistent(prior, *arguments)

    monkeypatch.setattr(clip_depth, "make_consistent", short_of_memory)
    networks = DoubleNetworks(all_doubles(walk))
    solved = solve(
        walk, networks, tmp_path / "a", monkeypatch, cvd_resolution=1.0, cvd_iterations=4
    )
    assert tried[:2] == [(168, 208), (84, 104)]
    assert len(tried) == (2 if failures == 1 else 3)
    assert solved.result["status"].startswith(f"⚠ Reduced consistent depth ({status})")
    assert solved.errors.depth_percent < 6
