"""The inside of a room, seen exactly: disparities without rendering, for tests that need no pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from megasam_server.geometry import se3
from megasam_server.geometry.projective import pixel_grid
from torch import Tensor

# Walls, floor and ceiling as (normal, distance): n . X = c, the camera's start on the side n . X < c.
_WALLS = torch.tensor(
    [
        *([0.15, 0.0, 1.0, 6.0], [1.0, 0.0, 0.1, 3.0], [-1.0, 0.05, 0.0, 2.5]),
        *([0.0, 1.0, 0.0, 1.4], [0.1, -1.0, 0.0, 2.0], [0.0, 0.0, -1.0, 5.0]),
    ]
)


@dataclass(frozen=True)
class Truth:
    """poses [N, 7] cam_from_world, the first the identity; disps [N, h, w]; intrinsics [4] of the full picture."""

    poses: Tensor
    disps: Tensor
    intrinsics: Tensor


def look_around(poses: Tensor, height: int, width: int, focal: float) -> Truth:
    """What cameras in the room see, on the 1/8 grid of ``height`` x ``width`` pixels."""
    poses = se3.compose(poses, se3.inverse(poses[:1]))
    intrinsics = torch.tensor([focal, focal, width / 2, height / 2])
    h, w = height // 8, width // 8
    rays = 8 * (pixel_grid(h, w) - intrinsics[2:] / 8) / intrinsics[:2]  # [h, w, 2]
    rays = torch.cat([rays, torch.ones(h, w, 1)], dim=-1)  # [h, w, 3]
    rotation, translation = se3.matrix(poses)[:, :3, :3], poses[:, :3]
    normals = torch.einsum("nab,kb->nka", rotation, _WALLS[:, :3])  # [N, K, 3]
    distances = _WALLS[:, 3] + torch.einsum("nka,na->nk", normals, translation)  # [N, K]
    facing = torch.einsum("nka,hwa->nkhw", normals, rays) / distances[..., None, None]
    # The room is convex: the nearest wall is the one that is seen.
    return Truth(poses, facing.amax(dim=1), intrinsics)


def path(translations: Tensor, rotations: Tensor) -> Tensor:
    """cam_from_world [N, 7] from positions [N, 3] and rotation vectors [N, 3] of the camera in the world."""
    turned = se3.exp(torch.cat([torch.zeros_like(rotations), rotations], dim=1))
    turned[:, :3] = translations
    return se3.inverse(turned)


def walk(count: int, step: float = 0.03, sway: float = 0.1) -> Tensor:
    """A walk forwards and to the side, looking about."""
    t = torch.arange(count, dtype=torch.float32)
    place = torch.stack([step * t, 0.05 * torch.sin(t / 5), 0.5 * step * t], dim=1)
    look = torch.stack(
        [0.03 * torch.sin(t / 7), sway * torch.sin(t / 9), 0.02 * torch.cos(t / 6)], 1
    )
    return path(place, look)


def pan(count: int, step: float = 0.02) -> Tensor:
    """A camera that only turns."""
    t = torch.arange(count, dtype=torch.float32)
    look = torch.stack([0.05 * torch.sin(t / 6), step * t, torch.zeros(count)], 1)
    return path(torch.zeros(count, 3), look)


@dataclass(frozen=True)
class PathError:
    """Of a recovered path after the best similarity.

    position: root mean square distance of the cameras, over the length of the true path (1 if it is none).
    rotation: largest angle, degrees.
    """

    position: float
    rotation: float


def path_error(found: Tensor, true: Tensor) -> PathError:
    """Compare cam_from_world [N, 7] with the truth. Rotations are compared in the world of the first camera."""
    found, true = found.double(), true.double()
    ours, theirs = se3.inverse(found)[:, :3], se3.inverse(true)[:, :3]
    a, b = ours - ours.mean(0), theirs - theirs.mean(0)
    u, s, vt = torch.linalg.svd(a.T @ b)
    sign = torch.ones(3, dtype=a.dtype)
    sign[2] = torch.sign(torch.linalg.det(u @ vt))
    turn = u @ torch.diag(sign) @ vt
    scale = (s * sign).sum() / a.square().sum().clamp(min=1e-30)
    length = float((theirs[1:] - theirs[:-1]).norm(dim=1).sum())
    distance = (scale * (a @ turn) - b).square().sum(1).mean().sqrt()
    difference = se3.log(se3.compose(found, se3.inverse(true)))[:, 3:]
    angle = torch.rad2deg(difference.norm(dim=1).max())
    return PathError(float(distance) / (length or 1.0), float(angle))
