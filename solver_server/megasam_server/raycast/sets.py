"""Sets to film on: furnished rooms, a plain office, a street, a square."""

from __future__ import annotations

import numpy as np

from megasam_server.raycast.primitives import Box, Cylinder, Ellipsoid, Ground, Primitive, at
from megasam_server.raycast.scene import Light, Scene
from megasam_server.raycast.textures import Texture, texture

Things = list[Primitive]


def _colour(rng: np.random.Generator, dark: float = 0.12, light: float = 0.65):
    return tuple(float(c) for c in rng.uniform(dark, light, 3))


def _facade(rng: np.random.Generator):
    """Pale, little saturated."""
    tone = float(rng.uniform(0.28, 0.55))
    return tuple(float(c) for c in tone * rng.uniform(0.8, 1.2, 3))


def _offset(rng: np.random.Generator) -> tuple[float, float]:
    return float(rng.uniform(0, 5)), float(rng.uniform(0, 5))


def room(width: float, height: float, depth: float, walls: tuple[Texture, ...]) -> Primitive:
    """Closed room: floor y = 0, x and z around 0. ``walls``: -x, +x, ceiling, floor, -z, +z."""
    half = (width / 2, height / 2, depth / 2)
    return Primitive(Box(half, inside=True), walls, at(0.0, -height / 2, 0.0), uv_offset=(50, 50))


def poster(
    seed: int, x: float, y: float, z: float, facing_deg: float, size: tuple[float, float]
) -> Primitive:
    """A print on a wall, 4 mm thick; ``facing_deg`` 0 hangs on a wall across z."""
    print_ = texture("poster", seed, 1.4, (0.82, 0.80, 0.74), 0.3, 1024)
    shape = Box((size[0] / 2, size[1] / 2, 0.004))
    return Primitive(shape, (print_,), at(x, y, z, facing_deg), uv_offset=(seed * 0.37, 0.7))


def table(rng: np.random.Generator, x: float, z: float, yaw: float, seed: int) -> Things:
    """A table with things on it."""
    wood = texture("planks", seed % 3, 1.2, (0.42, 0.27, 0.16), 0.7)
    items: Things = [
        Primitive(Box((0.7, 0.025, 0.4)), (wood,), at(x, -0.74, z, yaw), uv_offset=_offset(rng))
    ]
    turn = at(x, 0.0, z, yaw)
    for across, along in ((-0.62, -0.33), (0.62, -0.33), (-0.62, 0.33), (0.62, 0.33)):
        leg = turn @ at(across, -0.36, along)
        items.append(Primitive(Box((0.03, 0.36, 0.03)), (wood,), leg, uv_offset=_offset(rng)))
    for across in (-0.45, -0.05, 0.4):
        spot = turn @ at(across, -0.765, float(rng.uniform(-0.2, 0.2)), float(rng.uniform(0, 90)))
        items.append(_thing(rng, spot, 0.09))
    return items


def _thing(rng: np.random.Generator, standing_at: np.ndarray, size: float) -> Primitive:
    """A textured box, can or ball that stands on the given pose."""
    skin = texture(
        str(rng.choice(["rough", "poster", "bricks", "cloth"])),
        int(rng.integers(0, 4)),
        float(4.5 * size),
        _colour(rng),
        0.8,
        512,
    )
    tall = float(size * rng.uniform(0.8, 1.8))
    kind = rng.integers(0, 3)
    if kind == 0:
        shape, up = Box((size, tall, size * float(rng.uniform(0.5, 1.1)))), tall
    elif kind == 1:
        shape, up = Cylinder(size * 0.8, tall), tall
    else:
        shape, up = Ellipsoid((size, size, size)), size
    return Primitive(shape, (skin,), standing_at @ at(0.0, -up, 0.0), uv_offset=_offset(rng))


def shelf(rng: np.random.Generator, x: float, z: float, yaw: float) -> Things:
    """A shelf of 1.9 m with books."""
    wood = texture("planks", 1, 1.0, (0.36, 0.25, 0.17), 0.6)
    turn = at(x, 0.0, z, yaw)
    items: Things = []
    for level in range(5):
        board = turn @ at(0.0, -0.1 - 0.42 * level, 0.0)
        items.append(Primitive(Box((0.5, 0.015, 0.16)), (wood,), board, uv_offset=_offset(rng)))
        if level == 4:
            continue
        across = -0.46
        while across < 0.36:
            wide, tall = float(rng.uniform(0.04, 0.11)), float(rng.uniform(0.10, 0.17))
            cover = texture("poster", int(rng.integers(0, 6)), 0.5, (0.6, 0.5, 0.4), 0.4, 512)
            book = turn @ at(across + wide, -0.115 - 0.42 * level - tall, 0.0)
            items.append(Primitive(Box((wide, tall, 0.12)), (cover,), book, uv_offset=_offset(rng)))
            across += 2 * wide + 0.01
    return items


