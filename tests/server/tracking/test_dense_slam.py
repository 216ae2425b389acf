"""The tracker on a room whose flow is known: what it recovers, and what it makes of difficult clips."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from megasam_server.models.droid_net import DroidNet  # noqa: E402
from megasam_server.tracking.dense_slam.factor_graph import FactorGraph  # noqa: E402
from megasam_server.tracking.dense_slam.feature_bank import FrameTensors  # noqa: E402
from megasam_server.tracking.dense_slam.frames import TrackingFrame  # noqa: E402
from megasam_server.tracking.dense_slam.keyframe_store import KeyframeStore  # noqa: E402
from megasam_server.tracking.dense_slam.options import TrackerOptions  # noqa: E402
from megasam_server.tracking.dense_slam.tracker import Tracker, TrackingResult  # noqa: E402
from megasam_shared.errors import MegasamError  # noqa: E402

from tests.server.tracking.flow_oracle import FRAME_NUMBERS, FlowOracle, NumberedFrames  # noqa: E402
from tests.server.tracking.room import Truth, look_around, pan, path_error, walk  # noqa: E402

HEIGHT, WIDTH, FOCAL = 64, 96, 80.0
CPU = torch.device("cpu")


def seen(poses: torch.Tensor) -> Truth:
    return look_around(poses, HEIGHT, WIDTH, FOCAL)


def all_static(i, j, coords):
    return torch.ones(coords.shape[:3])


def noise(sigma: float):
    """Gaussian, 1/8 pixels, the same for the same edge in every step."""

    def disturb(i, j, coords):
        seeds = (1000 * i + j).tolist()
        normal = [torch.randn(coords.shape[1:], generator=_generator(seed)) for seed in seeds]
        return coords + sigma * torch.stack(normal)

    return disturb


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rough_prior(true: Truth, error: float = 0.1) -> torch.Tensor:
    """The true disparities with smooth relative errors, others in each frame."""
    waves = torch.randn(len(true.disps), 1, 2, 3, generator=_generator(7))
    waves = torch.nn.functional.interpolate(
        waves, true.disps.shape[1:], mode="bilinear", align_corners=True
    )
    return true.disps * (error * waves[:, 0]).exp()


def tracker(
    true: Truth,
    *,
    priors: torch.Tensor | None = None,
    keeps: torch.Tensor | None = None,
    focal_error: float = 1.0,
    sigma: float = 0.0,
    disturb=None,
    on_progress=None,
    **options,
) -> Tracker:
    scene = (true.poses, true.disps, true.intrinsics / 8)
    oracle = FlowOracle(*scene, all_static, disturb=disturb or (noise(sigma) if sigma else None))
    intrinsics = true.intrinsics.clone()
    intrinsics[:2] *= focal_error
    frames = NumberedFrames(len(true.poses), HEIGHT, WIDTH, priors, keeps)
    options = TrackerOptions(**options)
    return Tracker(frames, intrinsics, oracle, options, CPU, FRAME_NUMBERS, on_progress)


def track(true: Truth, **how) -> TrackingResult:
    return tracker(true, **how).run()


def depth_error(result: TrackingResult, true: Truth) -> float:
    """Median relative error after the best scale."""
    ratio = (result.disparities / true.disps).log()
    return float((ratio - ratio.median()).abs().median())


def assert_finite(result: TrackingResult) -> None:
    for tensor in (result.cam_from_world, result.disparities, result.intrinsics):
        assert torch.isfinite(tensor).all()
    assert (result.disparities > 0).all()
    norms = result.cam_from_world[:, 3:].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-4)
    assert ((result.static_probability >= 0) & (result.static_probability <= 1)).all()


# Many keyframes from the small pictures of these tests.
DENSE = {"filter_threshold": 0.35, "keyframe_threshold": 0.2}


def test_exact_flow_gives_the_exact_path_focal_length_and_depth():
    true = seen(walk(30, step=0.08, sway=0.3))
    result = track(true, priors=rough_prior(true), focal_error=1.05)
    error = path_error(result.cam_from_world, true.poses)
    assert error.position < 1e-4
    assert error.rotation < 1e-2
    assert result.focal_refined
    assert float(result.intrinsics[0]) == pytest.approx(FOCAL, rel=1e-3)
    assert depth_error(result, true) < 1e-3
    assert result.keyframes == sorted(set(result.keyframes))
    assert result.keyframes[0] == 0
    assert result.keyframes[-1] == 29
    assert result.prior_scale == pytest.approx(1, abs=0.2)
    assert torch.equal(result.cam_from_world[0], torch.tensor([0.0, 0, 0, 0, 0, 0, 1]))


def test_noisy_flow_gives_nearly_the_path_through_the_frontend():
    true = seen(walk(30, step=0.06, sway=0.3))
    result = track(true, priors=rough_prior(true), focal_error=1.03, sigma=0.05, **DENSE)
    error = path_error(result.cam_from_world, true.poses)
    assert len(result.keyframes) > 8
    assert error.position < 5e-3
    assert error.rotation < 0.3
    assert float(result.intrinsics[0]) == pytest.approx(FOCAL, rel=1e-2)


def test_flow_of_edges_far_behind_the_window_goes_and_nobody_misses_it(monkeypatch):
    true = seen(walk(40, step=0.06, sway=0.3))
    kept = []
    forget = FactorGraph.forget_before

    def noted(graph: FactorGraph, slot: int) -> None:
        forget(graph, slot)
        kept.append((len(graph.resting), len(graph.forgotten)))

    def tracked() -> TrackingResult:
        return track(true, priors=rough_prior(true), sigma=0.05, window=5, **DENSE)

    monkeypatch.setattr(FactorGraph, "forget_before", noted)
    forgetful = tracked()
    assert kept[-1][1] > kept[-1][0] > 0, kept[-1]
    monkeypatch.setattr(FactorGraph, "forget_before", lambda graph, slot: None)
    assert torch.equal(forgetful.cam_from_world, tracked().cam_from_world)


def test_better_without_the_defects_of_the_reference():
    true = seen(walk(40, step=0.05, sway=0.2))
    ours, reference = (
        track(true, priors=rough_prior(true), focal_error=1.05, reference_behaviour=quirks)
        for quirks in (False, True)
    )
    ours, reference = (
        path_error(result.cam_from_world, true.poses) for result in (ours, reference)
    )
    assert ours.position < reference.position / 10
    assert ours.rotation < reference.rotation / 10


def test_without_prior_the_path_is_found_and_has_no_scale():
    true = seen(walk(30, step=0.08, sway=0.3))
    result = track(true, **DENSE)
    assert path_error(result.cam_from_world, true.poses).position < 2e-3
    assert result.prior_scale is None


def test_a_camera_that_only_turns_stays_in_place_before_the_depth_of_the_prior():
    true = seen(pan(24))
    priors = rough_prior(true)
    result = track(true, priors=priors, focal_error=1.03, sigma=0.03)
    assert_finite(result)
    assert path_error(result.cam_from_world, true.poses).rotation < 0.5
    far = float(result.cam_from_world[:, :3].norm(dim=1).max() * true.disps.median())
    assert far < 0.01
    assert result.prior_scale == pytest.approx(1, abs=0.02)
    assert depth_error(result, true) < 0.1
    assert result.parallax < 0.8
    assert float(result.intrinsics[0]) == pytest.approx(FOCAL, rel=0.02)


def test_a_camera_that_only_turns_stays_finite_without_prior():
    assert_finite(track(seen(pan(16)), sigma=0.03))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_frames_than_the_tracker_wants(count):
    true = seen(walk(count, step=0.08))
    result = track(true, priors=rough_prior(true))
    assert_finite(result)
    assert len(result.cam_from_world) == len(result.disparities) == count
    if count > 1:
        assert path_error(result.cam_from_world, true.poses).rotation < 0.2


@pytest.mark.parametrize("with_prior", [True, False])
def test_a_camera_that_stands_still(with_prior):
    true = seen(walk(12, step=0.0)[:1].expand(12, 7))
    result = track(true, priors=rough_prior(true) if with_prior else None)
    assert_finite(result)
    assert not result.focal_refined
    assert float(result.cam_from_world[:, :3].abs().max()) < 1e-3
    assert path_error(result.cam_from_world, true.poses).rotation < 1e-2


def test_a_camera_that_hardly_moves_gets_keyframes_at_even_distances():
    true = seen(walk(30, step=0.01, sway=0.02))
    result = track(true, priors=rough_prior(true), focal_error=1.0)
    assert len(result.keyframes) >= 8
    error = path_error(result.cam_from_world, true.poses)
    assert error.position < 0.01
    assert error.rotation < 0.05


def test_what_does_not_fit_on_the_device_leaves_it_and_changes_nothing(monkeypatch):
    true = seen(walk(24, step=0.08, sway=0.3))
    how = {"priors": rough_prior(true), "sigma": 0.02, **DENSE}
    many = track(true, **how)
    small = tracker(true, **how, max_keyframes=5, max_state_bytes=10**6, max_volume_bytes=0)
    most = []
    place = FrameTensors._place

    def watched(tensors, *args):
        place(tensors, *args)
        most.append(len(tensors._on_device))

    monkeypatch.setattr(FrameTensors, "_place", watched)
    few = small.run()
    assert len(few.keyframes) > 2 * 5
    assert max(most) == 5
    assert torch.equal(few.cam_from_world, many.cam_from_world)
    assert torch.equal(few.disparities, many.disparities)


def test_a_small_graph_lets_its_oldest_edges_rest(monkeypatch):
    true = seen(walk(24, step=0.06, sway=0.3))
    dropped = []
    drop = FactorGraph.drop

    def record(graph, mask, rest=False):
        if rest and mask.any() and not mask.all():
            dropped.append((graph.ages[mask].min(), graph.ages[~mask].max()))
        drop(graph, mask, rest)

    how = {"priors": rough_prior(true), "optimise_focal": False, **DENSE}
    small = tracker(true, **how, max_edges=16, max_age=1000)
    monkeypatch.setattr(FactorGraph, "drop", record)
    result = small.run()
    # The first goes by frame, at the end of the initialisation; those that follow make room.
    assert len(dropped) > 3
    assert all(youngest_gone >= oldest_kept for youngest_gone, oldest_kept in dropped[1:])
    assert path_error(result.cam_from_world, true.poses).position < 1e-3


def test_the_same_result_every_time():
    true = seen(walk(12, step=0.08))
    how = {"priors": rough_prior(true), "sigma": 0.05, "focal_error": 1.05, **DENSE}
    first, second = track(true, **how), track(true, **how)
    assert torch.equal(first.cam_from_world, second.cam_from_world)
    assert torch.equal(first.static_probability, second.static_probability)


def test_what_the_artist_masks_does_not_count():
    """Something large moves by itself and the network takes it for static."""
    true = seen(walk(14, step=0.08))
    keeps = torch.ones_like(true.disps)
    keeps[:, 2:7, 3:8] = 0.0

    def moving(i, j, coords):
        step = 0.4 * (j - i).float()[:, None, None]
        coords = coords.clone()
        coords[..., 0] += step * (1 - keeps[i])
        return coords

    how = {"priors": rough_prior(true), "disturb": moving, **DENSE}
    masked, fooled = track(true, keeps=keeps, **how), track(true, **how)
    assert path_error(masked.cam_from_world, true.poses).position < 1e-3
    assert path_error(fooled.cam_from_world, true.poses).position > 1e-2
    assert (masked.static_probability[keeps == 0] == 0).all()
    assert (masked.static_probability[keeps == 1] == 1).all()


def test_a_mask_of_grey_lets_pixels_count_less(monkeypatch):
    true = seen(walk(3, step=0.08))
    keeps = torch.linspace(0, 1, true.disps.numel()).view_as(true.disps)
    adjust, weights = KeyframeStore.bundle_adjust, []

    def record(store, target, weight, eta, topology, bundle):
        for group in topology.groups:
            frames = torch.tensor(store.frame_numbers)[group.ii]
            weights.append((weight[group.edges], keeps[frames]))
        adjust(store, target, weight, eta, topology, bundle)

    monkeypatch.setattr(KeyframeStore, "bundle_adjust", record)
    track(true, keeps=keeps)
    for weight, keep in weights:
        # The oracle is 0.8 sure of everything.
        torch.testing.assert_close(weight, 0.8 * keep[..., None].expand_as(weight))


def test_a_known_focal_length_is_held():
    true = seen(walk(16, step=0.08, sway=0.3))
    result = track(true, priors=rough_prior(true), focal_error=1.05, optimise_focal=False)
    assert not result.focal_refined
    expected = true.intrinsics * torch.tensor([1.05, 1.05, 1, 1])
    torch.testing.assert_close(result.intrinsics, expected)


def test_frames_whose_prior_has_holes():
    true = seen(walk(16, step=0.08, sway=0.3))
    priors = rough_prior(true)
    priors[:, :3] = 0.0
    result = track(true, priors=priors)
    assert_finite(result)
    assert path_error(result.cam_from_world, true.poses).position < 2e-3


def test_progress_rises_to_one_and_can_stop_the_work():
    true = seen(walk(12, step=0.08))
    shares = []
    track(true, on_progress=lambda share, words: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)

    def stop(share, words):
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        track(true, on_progress=stop)


def test_nonsense_from_the_network_is_said_and_not_returned():
    def nonsense(i, j, coords):
        return torch.full_like(coords, torch.inf)

    with pytest.raises(MegasamError, match="astray") as raised:
        track(seen(walk(10)), disturb=nonsense)
    assert raised.value.code == "tracking_diverged"


def test_with_the_network_itself_in_half_precision_whatever_its_weights():
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, 3, HEIGHT, WIDTH), dtype=torch.uint8)
    frames = [TrackingFrame(image) for image in images]
    network = DroidNet().to(torch.bfloat16).eval()
    options = TrackerOptions(feature_dtype=torch.bfloat16, max_keyframes=2, max_volume_bytes=0)
    intrinsics = torch.tensor([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2])
    result = Tracker(frames, intrinsics, network, options, CPU).run()
    assert_finite(result)
    assert result.static_probability.dtype == result.disparities.dtype == torch.float32
    assert (result.static_probability < 1).any()
