"""Clips that are adjusted, or tracked, in windows: as good as in one piece, and in bounded memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from megasam_server.geometry import se3  # noqa: E402
from megasam_server.tracking.dense_slam import joined_windows  # noqa: E402
from megasam_server.tracking.dense_slam.feature_bank import FrameTensors  # noqa: E402
from megasam_server.tracking.dense_slam.frame_windows import (  # noqa: E402
    anchored_windows,
    even_windows,
)
from megasam_server.tracking.dense_slam.joined_windows import (  # noqa: E402
    join_results,
    track_clip,
)
from megasam_server.tracking.dense_slam.observability import Observability  # noqa: E402
from megasam_server.tracking.dense_slam.options import TrackerOptions  # noqa: E402
from megasam_server.tracking.dense_slam.result_file import (  # noqa: E402
    read_result,
    write_result,
)
from megasam_server.tracking.dense_slam.tracker import Tracker, TrackingResult  # noqa: E402

from tests.server.tracking.flow_oracle import FRAME_NUMBERS, FlowOracle, NumberedFrames  # noqa: E402
from tests.server.tracking.room import Truth, look_around, pan, path, path_error  # noqa: E402
from tests.server.tracking.test_dense_slam import (  # noqa: E402
    CPU,
    all_static,
    assert_finite,
    depth_error,
    noise,
    rough_prior,
)

HEIGHT, WIDTH, FOCAL = 64, 96, 77.0
# Steps that suffice for an oracle.
QUICK = {
    **{"filter_threshold": 0.5, "keyframe_threshold": 0.3},
    **{"observability_steps": 2, "keyframe_steps": 16, "all_frames_steps": 4},
}


def stroll(count: int, speed: float = 1.0) -> Truth:
    """To and fro in the room, looking about, for any length of time."""
    t = speed * torch.arange(count, dtype=torch.float32)
    place = [1.6 * torch.sin(t / 40), 0.2 * torch.sin(t / 17), 2 * torch.sin(t / 57)]
    look = [0.1 * torch.sin(t / 23), 0.3 * torch.sin(t / 31), 0.05 * torch.cos(t / 19)]
    return look_around(path(torch.stack(place, 1), torch.stack(look, 1)), HEIGHT, WIDTH, FOCAL)


def arguments(true: Truth, sigma: float, focal_error: float = 1.05, **options) -> tuple:
    scene = (true.poses, true.disps, true.intrinsics / 8)
    disturb = noise(sigma) if sigma else None
    oracle = FlowOracle(*scene, all_static, disturb=disturb, sees_outside=False)
    frames = NumberedFrames(len(true.poses), HEIGHT, WIDTH, rough_prior(true, 0.05))
    lens = true.intrinsics * torch.tensor([focal_error, focal_error, 1, 1])
    return frames, lens, oracle, TrackerOptions(**QUICK | options), CPU, FRAME_NUMBERS


@pytest.mark.parametrize("count", [1, 59, 60, 61, 150, 151, 1000])
def test_even_windows_cover_the_clip_with_their_overlap(count):
    windows = even_windows(count, 60, 15)
    assert sorted({frame for window in windows for frame in window}) == list(range(count))
    assert all(len(window) <= 60 for window in windows)
    for before, after in zip(windows, windows[1:], strict=False):
        assert before.stop - after.start == 15
    lengths = [len(window) for window in windows]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("count", [1, 60, 61, 150, 1000])
@pytest.mark.parametrize("every", [7, 45, 10_000])
def test_anchored_windows_end_with_a_keyframe_where_they_can(count, every):
    anchors = list(range(0, count, every))
    windows = anchored_windows(count, 60, 16, anchors)
    assert sorted({frame for window in windows for frame in window}) == list(range(count))
    assert all(len(window) <= 60 for window in windows)
    for before, after in zip(windows, windows[1:], strict=False):
        assert before.stop - after.start == 16
        assert after.start > before.start
        assert before[-1] in anchors or every > 30


@pytest.mark.parametrize(
    ("count", "together", "overlap", "depth"),
    [(90, 48, 12, 3.0), pytest.param(320, 128, 32, 1.5, marks=pytest.mark.slow)],
)
def test_frames_adjusted_in_windows_are_as_good_as_all_at_once(count, together, overlap, depth):
    """Depth suffers where a window is shorter than what the edges of a frame reach in a clip: some 65 frames."""
    true = stroll(count)
    windows = {"adjusted_together": together, "adjusted_overlap": overlap}
    in_windows, at_once = (
        Tracker(*arguments(true, 0.05, max_keyframes=count, **how)).run()
        for how in (windows, {"adjusted_together": count})
    )
    ours, theirs = (
        path_error(result.cam_from_world, true.poses) for result in (in_windows, at_once)
    )
    print(ours, theirs)
    assert ours.position < 1.5 * theirs.position
    assert ours.rotation < 1.5 * theirs.rotation
    assert depth_error(in_windows, true) < depth * depth_error(at_once, true)
    assert (in_windows.static_probability == 1).all()


def test_features_are_bounded_on_the_device_and_on_the_host(monkeypatch):
    """In every step; and whatever leaves comes back, or is computed again, with the same result."""
    count, most, together = 44, 4, 30
    true = stroll(count)
    windows = {"adjusted_together": together, "adjusted_overlap": 12}
    large = Tracker(*arguments(true, 0.02, max_keyframes=count, **windows))
    small = Tracker(
        *arguments(true, 0.02, max_keyframes=most, max_state_bytes=0, max_volume_bytes=0, **windows)
    )
    on_device, elsewhere = [], []
    place, put = FrameTensors._place, FrameTensors.put

    def watched_place(tensors, *arguments):
        place(tensors, *arguments)
        on_device.append(len(tensors._on_device))

    def watched_put(tensors, *arguments, **how):
        put(tensors, *arguments, **how)
        kept = tensors._on_device.keys() | tensors._on_host.keys()
        elsewhere.append(len(kept - set(small.store.frame_numbers)))

    monkeypatch.setattr(FrameTensors, "_place", watched_place)
    monkeypatch.setattr(FrameTensors, "put", watched_put)
    for number in range(count):
        small.follow(number)
    small.finish_following()
    for step in (small.adjust_keyframes, small.place_all_frames, small.adjust_all_frames):
        before = len(on_device)
        step()
        assert len(on_device) > before
    result = small.result()
    assert len(result.keyframes) > 2 * most
    assert max(on_device) == most
    # One more than there may be: a keyframe is put before the store has it.
    assert max(elsewhere) <= together + 1
    monkeypatch.undo()
    expected = large.run()
    assert torch.equal(result.cam_from_world, expected.cam_from_world)
    assert torch.equal(result.disparities, expected.disparities)


@pytest.mark.parametrize(
    ("count", "together", "overlap"),
    [(70, 40, 10), pytest.param(150, 60, 15, marks=pytest.mark.slow)],
)
def test_a_clip_tracked_in_windows_is_one_path(count, together, overlap):
    true = stroll(count)
    shares = []
    result = track_clip(
        *arguments(true, 0.01, tracked_together=together, tracked_overlap=overlap),
        lambda share, words: shares.append(share),
    )
    error = path_error(result.cam_from_world, true.poses)
    print(error, result.joins, result.intrinsics)
    assert_finite(result)
    assert error.position < 3e-3
    assert error.rotation < 0.3
    assert depth_error(result, true) < 1e-2
    assert float(result.intrinsics[0]) == pytest.approx(FOCAL, rel=0.01)
    assert len(result.cam_from_world) == len(result.disparities) == count
    assert result.keyframes == sorted(set(result.keyframes))
    assert result.keyframes[-1] == count - 1
    assert result.prior_scale == pytest.approx(1, abs=0.05)
    assert len(result.joins) == len(even_windows(count, together, overlap)) - 1
    for join in result.joins:
        assert join.last_frame - join.first_frame + 1 == overlap
        assert join.rotation_deg < 0.1
        assert join.translation_percent < 0.3
        assert join.inliers > 0.9
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_the_window_that_shows_the_focal_length_gives_it_to_those_that_do_not():
    """A camera that stands still before it walks."""
    still, moving = 24, 40
    walked = stroll(moving)
    poses = torch.cat([walked.poses[:1].expand(still, 7), walked.poses])
    true = look_around(poses, HEIGHT, WIDTH, FOCAL)
    result = track_clip(*arguments(true, 0.0, tracked_together=36, tracked_overlap=8))
    assert result.focal_refined
    assert float(result.intrinsics[0]) == pytest.approx(FOCAL, rel=1e-2)
    assert path_error(result.cam_from_world, true.poses).rotation < 0.2


@pytest.mark.parametrize(
    ("shown", "optimise", "expected", "runs"),
    [
        # How well each window shows the focal length, in what just suffices.
        ([20, 50, 30], True, 100.0, ["0 free", "1 held", "2 held"]),
        ([0, 20, 30], True, 101.0, ["0 free", "1 free", "0 held", "2 held"]),
        ([2, 5, 3], True, 101.0, ["0 free", "1 free", "0 held", "2 free", "2 held"]),
        ([0, 0, 0], True, FOCAL, ["0 free", "1 free", "2 free"]),
        ([20, 50, 30], False, FOCAL, ["0 held", "1 held", "2 held"]),
    ],
)
def test_which_window_decides_on_the_focal_length(shown, optimise, expected, runs, monkeypatch):
    true = stroll(60)
    done = []

    class Counted:
        def __init__(self, frames, lens, network, options, *others):
            self.window, self.lens, self.free = frames._window, lens, options.optimise_focal

        def run(self):
            number = self.window.start // 16
            done.append(f"{number} {'free' if self.free else 'held'}")
            refined = self.free and shown[number] > 0
            lens = torch.full((4,), 100.0 + number) if refined else self.lens
            information = shown[number] * TrackerOptions().min_focal_hessian_per_residual
            seen = Observability(1.0, information * 1000, 1000)
            found = result_of(true, self.window)
            return replace(found, intrinsics=lens, focal_refined=refined, observability=seen)

    monkeypatch.setattr(joined_windows, "Tracker", Counted)
    frames, lens, *others = arguments(true, 0.0, 1.0, tracked_together=28, tracked_overlap=10)
    others[1] = replace(others[1], optimise_focal=optimise)
    result = track_clip(frames, lens, *others)
    assert float(result.intrinsics[0]) == pytest.approx(expected)
    assert result.focal_refined == (expected != FOCAL)
    assert done == runs


def test_a_clip_of_one_window_is_that_of_the_tracker():
    true = stroll(12)
    whole, joined = Tracker(*arguments(true, 0.02)).run(), track_clip(*arguments(true, 0.02))
    assert torch.equal(whole.cam_from_world, joined.cam_from_world)
    assert joined.joins == []


def result_of(true: Truth, window: range) -> TrackingResult:
    """The truth of some frames, in the world of the first of them."""
    frames = slice(window.start, window.stop)
    poses = se3.compose(true.poses[frames], se3.inverse(true.poses[frames][:1]))
    disps = true.disps[frames]
    static = torch.ones_like(disps)
    return TrackingResult(poses, disps, static, true.intrinsics, True, 1.0, [0], None, 5.0)


def test_windows_in_worlds_of_their_own_are_put_together(tmp_path):
    true, windows = stroll(50), [range(0, 30), range(20, 50)]
    first, second = (result_of(true, window) for window in windows)
    poses = second.cam_from_world.clone()
    poses[:, :3] *= 3.0
    second = replace(
        second, cam_from_world=poses, disparities=second.disparities / 3, prior_scale=1 / 3
    )
    result = join_results(windows, [first, second])
    assert path_error(result.cam_from_world, true.poses).position < 1e-6
    torch.testing.assert_close(result.disparities, true.disps, rtol=1e-4, atol=1e-6)
    assert result.prior_scale == pytest.approx(1, rel=1e-4)
    assert result.keyframes == [0, 20]
    assert result.joins[0].rotation_deg < 1e-3
    write_result(tmp_path / "result.npz", result)
    assert read_result(tmp_path / "result.npz").joins == result.joins


@pytest.mark.parametrize("what", ["rotation", "scale"])
def test_a_window_that_does_not_fit_fades_in_and_says_so(what):
    true, windows = stroll(50), [range(0, 30), range(20, 50)]
    first, second = (result_of(true, window) for window in windows)
    poses = second.cam_from_world
    if what == "rotation":
        turns = torch.zeros(30, 6)
        turns[:, 4] = torch.linspace(0, 0.1, 30)
        poses = se3.retract(poses, turns)
    else:
        poses = torch.cat([1.3 * poses[:, :3], poses[:, 3:]], dim=1)
    join, result = None, join_results(windows, [first, replace(second, cam_from_world=poses)])
    join = result.joins[0]
    if what == "rotation":
        assert join.rotation_deg > 0.3
    else:
        assert abs(join.scale_ratio - 1) > 0.2
    # The path bends, but it does not jump.
    step = (se3.inverse(result.cam_from_world)[:, :3]).diff(dim=0).norm(dim=1)
    true_step = se3.inverse(true.poses)[:, :3].diff(dim=0).norm(dim=1)
    assert float((step - true_step).abs().max()) < 0.5 * float(true_step.max())


def test_a_camera_that_only_turns_is_joined_by_its_orientations():
    true = look_around(pan(40), HEIGHT, WIDTH, FOCAL)
    windows = [range(0, 25), range(15, 40)]
    first, second = (result_of(true, window) for window in windows)
    second = replace(second, disparities=second.disparities * 0.5)
    result = join_results(windows, [first, second])
    assert path_error(result.cam_from_world, true.poses).rotation < 1e-3
    torch.testing.assert_close(result.disparities, true.disps, rtol=1e-4, atol=1e-6)
    assert result.joins[0].scale_ratio is None
