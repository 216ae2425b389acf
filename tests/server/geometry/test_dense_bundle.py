"""Dense bundle adjustment on a scene whose truth is known, in float64 unless stated."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from megasam_server.geometry import se3  # noqa: E402
from megasam_server.geometry.dense_bundle import (  # noqa: E402
    BundleOptions,
    BundleState,
    dense_bundle_adjust,
    observability,
)
from megasam_server.geometry.edge_topology import EdgeTopology  # noqa: E402
from megasam_server.geometry.projective import (  # noqa: E402
    frame_distance,
    projective_transform,
)

from tests.server.geometry.dense_scene import DenseScene  # noqa: E402

# Weak enough not to slow Gauss-Newton down: weights are scaled by 0.001.
UNDAMPED = {"lm": 1e-9, "ep": 1e-9, "iterations": 12}


def problem(scene: DenseScene, noise: float = 0.02) -> dict:
    """Arguments of :func:`adjust` with exact flow and disturbed poses and disparities."""
    twists = noise * scene.random(scene.frames, 6, seed=5)
    twists[:2] = 0  # two cameras are known, and so is scale
    factors = torch.exp(5 * noise * scene.random(*scene.disps.shape, seed=6))
    target = scene.target()
    return {
        "poses": se3.retract(scene.poses, twists),
        "disps": scene.disps * factors,
        "intrinsics": scene.intrinsics,
        "disps_prior": torch.zeros_like(scene.disps),
        "target": target,
        "weight": torch.rand(target.shape, generator=torch.Generator().manual_seed(8)).double(),
        "eta": torch.full_like(scene.disps, 1e-12),
        "ii": scene.ii,
        "jj": scene.jj,
        "first_free": 2,
        "end": scene.frames,
    }


def topology_of(arguments: dict, **limit) -> EdgeTopology:
    edges = torch.stack([arguments["ii"], arguments["jj"]], dim=1).numpy()
    pixels = arguments["disps"][0].numel()
    frames = arguments["first_free"], arguments["end"]
    return EdgeTopology.build(edges, *frames, pixels, torch.device("cpu"), **limit)


def adjust(arguments: dict, topology: EdgeTopology | None = None, **options) -> BundleState:
    others = {k: v for k, v in arguments.items() if k not in ("ii", "jj", "first_free", "end")}
    topology = topology or topology_of(arguments)
    return dense_bundle_adjust(**others, topology=topology, options=BundleOptions(**options))


def close(a, b, tolerance):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def scene() -> DenseScene:
    return DenseScene()


def test_recovers_poses_and_disparities(scene):
    start = problem(scene)
    assert (start["poses"] - scene.poses).abs().max() > 0.02
    assert (start["disps"] - scene.disps).abs().max() > 0.1
    state = adjust(start, **UNDAMPED)
    close(state.poses, scene.poses, 1e-8)
    close(state.disps, scene.disps, 1e-8)
    assert torch.equal(state.intrinsics, scene.intrinsics)


def test_recovers_focal_length_too(scene):
    start = problem(scene)
    start["intrinsics"] = scene.intrinsics * torch.tensor([1.1, 1.1, 1, 1])
    state = adjust(start, optimise_focal=True, **UNDAMPED)
    close(state.poses, scene.poses, 1e-7)
    close(state.disps, scene.disps, 1e-7)
    close(state.intrinsics, scene.intrinsics, 1e-6)


def test_the_ratio_of_focal_lengths_is_kept(scene):
    start = problem(scene)
    start["intrinsics"] = scene.intrinsics * torch.tensor([1.1, 1.2, 1, 1])
    state = adjust(start, optimise_focal=True, iterations=3)
    before, after = start["intrinsics"], state.intrinsics
    assert (after[0] - before[0]).abs() > 0.01
    close(after[1] / after[0], before[1] / before[0], 1e-12)
    assert torch.equal(after[2:], before[2:])


def test_the_depth_prior_gives_the_scale(scene):
    """One fixed camera only: without prior, scale is whatever it was."""
    start = problem(scene) | {"first_free": 1}
    start["poses"] = scene.poses.clone()
    start["poses"][:, :3] *= 1.1
    start["disps"] = scene.disps / 1.1
    loose = adjust(start, **UNDAMPED)
    close(loose.disps, start["disps"], 1e-6)
    state = adjust(start | {"disps_prior": scene.disps}, alpha=1e-3, **UNDAMPED)
    close(state.poses, scene.poses, 1e-6)
    close(state.disps, scene.disps, 1e-6)


def test_motion_only_keeps_disparities(scene):
    start = problem(scene) | {"disps": scene.disps}
    state = adjust(start, motion_only=True, **UNDAMPED)
    close(state.poses, scene.poses, 1e-9)
    assert torch.equal(state.disps, scene.disps)


def test_fixed_cameras_stay_and_their_disparities_move(scene):
    start = problem(scene)
    state = adjust(start, iterations=1)
    assert torch.equal(state.poses[:2], start["poses"][:2])
    assert ((state.disps - start["disps"])[:2].abs() > 1e-4).float().mean() > 0.9


@pytest.mark.parametrize("optimise_focal", [False, True])
def test_one_step_solves_the_whole_system(scene, optimise_focal):
    """The reduced, blockwise system against one dense least-squares matrix with every unknown."""
    start = problem(scene)
    start["disps_prior"] = torch.where(scene.disps > 0.5, scene.disps, 0.0)
    start["eta"] = torch.rand_like(scene.disps) * 1e-3
    options = {"lm": 1e-3, "ep": 1e-2, "alpha": 0.02, "iterations": 1}
    state = adjust(start, optimise_focal=optimise_focal, **options)

    coords, _, jacobians = projective_transform(
        *(start[k] for k in ("poses", "disps", "intrinsics", "ii", "jj")), jacobians=True
    )
    edges, pixels = len(scene.ii), scene.height * scene.width
    frames, poses = scene.frames, scene.frames * 6
    rows = torch.zeros(edges, pixels, 2, poses + 1 + frames * pixels, dtype=torch.float64)
    for e, (i, j) in enumerate(zip(scene.ii.tolist(), scene.jj.tolist(), strict=True)):
        rows[e, :, :, 6 * i : 6 * i + 6] = jacobians.pose_i[e].flatten(0, 1)
        rows[e, :, :, 6 * j : 6 * j + 6] = jacobians.pose_j[e].flatten(0, 1)
        rows[e, :, :, poses] = jacobians.focal[e, ..., 0].flatten(0, 1)
        own = poses + 1 + i * pixels + torch.arange(pixels)
        rows[e, torch.arange(pixels), :, own] = jacobians.disparity[e, ..., 0].flatten(0, 1)
    rows = rows.flatten(0, 2)
    weight = 0.001 * start["weight"].flatten()
    left = rows.T @ (weight[:, None] * rows)
    right = rows.T @ (weight * (start["target"] - coords).flatten())
    first = left.diagonal()[: poses + 1]
    first.mul_(1 + options["lm"]).add_(options["ep"])
    prior, disps = start["disps_prior"].flatten(), start["disps"].flatten()
    own = torch.where(prior > 0, options["alpha"], start["eta"].flatten())
    left.diagonal()[poses + 1 :].add_(own)
    right[poses + 1 :] -= torch.where(prior > 0, options["alpha"] * (disps - prior), 0.0)
    free = torch.ones(len(right), dtype=torch.bool)
    free[:12] = False
    free[poses] = optimise_focal
    step = torch.zeros_like(right)
    step[free] = torch.linalg.solve(left[free][:, free], right[free])

    moved = se3.retract(start["poses"], step[:poses].view(-1, 6))
    close(state.poses, moved, 1e-11)
    close(state.disps.flatten(), disps + step[poses + 1 :], 1e-10)
    growth = 2 * scene.intrinsics[2] * step[poses]
    close(state.intrinsics[0], scene.intrinsics[0] + growth, 1e-9)


def test_a_scene_of_rotations_alone_stays_finite():
    """No parallax: nothing is known of the disparities, and they stay where they are."""
    scene = DenseScene(moving=0.0)
    start = problem(scene) | {"eta": torch.zeros_like(scene.disps), "disps": scene.disps}
    start["poses"] = scene.poses
    for options in ({}, {"optimise_focal": True}, {"alpha": 0.0}):
        state = adjust(start, iterations=4, **options)
        assert all(part.isfinite().all() for part in state)
        close(state.poses, scene.poses, 1e-6)
    # From disturbed rotations, too, and in float32.
    twists = 0.02 * scene.random(scene.frames, 6, seed=5)
    start["poses"] = se3.retract(scene.poses, twists)
    single = {
        k: v.float() if k not in ("ii", "jj", "first_free", "end") else v for k, v in start.items()
    }
    assert all(part.isfinite().all() for part in adjust(single, iterations=8))


@pytest.mark.parametrize("optimise_focal", [False, True])
def test_edges_and_pixels_of_no_weight_change_nothing(scene, optimise_focal):
    """Whatever they say: their targets are NaN here."""
    start = problem(scene)
    options = {"iterations": 2, "optimise_focal": optimise_focal}
    plain = adjust(start, **options)
    # As many edges again, between frames that have an edge already and that have none yet.
    more_i = torch.tensor([0, 5, 3, 1])
    more_j = torch.tensor([5, 0, 4, 0])
    size = (4, scene.height, scene.width, 2)
    padded = start | {
        "ii": torch.cat([more_i, start["ii"]]),
        "jj": torch.cat([more_j, start["jj"]]),
        "target": torch.cat([torch.full(size, torch.nan).double(), start["target"]]),
        "weight": torch.cat([torch.zeros(size).double(), start["weight"]]),
    }
    for ours, expected in zip(adjust(padded, **options), plain, strict=True):
        close(ours, expected, 1e-12)
    # One pixel of one edge.
    masked = start | {"weight": start["weight"].clone(), "target": start["target"].clone()}
    masked["weight"][3, 2, 2] = 0
    without = adjust(masked, **options)
    masked["target"][3, 2, 2] = torch.nan
    for ours, expected in zip(adjust(masked, **options), without, strict=True):
        assert torch.equal(ours, expected)


def test_points_behind_the_camera_have_no_weight(scene):
    start = problem(scene)
    start["poses"][5, 2] -= 2
    state = adjust(start, iterations=1, motion_only=True)
    coords, valid = projective_transform(
        *(start[k] for k in ("poses", "disps", "intrinsics", "ii", "jj"))
    )
    assert 0.02 < (~valid).float().mean() < 0.5
    masked = start | {"weight": start["weight"] * valid[..., None]}
    assert torch.equal(adjust(masked, iterations=1, motion_only=True).poses, state.poses)


def test_a_system_that_cannot_be_solved_leaves_the_poses(scene):
    """Negative damping makes it indefinite; no exception, and the disparities still move."""
    start = problem(scene)
    state = adjust(start, iterations=1, ep=-10.0)
    close(state.poses, start["poses"], 1e-15)
    assert (state.disps - start["disps"]).abs().max() > 1e-3
    assert state.disps.isfinite().all()


def test_disparities_stay_in_range(scene):
    """Of a target that pulls towards infinity and beyond."""
    start = problem(scene)
    start["target"] = start["target"] + 50 * scene.random(*start["target"].shape, seed=3)
    state = adjust(start, iterations=3)
    assert state.disps.min() >= 0.001
    assert state.disps.max() <= 10


def test_inputs_are_not_changed(scene):
    start = problem(scene)
    copies = {k: v.clone() for k, v in start.items() if torch.is_tensor(v)}
    adjust(start, optimise_focal=True)
    assert all(torch.equal(start[k], copy) for k, copy in copies.items())


@pytest.mark.parametrize("options", [{}, {"optimise_focal": True}, {"motion_only": True}])
@pytest.mark.parametrize(("edges_at_once", "keeps"), [(1, False), (7, True)])
def test_groups_of_edges_give_the_same_sums(scene, options, edges_at_once, keeps):
    """Many groups, linearised twice or kept, against one that is kept."""
    start = problem(scene)
    size = scene.height * scene.width
    topology = topology_of(start, pixels_at_once=edges_at_once * size)
    assert len(topology.groups) > 2
    assert topology.keeps_equations == keeps
    edges = torch.cat([group.edges for group in topology.groups])
    assert sorted(edges.tolist()) == list(range(len(scene.ii)))
    for ours, expected in zip(
        adjust(start, topology, **options), adjust(start, **options), strict=True
    ):
        close(ours, expected, 1e-12)


def test_order_and_repetition_of_edges_do_not_matter(scene):
    start = problem(scene)
    order = torch.randperm(len(scene.ii), generator=torch.Generator().manual_seed(2))
    shuffled = start | {k: start[k][order] for k in ("ii", "jj", "target", "weight")}
    for ours, expected in zip(adjust(shuffled), adjust(start), strict=True):
        close(ours, expected, 1e-12)
    # An edge of weight w is two edges of weight w/2.
    doubled = start | {
        k: start[k].repeat(2, *[1] * (start[k].ndim - 1)) for k in ("ii", "jj", "target")
    }
    doubled["weight"] = start["weight"].repeat(2, 1, 1, 1) / 2
    for ours, expected in zip(adjust(doubled), adjust(start), strict=True):
        close(ours, expected, 1e-12)


def test_free_frames_without_edges_take_their_prior(scene):
    """Nothing else is known of them; frames outside of the problem are left alone."""
    start = problem(scene)
    keep = (scene.ii < 5) & (scene.jj < 5)
    start |= {k: start[k][keep] for k in ("ii", "jj", "target", "weight")}
    start["disps_prior"] = scene.disps * 1.5
    state = adjust(start, alpha=0.05)
    close(state.disps[5], start["disps_prior"][5], 1e-12)
    close(state.poses[5], start["poses"][5], 1e-15)
    outside = adjust(start | {"end": 5}, alpha=0.05)
    assert torch.equal(outside.disps[5], start["disps"][5])


def test_float32_is_near_float64(scene):
    start = problem(scene)
    exact = adjust(start)
    single = {
        k: v.float() if torch.is_tensor(v) and v.is_floating_point() else v
        for k, v in start.items()
    }
    for ours, expected in zip(adjust(single), exact, strict=True):
        assert ours.dtype == torch.float32
        close(ours.double(), expected, 2e-4)


def waits_for_the_device(call) -> set[str]:
    """Operations of a call whose result a CUDA device would have to send to the CPU."""
    waiting = ("item", "nonzero", "masked_select", "unique", "equal")
    with torch.autograd.profiler.profile() as profile:
        call()
    names = {event.key.removeprefix("aten::") for event in profile.key_averages()}
    assert "bmm" in names or "addcmul" in names
    return {name for name in waiting if any(seen.strip("_").startswith(name) for seen in names)}


def test_nothing_waits_for_the_device(scene):
    """So that a call can be captured in a CUDA graph."""
    start = problem(scene)
    topology = topology_of(start)
    view = [start[k] for k in ("poses", "disps", "intrinsics", "ii", "jj")]
    for options in ({}, {"optimise_focal": True}, {"motion_only": True}):
        assert waits_for_the_device(lambda o=options: adjust(start, topology, **o)) == set()
    assert waits_for_the_device(lambda: projective_transform(*view, jacobians=True)) == set()
    assert waits_for_the_device(lambda: frame_distance(*view, beta=0.3)) == set()
    # Once per call it may: the frames are numbered.
    assert waits_for_the_device(lambda: observability(*view)) == {"unique"}


def test_topology_refuses_what_it_cannot_number(scene):
    with pytest.raises(ValueError, match="itself"):
        topology_of(problem(scene) | {"jj": scene.ii})
    with pytest.raises(ValueError, match="no free frames"):
        topology_of(problem(scene) | {"first_free": 3, "end": 3})


def test_observability_falls_with_parallax(scene):
    """Depth's grows with the square of the baseline; rotations alone show none of it."""
    arguments = (scene.disps, scene.intrinsics, scene.ii, scene.jj)
    depth, focal = observability(scene.poses, *arguments)
    still = DenseScene(moving=0.0)
    no_depth, _ = observability(still.poses, *arguments)
    assert depth > 1
    assert no_depth < 1e-12
    assert focal > 0


def test_observability_is_the_information_of_unit_weights(scene):
    *_, jacobians = projective_transform(
        scene.poses, scene.disps, scene.intrinsics, scene.ii, scene.jj, jacobians=True
    )
    per_pixel = torch.zeros_like(scene.disps)
    per_pixel.index_add_(0, scene.ii, jacobians.disparity.square().sum((-1, -2)))
    widths = 2 * scene.intrinsics[2]
    depth, focal = observability(scene.poses, scene.disps, scene.intrinsics, scene.ii, scene.jj)
    close(depth, per_pixel.median(), 1e-12)
    torch.testing.assert_close(focal, (jacobians.focal / widths).square().sum())
