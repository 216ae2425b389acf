"""Short clips with exact cameras, depth and motion on the tracker's grid, filmed on the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from megasam_server.geometry import se3
from megasam_server.geometry.projective import pixel_grid, projective_transform
from megasam_server.training.film_faults import develop
from megasam_server.training.filming import Filming, View, flow, photograph, view
from megasam_server.training.filming_ahead import filmed_ahead, mixed
from megasam_server.training.motion import still
from megasam_server.training.random_scenes import MAKES, Draw, random_filming, random_scene
from megasam_server.training.scene import FARTHEST
from megasam_server.training.texture_bank import TextureBank

CELL = 8  # pixels
REACH = 3  # edges link frames at most this far apart
MOVES_CELLS = 1 / 8  # a cell moves when it leaves the place that the cameras give it by more
LARGEST_FLOW = 64.0  # cells


@dataclass(frozen=True)
class Clips:
    """B clips of T frames, with E edges each. A cell is 8 x 8 pixels; its centre is at integers.

    Attributes:
        pictures: BGR 0-255, uint8 [B,T,3,H,W].
        poses: cam_from_world [B,T,7]; the first is the identity. The unit of length is that in
            which the mean disparity of the clip is 1.
        disps: disparity at the centres of the cells, 0 = sky, [B,T,h,w].
        intrinsics: fx fy cx cy in cells [B,4].
        target: where each cell's centre is seen, occluded or not, in cells [B,E,h,w,2].
        valid: whether it is in front of the camera and not absurdly far, bool [B,E,h,w].
        moving: of a frame's cells, bool [B,T,h,w]: those that some edge shows moving by themselves.
    """

    pictures: Tensor
    poses: Tensor
    disps: Tensor
    intrinsics: Tensor
    target: Tensor
    valid: Tensor
    moving: Tensor

    @property
    def count(self) -> int:
        return len(self.poses)

    @property
    def frames(self) -> int:
        return self.poses.shape[1]


def clip_edges(frames: int, reach: int = REACH) -> np.ndarray:
    """All pairs of frames at most ``reach`` apart, both ways, by source: integers [E,2]."""
    i, j = np.mgrid[:frames, :frames]
    near = (i != j) & (abs(i - j) <= reach)
    return np.stack([i[near], j[near]], 1)


def film_clips(
    bank: TextureBank,
    seed: int,
    clips: int,
    frames: int,
    height: int,
    width: int,
    static: bool,
    steps_px: tuple[float, float] = (1.0, 40.0),
    samples: int = 4,
) -> Clips:
    """Film ``clips`` scenes. The same arguments on the same device give the same clips.

    Args:
        height, width: pixels, multiples of 8.
        static: nothing moves but the camera.
        steps_px: slowest and fastest camera, pixels per frame.
        samples: rays per pixel.
    """
    generator = torch.Generator(bank.device).manual_seed(seed)
    draw = Draw(clips, generator)
    make = MAKES[seed % len(MAKES)]
    scene = random_scene(make, bank.count, draw)
    step = draw.log_uniform(*steps_px)
    # The tracker has one focal length for a clip.
    filming = replace(random_filming(make, height, width, step, draw), zoom=torch.zeros_like(step))
    if static:
        bodies = scene.bodies.start.shape[1]
        scene = replace(scene, bodies=still(clips, bodies, bank.device))
    times = [torch.full((clips,), float(t), device=bank.device) for t in range(frames)]
    shadows = bool((seed // len(MAKES)) % 2)
    shots = [photograph(scene, filming, bank, t, samples, shadows, generator) for t in times]
    pictures = develop(torch.stack(shots, 1), draw).to(torch.uint8).flip(2)
    cells = on_cells(filming)
    views = [view(scene, cells, time) for time in times]
    poses, disps = _geometry(views)
    focal = cells.focal[:, None]
    intrinsics = torch.cat([focal, focal, cells.principal], -1)
    edges = clip_edges(frames)
    target, in_front = _targets(cells, views, edges)
    valid = in_front & ((target - _grid(cells)).abs().amax(-1) < LARGEST_FLOW)
    moving = _moving(poses, disps, intrinsics, target, valid, edges)
    return Clips(pictures, poses, disps, intrinsics, target, valid, moving)


def on_cells(filming: Filming) -> Filming:
    """The same cameras with a pixel for each cell, seen through its centre."""
    return replace(
        filming,
        focal=filming.focal / CELL,
        principal=(filming.principal + 0.5) / CELL - 0.5,
        height=filming.height // CELL,
        width=filming.width // CELL,
    )


def _grid(cells: Filming) -> Tensor:
    return pixel_grid(cells.height, cells.width, torch.float32, cells.focal.device)


def _geometry(views: list[View]) -> tuple[Tensor, Tensor]:
    """Poses [B,T,7] and disparities [B,T,h,w] with the first camera as world, mean disparity 1."""
    affine = torch.stack([one.camera_from_world for one in views], 1)  # [B,T,3,4]
    poses = se3.from_matrix(torch.nn.functional.pad(affine, (0, 0, 0, 1)))
    poses = se3.relative(poses, poses[:, :1].expand_as(poses))
    depth = torch.stack([one.depth for one in views], 1)  # [B,T,h,w]
    disps = (1 / depth).masked_fill(depth >= FARTHEST, 0.0)
    unit = disps.mean((1, 2, 3)).clamp(min=1e-6)
    poses = torch.cat([poses[..., :3] * unit[:, None, None], poses[..., 3:]], -1)
    return poses, disps / unit[:, None, None, None]


def _targets(cells: Filming, views: list[View], edges: np.ndarray) -> tuple[Tensor, Tensor]:
    """Where the cells' centres are seen [B,E,h,w,2], and whether in front [B,E,h,w]."""
    flows, in_front = zip(*(flow(cells, views[i], views[j]) for i, j in edges), strict=True)
    moved = torch.stack(flows, 1).permute(0, 1, 3, 4, 2)
    return moved + _grid(cells), torch.stack(in_front, 1)


