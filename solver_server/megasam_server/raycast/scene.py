"""What stands before the camera: static things, people who walk, light and sky."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from megasam_server.raycast.primitives import Ellipsoid, Primitive, at
from megasam_server.raycast.textures import Texture, texture


@dataclass(frozen=True)
class Light:
    """One distant lamp or sun, a weaker one from the other side, and ambient light.

    Attributes:
        towards: direction from the scene to the light, world axes (y down).
        ambient: share of light that comes from everywhere.
        fill: share of the counter light.
    """

    towards: tuple[float, float, float] = (0.5, -0.8, -0.35)
    ambient: float = 0.45
    fill: float = 0.15

    def shade(self, normals: np.ndarray, world_from_object: np.ndarray) -> np.ndarray:
        """Lambert factor of normals [3,M] given in object space, float32 [M]."""
        direction = np.asarray(self.towards) / np.linalg.norm(self.towards)
        local = (world_from_object[:3, :3].T @ direction).astype(np.float32)
        cosine = local @ normals
        key = np.float32(1.0 - self.ambient - self.fill)
        lit = key * np.maximum(cosine, 0.0) + np.float32(self.fill) * np.maximum(-cosine, 0.0)
        return lit + np.float32(self.ambient)


@dataclass(frozen=True)
class Shadow:
    """Soft contact shadow: a dark spot of ``radius`` metres on the floor around ``foot`` (x, z)."""

    foot: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Person:
    """A walking figure of ellipsoids, with cloth that moves with it.

    Attributes:
        place: time in seconds -> (x, z) on the floor, metres; it faces the way it goes.
        height: metres.
        seed: of its clothes and its stride.
        stride_hz: full steps a second.
        swing_deg: how far arms and legs swing.
    """

    place: Callable[[float], np.ndarray]
    height: float = 1.75
    seed: int = 0
    stride_hz: float = 0.95
    swing_deg: float = 28.0

    def primitives(self, time: float) -> list[Primitive]:
        """The figure's parts at that time."""
        skin, shirt, trousers = self._clothes()
        size = self.height / 1.75
        swing = np.radians(self.swing_deg) * np.sin(2 * np.pi * self.stride_hz * time + self.seed)
        root = self._root(time)

        def part(parent, height_below, forward, radii, material) -> Primitive:
            pose = parent @ at(0.0, height_below * size, forward * size)
            shape = Ellipsoid(tuple(radius * size for radius in radii))
            return Primitive(shape, (material,), pose, moving=True)

        def joint(parent, across, height_below, angle) -> np.ndarray:
            pose = at(across * size, height_below * size, 0.0)
            pose[:3, :3] = Rotation.from_rotvec([angle, 0.0, 0.0]).as_matrix()
            return parent @ pose

        parts = [
            part(root, -1.62, 0.0, (0.10, 0.13, 0.11), skin),
            part(root, -1.20, 0.0, (0.22, 0.31, 0.14), shirt),
            part(root, -0.92, 0.0, (0.19, 0.16, 0.14), trousers),
        ]
        for side in (-1.0, 1.0):
            arm = joint(root, 0.25 * side, -1.42, -side * swing)
            leg = joint(root, 0.10 * side, -0.88, side * swing)
            shin = joint(leg, 0.0, 0.43, -0.9 * max(0.0, -side * swing))
            parts += [
                part(arm, 0.18, 0.0, (0.065, 0.20, 0.065), shirt),
                part(arm, 0.47, 0.05, (0.05, 0.17, 0.05), skin),
                part(leg, 0.22, 0.0, (0.095, 0.26, 0.10), trousers),
                part(shin, 0.22, 0.0, (0.07, 0.24, 0.075), trousers),
            ]
        return parts

    def shadow(self, time: float) -> Shadow:
        """Where it darkens the floor."""
        x, z = self.place(time)
        return Shadow((float(x), float(z)), 0.32 * self.height / 1.75)

    def _root(self, time: float) -> np.ndarray:
        here, ahead = np.asarray(self.place(time)), np.asarray(self.place(time + 0.05))
        way = ahead - here
        return at(here[0], 0.0, here[1], float(np.degrees(np.arctan2(way[0], way[1]))))

    def _clothes(self) -> tuple[Texture, Texture, Texture]:
        rng = np.random.default_rng([self.seed, 77])
        shirt, trousers = (tuple(float(c) for c in 0.1 + 0.5 * rng.random(3)) for _ in range(2))
        return (
            texture("rough", self.seed, 0.5, (0.55, 0.36, 0.27), 0.35, 256),
            texture("cloth", self.seed + 1, 0.6, shirt, 0.9, 512),
            texture("rough", self.seed + 2, 0.5, trousers, 0.6, 512),
        )


@dataclass(frozen=True)
class Scene:
    """Everything the camera can see.

    Attributes:
        static: things that never move.
        people: things that do.
        light: how all of it is lit.
        sky: texture of the sky dome (period in radians), None for a closed room.
    """

    static: tuple[Primitive, ...]
    people: tuple[Person, ...] = ()
    light: Light = field(default_factory=Light)
    sky: Texture | None = None

    def primitives(self, time: float) -> list[Primitive]:
        """All shapes at that time."""
        moving = [part for person in self.people for part in person.primitives(time)]
        return [*self.static, *moving]

    def shadows(self, time: float) -> list[Shadow]:
        """Contact shadows at that time."""
        return [person.shadow(time) for person in self.people]
