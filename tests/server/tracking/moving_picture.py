"""A textured picture that moves by known homographies: tracks in it have an exact truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from megasam_server.media.frame_store import FrameStore, write_frame_store
from megasam_server.tracking.tracks import Tracks

WIDTH, HEIGHT = 160, 120
_MARGIN = 300


def texture(seed: int = 0) -> np.ndarray:
    """Blotches of several sizes, grey 0-255, float32 [H + 600, W + 600]."""
    rng = np.random.default_rng(seed)
    size = (HEIGHT + 2 * _MARGIN, WIDTH + 2 * _MARGIN)
    layers = []
    for sigma in (1.3, 3.0, 8.0):
        layer = cv2.GaussianBlur(rng.normal(size=size), (0, 0), sigma)
        layers.append(layer / layer.std())
    return np.clip(128 + 25 * sum(layers), 0, 255).astype(np.float32)


def drift(shift: tuple[float, float], turn_deg: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Homography about the middle of the picture, float64 [3,3]."""
    centre = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
    angle = np.radians(turn_deg)
    matrix = np.eye(3)
    matrix[:2, :2] = scale * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    matrix[:2, 2] = centre + shift - matrix[:2, :2] @ centre
    return matrix


@dataclass(frozen=True)
class MovingPicture:
    """Frames and, for each, the homography [3,3] from the resting picture to it."""

    frames: FrameStore
    homographies: np.ndarray

    def truth(self, xy: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Where pixels ``xy`` [M,2] of frames ``start`` [M] lie in frames ``end`` [M]."""
        between = self.homographies[end] @ np.linalg.inv(self.homographies)[start]
        moved = np.einsum("mij,mj->mi", between, np.concatenate([xy, np.ones((len(xy), 1))], 1))
        return moved[:, :2] / moved[:, 2:]

    def errors(self, tracks: Tracks) -> np.ndarray:
        """Distance of every later sighting from where its first one went, pixels."""
        first = np.searchsorted(tracks.track, np.arange(tracks.num_tracks))[tracks.track]
        true = self.truth(tracks.xy[first], tracks.frame[first], tracks.frame)
        later = first != np.arange(len(first))
        return np.linalg.norm(tracks.xy - true, axis=1)[later]


def store(folder: Path, frames: np.ndarray) -> FrameStore:
    """Frames uint8 [N,H,W,3], or masks uint8 [N,H,W], as a frame store."""
    channels = 1 if frames.ndim == 3 else frames.shape[3]
    made = FrameStore(folder / f"{channels}.raw", len(frames), *frames.shape[2:0:-1], channels)
    write_frame_store(made, frames)
    return made


def move(folder: Path, homographies: list[np.ndarray], noise: float = 1.0) -> MovingPicture:
    """Write the picture moved by each homography, with sensor noise."""
    rng = np.random.default_rng(1)
    picture = texture()
    grid_y, grid_x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    grid = np.stack([grid_x.ravel(), grid_y.ravel(), np.ones(grid_x.size)])
    frames = []
    for matrix in homographies:
        at = np.linalg.inv(matrix) @ grid
        x, y = ((at[:2] / at[2]) + _MARGIN).astype(np.float32).reshape(2, HEIGHT, WIDTH)
        seen = cv2.remap(picture, x, y, cv2.INTER_CUBIC) + rng.normal(0, noise, x.shape)
        frames.append(np.repeat(np.clip(np.round(seen), 0, 255)[..., None], 3, axis=2))
    written = store(folder, np.array(frames, np.uint8))
    return MovingPicture(written, np.array(homographies))
