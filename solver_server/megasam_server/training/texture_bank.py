"""Many textures in one tensor, looked up with mip maps on the GPU.

The pictures are painted on the CPU by the ray caster's painters and by dead leaves (Lee, Mumford and
Huang 2001: random shapes that occlude each other have the edge statistics of photographs), beside
photographs without copyright (CC0 or public domain) that come with scikit-image.
"""

from __future__ import annotations

import importlib.util
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from megasam_shared.errors import MegasamError
from megasam_shared.install_command import install_command
from torch import Tensor

from megasam_server.raycast.textures import texture, value_noise

SIZE = 512
PAINTED_KINDS = ("plaster", "rough", "tiles", "bricks", "planks", "poster", "cloth", "clouds")
# Of scikit-image's pictures, those that its authors list as CC0 or public domain.
PHOTOGRAPHS = (
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png"),
    *("coffee.png", "grass.png", "gravel.png", "rocket.jpg"),
)
LEAVES_SHARE, PHOTOGRAPH_SHARE = 0.4, 0.2


class TextureBank:
    """T square textures that repeat over the plane, with all their mip levels.

    Args:
        pictures: uint8 RGB [T,S,S,3], S a power of two.
        device: where they are kept and looked up.
    """

    def __init__(self, pictures: np.ndarray, device: torch.device | str):
        self.count, self.size = pictures.shape[:2]
        self.device = torch.device(device)
        level = torch.as_tensor(pictures, device=device).permute(0, 3, 1, 2).float()
        texels, starts = [], []
        start = 0
        while True:
            starts.append(start)
            flat = level.permute(0, 2, 3, 1).reshape(-1, 3)  # [T*S*S,3]
            texels.append(flat.half())
            start += len(flat)
            if level.shape[-1] == 1:
                break
            level = torch.nn.functional.avg_pool2d(level, 2)
        self._texels = torch.cat(texels)  # [all levels' texels,3], 0-255
        self._starts = torch.tensor(starts, device=device)

    def sample(self, index: Tensor, uv: Tensor, footprint: Tensor) -> Tensor:
        """Trilinear lookup.

        Args:
            index: texture of each sample, int64 [...].
            uv: coordinates in periods, float32 [...,2]; they wrap.
            footprint: diameter of the area that a sample stands for, in periods, float32 [...].

        Returns:
            colour 0-255, float32 [...,3].
        """
        finest = len(self._starts) - 1
        lod = torch.log2((footprint * self.size).clamp(min=1e-6)).clamp(0, finest)
        low = lod.floor()
        blend = (lod - low)[..., None]
        low = low.long()
        near = self._bilinear(index, uv, low)
        far = self._bilinear(index, uv, (low + 1).clamp(max=finest))
        return near + blend * (far - near)

    def _bilinear(self, index: Tensor, uv: Tensor, level: Tensor) -> Tensor:
        size = self.size >> level  # [...]
        at = torch.frac(torch.frac(uv) + 1.0) * size[..., None] - 0.5  # texel centres at integers
        corner = at.floor()
        weight = at - corner
        x0, y0 = (corner.long() % size[..., None]).unbind(-1)
        x1, y1 = (x0 + 1) % size, (y0 + 1) % size
        base = self._starts[level] + index * size * size
        wx, wy = weight[..., :1], weight[..., 1:]
        top = torch.lerp(self._at(base + y0 * size + x0), self._at(base + y0 * size + x1), wx)
        bottom = torch.lerp(self._at(base + y1 * size + x0), self._at(base + y1 * size + x1), wx)
        return torch.lerp(top, bottom, wy)

    def _at(self, texel: Tensor) -> Tensor:
        return self._texels[texel].float()


def paint_pictures(count: int, seed: int, workers: int = 1, size: int = SIZE) -> np.ndarray:
    """``count`` different textures; the same arguments give the same texels.

    Returns:
        uint8 RGB [count,size,size,3].
    """
    jobs = [(seed, i, size) for i in range(count)]
    if workers == 1:
        return np.stack([_paint(job) for job in jobs])
    with ProcessPoolExecutor(workers) as pool:
        return np.stack(list(pool.map(_paint, jobs, chunksize=4)))


