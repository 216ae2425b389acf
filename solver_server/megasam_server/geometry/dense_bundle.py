"""Dense bundle adjustment: poses, a disparity per pixel and the focal length from optical flow.

The problem of DROID-SLAM (Teed, Deng 2021) as MegaSaM poses it. For an edge (i, j), the network
says where each pixel p of frame i is seen in frame j (``target``) and how sure it is (``weight``):

    minimise  sum_edges,p  W |target - project(T_j T_i^-1, d_i(p))|^2  +  sum_i,p  prior(d_i(p))

with W = 0.001 * weight, 0 for points behind the camera. Where a frame has a depth prior it is
alpha (d - d_prior)^2; elsewhere the step of the disparity is damped by eta. Gauss-Newton with
Levenberg-Marquardt damping of the pose blocks; disparities, which meet only the poses, are
eliminated (Schur complement) and the remaining dense system is solved by Cholesky in float64.

Everything is a fixed sequence of batched operations on the device of the inputs: nothing waits for
the device, and the whole call can be captured in a CUDA graph.
Float32 products must not be rounded to TF32 (torch's default for matrix products on CUDA).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from megasam_server.geometry import se3
from megasam_server.geometry.edge_topology import PIXELS_AT_ONCE, EdgeTopology, SourceGroup
from megasam_server.geometry.projective import MIN_DEPTH, guarded_inverse, move_pixels

WEIGHT_SCALE = 0.001
# Disparities stay in this range during the iterations; the nearest and farthest depth.
DISPARITY_RANGE = (1e-6, 10.0)
SMALLEST_DISPARITY = 0.001
# The reference's CUDA kernels stop nearer points than its Python code does.
REFERENCE_MIN_DEPTH = 0.25


@dataclass(frozen=True)
class BundleOptions:
    """How to adjust.

    Attributes:
        iterations: Gauss-Newton steps, each with its own linearisation.
        lm: damping of the poses (and focal length) in proportion to their information.
        ep: constant damping of the same.
        alpha: weight of the depth prior, per pixel.
        motion_only: keep disparities, adjust poses alone.
        optimise_focal: adjust one focal length, common to all frames; fy/fx is kept.
        reference_quirks: what MegaSaM's code really does, for comparisons with it. Without focal
            length the disparities are those after the first iteration; the step of the first free
            pose is forgotten in the disparities; points count from another nearest depth.
    """

    iterations: int = 2
    lm: float = 1e-4
    ep: float = 0.1
    alpha: float = 0.05
    motion_only: bool = False
    optimise_focal: bool = False
    reference_quirks: bool = False


class BundleState(NamedTuple):
    """poses [N, 7], disps [N, h, w] and intrinsics [4]: the unknowns."""

    poses: Tensor
    disps: Tensor
    intrinsics: Tensor


class _Observations(NamedTuple):
    """What stays the same through the iterations, pixels flattened."""

    target: Tensor  # [E, 2, pixels]
    weight: Tensor  # [E, 2, pixels], scaled
    prior: Tensor  # [N, pixels]
    eta: Tensor  # [N, pixels]


class _Linearised(NamedTuple):
    """The edges of a group of source frames, at the present estimate.

    Columns are derivatives of the coordinates by pose j (6) and focal length, the residual, and the
    derivative by disparity. That by pose i is ``-J_j Ad``, so that sums over pixels are needed for
    pose j only.
    """

    adjoint: Tensor  # [E, 6, 6] Ad(T_j T_i^-1)
    columns: Tensor  # [E, 2, 9, pixels]
    weighted: Tensor  # the same times the weights


class _DisparityRows(NamedTuple):
    """The equations of the disparities of a group of source frames."""

    rows: Tensor  # [K, 6(D+1), pixels] against poses; the last six: focal, right side, unused
    variance: Tensor  # [K, pixels] 1/C; 0 where nothing is known


def dense_bundle_adjust(
    poses: Tensor,
    disps: Tensor,
    intrinsics: Tensor,
    disps_prior: Tensor,
    target: Tensor,
    weight: Tensor,
    eta: Tensor,
    topology: EdgeTopology,
    options: BundleOptions,
) -> BundleState:
    """Adjust the poses of the topology's free frames and the disparities of these and all sources.

    Args:
        poses: [N, 7] cam_from_world.
        disps: [N, h, w] disparities, 1/depth.
        intrinsics: [4] fx, fy, cx, cy in pixels of the disparity map, for all frames.
        disps_prior: [N, h, w], 0 where there is no prior.
        target: [E, h, w, 2] where the pixels of an edge's frame ii are seen in its frame jj.
        weight: [E, h, w, 2] confidence, 0..1. With weight 0, target may be anything, also NaN.
        eta: [N, h, w] damping of disparities that have no prior, by frame.
        topology: of the edges. Scale is fixed by the prior or by two poses that are not free.
        options: see there.

    Returns:
        New tensors. A step whose system is not positive definite leaves the poses as they are.
    """
    observed = _Observations(
        target.movedim(-1, 1).flatten(2),
        (WEIGHT_SCALE * weight).movedim(-1, 1).flatten(2),
        disps_prior.flatten(1),
        eta.flatten(1),
    )
    state = BundleState(poses, disps, intrinsics)
    returned = None
    for _ in range(options.iterations):
        state = _step(state, observed, topology, options)
        # The reference goes on with a clamped copy of the disparities and returns the original.
        if returned is None:
            returned = state.disps
        state = state._replace(disps=state.disps.clamp(*DISPARITY_RANGE))
    if options.reference_quirks and not options.optimise_focal and returned is not None:
        state = state._replace(disps=returned)
    return state._replace(disps=state.disps.clamp(min=SMALLEST_DISPARITY))


def _step(
    state: BundleState, observed: _Observations, topology: EdgeTopology, options: BundleOptions
) -> BundleState:
    """One Gauss-Newton step; disparities are not clamped."""
    free, slots = topology.free, topology.free + 2
    system = state.poses.new_zeros(slots * slots, 36, dtype=torch.float64)
    kept = []
    for group in topology.groups:
        edges = _linearise(state, observed, group, options)
        system.index_add_(0, group.edge_blocks, _edge_blocks(edges, options.lm))
        if not options.motion_only:
            equations = _against_disparity(edges, state, observed, group, options.alpha)
            blocks = _row_products(equations)
            system.index_add_(0, group.row_blocks, blocks, alpha=-1)
            if topology.keeps_equations:
                kept.append(equations)
    unknowns = 6 * free + int(options.optimise_focal)
    solution = _solve(system.view(slots, slots, 6, 6), free, unknowns, options.ep)
    solution = solution.to(state.poses.dtype)  # [unknowns]

    free_poses = state.poses[topology.first_free : topology.end]
    moved = se3.retract(free_poses, solution[: 6 * free].view(free, 6))
    poses = state.poses.clone()
    poses[topology.first_free : topology.end] = moved
    intrinsics = state.intrinsics
    if options.optimise_focal:
        fx, _, cx, _ = intrinsics
        change = 2 * cx * solution[-1] / fx
        intrinsics = torch.cat([intrinsics[:2] * (1 + change), intrinsics[2:]])
    disps = state.disps
    if not options.motion_only:
        by_slot = _by_slot(solution, free, options)  # [P+2, 6]
        disps = disps.clone()
        for number, group in enumerate(topology.groups):
            if kept:
                equations = kept[number]
            else:
                edges = _linearise(state, observed, group, options)
                equations = _against_disparity(edges, state, observed, group, options.alpha)
            steps = by_slot[group.row_slots].flatten(1)  # [K, 6(D+1)]
            change = torch.bmm(steps[:, None], equations.rows)[:, 0] * -equations.variance
            disps.index_add_(0, group.sources, change.view(-1, *disps.shape[1:]))
    return BundleState(poses, disps, intrinsics)


def _linearise(
    state: BundleState, observed: _Observations, group: SourceGroup, options: BundleOptions
) -> _Linearised:
    moved = move_pixels(state.poses, state.disps, state.intrinsics, group.ii, group.jj)
    # The reference takes the equations with focal length from its Python code.
    quirk = options.reference_quirks and not options.optimise_focal
    z = moved.points[:, 2]
    seen = z > (REFERENCE_MIN_DEPTH if quirk else MIN_DEPTH)
    inverse_depth = (1 / z).masked_fill(~seen, 0.0)
    slopes = moved.slopes(inverse_depth)
    weight = observed.weight[group.edges] * seen[:, None]  # [E, 2, pixels]
    residual = observed.target[group.edges] - moved.coordinates(slopes)
    # Whatever a pixel without weight says, also NaN, must not reach the sums.
    residual = residual.masked_fill(~(weight > 0), 0.0)
    by_pose, by_disparity = moved.geometry_jacobians(slopes, inverse_depth)
    if options.optimise_focal:
        by_focal = moved.focal_jacobian(slopes, inverse_depth)
    else:
        by_focal = torch.zeros_like(residual)
    others = torch.stack([by_focal, residual, by_disparity], dim=2)
    columns = torch.cat([by_pose, others], dim=2)  # [E, 2, 9, pixels]
    return _Linearised(se3.adjoint_matrix(moved.motion), columns, columns * weight[:, :, None])


def _edge_blocks(edges: _Linearised, lm: float) -> Tensor:
    """Blocks between pose i, pose j and slot P in the system, float64 [E*9, 36].

    Those of pose i follow from pose j's by the adjoint; damping is on the diagonal.
    """
    left, right = edges.columns[:, :, :8].flatten(0, 1), edges.weighted[:, :, :8].flatten(0, 1)
    gram = torch.bmm(left, right.mT).unflatten(0, (-1, 2)).sum(1)  # [E, 8, 8]
    gram = pad(gram.double(), (0, 4, 0, 4))  # [E, 12, 12]
    identity = torch.eye(12, dtype=torch.float64, device=gram.device).expand_as(gram)
    spread = torch.cat([pad(-edges.adjoint.double(), (0, 0, 0, 6)), identity], dim=2)
    blocks = spread.mT @ gram @ spread  # [E, 18, 18]
    blocks.diagonal(dim1=1, dim2=2).mul_(1 + lm)
    return blocks.view(-1, 3, 6, 3, 6).transpose(2, 3).reshape(-1, 36)


def _against_disparity(
    edges: _Linearised,
    state: BundleState,
    observed: _Observations,
    group: SourceGroup,
    alpha: float,
) -> _DisparityRows:
    """Sum the edges of each source frame, pixel by pixel, and add prior or damping."""
    against = (edges.weighted * edges.columns[:, :, 8:]).sum(1)  # [E, 9, pixels]
    blocks_j = against[:, :6]
    blocks_i = -torch.bmm(edges.adjoint.mT, blocks_j)
    (count, depth), pixels = group.row_slots.shape, against.shape[-1]
    rows = against.new_zeros(count * depth + 1, 6, pixels)
    rows.index_add_(0, group.rows, torch.stack([blocks_i, blocks_j], dim=1).flatten(0, 1))
    rows = rows[:-1].view(count, depth * 6, pixels)
    sums = against.new_zeros(count, 3, pixels)
    sums.index_add_(0, group.source, against[:, 6:])

    prior = observed.prior[group.sources]
    has_prior = prior > 0
    off = state.disps[group.sources].flatten(1) - prior
    information = sums[:, 2] + observed.eta[group.sources].masked_fill(has_prior, alpha)
    rows[:, -6] = sums[:, 0]
    rows[:, -5] = sums[:, 1] - alpha * off.masked_fill(~has_prior, 0.0)
    known = information > torch.finfo(information.dtype).tiny
    return _DisparityRows(rows, (1 / information).masked_fill(~known, 0.0))


def _row_products(equations: _DisparityRows) -> Tensor:
    """E C^-1 E^T between all rows of each source frame, float64 [K*(D+1)*(D+1), 36]."""
    rows, variance = equations
    product = torch.bmm(rows * variance[:, None], rows.mT)  # [K, 6(D+1), 6(D+1)]
    depth = rows.shape[1] // 6
    product = product.unflatten(1, (depth, 6)).unflatten(3, (depth, 6)).transpose(2, 3)
    return product.reshape(-1, 36).double()


def _solve(blocks: Tensor, free: int, unknowns: int, ep: float) -> Tensor:
    """Solve the reduced system, float64 [P+2, P+2, 6, 6] -> [unknowns]; 0 if it cannot be solved.

    Row 6P is the focal length; column 6P+1 the right side.
    """
    full = blocks[: free + 1, : free + 1].transpose(1, 2).reshape(6 * free + 6, -1)
    right = full[:unknowns, 6 * free + 1 : 6 * free + 2]
    left = full[:unknowns, :unknowns].clone()
    left.diagonal().add_(ep)
    factor, failed = torch.linalg.cholesky_ex(left)
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    solution = torch.linalg.solve_triangular(factor.mT, half, upper=True).squeeze(-1)
    usable = (failed == 0) & solution.isfinite().all()
    return solution.masked_fill(~usable, 0.0)


def _by_slot(solution: Tensor, free: int, options: BundleOptions) -> Tensor:
    """What each slot multiplies its rows with, [P+2, 6]: E^T dx + E_f df - w in one product."""
    values = solution.new_zeros(free + 2, 6)
    values[:free] = solution[: 6 * free].view(free, 6)
    if options.reference_quirks:
        values[0].zero_()
    if options.optimise_focal:
        values[free, 0] = solution[-1]
    # Assigning a number would copy it from the host, which a CUDA graph does not allow.
    values[free, 1].fill_(-1)
    return values


def observability(
    poses: Tensor, disps: Tensor, intrinsics: Tensor, ii: Tensor, jj: Tensor
) -> tuple[Tensor, Tensor]:
    """How well the edges show depth and focal length, whatever the network thinks of them.

    Args:
        poses: [N, 7]; disps: [N, h, w]; intrinsics: [4]; ii, jj: [E].

    Returns:
        The (lower) median over the pixels of all source frames of the information about their
        disparity, sum over edges of |d(u, v)/d disparity|^2; and the information about the focal
        length, sum over edges and pixels of |d(u, v)/df|^2. Scalars on the device. Small values
        mean too little parallax, or too little turning, to trust the estimate.
    """
    sources, source = ii.unique(return_inverse=True)
    size = disps[0].numel()
    depth_information = disps.new_zeros(len(sources), size)
    focal_information = disps.new_zeros(())
    edges_at_once = max(1, PIXELS_AT_ONCE // size)
    for i, j, k in zip(*(x.split(edges_at_once) for x in (ii, jj, source)), strict=True):
        moved = move_pixels(poses, disps, intrinsics, i, j)
        inverse_depth = guarded_inverse(moved.points[:, 2])
        slopes = moved.slopes(inverse_depth)
        _, by_disparity = moved.geometry_jacobians(slopes, inverse_depth)
        by_focal = moved.focal_jacobian(slopes, inverse_depth)
        depth_information.index_add_(0, k, by_disparity.square().sum(1))
        focal_information = focal_information + by_focal.square().sum()
    return depth_information.median(), focal_information / (2 * intrinsics[2]) ** 2