def furnished_room(
    seed: int, width: float = 7.0, depth: float = 8.0, furniture: int = 6, height: float = 2.8
) -> Scene:
    """A lived-in room: plaster and brick walls with prints, tables, shelves, boxes.

    Furniture stands along the walls; the middle stays free for camera and people.
    """
    rng = np.random.default_rng(seed)
    plaster = texture("plaster", seed, 2.6, (0.62, 0.58, 0.50), 0.5, 2048)
    bricks = texture("bricks", seed, 2.0, (0.42, 0.23, 0.17), 0.6)
    ceiling = texture("plaster", seed + 1, 3.0, (0.75, 0.75, 0.72), 0.35)
    if seed % 2:
        floor = texture("planks", seed, 1.6, (0.40, 0.28, 0.18), 0.7)
    else:
        floor = texture("tiles", seed, 2.4, (0.42, 0.40, 0.37), 0.7)
    things = [room(width, height, depth, (plaster, plaster, ceiling, floor, plaster, bricks))]
    side, back = width / 2, depth / 2
    for number in range(10):
        size = (float(rng.uniform(0.4, 1.0)), float(rng.uniform(0.4, 0.9)))
        up = float(rng.uniform(-1.95, -1.3))
        wall = number % 4
        along = float(rng.uniform(-0.8, 0.8))
        if wall < 2:
            x = (side - 0.01) * (1 if wall else -1)
            things.append(poster(seed + number, x, up, along * (back - 0.6), 90.0, size))
        else:
            z = (back - 0.01) * (1 if wall == 2 else -1)
            things.append(poster(seed + number, along * (side - 0.6), up, z, 0.0, size))
    for number in range(furniture):
        around = 2 * np.pi * (number + float(rng.uniform(-0.2, 0.2))) / furniture
        x = float(np.clip(1.3 * np.sin(around), -1, 1) * (side - 0.65))
        z = float(np.clip(1.3 * np.cos(around), -1, 1) * (back - 0.65))
        yaw = float(np.degrees(around)) + float(rng.uniform(-12, 12))
        kind = number % 3
        if kind == 0:
            things += table(rng, x, z, yaw, seed)
        elif kind == 1:
            things += shelf(rng, x, z, yaw)
        else:
            crate = at(x, 0.0, z, yaw)
            things.append(_thing(rng, crate, 0.28))
            things.append(_thing(rng, crate @ at(0.55, 0.0, 0.1, 20.0), 0.2))
    return Scene(tuple(things))


def plain_office(seed: int) -> Scene:
    """Painted walls with faint grain, grey carpet; few things to hold on to."""
    rng = np.random.default_rng(seed)
    paint = texture("plaster", seed, 3.5, (0.66, 0.66, 0.63), 0.10, 1024)
    ceiling = texture("plaster", seed + 1, 4.0, (0.78, 0.78, 0.78), 0.06)
    carpet = texture("rough", seed, 1.5, (0.30, 0.32, 0.35), 0.22)
    door = texture("planks", seed, 1.2, (0.50, 0.38, 0.25), 0.3)
    things: Things = [room(6.0, 2.7, 7.0, (paint, paint, ceiling, carpet, paint, paint))]
    things.append(poster(3, -1.2, -1.6, 3.49, 0.0, (0.6, 0.45)))
    things.append(Primitive(Box((0.45, 1.02, 0.02)), (door,), at(1.5, -1.02, 3.48)))
    things.append(Primitive(Box((0.02, 0.35, 0.6)), (ceiling,), at(-2.98, -1.5, 1.2)))
    things.append(Primitive(Box((0.02, 0.03, 3.4)), (door,), at(2.98, -0.05, 0.0)))
    things += table(rng, 0.4, 2.6, 8.0, seed)
    things.append(_thing(rng, at(-2.1, 0.0, 2.5, 30.0), 0.22))
    return Scene(tuple(things))


def _tree(rng: np.random.Generator, x: float, z: float) -> Things:
    bark = texture("rough", 5, 0.8, (0.25, 0.18, 0.12), 0.8, 512)
    leaves = texture("rough", 6 + int(rng.integers(0, 3)), 1.6, (0.13, 0.24, 0.08), 1.1)
    tall = float(rng.uniform(1.6, 2.4))
    items: Things = [
        Primitive(Cylinder(0.14, tall / 2), (bark,), at(x, -tall / 2, z), uv_offset=_offset(rng))
    ]
    for _ in range(4):
        radius = float(rng.uniform(0.6, 1.1))
        dx, dz, up = (float(v) for v in rng.uniform(-0.6, 0.6, 3))
        crown = at(x + dx, -tall - 0.7 - up, z + dz, float(rng.uniform(0, 360)))
        shape = Ellipsoid((radius, radius * 0.8, radius))
        items.append(Primitive(shape, (leaves,), crown, uv_offset=_offset(rng)))
    return items


