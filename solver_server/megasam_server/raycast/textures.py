"""Procedural, seeded, tileable textures with mip maps.

A texture is baked once as a pyramid and then looked up with trilinear filtering, so that neither
near nor far surfaces alias. Texels hold the square root of linear reflectance (gamma 2), 8 bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np

_ROW = 4096  # cv2.remap cannot write rows longer than 32767: pixel lists are folded to this width


@dataclass(frozen=True, eq=False)
class Texture:
    """A square picture repeated over the plane; painted when it is first looked at.

    Attributes:
        paint: makes the picture, linear RGB float [S,S,3], S a power of two, values 0-1.
        metres: length of one period on the surface.
    """

    paint: Callable[[], np.ndarray]
    metres: float

    @cached_property
    def levels(self) -> tuple[np.ndarray, ...]:
        """Mip pyramid, uint8 [S,S,3], [S/2,S/2,3], ... [1,1,3]: square root of linear RGB."""
        level = np.clip(self.paint(), 0.0, 1.0).astype(np.float32)
        levels = []
        while True:
            levels.append(np.round(np.sqrt(level) * 255.0).astype(np.uint8))
            if level.shape[0] == 1:
                return tuple(levels)
            half = level.shape[0] // 2
            level = cv2.resize(level, (half, half), interpolation=cv2.INTER_AREA)

    @property
    def texel(self) -> float:
        """Metres covered by one texel of the finest level."""
        return self.metres / self.levels[0].shape[0]

    def sample(self, uv: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        """Filtered reflectance.

        Args:
            uv: surface coordinates in metres, float32 [2,M].
            footprint: diameter of the area that one sample stands for, metres, float32 [M].

        Returns:
            linear RGB reflectance, float32 [M,3].
        """
        if not len(footprint):
            return np.empty((0, 3), np.float32)
        size = self.levels[0].shape[0]
        texels = uv * np.float32(1.0 / self.metres)
        texels -= np.floor(texels)
        texels *= np.float32(size)
        lod = np.log2(np.maximum(footprint * np.float32(1.0 / self.texel), 1.0))
        np.minimum(lod, len(self.levels) - 1, out=lod)
        out = np.zeros((uv.shape[1], 3), np.float32)
        for level in range(int(lod.min()), int(np.ceil(lod.max())) + 1):
            weight = 1.0 - np.abs(lod - level)
            chosen = np.flatnonzero(weight > 0)
            if len(chosen):
                where = texels[:, chosen] / 2**level - 0.5
                rgb = _bilinear(self.levels[level], where[0], where[1])
                out[chosen] += rgb * weight[chosen, None]
        out *= 1.0 / 255.0
        return np.square(out, out=out)


def _bilinear(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Periodic bilinear lookup of ``image`` uint8 [S,S,3] at M texel positions, uint8 [M,3]."""
    rows = -(-len(x) // _ROW)
    width = _ROW if rows > 1 else len(x)
    maps = np.zeros((2, rows * width), np.float32)
    maps[0, : len(x)], maps[1, : len(y)] = x, y
    folded = maps.reshape(2, rows, width)
    flat = cv2.remap(image, folded[0], folded[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return flat.reshape(-1, 3)[: len(x)]


def value_noise(
    size: int, octaves: range, rng: np.random.Generator, persistence: float = 0.6
) -> np.ndarray:
    """Periodic value noise in 0-1, float32 [size,size]; octave k has 2**k cells a side."""
    total = np.zeros((size, size), np.float32)
    amplitude = 1.0
    for octave in octaves:
        cells = 2**octave
        if cells > size:
            break
        grid = rng.random((cells, cells), dtype=np.float32)
        if cells < size:
            pad = 2
            scale = size // cells
            wrapped = np.pad(grid, pad, mode="wrap")
            large = cv2.resize(wrapped, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            grid = large[pad * scale : pad * scale + size, pad * scale : pad * scale + size]
        total += amplitude * (grid - 0.5)
        amplitude *= persistence
    return np.clip(0.5 + total / (2.2 * total.std() + 1e-6) * 0.5, 0.0, 1.0)


def _colour(base: tuple[float, float, float], shade: np.ndarray) -> np.ndarray:
    return np.asarray(base, np.float32) * shade[..., None]


def _plaster(size: int, rng: np.random.Generator, base, contrast: float) -> np.ndarray:
    """Painted wall: faint blotches and grain."""
    blotches = value_noise(size, range(2, 6), rng)
    grain = value_noise(size, range(6, 10), rng, 0.9)
    shade = 1.0 + contrast * (0.6 * (blotches - 0.5) + 0.4 * (grain - 0.5))
    return _colour(base, shade.astype(np.float32))


def _rough(size: int, rng: np.random.Generator, base, contrast: float) -> np.ndarray:
    """Stone, earth, foliage: noise on all scales, with dark and light specks."""
    noise = value_noise(size, range(2, 10), rng, 0.75)
    tone = value_noise(size, range(1, 5), rng)
    rgb = _colour(base, 1.0 + contrast * (noise - 0.5) * 2.0)
    rgb *= 1.0 + 0.3 * (tone[..., None] - 0.5) * np.asarray([1.0, 0.3, -1.0], np.float32)
    specks = value_noise(size, range(8, 9), rng)
    rgb[specks > 0.88] *= 0.45
    rgb[specks < 0.12] *= 1.5
    return rgb


def _tiles(size: int, rng: np.random.Generator, base, contrast: float) -> np.ndarray:
    """Floor tiles, 8 x 8 to the period, each of its own tone, worn."""
    count, cell = 8, size // 8
    tone = 1.0 + contrast * (rng.random((count, count)) - 0.5)
    rgb = _colour(base, np.kron(tone, np.ones((cell, cell))).astype(np.float32))
    wear = value_noise(size, range(3, 10), rng, 0.8)
    rgb *= 1.0 + contrast * (wear[..., None] - 0.5)
    line = np.arange(size) % cell < max(2, cell // 24)
    rgb[line, :] = 0.25
    rgb[:, line] = 0.25
    return rgb


def _bricks(size: int, rng: np.random.Generator, base, contrast: float) -> np.ndarray:
    """Running bond, 16 courses of 8 bricks to the period, no two bricks alike."""
    courses, per_course = 16, 8
    height, width = size // courses, size // per_course
    tone = 1.0 + contrast * (rng.random((courses, per_course, 3)) - 0.5) * [1.0, 0.8, 0.8]
    rgb = np.repeat(np.repeat(tone, height, axis=0), width, axis=1).astype(np.float32)
    rgb *= np.asarray(base, np.float32)
    rgb[np.arange(size) % height < max(2, height // 9), :] = 0.42
    joint = np.arange(size) % width < max(2, width // 18)
    rgb[:, joint] = 0.42
    for course in range(1, courses, 2):
        band = slice(course * height, (course + 1) * height)
        rgb[band] = np.roll(rgb[band], width // 2, axis=1)
    rgb *= 1.0 + contrast * (value_noise(size, range(4, 10), rng, 0.8)[..., None] - 0.5)
    return rgb


def _planks(size: int, rng: np.random.Generator, base, contrast: float) -> np.ndarray:
    """Wood: 8 boards along x, grain stretched along them, end joints."""
    boards, width = 8, size // 8
    stretched = cv2.resize(value_noise(size, range(3, 10), rng, 0.8)[:, : size // 8], (size, size))
    tone = np.repeat(1.0 + 0.5 * contrast * (rng.random(boards) - 0.5), width)
    rgb = _colour(base, (tone[:, None] * (1.0 + contrast * (stretched - 0.5))).astype(np.float32))
    rgb[np.arange(size) % width < max(2, width // 40), :] *= 0.35
    for board in range(boards):
        joint = int(rng.integers(0, size - 4))
        rgb[board * width : (board + 1) * width, joint : joint + max(2, size // 256)] *= 0.4
    knots = value_noise(size, range(5, 7), rng)
    rgb[knots > 0.95] *= 0.5
    return rgb


def _poster(size: int, rng: np.random.Generator, base, contrast: float) -> np.ndarray:
    """Print: shapes and lines of lettering, down to the finest texel."""
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = np.round(255.0 * np.asarray(base))
    for _ in range(14):
        colour = [float(c) for c in 255.0 * rng.random(3) ** 1.5]
        centre = [int(v) for v in rng.integers(0, size, 2)]
        axes = [int(v) for v in rng.integers(size // 20, size // 5, 2)]
        if rng.random() < 0.5:
            turn = float(rng.uniform(0, 180))
            cv2.ellipse(canvas, centre, axes, turn, 0, 360, colour, -1, cv2.LINE_AA)
        else:
            corner = [centre[0] + axes[0], centre[1] + axes[1]]
            cv2.rectangle(canvas, centre, corner, colour, -1)
    for top in range(size // 28, size - size // 16, size // 28):
        if rng.random() < 0.65:
            _letters(canvas, top, rng)
    grain = value_noise(size, range(5, 10), rng, 0.9)[..., None]
    return canvas.astype(np.float32) / 255.0 * (1.0 + contrast * (grain - 0.5))


def _letters(canvas: np.ndarray, top: int, rng: np.random.Generator) -> None:
    """One line of made-up letters, each a random pattern of 5 x 3 dots."""
    size = canvas.shape[0]
    dot = int(rng.integers(max(1, size // 512), max(2, size // 180)))
    count = int(rng.integers(6, max(7, size // (8 * dot))))
    cells = np.zeros((5, 4 * count), bool)
    cells[:, np.arange(4 * count) % 4 != 3] = rng.random((5, 3 * count)) < 0.6
    line = np.kron(cells, np.ones((dot, dot), bool))
    left = int(rng.integers(0, size // 2))
    line = line[: size - top, : size - left]
    area = canvas[top : top + line.shape[0], left : left + line.shape[1]]
    area[line] = np.round(255.0 * rng.random(3) ** 2)


def _cloth(size: int, rng: np.random.Generator, base, contrast: float) -> np.ndarray:
    """Checked cloth with folds."""
    across = (np.arange(size) // (size // 16) % 2).astype(np.float32)
    check = 1.0 - 0.5 * (across[:, None] + across[None, :]) / 2 * contrast
    folds = value_noise(size, range(2, 9), rng, 0.7)
    return _colour(base, check * (1.0 + contrast * (folds - 0.5)))


def _clouds(size: int, rng: np.random.Generator, base, contrast: float) -> np.ndarray:
    """Sky: soft clouds over ``base``."""
    cover = np.clip((value_noise(size, range(2, 8), rng, 0.55) - 0.5) * 2.2, 0.0, 1.0)[..., None]
    return np.asarray(base, np.float32) * (1 - contrast * cover) + contrast * cover * 0.95


_MAKERS: dict[str, Callable[..., np.ndarray]] = {
    "plaster": _plaster,
    "rough": _rough,
    "tiles": _tiles,
    "bricks": _bricks,
    "planks": _planks,
    "poster": _poster,
    "cloth": _cloth,
    "clouds": _clouds,
}


@lru_cache(maxsize=64)
def texture(
    kind: str,
    seed: int,
    metres: float,
    base: tuple[float, float, float] = (0.5, 0.5, 0.5),
    contrast: float = 0.6,
    size: int = 1024,
) -> Texture:
    """A texture of the given kind; the same arguments always give the same texels.

    Args:
        kind: plaster, rough, tiles, bricks, planks, poster, cloth or clouds.
        seed: of its random details.
        metres: length of one period on the surface.
        base: linear RGB reflectance around which it varies.
        contrast: strength of the variation, about 0-1.
        size: texels a side, a power of two.

    Raises:
        KeyError: unknown kind.
    """
    maker = _MAKERS[kind]

    def paint() -> np.ndarray:
        return maker(size, np.random.default_rng([seed, *kind.encode()]), base, contrast)

    return Texture(paint, metres)
