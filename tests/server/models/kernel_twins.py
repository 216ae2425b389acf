"""Every GPU kernel beside its plain-torch twin: on a GPU, or on the CPU in Triton's interpreter.

    TRITON_INTERPRET=1 python tests/server/models/kernel_twins.py
    python tests/server/models/kernel_twins.py cuda

Prints one line per kernel, the largest difference relative to the largest value, and exits with 1
when one is above 1e-5 (float32).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from megasam_server.models import pointwise, triton_kernels, triton_windows
from megasam_server.models.correlation import CorrelationVolume, OnTheFlyCorrelation

TOLERANCE = 1e-5


def differences(device: str) -> Iterator[tuple[str, float]]:
    """(kernel, largest difference relative to the largest value), float32 on ``device``."""
    torch.manual_seed(0)
    edges, channels, height, width = 3, 128, 9, 11

    def image(count: int = channels) -> torch.Tensor:
        return torch.randn(edges, height, width, count).permute(0, 3, 1, 2)

    h, q, x, zr, raw = image(), image(), image(), image(2 * channels), image(64)
    bias, narrow_bias = torch.randn(channels), torch.randn(64)
    context, varied = torch.randn(edges, 3 * channels), image(3 * channels)
    maps, index = image(3 * channels)[:2], torch.tensor([1, 0, 1])
    shared = pointwise.SharedMaps(maps, index)
    hx = pointwise.join([(h, None), (raw, narrow_bias)])
    norm = torch.nn.LayerNorm(channels, eps=1e-6).requires_grad_(False)
    norm.weight.normal_()
    norm.bias.normal_()
    border = torch.randn(edges, channels, 3, 3)

    def norm_kernel(x, shift, weight, bias, residual):
        return triton_kernels.norm_gelu(x, shift, weight, bias, norm.eps, residual)

    def joined(h, zr, raw, narrow_bias):
        return triton_kernels.join([(h, None), (zr[:, 64:128], None), (raw, narrow_bias)], 8)

    def reset(hx, zr, context, h, *shared):
        given = pointwise.SharedMaps(*shared) if shared else None
        return triton_kernels.reset_hidden(hx, zr, context, h, given)

    def gelu(x, bias, *shared):
        return triton_kernels.shared_gelu(x, bias, pointwise.SharedMaps(*shared))

    def blend(zr, context, q, h, *shared):
        given = pointwise.SharedMaps(*shared) if shared else None
        return triton_kernels.blend_hidden(zr, context, q, h, given)

    cases = {
        "bias_relu": (
            triton_kernels.bias_relu,
            (x, bias),
            pointwise.bias_relu(x, bias),
        ),
        "bias_relu, 96 channels": (
            triton_kernels.bias_relu,
            (x[:, :96].contiguous(memory_format=torch.channels_last), bias[:96]),
            pointwise.bias_relu(x[:, :96], bias[:96]),
        ),
        "bias_relu, channels first": (
            triton_kernels.bias_relu,
            (x.contiguous(), bias),
            pointwise.bias_relu(x, bias),
        ),
        "join": (
            joined,
            (h, zr, raw, narrow_bias),
            pointwise.join([(h, None), (zr[:, 64:128], None), (raw, narrow_bias)], 8),
        ),
        "gated_mean": (
            triton_kernels.gated_mean,
            (q, bias, h),
            pointwise.gated_mean(q, bias, h),
        ),
        "reset_hidden": (
            reset,
            (hx, zr, context, h),
            pointwise.reset_hidden(hx, zr, context, h),
        ),
        "blend_hidden": (
            blend,
            (zr, context, q, h),
            pointwise.blend_hidden(zr, context, q, h),
        ),
        "reset_hidden, each pixel": (
            reset,
            (hx, zr, varied, h),
            pointwise.reset_hidden(hx, zr, varied, h),
        ),
        "blend_hidden, each pixel": (
            blend,
            (zr, varied, q, h),
            pointwise.blend_hidden(zr, varied, q, h),
        ),
        "reset_hidden, shared": (
            reset,
            (hx, zr, context, h, maps, index),
            pointwise.reset_hidden(hx, zr, context, h, shared),
        ),
        "blend_hidden, shared": (
            blend,
            (zr, context, q, h, maps, index),
            pointwise.blend_hidden(zr, context, q, h, shared),
        ),
        "shared_gelu": (
            gelu,
            (x, bias, q[:2], index),
            pointwise.shared_gelu(x, bias, pointwise.SharedMaps(q[:2], index)),
        ),
        "norm_gelu": (
            norm_kernel,
            (x, bias, norm.weight, norm.bias, q),
            pointwise.norm_gelu(x, bias, norm, q),
        ),
        "instance_norm": (
            lambda x: triton_kernels.instance_norm(x, 1e-5, False),
            (zr,),
            pointwise.instance_norm(zr, 1e-5, False),
        ),
        "instance_norm, relu": (
            lambda x: triton_kernels.instance_norm(x, 1e-5, True),
            (raw + 3,),
            pointwise.instance_norm(raw + 3, 1e-5, True),
        ),
        "norm_gelu, border": (
            norm_kernel,
            (x, border, norm.weight, norm.bias, None),
            pointwise.norm_gelu(x, border, norm),
        ),
    }
    for name, (kernel, arguments, expected) in cases.items():
        given = [None if a is None else a.clone().to(device) for a in arguments]
        yield name, relative_difference(kernel(*given), expected)

    for radius in (3, 4):
        volume = CorrelationVolume(image(16), image(16), radius)
        coords = torch.rand(edges, height, width, 2) * 18 - 4
        coords[0, 0, 0] = torch.tensor([1e12, -1e12])
        coords[0, 0, 1] = torch.tensor([width - 1.0, height - 1.0])
        levels = [level.to(device) for level in volume.levels]
        windows = triton_kernels.lookup_windows(levels, coords.to(device), radius, radius)
        yield (
            f"lookup_windows, radius {radius}",
            relative_difference(windows, volume.lookup(coords, radius)),
        )

    yield "write_windows", _formed_nearby(device, torch.float32)
    # Between formed and blended, the volume and the windows are rounded in the same places.
    half = _formed_nearby(device, torch.float16)
    yield "write_windows, float16", max(0.0, half - 1e-3)


def _formed_nearby(device: str, dtype: torch.dtype) -> float:
    """Difference of windows formed around places to those of the volume, for squares of cells at the edge of the
    picture, for places far apart in one square, and for such that see nothing."""
    frames, channels, height, width, radius = 3, 24, 19, 21, 3
    fmaps = torch.randn(frames, channels, height, width).to(dtype)
    ii, jj = torch.tensor([0, 2, 1, 1]), torch.tensor([1, 0, 2, 0])
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    coords = torch.stack([x, y], -1) + 6 * torch.randn(len(ii), 1, 1, 2)
    coords = coords + 0.3 * torch.randn_like(coords)
    coords[1] = torch.rand(height, width, 2) * 40 - 10
    coords[2, 0, 0] = torch.tensor([1e12, -1e12])
    coords[3] += 100
    expected = CorrelationVolume(fmaps[ii].float(), fmaps[jj].float(), radius).lookup(coords)
    levels = OnTheFlyCorrelation(fmaps.to(device))._pyramid
    windows = fmaps.new_empty(len(ii), height, width, expected.shape[1], device=device)
    triton_windows.write_windows(
        [level.values for level in levels],
        [level.size for level in levels],
        *(x.to(device) for x in (coords, ii, jj)),
        radius,
        windows,
    )
    return relative_difference(windows.permute(0, 3, 1, 2).float(), expected)


def relative_difference(ours: torch.Tensor, expected: torch.Tensor) -> float:
    assert ours.shape == expected.shape
    return ((ours.cpu() - expected).abs().max() / expected.abs().max()).item()


def judge(found: list[tuple[str, float]]) -> int:
    """Print the lines; the exit code."""
    for name, difference in found:
        print(f"{name:34} {difference:.1e}")
    return int(any(not difference <= TOLERANCE for _, difference in found))


if __name__ == "__main__":
    with torch.inference_mode():
        sys.exit(judge(list(differences(sys.argv[1] if len(sys.argv) > 1 else "cpu"))))
