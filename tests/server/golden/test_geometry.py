"""Rigid motions, projection and dense bundle adjustment against the reference's numbers.

Tolerances are largest absolute differences; the numbers themselves are near 1 unless stated. G04 to
G06b share one scene of 5 frames of 8x12 pixels and 13 edges.
"""

from __future__ import annotations

import numpy as np
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
from megasam_server.geometry.projective import projective_transform  # noqa: E402

FRONTEND = {"lm": 1e-4, "ep": 0.1}
BACKEND = {"lm": 1e-5, "ep": 1e-2}
# Defaults of the training variants of the reference.
TRAINING = {"lm": 1e-4, "ep": 1e-2}


def as_tensors(arrays: dict, dtype=torch.float32) -> dict:
    """All arrays as tensors, floating ones in one dtype."""
    tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}


def close(ours, reference, tolerance: float) -> None:
    torch.testing.assert_close(ours, reference.to(ours.dtype), rtol=0, atol=tolerance)


def adjust(scene: dict, first_free: int = 1, prior: bool = True, **options) -> BundleState:
    """Our bundle adjustment of the golden scene; frames up to the last are free."""
    edges = torch.stack([scene["ii"], scene["jj"]], dim=1).numpy()
    pixels = scene["disps"][0].numel()
    topology = EdgeTopology.build(edges, first_free, 5, pixels, torch.device("cpu"))
    return dense_bundle_adjust(
        scene["poses"],
        scene["disps"],
        scene["intrinsics"][0],
        scene["disps_sens"] * prior,
        scene["target"][0],
        scene["weight"][0],
        scene["eta"],
        topology,
        BundleOptions(**options),
    )


def repeat(scene: dict, times: int, clamp: tuple | None = None, **options) -> BundleState:
    """One iteration at a time, as the reference's Python functions are called.

    They add 1e-7 to the information of each disparity, which ours takes as part of eta; some clamp
    disparities and prior before each call.
    """
    scene = dict(scene, eta=scene["eta"] + 1e-7)
    for _ in range(times):
        if clamp:
            scene["disps"] = scene["disps"].clamp(*clamp)
            scene["disps_sens"] = scene["disps_sens"].clamp(*clamp)
        state = adjust(scene, iterations=1, **options)
        intrinsics = state.intrinsics.expand(5, 4)
        scene.update(poses=state.poses, disps=state.disps, intrinsics=intrinsics)
    return state


def test_golden_se3(golden):
    """G10, lietorch's own CPU code: all nine operations, 1e-6 (README: 1e-5)."""
    g = as_tensors(golden("G10_se3"))
    pose, a = g["exp"], g["a"]
    close(se3.exp(g["xi"]), g["exp"], 1e-6)
    close(se3.log(pose), g["log"], 1e-6)
    close(se3.inverse(pose), g["inv"], 1e-6)
    close(se3.compose(pose, se3.exp(a)), g["mul_X_expa"], 1e-6)
    close(se3.retract(pose, a), g["retr_X_a"], 1e-6)
    close(se3.adjoint(pose, a), g["adj"], 1e-6)
    close(se3.adjoint_transpose(pose, a), g["adjT"], 1e-6)
    close(se3.act(pose, g["p4"]), g["act4"], 1e-6)
    close(se3.matrix(pose), g["matrix"], 1e-6)


def test_golden_projection(golden):
    """G04: coordinates up to 18 px to 2e-5, Jacobians up to 158 to 1e-4 (README: 1e-3)."""
    g = as_tensors(golden("G04_projective"))
    coords, valid, jacobians = projective_transform(
        g["poses"], g["disps"], g["intrinsics"], g["ii"], g["jj"], jacobians=True
    )
    close(coords, g["coords"][0], 2e-5)
    assert torch.equal(valid, g["valid"][0, ..., 0] > 0)
    close(jacobians.pose_i, g["Ji"][0], 1e-4)
    close(jacobians.pose_j, g["Jj"][0], 1e-4)
    close(jacobians.disparity, g["Jz"][0], 1e-4)
    close(jacobians.focal, g["Jf_times_2cx"][0], 1e-4)


