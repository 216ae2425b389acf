"""Pinhole cameras of a shot, OpenCV axes (x right, y down, z forward)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole intrinsics of N frames, at one resolution that travels with them.

    Pixel centres lie at integers: the centre of the picture is ((width-1)/2, (height-1)/2).

    Attributes:
        width, height: resolution in pixels that the numbers below belong to.
        fx, fy: focal lengths, pixels, float64 [N].
        cx, cy: principal point, pixels, float64 [N].
    """

    width: int
    height: int
    fx: np.ndarray
    fy: np.ndarray
    cx: np.ndarray
    cy: np.ndarray

    @classmethod
    def centred(cls, width: int, height: int, focal_px: np.ndarray) -> Intrinsics:
        """Square pixels, principal point in the centre of the picture; ``focal_px`` float64 [N]."""
        focal = np.atleast_1d(np.asarray(focal_px, dtype=np.float64))
        centre_x = np.full_like(focal, (width - 1) / 2)
        centre_y = np.full_like(focal, (height - 1) / 2)
        return cls(width, height, focal, focal.copy(), centre_x, centre_y)

    def __len__(self) -> int:
        return len(self.fx)

    def at_resolution(self, width: int, height: int) -> Intrinsics:
        """The same cameras for the picture resized to ``width`` x ``height``: c' = (c + 0.5) s - 0.5."""
        sx, sy = width / self.width, height / self.height
        return Intrinsics(
            width,
            height,
            self.fx * sx,
            self.fy * sy,
            (self.cx + 0.5) * sx - 0.5,
            (self.cy + 0.5) * sy - 0.5,
        )

    def matrices(self) -> np.ndarray:
        """Camera matrices K, float64 [N,3,3]."""
        k = np.zeros((len(self), 3, 3))
        k[:, 0, 0], k[:, 1, 1], k[:, 2, 2] = self.fx, self.fy, 1.0
        k[:, 0, 2], k[:, 1, 2] = self.cx, self.cy
        return k

    def corner_principal_points(self) -> np.ndarray:
        """Principal points with pixel *corners* at integers (picture centre = W/2, H/2), float64 [N,2].

        This is the convention of every file that leaves the solver.
        """
        return np.stack([self.cx + 0.5, self.cy + 0.5], axis=1)


@dataclass(frozen=True)
class CameraPath:
    """A solved camera for every frame of the plate.

    Attributes:
        world_from_cam: camera-to-world poses, float64 [N,4,4]; the world is the first camera.
        intrinsics: of the N frames.
    """

    world_from_cam: np.ndarray
    intrinsics: Intrinsics

    def __len__(self) -> int:
        return len(self.world_from_cam)

    @property
    def cam_from_world(self) -> np.ndarray:
        """World-to-camera poses, float64 [N,4,4]."""
        rotation_t = np.swapaxes(self.world_from_cam[:, :3, :3], 1, 2)
        inverse = np.tile(np.eye(4), (len(self), 1, 1))
        inverse[:, :3, :3] = rotation_t
        inverse[:, :3, 3] = -np.einsum("nij,nj->ni", rotation_t, self.world_from_cam[:, :3, 3])
        return inverse

    def at_resolution(self, width: int, height: int) -> CameraPath:
        """The same path with intrinsics for another picture size."""
        return CameraPath(self.world_from_cam, self.intrinsics.at_resolution(width, height))

    def scaled(self, factor: float) -> CameraPath:
        """The same path in a unit of length of 1 / factor."""
        world_from_cam = self.world_from_cam.copy()
        world_from_cam[:, :3, 3] *= factor
        return CameraPath(world_from_cam, self.intrinsics)

    def project(self, points: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project ``points`` [M,3] (world) into ``frames`` [M] (indices).

        Returns:
            pixels [M,2] (centres at integers) and depths z [M], both float64; z <= 0 lies behind the camera.
        """
        pose = self.cam_from_world[frames]
        in_cam = np.einsum("mij,mj->mi", pose[:, :3, :3], points) + pose[:, :3, 3]
        z = in_cam[:, 2]
        k = self.intrinsics
        with np.errstate(divide="ignore", invalid="ignore"):
            x = k.fx[frames] * in_cam[:, 0] / z + k.cx[frames]
            y = k.fy[frames] * in_cam[:, 1] / z + k.cy[frames]
        return np.stack([x, y], axis=1), z
