"""Smooth motion of cameras and bodies, defined at every instant so that shutters can be simulated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WAVES = 3


@dataclass(frozen=True)
class Motion:
    """M bodies in each of B scenes. At time t, in frames:

        position = start + velocity t + sum_k sway_k (sin(rate_k t + phase_k) - sin(phase_k))
        rotation = Exp(spin t + sum_k wobble_k (...)) * orientation
        stretch  = exp(strain * sum_k (...)): the body deforms along its own axes

    Attributes:
        start, velocity: float32 [B,M,3].
        orientation: rotation matrices [B,M,3,3].
        spin: rotation vector per frame [B,M,3].
        strain: [B,M,3]; zero = rigid.
        sway, wobble: amplitudes [B,M,WAVES,3].
        rate, phase: [B,M,WAVES], radians per frame and radians.
    """

    start: Tensor
    velocity: Tensor
    orientation: Tensor
    spin: Tensor
    strain: Tensor
    sway: Tensor
    wobble: Tensor
    rate: Tensor
    phase: Tensor

    def world_from_body(self, time: Tensor) -> Tensor:
        """Affine maps at one instant per scene.

        Args:
            time: float32 [B].

        Returns:
            [B,M,3,4].
        """
        t = time[:, None, None]  # [B,1,1]
        wave = torch.sin(self.rate * t + self.phase) - torch.sin(self.phase)  # [B,M,WAVES]
        position = self.start + self.velocity * t + (self.sway * wave[..., None]).sum(2)  # [B,M,3]
        turn = self.spin * t + (self.wobble * wave[..., None]).sum(2)  # [B,M,3]
        stretch = torch.exp(self.strain * wave.sum(-1, keepdim=True))  # [B,M,3]
        linear = rotation_matrix(turn) @ self.orientation * stretch[..., None, :]
        return torch.cat([linear, position[..., None]], -1)


def still(batch: int, bodies: int, device: torch.device | str) -> Motion:
    """Bodies that stay at the origin, all numbers zero: a start for ``dataclasses.replace``."""

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(batch, bodies, *shape, device=device)

    turned = torch.eye(3, device=device).expand(batch, bodies, 3, 3)
    waves = (zeros(WAVES, 3), zeros(WAVES, 3), zeros(WAVES), zeros(WAVES))
    return Motion(zeros(3), zeros(3), turned, zeros(3), zeros(3), *waves)


def rotation_matrix(vector: Tensor) -> Tensor:
    """Rotations from rotation vectors in radians: [...,3] -> [...,3,3] (Rodrigues' formula)."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    angle = vector.norm(dim=-1)[..., None, None] / torch.pi
    # sin a / a and (1 - cos a) / a^2, also for a = 0
    first, second = torch.sinc(angle), 0.5 * torch.sinc(angle / 2) ** 2
    return torch.eye(3, device=vector.device) + first * skew + second * (skew @ skew)


def look_rotation(forward: Tensor) -> Tensor:
    """World-from-camera rotations (OpenCV axes, world y down) that look along ``forward`` [...,3]
    without roll: [...,3,3], columns right, down, forward."""
    z = torch.nn.functional.normalize(forward, dim=-1)
    down = torch.tensor([0.0, 1.0, 0.0], device=forward.device).expand_as(z)
    x = torch.nn.functional.normalize(torch.linalg.cross(down, z), dim=-1)
    y = torch.linalg.cross(z, x)
    return torch.stack([x, y, z], -1)