def test_golden_projection_behind_the_camera(golden):
    """G04, second camera among the points: valid exactly, coordinates up to 47 px to 2e-5."""
    g = as_tensors(golden("G04_projective"))
    first = slice(2)
    coords, valid = projective_transform(
        g["poses_behind"], g["disps"], g["intrinsics"][0], g["ii"][first], g["jj"][first]
    )
    close(coords, g["coords_behind"][0], 2e-5)
    assert torch.equal(valid, g["valid_behind"][0, ..., 0] > 0)
    assert 0.2 < valid.float().mean() < 0.8


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(("call", "damping"), [("front", FRONTEND), ("back", BACKEND)])
def test_golden_bundle_python(golden, call, damping, times):
    """G05 ``BA``: poses 1e-6, disparities 1e-5 (README: 1e-4, 1e-3). Our default behaviour."""
    g = as_tensors(golden("G05_ba_python"))
    state = repeat(g, times, **damping)
    close(state.poses, g[f"BA_{call}_{times}_poses"][0], 1e-6)
    close(state.disps, g[f"BA_{call}_{times}_disps"][0], 1e-5)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(("call", "damping"), [("front", FRONTEND), ("back", BACKEND)])
def test_golden_bundle_python_with_focal_length(golden, call, damping, times):
    """G05 ``BA_f``: poses 2e-5, disparities 1e-5, focal length (10 px) 3e-4.

    In float64, since focal length and distance nearly exchange: what differs is the reference's own
    float32 rounding.
    """
    g = as_tensors(golden("G05_ba_python"), torch.float64)
    state = repeat(g, times, optimise_focal=True, **damping)
    close(state.poses, g[f"BAf_{call}_{times}_poses"][0], 2e-5)
    close(state.disps, g[f"BAf_{call}_{times}_disps"][0], 1e-5)
    close(state.intrinsics, g[f"BAf_{call}_{times}_intr"][0, 0], 3e-4)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(("call", "damping"), [("front", FRONTEND), ("back", BACKEND)])
def test_golden_bundle_python_clamped_before(golden, call, damping, times):
    """G05 ``precond_BA``: as ``BA``, but disparities and prior are first clamped to [0.01, 10].

    That gives every pixel a prior. Poses 3e-5, disparities 5e-5, where ours lets disparities
    fall to 0.001 and the reference to 1e-6.
    """
    g = as_tensors(golden("G05_ba_python"))
    state = repeat(g, times, clamp=(0.01, 10), **damping)
    close(state.poses, g[f"precondBA_{call}_{times}_poses"][0], 3e-5)
    close(state.disps, g[f"precondBA_{call}_{times}_disps"][0].clamp(min=0.001), 5e-5)


@pytest.mark.parametrize("times", [1, 3])
def test_golden_bundle_training_variants(golden, times):
    """G05 ``BA_train`` and ``BA_f_train``: without prior; the former clamps to [0.01, 10] before.

    Poses and disparities 2e-5, focal length (10 px) 3e-4, in float64 as above.
    """
    g = as_tensors(golden("G05_ba_python"), torch.float64)
    g["disps_sens"] = torch.zeros_like(g["disps_sens"])
    clamped = dict(g, disps=g["disps"].clamp(0.01, 10))
    for _ in range(times):
        state = repeat(clamped, 1, prior=False, **TRAINING)
        clamped.update(poses=state.poses, disps=state.disps.clamp(0.01, 10))
    close(state.poses, g[f"BAtrain_{times}_poses"][0], 2e-5)
    close(state.disps, g[f"BAtrain_{times}_disps"][0], 2e-5)
    state = repeat(g, times, prior=False, optimise_focal=True, **TRAINING)
    close(state.poses, g[f"BAftrain_{times}_poses"][0], 2e-5)
    close(state.disps, g[f"BAftrain_{times}_disps"][0], 2e-5)
    close(state.intrinsics, g[f"BAftrain_{times}_intr"][0, 0], 3e-4)


