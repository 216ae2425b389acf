"""A synthetic scene for dense bundle adjustment: cameras on a curve, rough surfaces, exact flow."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from megasam_server.geometry import se3
from megasam_server.geometry.projective import projective_transform


@dataclass
class DenseScene:
    """Truth in float64; depths between 1 and 3, steps of about 0.2 and 3 degrees between frames.

    Attributes:
        reach: edges join frames up to this far apart, both ways.
        moving: how much the camera moves; 0 leaves the rotations alone.
    """

    frames: int = 6
    height: int = 6
    width: int = 8
    reach: int = 3
    moving: float = 1.0
    seed: int = 0
    poses: torch.Tensor = field(init=False)  # [N, 7]
    disps: torch.Tensor = field(init=False)  # [N, h, w]
    intrinsics: torch.Tensor = field(init=False)  # [4]
    ii: torch.Tensor = field(init=False)  # [E]
    jj: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        steps = self.random(self.frames, 6) * torch.tensor([0.2, 0.2, 0.1, 0.05, 0.05, 0.03])
        steps[:, :3] *= self.moving
        steps[0] = 0
        self.poses = se3.exp(steps.cumsum(0))
        noise = torch.rand(
            (self.frames, self.height, self.width),
            generator=self._generator(1),
            dtype=torch.float64,
        )
        self.disps = 1 / (1 + 2 * noise)
        w, h = float(self.width), float(self.height)
        self.intrinsics = torch.tensor([w, w, w / 2 - 0.3, h / 2 + 0.2], dtype=torch.float64)
        i, j = torch.meshgrid(torch.arange(self.frames), torch.arange(self.frames), indexing="ij")
        near = (i != j) & ((i - j).abs() <= self.reach)
        self.ii, self.jj = i[near], j[near]

    def random(self, *shape: int, seed: int = 0) -> torch.Tensor:
        """Normal deviates, float64."""
        return torch.randn(shape, generator=self._generator(seed), dtype=torch.float64)

    def target(self) -> torch.Tensor:
        """Where the pixels are truly seen, [E, h, w, 2]."""
        return projective_transform(self.poses, self.disps, self.intrinsics, self.ii, self.jj)[0]

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(1000 * self.seed + seed)