def _paint(job: tuple[int, int, int]) -> np.ndarray:
    seed, index, size = job
    rng = np.random.default_rng([seed, index])
    draw = rng.random()
    if draw < LEAVES_SHARE:
        return dead_leaves(size, rng)
    if draw < LEAVES_SHARE + PHOTOGRAPH_SHARE:
        return _photograph(size, rng)
    kind = PAINTED_KINDS[rng.integers(len(PAINTED_KINDS))]
    base = tuple(rng.uniform(0.08, 0.8, 3))
    linear = texture(
        kind, int(rng.integers(1 << 30)), 1.0, base, rng.uniform(0.3, 1.2), size
    ).paint()
    return np.round(255.0 * np.sqrt(np.clip(linear, 0.0, 1.0))).astype(np.uint8)


def dead_leaves(size: int, rng: np.random.Generator) -> np.ndarray:
    """Random shapes with radii that follow 1/r^3, painted over each other; tileable.

    Returns:
        uint8 RGB [size,size,3].
    """
    smallest, largest = rng.uniform(0.004, 0.03) * size, rng.uniform(0.1, 0.4) * size
    canvas = np.zeros((size, size, 3), np.uint8)
    canvas[:] = rng.integers(0, 256, 3)
    palette = rng.integers(0, 256, (int(rng.integers(3, 40)), 3))
    for _ in range(int(rng.integers(200, 1200))):
        # Inverse of the cumulative distribution of r^-3 between the two radii.
        u = rng.random()
        radius = (smallest**-2 * (1 - u) + largest**-2 * u) ** -0.5
        colour = np.clip(palette[rng.integers(len(palette))] + rng.normal(0, 12, 3), 0, 255)
        centre = rng.uniform(0, size, 2)
        outline = _outline(radius, rng)
        for shift_x in (-size, 0, size):
            for shift_y in (-size, 0, size):
                place = centre + (shift_x, shift_y)
                if np.all(place > -largest) and np.all(place < size + largest):
                    points = np.round((outline + place) * 16).astype(np.int32)
                    cv2.fillPoly(canvas, [points], colour.tolist(), cv2.LINE_AA, shift=4)
    grain = value_noise(size, range(3, 10), rng, rng.uniform(0.5, 1.0))[..., None] - 0.5
    shaded = canvas * (1.0 + rng.uniform(0.0, 0.8) * grain)
    return np.clip(np.round(shaded), 0, 255).astype(np.uint8)


def _outline(radius: float, rng: np.random.Generator) -> np.ndarray:
    """A convex or wavy closed curve around the origin, float [V,2]."""
    angles = np.linspace(0, 2 * np.pi, int(rng.choice([3, 4, 4, 5, 24, 24])), endpoint=False)
    wave = 1.0 + rng.uniform(0, 0.3) * np.sin(rng.integers(2, 6) * angles + rng.uniform(0, 6.3))
    curve = radius * wave[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1)
    curve[:, 1] *= rng.uniform(0.3, 1.0)
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return curve @ rotation.T


def _photograph(size: int, rng: np.random.Generator) -> np.ndarray:
    """A random crop of a photograph, mirrored so that it tiles."""
    file = _photograph_folder() / PHOTOGRAPHS[rng.integers(len(PHOTOGRAPHS))]
    picture = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
    side = int(rng.uniform(0.5, 1.0) * min(picture.shape[:2]))
    top, left = (int(rng.integers(0, extent - side + 1)) for extent in picture.shape[:2])
    half = size // 2
    crop = picture[top : top + side, left : left + side, rng.permutation(3)]
    crop = cv2.resize(crop, (half, half), interpolation=cv2.INTER_AREA)
    row = np.concatenate([crop, crop[:, ::-1]], 1)
    return np.ascontiguousarray(np.concatenate([row, row[::-1]], 0))


def _photograph_folder() -> Path:
    """Where scikit-image keeps its pictures; it is not imported, which would need all its needs."""
    package = importlib.util.find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise MegasamError(
            "missing_dependencies",
            "Training needs the photographs that come with scikit-image, which is not installed.",
            f"Install it: {install_command('networks', 'training')}",
        )
    return Path(package.submodule_search_locations[0]) / "data"