def linearised(g: dict) -> dict:
    """Residuals, weights and Jacobians of the golden scene, [E, pixels * 2, ...]."""
    coords, valid, jacobians = projective_transform(
        g["poses"], g["disps"], g["intrinsics"][0], g["ii"], g["jj"], jacobians=True
    )
    weight = 0.001 * g["weight"][0] * valid[..., None]
    flat = {name: value.flatten(1, 3) for name, value in jacobians._asdict().items()}
    return flat | {"r": (g["target"][0] - coords).flatten(1), "w": weight.flatten(1)}


@pytest.mark.parametrize("times", [1, 3])
def test_golden_motion_only_python(golden, times):
    """G05 ``MoBA``: poses 1e-5, from our Jacobians and residuals.

    Not a behaviour of ours: it adds its damping to the diagonals of the blocks between different
    poses as well. The tracker never calls it; G06 ``motion_only`` has what the tracker calls.
    """
    g = as_tensors(golden("G05_ba_python"), torch.float64)
    for _ in range(times):
        e = linearised(g)
        left = torch.zeros(5, 5, 6, 6, dtype=torch.float64)
        right = torch.zeros(5, 6, dtype=torch.float64)
        sides = ((g["ii"], e["pose_i"]), (g["jj"], e["pose_j"]))
        for a, by_a in sides:
            right.index_add_(0, a, torch.einsum("enx,en->ex", by_a, e["w"] * e["r"]))
            for b, by_b in sides:
                block = torch.einsum("enx,en,eny->exy", by_a, e["w"], by_b)
                left.index_put_((a, b), block, accumulate=True)
        left = left + (0.1 + 1e-4 * left) * torch.eye(6)
        free = left[1:, 1:].transpose(1, 2).reshape(24, 24)
        steps = torch.linalg.solve(free, right[1:].flatten()).view(4, 6)
        g["poses"] = torch.cat([g["poses"][:1], se3.retract(g["poses"][1:], steps)])
    close(g["poses"], g[f"MoBA_{times}_poses"][0], 1e-5)


def test_golden_normal_equations(golden):
    """G05 ``jac_*`` (``getJacobian``): every block, relative to its largest element 2e-5."""
    g = as_tensors(golden("G05_ba_python"), torch.float64)
    e = linearised(g)
    pose_i, pose_j, w = e["pose_i"], e["pose_j"], e["w"]
    disparity, focal = e["disparity"][..., 0], e["focal"][..., 0]

    def per_pixel(value):
        """Sum over the two coordinates: [E, pixels*2, ...] -> [E, pixels, ...]."""
        return value.unflatten(1, (-1, 2)).sum(2)

    against = (w * disparity)[..., None]
    ours = {
        "Hs": torch.stack(
            [
                torch.einsum("enx,en,eny->exy", a, w, b)
                for a in (pose_i, pose_j)
                for b in (pose_i, pose_j)
            ]
        ),
        "vs": torch.stack([torch.einsum("enx,en->ex", a, w * e["r"]) for a in (pose_i, pose_j)]),
        "Eii": per_pixel(pose_i * against).mT[:2],
        "Eij": per_pixel(pose_j * against).mT[:2],
        "Cii": per_pixel(w * disparity * disparity),
        "wi": per_pixel(w * disparity * e["r"]),
        "Calib": (w * focal * focal).sum().view(1, 1, 1),
        "CalibPose": torch.stack(
            [torch.einsum("enx,en->ex", a, w * focal) for a in (pose_i, pose_j)], dim=1
        )[:, :, None],
        "CalibDepth": per_pixel(w * focal * disparity)[..., None],
        "q_vec": (w * focal * e["r"]).sum().view(1, 1),
    }
    for name, value in ours.items():
        reference = g[f"jac_{name}"]
        close(value, reference, 2e-5 * reference.abs().max().item())


