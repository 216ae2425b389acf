"""The kernel that casts rays beside its plain-torch twin: on a GPU, or in Triton's interpreter.

    TRITON_INTERPRET=1 python tests/server/training/ray_twins.py
    python tests/server/training/ray_twins.py cuda

Prints, per make of scene, the share of rays that meet another surface, and the largest relative difference in
distance and local point of the others. Exits with 1 when a share is above 0.2 %, as rays along an edge may
explain, or a difference above 2e-4: so finely are the hills found.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from megasam_server.training import ray_kernels, scene
from megasam_server.training.filming import pixel_rays
from megasam_server.training.random_scenes import MAKES, Draw, random_filming, random_scene

SIZE = (14, 18)


def differences(device: str) -> Iterator[tuple[str, float, float, float]]:
    """(make, share of other surfaces, difference in distance, in the local point)."""
    for number, make in enumerate(MAKES):
        draw = Draw(2, torch.Generator().manual_seed(number))
        world = random_scene(make, 4, draw)
        filming = random_filming(make, *SIZE, draw.uniform(1, 4), draw)
        time = torch.zeros(2)
        maps = world.world_from_surface(time)
        origin, direction = pixel_rays(filming, time, torch.zeros(2, 2))
        last_row = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(2, maps.shape[1] - 2, 1, 4)
        inverse = torch.linalg.inv(torch.cat([maps[:, :-2], last_row], 2))
        shared = scene.cast(world, maps, origin, direction)
        own = origin + 0.1 * direction  # as rays towards the light start
        for name, start in ((make, origin), (f"{make}, rays from everywhere", own)):
            twin = shared if start is origin else scene.cast(world, maps, start, direction)
            distance, surface, local = (
                x.cpu()
                for x in ray_kernels.cast(
                    _moved(world, device),
                    *(x.to(device) for x in (inverse, start, direction)),
                    (scene.NEAREST, scene.FARTHEST),
                    (scene.MARCH_STEPS, scene.MARCH_FROM, scene.MARCH_TO),
                    scene.BISECTIONS,
                )
            )
            same = surface == twin.surface
            off = ((distance - twin.distance).abs() / twin.distance)[same].max().item()
            size = twin.local.norm(dim=-1, keepdim=True).clamp(min=1)
            apart = ((local - twin.local) / size)[same].abs().max().item()
            yield name, 1 - same.float().mean().item(), off, apart


def _moved(world: scene.Scene, device: str) -> scene.Scene:
    """The same scene on another device."""

    def move(x):
        if isinstance(x, torch.Tensor):
            return x.to(device)
        if x is None:
            return None
        return type(x)(**{name: move(value) for name, value in vars(x).items()})

    return move(world)


if __name__ == "__main__":
    with torch.inference_mode():
        found = list(differences(sys.argv[1] if len(sys.argv) > 1 else "cpu"))
    for name, other, off, apart in found:
        print(f"{name:32} {other:.4f} {off:.1e} {apart:.1e}")
    sys.exit(
        any(not (other <= 0.002 and max(off, apart) <= 2e-4) for _, other, off, apart in found)
    )
