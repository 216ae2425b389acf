"""Where the pixels of one frame are seen in another, given their disparities.

Conventions (megasam): poses ``cam_from_world`` as in :mod:`megasam_server.geometry.se3`; disparity
d = 1/depth; pixel coordinates are integers at pixel centres; intrinsics are (fx, fy, cx, cy) at the
resolution of the disparity map. An edge (i, j) carries the pixels of frame i into frame j.

Formulas: the MegaSaM/DROID-SLAM projective geometry, with the Jacobians of the left perturbation
``T <- Exp(xi) T``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from megasam_server.geometry import se3

# A point nearer than this to either camera is not counted as seen.
MIN_DEPTH = 0.2
# frame_distance: nearest depth that counts, how much of the picture must stay in front of the other
# camera, and the distance where it does not.
MIN_DEPTH_DISTANCE = 0.25
MIN_VISIBLE = 0.75
FAR_APART = 1000.0
# frame_distance works through the edges in groups of this many pixels.
PIXELS_AT_ONCE = 2**22


class Jacobians(NamedTuple):
    """Derivatives of the projected coordinates (u, v), which are the rows.

    Attributes:
        pose_i: [E, h, w, 2, 6] by the left twist of frame i's pose.
        pose_j: [E, h, w, 2, 6] by that of frame j's pose.
        disparity: [E, h, w, 2, 1] by the disparity of the pixel in frame i.
        focal: [E, h, w, 2, 1] by fx / (2 cx), the focal length in widths of the picture, fx and fy
            changing by the same amount.
    """

    pose_i: Tensor
    pose_j: Tensor
    disparity: Tensor
    focal: Tensor


class MovedPixels(NamedTuple):
    """The pixels of the edges' source frames in the cameras of their target frames.

    ``pixels`` is h*w. ``motion`` relates the two cameras: ``j_from_i``.

    Attributes:
        motion: [E, 4, 4].
        rays: [1 or E, 2, pixels] (x/z, y/z) of the pixels in frame i.
        disps: [E, pixels] of frame i.
        points: [E, 3, pixels] points in camera j, in units of their depth in camera i: camera j
            sees depth points[:, 2] / disps.
        focals: [2, 1 or E, 2, 1] (fx, fy) of frames i and j.
        centre: [1 or E, 2, 1] (cx, cy) of frame j.
    """

    motion: Tensor
    rays: Tensor
    disps: Tensor
    points: Tensor
    focals: Tensor
    centre: Tensor

    def slopes(self, inverse_depth: Tensor) -> Tensor:
        """(x/z, y/z) of the points in camera j, [E, 2, pixels]; 1/z is given, [E, pixels]."""
        return self.points[:, :2] * inverse_depth[:, None]

    def coordinates(self, slopes: Tensor) -> Tensor:
        """Where the points are seen in frame j, [E, 2, pixels]."""
        return torch.addcmul(self.centre, slopes, self.focals[1])

    def geometry_jacobians(self, slopes: Tensor, inverse_depth: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of the coordinates by pose j [E, 2, 6, pixels] and disparity [E, 2, pixels].

        Those by pose i are ``-J_j Ad(motion)``. A point with inverse depth 0 gives finite rows.
        """
        focal = self.focals[1]  # [1 or E, 2, 1]
        (fx, fy), (a, b) = focal.unbind(1), slopes.unbind(1)
        scale = focal * inverse_depth[:, None]  # [E, 2, pixels]
        by_shift = scale * self.disps[:, None]
        by_depth = -slopes * by_shift
        stretched = focal * slopes
        mixed = stretched[:, 0] * b
        zero = torch.zeros_like(a)
        rows = [
            *(by_shift[:, 0], zero, by_depth[:, 0]),
            *(-mixed, torch.addcmul(fx, stretched[:, 0], a), -fx * b),
            *(zero, by_shift[:, 1], by_depth[:, 1]),
            *(torch.addcmul(-fy, stretched[:, 1], b, value=-1), stretched[:, 1] * a, fy * a),
        ]
        by_pose = torch.stack(rows, dim=1).unflatten(1, (2, 6))
        shift = self.motion[:, :3, 3:]
        by_disparity = scale * torch.addcmul(shift[:, :2], shift[:, 2:], slopes, value=-1)
        return by_pose, by_disparity

    def focal_jacobian(self, slopes: Tensor, inverse_depth: Tensor) -> Tensor:
        """Derivative of the coordinates by fx / (2 cx), [E, 2, pixels], see :class:`Jacobians`."""
        # As the focal length grows, the ray of a pixel turns towards the axis.
        turn = self.motion[:, :3, :2] / -self.focals[0].mT  # [E, 3, 2]
        ray = turn[:, :, :1] * self.rays[:, None, 0] + turn[:, :, 1:] * self.rays[:, None, 1]
        scale = self.focals[1] * inverse_depth[:, None]
        by_focal = slopes + scale * (ray[:, :2] - slopes * ray[:, 2:])
        return by_focal * (2 * self.centre[:, :1])