def test_golden_observability(golden):
    """G05 medians: relative 1e-5."""
    g = as_tensors(golden("G05_ba_python"))
    depth, focal = observability(g["poses"], g["disps"], g["intrinsics"][0], g["ii"], g["jj"])
    torch.testing.assert_close(depth, g["median_hessian"], rtol=1e-5, atol=0)
    torch.testing.assert_close(focal, g["median_calib"][0], rtol=1e-5, atol=0)


# name -> how our function is called for the same result. The reference runs its focal branch twice
# as often as it is asked to.
KERNEL_CALLS = {
    "front_mono_it1": {"iterations": 1, **FRONTEND},
    "front_mono_it2": FRONTEND,
    "front_nomono_it2": {"prior": False, **FRONTEND},
    "motion_only_it2": {"motion_only": True, **FRONTEND},
    "back_mono1e-5_it2": {"alpha": 1e-5, **BACKEND},
    "back_nomono_it2": {"prior": False, "alpha": 0.0, **BACKEND},
    "back_focal_it2": {
        **{"prior": False, "alpha": 0.0, "iterations": 4, "optimise_focal": True},
        **BACKEND,
    },
    "back_focal_mono_it2": {"alpha": 1e-5, "iterations": 4, "optimise_focal": True, **BACKEND},
    "front_mono_it2_t0_2": {"first_free": 2, **FRONTEND},
}


def close_to_golden(state: BundleState, g: dict, name: str, tolerance: float) -> None:
    """Poses and disparities to ``tolerance``. With focal length, whose blocks the reference makes in
    float32 and which nearly exchanges with distance: ten times that, focal length (10 px) 200 times.
    """
    if f"{name}_intr" in g:
        close(state.intrinsics, g[f"{name}_intr"][0], 200 * tolerance)
        tolerance *= 10
    close(state.poses, g[f"{name}_poses"], tolerance)
    close(state.disps, g[f"{name}_disps"], tolerance)


@pytest.mark.parametrize(
    ("dtype", "suffix", "tolerance"), [(torch.float64, "_f64", 2e-6), (torch.float32, "", 2e-5)]
)
@pytest.mark.parametrize("name", KERNEL_CALLS)
def test_golden_bundle_kernels(golden, name, dtype, suffix, tolerance):
    """G06: what the tracker of the reference gets, with its defects: 2e-6 in float64, where the
    vectors are from float64 too; 2e-5 in float32 (README: 1e-4)."""
    g = as_tensors(golden("G06_ba_cuda_emulated"), dtype)
    state = adjust(g, reference_quirks=True, **KERNEL_CALLS[name])
    kinds = ("poses", "disps", "intr")
    named = {f"{name}_{k}": g.get(f"{name}{suffix}_{k}") for k in kinds}
    close_to_golden(state, {k: v for k, v in named.items() if v is not None}, name, tolerance)


@pytest.mark.parametrize("name", KERNEL_CALLS)
def test_golden_bundle_fixed(golden, name):
    """G06b: the same without the defects, our default: 2e-6 in float64 (README: 1e-4)."""
    g = as_tensors(golden("G06_ba_cuda_emulated"), torch.float64)
    fixed = as_tensors(golden("G06b_ba_fixed"), torch.float64)
    close_to_golden(adjust(g, **KERNEL_CALLS[name]), fixed, name, 2e-6)


def test_golden_defects_make_a_difference(golden):
    """The two defects are large against the tolerances above."""
    g = as_tensors(golden("G06_ba_cuda_emulated"), torch.float64)
    ours, theirs = (adjust(g, reference_quirks=quirks, **FRONTEND) for quirks in (False, True))
    assert (ours.disps - theirs.disps).abs().max() > 1e-2