def _moving(
    poses: Tensor,
    disps: Tensor,
    intrinsics: Tensor,
    target: Tensor,
    valid: Tensor,
    edges: np.ndarray,
) -> Tensor:
    clips, frames = poses.shape[:2]
    first = torch.arange(clips, device=poses.device)[:, None] * frames
    ii, jj = ((first + torch.as_tensor(x, device=poses.device)).flatten() for x in edges.T)
    lens = intrinsics.repeat_interleave(frames, 0)
    rigid, seen = projective_transform(poses.flatten(0, 1), disps.flatten(0, 1), lens, ii, jj)
    off = (target.flatten(0, 1) - rigid).norm(dim=-1) > MOVES_CELLS
    off = (off & seen & valid.flatten(0, 1)).unflatten(0, (clips, -1))  # [B,E,h,w]
    moving = torch.zeros_like(disps)
    source = torch.as_tensor(edges[:, 0], device=poses.device)
    return moving.index_add(1, source, off.to(moving.dtype)) > 0


def stream_clips(
    bank: TextureBank,
    seed: int,
    batch: int,
    shape: tuple[int, int, int],
    static_share: float,
    clips: int = 8,
    reuse: float = 4.0,
    kept: int = 48,
) -> Iterator[Clips]:
    """Batches for ever, mixed from the last ``kept`` generated lots.

    Args:
        shape: frames, height, width.
        static_share: of the lots.
        reuse: how often each clip is used, on the average.
    """

    def film(lot: int) -> Clips:
        static = bool(np.random.default_rng([lot, 1]).random() < static_share)
        return film_clips(bank, lot, clips, *shape, static)

    return mixed(filmed_ahead(film, seed, bank.device), seed, batch, reuse, kept)
