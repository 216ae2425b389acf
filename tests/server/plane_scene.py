"""Exactly known small shots for the dense stages: textured planes seen by moving cameras."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from megasam_server.geometry.camera import CameraPath, Intrinsics
from megasam_server.geometry.point_cloud import PointCloud
from megasam_server.media.frame_store import FrameStore
from megasam_server.tracking.solution import TrackingSolution


@dataclass(frozen=True)
class PlaneShot:
    """A rendered shot.

    Attributes:
        frames: RGB on disk.
        solution: the true cameras and some true points.
        depth: z-depth, float32 [N,H,W].
        moving: bool [N,H,W].
    """

    frames: FrameStore
    solution: TrackingSolution
    depth: np.ndarray
    moving: np.ndarray


def texture(seed: int, size: int = 1024) -> np.ndarray:
    """Blobs of many sizes, float32 [size,size,3], 0-255."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((size, size, 3), np.float32)
    for octave, strength in ((8, 25), (32, 35), (128, 35), (256, 25)):
        noise = rng.normal(size=(octave, octave, 3)).astype(np.float32) * strength
        picture += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture + rng.uniform(90, 160, 3), 0, 255).astype(np.float32)


def camera_path(
    count: int, width: int, height: int, travel: float = 1.2, pan_degrees: float = 4.0
) -> CameraPath:
    """Sideways travel (world units over the shot) with a slight rise and a pan; the first is the
    world."""
    share = np.linspace(0, 1, count)
    poses = np.tile(np.eye(4), (count, 1, 1))
    for pose, s in zip(poses, share, strict=True):
        pose[:3, :3] = cv2.Rodrigues(np.array([0.0, np.radians(pan_degrees) * s, 0.0]))[0]
        pose[:3, 3] = [travel * s, 0.15 * travel * np.sin(3 * s), 0.2 * travel * s]
    return CameraPath(poses, Intrinsics.centred(width, height, np.full(count, 0.9 * width)))


def _plane_view(
    cameras: CameraPath,
    frame: int,
    z: float,
    picture: np.ndarray,
    density: float,
    shift: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """A world plane at constant ``z`` seen by a frame: colours [H,W,3] and z-depth [H,W]."""
    k = cameras.intrinsics
    x, y = np.meshgrid(np.arange(k.width), np.arange(k.height))
    rays = np.stack(
        [(x - k.cx[frame]) / k.fx[frame], (y - k.cy[frame]) / k.fy[frame], np.ones(x.shape)], axis=2
    )
    pose = cameras.world_from_cam[frame]
    direction = rays @ pose[:3, :3].T
    depth = (z - pose[2, 3]) / direction[..., 2]
    at = (direction[..., :2] * depth[..., None] + pose[:2, 3] - shift) * density + len(picture) / 2
    at = at.astype(np.float32)
    colour = cv2.remap(
        picture, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )
    return colour, depth.astype(np.float32)


def make_shot(
    folder: Path,
    count: int = 12,
    width: int = 160,
    height: int = 96,
    travel: float = 1.2,
    noise: float = 2.0,
    mover: bool = False,
    model: str = "perspective",
) -> PlaneShot:
    """A far wall, a near board on its left and, if wanted, a square that slides across the right
    half."""
    cameras = camera_path(count, width, height, 0.0 if model == "tripod" else travel)
    rng = np.random.default_rng(7)
    wall, board, square = texture(1), texture(2), texture(3)
    colours, depths, moving = [], [], []
    for frame in range(count):
        still = np.zeros(2)
        colour, depth = _plane_view(cameras, frame, 8.0, wall, 60, still)
        near_colour, near_depth = _plane_view(cameras, frame, 5.0, board, 90, still)
        x = np.arange(width)[None, :]
        column = _column_of(cameras, frame, -0.6, 5.0)
        on_board = np.broadcast_to(x < column, depth.shape)
        colour = np.where(on_board[..., None], near_colour, colour)
        depth = np.where(on_board, near_depth, depth)
        moves = np.zeros(depth.shape, bool)
        if mover:
            side = int(0.45 * height)
            left = int(0.55 * width + 0.02 * width * np.cos(0.9 * frame))
            top = int(0.05 * height + 0.45 * height * frame / max(1, count - 1))
            moves[top : top + side, left : left + side] = True
            patch = square[100 : 100 + side, 100 : 100 + side]
            colour[top : top + side, left : left + side] = patch
        colours.append(np.clip(colour + rng.normal(size=colour.shape) * noise, 0, 255))
        depths.append(depth)
        moving.append(moves)
    path = folder / "frames.u8"
    with path.open("wb") as file:
        for colour in colours:
            file.write(colour.astype(np.uint8).tobytes())
    depths = np.stack(depths)
    points = _points(cameras, depths, np.stack(moving)) if model == "perspective" else _no_points()
    solution = TrackingSolution(
        cameras=cameras,
        points=points,
        model=model,
        focal_given=True,
        focal_profile=None,
        rms_px=0.1,
        per_frame_rms_px=np.full(count, 0.1),
        per_frame_tracks=np.full(count, 50),
        explained_share=1.0,
        per_frame_explained=np.ones(count),
        coverage=0.8,
        median_track_length=float(count),
        interpolated=np.zeros(count, bool),
        warnings=[],
    )
    store = FrameStore(path, count, width, height, 3)
    return PlaneShot(store, solution, depths, np.stack(moving))


def _column_of(cameras: CameraPath, frame: int, x: float, z: float) -> float:
    pixel, _ = cameras.project(np.array([[x, 0.0, z]]), np.array([frame]))
    return float(pixel[0, 0])


def _no_points() -> PointCloud:
    nothing = np.zeros(0, np.int64)
    return PointCloud(
        np.zeros((0, 3)),
        np.zeros((0, 3), np.uint8),
        np.zeros(0),
        nothing,
        nothing,
        np.zeros((0, 2)),
    )


def _points(cameras: CameraPath, depth: np.ndarray, moving: np.ndarray) -> PointCloud:
    """40 static points of each frame, seen in that frame only."""
    rng = np.random.default_rng(3)
    count, height, width = depth.shape
    frames = np.repeat(np.arange(count), 40)
    x, y = rng.integers(0, width, len(frames)), rng.integers(0, height, len(frames))
    static = ~moving[frames, y, x]
    frames, x, y = frames[static], x[static], y[static]
    z = depth[frames, y, x]
    k = cameras.intrinsics
    in_cam = np.stack(
        [(x - k.cx[frames]) / k.fx[frames], (y - k.cy[frames]) / k.fy[frames]], axis=1
    )
    in_cam = np.concatenate([in_cam, np.ones((len(x), 1))], axis=1) * z[:, None]
    pose = cameras.world_from_cam[frames]
    xyz = np.einsum("mij,mj->mi", pose[:, :3, :3], in_cam) + pose[:, :3, 3]
    numbers = np.arange(len(frames))
    seen = np.stack([x, y], axis=1).astype(np.float64)
    return PointCloud(
        xyz, np.zeros((len(xyz), 3), np.uint8), np.full(len(xyz), 0.1), numbers, frames, seen
    )


def mask_store(folder: Path, masks: np.ndarray) -> FrameStore:
    """Masks [N,H,W] as a one-channel store, 1 = leave out."""
    path = folder / "masks.u8"
    path.write_bytes(masks.astype(np.uint8).tobytes())
    return FrameStore(path, *masks.shape[:1], masks.shape[2], masks.shape[1], 1)