def _building(rng: np.random.Generator, x: float, z: float, half: tuple, yaw: float) -> Things:
    """A block with rows of windows that stand out of the wall a little."""
    kind = str(rng.choice(["bricks", "plaster", "bricks"]))
    wall = texture(kind, int(rng.integers(0, 4)), 3.2, _facade(rng), 0.6)
    pane = texture("rough", 11, 1.7, (0.10, 0.13, 0.17), 0.8, 512)
    turn = at(x, 0.0, z, yaw)
    items: Things = [
        Primitive(Box(half), (wall,), turn @ at(0.0, -half[1], 0.0), uv_offset=_offset(rng))
    ]
    columns = max(2, int(half[0] / 1.6))
    for row in range(max(1, int(half[1] / 1.6))):
        for column in range(columns):
            across = (column + 0.5) / columns * 2 * half[0] - half[0]
            up = -1.9 - 3.0 * row
            window = turn @ at(across + float(rng.uniform(-0.1, 0.1)), up, -half[2])
            shape = Box((0.5, 0.75, 0.06))
            items.append(Primitive(shape, (pane,), window, uv_offset=_offset(rng)))
    return items


def street(seed: int) -> Scene:
    """Open air: paving and grass, trees, kiosks, houses from 12 to 60 m, hills, clouded sky.

    The camera stands around the origin and looks along +z.
    """
    rng = np.random.default_rng(seed)
    sky = texture("clouds", seed, 1.6, (0.30, 0.48, 0.80), 0.8, 1024)
    paving = texture("tiles", seed, 5.0, (0.38, 0.36, 0.34), 0.7, 2048)
    things: Things = [Primitive(Ground(), (paving,), uv_offset=(500.0, 500.0))]
    for number, x in enumerate(np.linspace(-32, 32, 7)):
        half = (float(rng.uniform(3, 5)), float(rng.uniform(3.5, 7)), 3.0)
        z = 24.0 + float(rng.uniform(-5, 9)) + 5.0 * (number % 2)
        things += _building(rng, float(x), z, half, float(rng.uniform(-14, 14)))
    for x in (-11.0, -6.5, -2.0, 3.0, 7.5, 12.0):
        things += _tree(rng, x + float(rng.uniform(-1, 1)), float(rng.uniform(9, 17)))
    for _ in range(7):
        spot = at(float(rng.uniform(-9, 11)), 0.0, float(rng.uniform(4.5, 9)), 35.0)
        things.append(_thing(rng, spot, float(rng.uniform(0.2, 0.4))))
    grass = texture("rough", seed + 9, 30.0, (0.16, 0.24, 0.10), 0.8)
    for x, z, radius in ((-70.0, 130.0, 60.0), (30.0, 150.0, 75.0), (110.0, 120.0, 55.0)):
        hill = Ellipsoid((radius, radius * 0.28, radius * 0.6))
        things.append(Primitive(hill, (grass,), at(x, 0.0, z), uv_offset=_offset(rng)))
    light = Light(towards=(0.6, -0.9, -0.5), ambient=0.4, fill=0.1)
    return Scene(tuple(things), light=light, sky=sky)


def square(seed: int) -> Scene:
    """A town square seen from its middle: houses on all sides 14 to 40 m away, nothing near."""
    rng = np.random.default_rng(seed)
    sky = texture("clouds", seed, 1.6, (0.32, 0.50, 0.82), 0.8, 1024)
    paving = texture("tiles", seed, 5.0, (0.40, 0.38, 0.35), 0.7, 2048)
    things: Things = [Primitive(Ground(), (paving,), uv_offset=(500.0, 500.0))]
    for number in range(9):
        around = np.radians(-100 + 25 * number + float(rng.uniform(-3, 3)))
        away = float(rng.uniform(16, 34))
        half = (float(rng.uniform(3.0, 4.5)), float(rng.uniform(3.5, 7.0)), 2.5)
        x, z = away * float(np.sin(around)), away * float(np.cos(around))
        things += _building(rng, x, z, half, float(np.degrees(around)))
    for number in range(5):
        around = np.radians(-70 + 35 * number + float(rng.uniform(-8, 8)))
        away = float(rng.uniform(11, 15))
        things += _tree(rng, away * float(np.sin(around)), away * float(np.cos(around)))
    light = Light(towards=(-0.5, -0.9, -0.4), ambient=0.4, fill=0.1)
    return Scene(tuple(things), light=light, sky=sky)
