"""Turns a scene, a camera and a moment into a picture with exact ground truth.

A picture is the mean of several passes, each with one ray for each pixel at its own offset inside
the pixel and, with an open shutter, at its own moment: anti-aliasing and motion blur are the same
average.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from megasam_server.raycast.camera_paths import PoseAt
from megasam_server.raycast.primitives import Box, Primitive, at, rigid_inverse
from megasam_server.raycast.scene import Scene, Shadow

_GOLDEN = np.array([0.7548776662466927, 0.5698402909980532])  # R2 low-discrepancy sequence


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that moves; square pixels, principal point in the centre of the picture.

    Attributes:
        width, height: pixels.
        pose_at: time in seconds -> world_from_cam [4,4], OpenCV axes.
        focal_at: time in seconds -> focal length in pixels.
    """

    width: int
    height: int
    pose_at: PoseAt
    focal_at: Callable[[float], float]


@dataclass(frozen=True)
class Film:
    """How light becomes a picture.

    Attributes:
        shutter: share of the frame time that the shutter is open, 0 (no motion blur) to 1.
        noise: RMS of sensor noise in 8-bit steps.
        gain_at: exposure factor at a time in seconds.
        samples: rays for each pixel at least; blurred frames take as many as their blur is long.
    """

    shutter: float = 0.0
    noise: float = 1.0
    gain_at: Callable[[float], float] = lambda time: 1.0
    samples: int = 4


@dataclass(frozen=True)
class RenderedFrame:
    """One picture with its truth at the centre of the shutter time.

    Attributes:
        rgb: uint8 [H,W,3], display-referred.
        depth: z-depth in metres at pixel centres, float32 [H,W]; 0 where nothing is hit (sky).
        moving: bool [H,W], pixels that mostly show, or whose centre shows, something that moves.
    """

    rgb: np.ndarray
    depth: np.ndarray
    moving: np.ndarray


