"""Cameras and points that are known exactly, and what the cameras see of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from megasam_server.geometry.rotation import angle_between, nearest_rotation
from megasam_server.raycast.camera_paths import aim, look_at
from megasam_server.tracking.bundle import Observations, Scene
from megasam_server.tracking.tracks import Tracks
from scipy.spatial.transform import Rotation

WIDTH, HEIGHT = 640, 360
CENTRE = (np.array([WIDTH, HEIGHT]) - 1) / 2


@dataclass(frozen=True)
class Shot:
    """Exact cameras and static points, and how they are seen.

    Attributes:
        scene: the truth.
        seen: what is inside the picture, pixels relative to the principal point.
    """

    scene: Scene
    seen: Observations

    @property
    def num_cameras(self) -> int:
        return len(self.scene.rotation)

    def tracks(self) -> Tracks:
        """The same sightings as tracks, in pixels of the picture."""
        return Tracks.from_observations(self.seen.point, self.seen.camera, self.seen.xy + CENTRE)

    def with_noise(self, px: float, seed: int = 0) -> Shot:
        moved = np.random.default_rng(seed).normal(0, px, self.seen.xy.shape)
        return replace(self, seen=replace(self.seen, xy=self.seen.xy + moved))


def scene_of(world_from_cam: np.ndarray, focal: float | np.ndarray, xyzw: np.ndarray) -> Scene:
    """The solver's scene for poses [N,4,4] and homogeneous points [P,4]; the first camera is the
    world."""
    poses = np.linalg.inv(world_from_cam[0]) @ world_from_cam
    points = xyzw @ np.linalg.inv(world_from_cam[0]).T
    rotation = np.swapaxes(poses[:, :3, :3], 1, 2)
    translation = -np.einsum("nij,nj->ni", rotation, poses[:, :3, 3])
    points = points / np.linalg.norm(points, axis=1, keepdims=True)
    return Scene(rotation, translation, np.broadcast_to(focal, len(poses)) * 1.0, points)


def film(world_from_cam: np.ndarray, focal: float | np.ndarray, xyzw: np.ndarray) -> Shot:
    """What the cameras see; points seen by fewer than three of them are left out."""
    scene = scene_of(world_from_cam, focal, xyzw)
    camera, point = (a.ravel() for a in np.indices((len(scene.rotation), len(xyzw))))
    everything = Observations(camera, point, np.zeros((len(camera), 2)))
    inside = scene.in_camera(everything)[:, 2] > 1e-3
    everything = everything.select(inside)
    xy = scene.residuals(everything)
    seen = replace(everything, xy=xy).select((np.abs(xy) < CENTRE).all(axis=1))
    often = np.bincount(seen.point, minlength=len(xyzw)) >= 3
    number = np.cumsum(often) - 1
    seen = seen.select(often[seen.point])
    kept = replace(scene, points=scene.points[often])
    return Shot(kept, Observations(seen.camera, number[seen.point], seen.xy))


def finite(xyz: np.ndarray) -> np.ndarray:
    return np.concatenate([xyz, np.ones((len(xyz), 1))], axis=1)


def at_infinity(direction: np.ndarray) -> np.ndarray:
    return np.concatenate([direction, np.zeros((len(direction), 1))], axis=1)


def block(seed: int, num: int, low: tuple, high: tuple) -> np.ndarray:
    """Points spread evenly in a box, homogeneous [num,4]."""
    return finite(np.random.default_rng(seed).uniform(low, high, (num, 3)))


def arc(num: int = 20, degrees: float = 50.0, radius: float = 6.0) -> np.ndarray:
    """Round the origin, looking at it, with some height: world_from_cam [num,4,4]."""
    around = np.radians(np.linspace(-degrees / 2, degrees / 2, num))
    height = 0.4 * np.sin(3 * around)
    eyes = np.stack([radius * np.sin(around), height, -radius * np.cos(around)], axis=1)
    return np.stack([look_at(eye, np.array([0.1, 0.05, 0.3])) for eye in eyes])


def orbit(num: int = 20, points: int = 120, focal: float | np.ndarray = 600.0) -> Shot:
    return film(arc(num), focal, block(1, points, (-2, -1.2, -2), (2, 1.2, 2)))


def dolly(num: int = 20, points: int = 500, focal: float = 600.0, sway_deg: float = 0.0) -> Shot:
    """Straight ahead; ``sway_deg`` turns the camera a little on the way."""
    time = np.linspace(0, 1, num)
    poses = [aim(np.array([0, 0, 3.0 * t]), sway_deg * np.sin(5 * t), 0.0) for t in time]
    return film(np.stack(poses), focal, block(2, points, (-4, -2.5, 4), (4, 2.5, 14)))


def tripod(
    num: int = 20, points: int = 500, focal: float | np.ndarray = 600.0, pan_deg: float = 30.0
) -> Shot:
    """Pan and tilt about the lens; all depths."""
    time = np.linspace(0, 1, num)
    poses = [aim(np.zeros(3), pan_deg * t, 6 * np.sin(3 * t)) for t in time]
    rng = np.random.default_rng(3)
    pan = np.radians(rng.uniform(-40, pan_deg + 40, points))
    tilt = np.radians(rng.uniform(-25, 30, points))
    way = np.stack([np.sin(pan), -np.tan(tilt), np.cos(pan)], axis=1)
    return film(np.stack(poses), focal, finite(way * rng.uniform(3, 30, (points, 1))))


def perturbed(scene: Scene, degrees: float, shift: float, focal: float, depth: float) -> Scene:
    """Wrong starting values: all poses but the first, the focal lengths, the points (finite ones
    in all directions, by ``depth`` of the distance to the first camera)."""
    rng = np.random.default_rng(9)
    num = len(scene.rotation)
    turn = rng.normal(0, np.radians(degrees), (num, 3))
    move = rng.normal(0, shift, (num, 3))
    turn[0] = move[0] = 0
    points = scene.points.copy()
    points[:, :3] *= 1 + rng.normal(0, depth, (len(points), 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    rotation = Rotation.from_rotvec(turn).as_matrix() @ scene.rotation
    return Scene(rotation, scene.translation + move, scene.focal * focal, points)


def rotation_errors_deg(solved: Scene, true: Scene) -> np.ndarray:
    """Angle of each camera after the best common rotation, degrees [N]."""
    world = nearest_rotation((np.swapaxes(solved.rotation, 1, 2) @ true.rotation).sum(axis=0))
    return np.degrees(angle_between(solved.rotation @ world, true.rotation))


def centres(scene: Scene) -> np.ndarray:
    """Camera positions, float64 [N,3]."""
    return -np.einsum("nji,nj->ni", scene.rotation, scene.translation)