def pixel_grid(height: int, width: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
    """(u, v) of every pixel, [h, w, 2]."""
    v = torch.arange(height, dtype=dtype or torch.get_default_dtype(), device=device)
    u = torch.arange(width, dtype=v.dtype, device=device)
    return torch.stack([u.expand(height, width), v[:, None].expand(height, width)], dim=-1)


def guarded_inverse(z: Tensor) -> Tensor:
    """1/z; 1 where z is less than half of MIN_DEPTH, or behind the camera. Any shape."""
    return 1 / z.masked_fill(z < 0.5 * MIN_DEPTH, 1.0)


def move_pixels(
    poses: Tensor, disps: Tensor, intrinsics: Tensor, ii: Tensor, jj: Tensor
) -> MovedPixels:
    """Carry the pixels of frames ii into the cameras jj; shapes as in projective_transform."""
    motion = se3.matrix(se3.relative(poses[jj], poses[ii]))
    columns = motion[:, :3].split(1, dim=-1)  # each [E, 3, 1]
    height, width = disps.shape[-2:]
    grid = pixel_grid(height, width, disps.dtype, disps.device).flatten(0, 1).mT  # [2, pixels]
    shared = intrinsics.ndim == 1
    camera_i = intrinsics[None] if shared else intrinsics[ii]
    camera_j = intrinsics[None] if shared else intrinsics[jj]
    rays = (grid - camera_i[:, 2:, None]) / camera_i[:, :2, None]
    disps = disps[ii].flatten(1)
    # Element by element, not as a matrix product: coordinates must not be rounded to TF32.
    points = torch.addcmul(columns[2], columns[0], rays[:, None, 0])
    points = torch.addcmul(points, columns[1], rays[:, None, 1])
    points = torch.addcmul(points, columns[3], disps[:, None])
    focals = torch.stack([camera_i[:, :2, None], camera_j[:, :2, None]])
    return MovedPixels(motion, rays, disps, points, focals, camera_j[:, 2:, None])


def projective_transform(
    poses: Tensor,
    disps: Tensor,
    intrinsics: Tensor,
    ii: Tensor,
    jj: Tensor,
    jacobians: bool = False,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Jacobians]:
    """See the pixels of frames ii in frames jj.

    Args:
        poses: [N, 7] cam_from_world.
        disps: [N, h, w].
        intrinsics: [4], or [N, 4] for cameras that differ.
        ii, jj: [E] int64, source and target frames.
        jacobians: also return the derivatives; those of points that are not valid have no meaning.

    Returns:
        coords [E, h, w, 2] (u, v), valid [E, h, w] bool (in front of the camera by more than
        MIN_DEPTH) and, if asked for, the :class:`Jacobians`.
    """
    size = disps.shape[-2:]
    moved = move_pixels(poses, disps, intrinsics, ii, jj)
    z = moved.points[:, 2]
    inverse_depth = guarded_inverse(z)
    slopes = moved.slopes(inverse_depth)
    coords = moved.coordinates(slopes).unflatten(-1, size).movedim(1, -1)
    valid = (z > MIN_DEPTH).unflatten(-1, size)
    if not jacobians:
        return coords, valid
    by_pose, by_disparity = moved.geometry_jacobians(slopes, inverse_depth)
    by_focal = moved.focal_jacobian(slopes, inverse_depth)
    pose_j = by_pose.unflatten(-1, size).permute(0, 3, 4, 1, 2)  # [E, h, w, 2, 6]
    adjoint = se3.adjoint_matrix(moved.motion)[:, None, None]
    columns = (
        column.unflatten(-1, size).permute(0, 2, 3, 1).unsqueeze(-1)
        for column in (by_disparity, by_focal)
    )
    return coords, valid, Jacobians(-pose_j @ adjoint, pose_j, *columns)


def frame_distance(
    poses: Tensor,
    disps: Tensor,
    intrinsics: Tensor,
    ii: Tensor,
    jj: Tensor,
    beta: float,
) -> Tensor:
    """Mean motion of the picture between frames, both ways, in pixels of the disparity map, [E].

    Of every pixel: beta times the length of its motion, plus (1 - beta) times that of the motion
    which the translation alone would cause. A way counts as FAR_APART where less than MIN_VISIBLE of
    the picture stays in front of the other camera.

    Args:
        poses: [N, 7]; disps: [N, h, w]; intrinsics: [4] or [N, 4]; ii, jj: [E].
        beta: share of the full motion, 0..1.
    """
    ii, jj = torch.cat([ii, jj]), torch.cat([jj, ii])
    edges_at_once = max(1, PIXELS_AT_ONCE // disps[0].numel())
    groups = [
        _one_way_distance(poses, disps, intrinsics, i, j, beta)
        for i, j in zip(ii.split(edges_at_once), jj.split(edges_at_once), strict=True)
    ]
    return torch.cat(groups).unflatten(0, (2, -1)).mean(0)


def _one_way_distance(poses, disps, intrinsics, ii, jj, beta: float) -> Tensor:
    moved = move_pixels(poses, disps, intrinsics, ii, jj)
    ones = torch.ones_like(moved.disps)[:, None]
    rays = moved.rays.expand(len(ii), -1, -1)
    shifted = torch.cat([rays, ones], dim=1) + moved.motion[:, :3, 3:] * moved.disps[:, None]
    start = pixel_grid(*disps.shape[-2:], disps.dtype, disps.device).flatten(0, 1).mT  # [2, pixels]
    total = counted = 0.0
    for share, points in ((beta, moved.points), (1 - beta, shifted)):
        z = points[:, 2]
        visible = z > MIN_DEPTH_DISTANCE
        slopes = points[:, :2] / z.masked_fill(~visible, 1.0)[:, None]
        end = moved.coordinates(slopes)
        length = torch.linalg.vector_norm(end - start, dim=1)
        total = total + share * length.masked_fill(~visible, 0.0).sum(-1)
        counted = counted + share * visible.sum(-1)
    far = counted < MIN_VISIBLE * moved.disps.shape[-1]
    return (total / counted.masked_fill(far, 1.0)).masked_fill(far, FAR_APART)