class _Pass:
    """One ray for each pixel at one moment."""

    def __init__(
        self, scene: Scene, camera: Camera, time: float, offset: tuple[float, float]
    ) -> None:
        self.scene, self.time = scene, time
        self.width, self.height = camera.width, camera.height
        self.focal = camera.focal_at(time)
        self.pose = camera.pose_at(time)
        self._cx = (camera.width - 1) / 2
        self._cy = (camera.height - 1) / 2
        x = (np.arange(camera.width, dtype=np.float32) + offset[0] - self._cx) / self.focal
        y = (np.arange(camera.height, dtype=np.float32) + offset[1] - self._cy) / self.focal
        self.rays = np.empty((3, camera.height, camera.width), np.float32)
        self.rays[0], self.rays[1], self.rays[2] = x[None, :], y[:, None], 1.0
        self.primitives = scene.primitives(time)
        self.depth = np.full((camera.height, camera.width), np.inf, np.float32)
        self.hit = np.full((camera.height, camera.width), -1, np.int16)
        windows = self._windows(np.stack([p.corners for p in self.primitives]))
        for number, primitive in enumerate(self.primitives):
            top, bottom, left, right = windows[number]
            if top < bottom and left < right:
                self._intersect(number, primitive, slice(top, bottom), slice(left, right))
        is_moving = np.array([p.moving for p in self.primitives] + [False])
        self.moving = is_moving[self.hit]

    def _intersect(self, number: int, primitive: Primitive, rows: slice, columns: slice) -> None:
        object_from_cam = primitive.object_from_world @ self.pose
        origin = object_from_cam[:3, 3].astype(np.float32)
        rays = self.rays[:, rows, columns]
        directions = object_from_cam[:3, :3].astype(np.float32) @ rays.reshape(3, -1)
        distance = primitive.shape.intersect(origin, directions).reshape(rays.shape[1:])
        depth, hit = self.depth[rows, columns], self.hit[rows, columns]
        nearer = distance < depth
        np.copyto(depth, distance, where=nearer)
        np.copyto(hit, np.int16(number), where=nearer)

    def _windows(self, corners: np.ndarray) -> list[list[int]]:
        """Part of the picture that boxes with these corners [P,4,8] can cover.

        Returns P x [top, bottom, left, right]; all of it for a box (or nan) that reaches behind
        the camera.
        """
        in_cam = rigid_inverse(self.pose) @ corners
        z = in_cam[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            x = in_cam[:, 0] / z * self.focal + self._cx
            y = in_cam[:, 1] / z * self.focal + self._cy
        windows = np.empty((len(corners), 4))
        windows[:, 0], windows[:, 1] = y.min(axis=1) - 1, y.max(axis=1) + 2
        windows[:, 2], windows[:, 3] = x.min(axis=1) - 1, x.max(axis=1) + 2
        near = ~(z.min(axis=1) >= 0.05)
        windows[near] = 0, self.height, 0, self.width
        windows[z.max(axis=1) <= 0] = 0
        limit = [self.height, self.height, self.width, self.width]
        return np.clip(windows, 0, limit).astype(int).tolist()

    def colours(self, ray_spacing: float) -> np.ndarray:
        """Shaded linear picture float32 [H,W,3]; ``ray_spacing``: pixels between two rays."""
        picture = np.zeros((self.height * self.width, 3), np.float32)
        rays, depth = self.rays.reshape(3, -1), self.depth.ravel()
        order = np.argsort(self.hit, axis=None, kind="stable")
        bounds = np.searchsorted(self.hit.ravel()[order], np.arange(-1, len(self.primitives) + 1))
        if bounds[1] > 0 and self.scene.sky is not None:
            seen = order[: bounds[1]]
            picture[seen] = self._sky(rays[:, seen], ray_spacing)
        for number, primitive in enumerate(self.primitives):
            seen = order[bounds[number + 1] : bounds[number + 2]]
            if len(seen):
                picture[seen] = self._shade(primitive, rays[:, seen], depth[seen], ray_spacing)
        picture = picture.reshape(self.height, self.width, 3)
        for shadow in self.scene.shadows(self.time):
            self._darken(picture, shadow)
        return picture

    def _shade(
        self, primitive: Primitive, rays: np.ndarray, depth: np.ndarray, ray_spacing: float
    ) -> np.ndarray:
        object_from_cam = primitive.object_from_world @ self.pose
        directions = object_from_cam[:3, :3].astype(np.float32) @ rays
        points = object_from_cam[:3, 3:].astype(np.float32) + directions * depth
        normals, uv, face = primitive.shape.surface(points)
        length = np.sqrt(np.einsum("im,im->m", rays, rays))
        facing = np.abs(np.einsum("im,im->m", normals, directions)) / length
        # A ray stands for an ellipse that grazing angles stretch by 1/cos; halving the long axis
        # trades a little aliasing, which the several rays take up, for sharper floors.
        across = np.maximum(1.0, 0.5 / np.maximum(facing, 0.02))
        footprint = depth * length * np.float32(ray_spacing / self.focal) * across
        uv = uv + np.asarray(primitive.uv_offset, np.float32)[:, None]
        if len(primitive.materials) == 1:
            rgb = primitive.materials[0].sample(uv, footprint)
        else:
            rgb = np.empty((len(depth), 3), np.float32)
            for number, material in enumerate(primitive.materials):
                of_face = np.flatnonzero(face == number)
                rgb[of_face] = material.sample(uv[:, of_face], footprint[of_face])
        return rgb * self.scene.light.shade(normals, primitive.world_from_object)[:, None]

    def _sky(self, rays: np.ndarray, ray_spacing: float) -> np.ndarray:
        directions = self.pose[:3, :3].astype(np.float32) @ rays
        across = np.hypot(directions[0], directions[2])
        uv = np.stack([np.arctan2(directions[0], directions[2]), np.arctan2(directions[1], across)])
        footprint = np.full(rays.shape[1], ray_spacing / self.focal, np.float32)
        return self.scene.sky.sample(uv, footprint)

    def _darken(self, picture: np.ndarray, shadow: Shadow) -> None:
        """Multiply static surfaces near the floor around the shadow's foot."""
        reach = 2.5 * shadow.radius
        extent = Box((reach, 0.6, reach))
        around = Primitive(extent, (), at(shadow.foot[0], 0.0, shadow.foot[1]))
        top, bottom, left, right = self._windows(around.corners[None])[0]
        window = slice(top, bottom), slice(left, right)
        rays, depth = self.rays[:, window[0], window[1]], self.depth[window]
        if not depth.size:
            return
        depth = np.where(np.isfinite(depth), depth, 1e6)
        points = self.pose[:3, :3].astype(np.float32) @ rays.reshape(3, -1) * depth.ravel()
        points += self.pose[:3, 3:].astype(np.float32)
        away = (points[0] - shadow.foot[0]) ** 2 + (points[2] - shadow.foot[1]) ** 2
        low = np.clip(1.0 + points[1] / 0.6, 0.0, 1.0)
        dark = 0.6 * low * np.exp(-away / np.float32(shadow.radius**2))
        dark = np.where(self.moving[window].ravel(), 0.0, dark).reshape(depth.shape)
        picture[window] *= (1.0 - dark[..., None]).astype(np.float32)


def _offsets(count: int) -> np.ndarray:
    """Places of ``count`` rays inside a pixel, [count,2] in -0.5..0.5, with zero mean."""
    if count == 1:
        return np.zeros((1, 2))
    if count == 4:  # rotated grid
        return np.array([[-0.125, -0.375], [0.375, -0.125], [0.125, 0.375], [-0.375, 0.125]])
    places = np.mod(np.arange(1, count + 1)[:, None] * _GOLDEN, 1.0)
    return places - places.mean(axis=0)


def _blur_px(camera: Camera, opens: float, closes: float) -> float:
    """Rough length in pixels of the blur of things 2.5 m away."""
    a, b = camera.pose_at(opens), camera.pose_at(closes)
    cosine = (np.trace(a[:3, :3].T @ b[:3, :3]) - 1) / 2
    turn = float(np.arccos(np.clip(cosine, -1.0, 1.0)))
    shift = float(np.linalg.norm(a[:3, 3] - b[:3, 3])) / 2.5
    return (turn + shift) * camera.focal_at((opens + closes) / 2)


def render_frame(
    scene: Scene, camera: Camera, film: Film, index: int, fps: float, seed: int
) -> RenderedFrame:
    """Film frame ``index`` (shutter centre at ``index / fps`` seconds); the same arguments always
    give the same bytes. ``seed`` drives the sensor noise."""
    centre = index / fps
    open_time = film.shutter / fps
    count = film.samples
    if film.shutter > 0:
        blur = _blur_px(camera, centre - open_time / 2, centre + open_time / 2)
        count = int(np.clip(np.ceil(blur / 2.0), film.samples, 28))
    offsets = _offsets(count)
    total = np.zeros((camera.height, camera.width, 3), np.float32)
    covered = np.zeros((camera.height, camera.width), np.float32)
    for number, offset in enumerate(offsets):
        moment = centre + ((number + 0.5) / count - 0.5) * open_time
        rendered = _Pass(scene, camera, moment, tuple(offset))
        total += rendered.colours(ray_spacing=1.0 / min(count, 4) ** 0.5)
        covered += rendered.moving
    exact = _Pass(scene, camera, centre, (0.0, 0.0))
    depth = np.where(np.isfinite(exact.depth), exact.depth, 0.0).astype(np.float32)
    moving = (covered >= 0.5 * count) | exact.moving
    return RenderedFrame(_develop(total / count, film, centre, index, seed), depth, moving)


def _develop(linear: np.ndarray, film: Film, time: float, index: int, seed: int) -> np.ndarray:
    """Exposure, display curve, sensor noise, 8 bit."""
    display = np.power(np.clip(linear * np.float32(film.gain_at(time)), 0.0, 1.0), 1 / 2.2) * 255.0
    if film.noise > 0:
        rng = np.random.default_rng([seed, index])
        display += film.noise * rng.standard_normal(display.shape, dtype=np.float32)
    return np.clip(np.rint(display), 0, 255).astype(np.uint8)


def moving_share(scene: Scene, camera: Camera, time: float) -> float:
    """Share of the picture, 0-1, whose pixel centres show something that moves."""
    return float(_Pass(scene, camera, time, (0.0, 0.0)).moving.mean())
