"""Every GPU kernel with a gradient beside its plain-torch twin, results and gradients; see kernel_twins.py.

TRITON_INTERPRET=1 python tests/server/models/learning_twins.py
python tests/server/models/learning_twins.py cuda
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import torch
from kernel_twins import judge, relative_difference
from megasam_server.models import learning_kernels, pointwise, triton_upsampling
from megasam_server.models.convex_upsampling import upsample_convex
from megasam_server.models.correlation import CorrelationVolume


def differences(device: str) -> Iterator[tuple[str, float]]:
    """(kernel, largest difference of result and gradients relative to the largest value), float32."""
    torch.manual_seed(1)
    edges, channels, height, width = 3, 128, 17, 19

    def image(count: int = channels) -> torch.Tensor:
        return torch.randn(edges, height, width, count).permute(0, 3, 1, 2)

    def row(*shape: int) -> torch.Tensor:
        return torch.randn(*shape)

    def norm_of(module, x, shift, weight, bias, residual=None):
        if module is learning_kernels:
            return module.norm_gelu(x, shift, weight, bias, 1e-6, residual)
        norm = SimpleNamespace(
            weight=weight, bias=bias, eps=1e-6, normalized_shape=(channels,)
        )  # of tensors that are no parameters
        return module.norm_gelu(x, shift, norm, residual)

    def shared(maps):
        return pointwise.SharedMaps(maps, torch.tensor([1, 0, 1], device=maps.device))

    def join_of(module, a, b, bias, c):
        return module.join([(a, None), (b, bias), (c, None)], 8)

    def lookup_of(radius):
        def lookup(module, *levels):
            """Twice: the second lookup's gradient goes through the first."""
            volume = CorrelationVolume.of_levels(list(levels), radius)
            read = volume.lookup
            if module is learning_kernels:
                read = partial(module.lookup_windows, volume.levels, radius=radius)
            here = coords.to(levels[0].device)
            return torch.cat([read(here, padding=4), read(2 - here)], 1)

        return lookup

    def upsampled(module, *given):
        if module is learning_kernels:
            return triton_upsampling.upsample_convex(*given)
        return upsample_convex(*given)

    cases = {
        "bias_relu": (lambda m, x, b: m.bias_relu(x, b), image(256), row(256)),
        "bias_relu, 96 channels": (lambda m, x, b: m.bias_relu(x, b), image(96), row(96)),
        "bias_relu, 2 channels": (lambda m, x, b: m.bias_relu(x, b), image(2), row(2)),
        "join": (join_of, image(), image(64), row(64), image(2)),
        "gated_mean": (lambda m, *given: m.gated_mean(*given), image(), row(channels), image()),
        "reset_hidden": (
            lambda m, hx, *given: m.reset_hidden(hx.clone(), *given, None),
            *(image(320), image(256), row(edges, 384), image()),
        ),
        "reset_hidden, shared": (
            lambda m, hx, *given: m.reset_hidden(hx.clone(), *given[:-1], shared(given[-1])),
            *(image(320), image(256), row(edges, 384), image(), image(384)[:2]),
        ),
        "reset_hidden, each pixel": (
            lambda m, hx, *given: m.reset_hidden(hx.clone(), *given, None),
            *(image(256), image(256), image(384), image()),
        ),
        "blend_hidden": (
            lambda m, *given: m.blend_hidden(*given, None),
            *(image(256), row(edges, 384), image(), image()),
        ),
        "blend_hidden, each pixel": (
            lambda m, *given: m.blend_hidden(*given, None),
            *(image(256), image(384), image(), image()),
        ),
        "blend_hidden, shared": (
            lambda m, *given: m.blend_hidden(*given[:-1], shared(given[-1])),
            *(image(256), row(edges, 384), image(), image(), image(384)[:2]),
        ),
        "shared_gelu": (
            lambda m, x, bias, maps: m.shared_gelu(x, bias, shared(maps)),
            *(image(), row(channels), image()[:2]),
        ),
        "norm_gelu": (norm_of, image(), row(channels), row(channels), row(channels), image()),
        "norm_gelu, border": (
            norm_of,
            *(image(), row(edges, channels, 3, 3), row(channels), row(channels)),
        ),
        "instance_norm": (lambda m, x: m.instance_norm(x, 1e-5, False), image(96) + 2),
        "instance_norm, relu": (lambda m, x: m.instance_norm(x, 1e-5, True), image(32)),
    }
    coords = torch.rand(edges, height, width, 2) * 22 - 3
    levels = CorrelationVolume(image(16), image(16)).levels
    cases["lookup_windows, radius 3"] = (lookup_of(3), *levels)
    cases["lookup_windows, radius 4"] = (lookup_of(4), *levels)
    for values in (1, 2, 3):
        name = f"upsample_convex, {values} channels"
        cases[name] = (upsampled, image(values)[:2, :, :5, :7], 2 * image(576)[:2, :, :5, :7])
    for name, (function, *tensors) in cases.items():
        results = []
        for module, place in ((pointwise, "cpu"), (learning_kernels, device)):
            given = [tensor.detach().clone().to(place).requires_grad_() for tensor in tensors]
            out = function(module, *given)
            if not results:
                gradient = torch.randn(out.shape)
            results.append([out, *torch.autograd.grad(out, given, gradient.to(place))])
        expected, ours = results
        yield name, max(map(relative_difference, ours, expected))


if __name__ == "__main__":
    sys.exit(judge(list(differences(sys.argv[1] if len(sys.argv) > 1 else "cpu"))))
