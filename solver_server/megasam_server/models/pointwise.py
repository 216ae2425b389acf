"""What happens between the convolutions of the update operator, in one pass over memory each.

Convolutions give their result without bias; the step that follows adds it. On a CUDA device with
Triton each function is one kernel, elsewhere plain torch, with the same result up to rounding.
Tensors [E,C,h,w] are channels last in memory for speed; any layout is right.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from megasam_server.models.gpu_kernels import kernels_for


def bias_relu(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """relu(x + bias), x [E,C,h,w], bias [C]. ``x`` may be overwritten."""
    if kernels := kernels_for(x, bias):
        return kernels.bias_relu(x, bias)
    return F.relu(x + bias[:, None, None])


def join(parts: list[tuple[torch.Tensor, torch.Tensor | None]], padding: int = 0) -> torch.Tensor:
    """Concatenate along the channels; a part with a bias enters as relu(x + bias).

    Args:
        parts: of ([E,Ck,h,w], [Ck] or None).
        padding: number of zero channels after the last part.

    Returns:
        [E,sum Ck + padding,h,w].
    """
    if kernels := kernels_for(*(x for x, _ in parts), *(b for _, b in parts if b is not None)):
        return kernels.join(parts, padding)
    first = parts[0][0]
    values = [x if bias is None else bias_relu(x, bias) for x, bias in parts]
    if padding:
        values.append(first.new_zeros(first.shape[0], padding, *first.shape[2:]))
    return torch.cat(values, dim=1)


def gated_mean(gate: torch.Tensor, bias: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Mean over the pixels of sigmoid(gate + bias) * h; [E,C,h,w], [C], [E,C,h,w] -> [E,C]."""
    if kernels := kernels_for(gate, bias, h):
        return kernels.gated_mean(gate, bias, h)
    gated = torch.sigmoid(gate.float() + bias.float()[:, None, None]) * h.float()  # [E,C,h,w]
    return gated.mean(dim=(2, 3)).to(h.dtype)


@dataclass(frozen=True)
class SharedMaps:
    """What edges that leave from the same frame have in common, pixel by pixel.

    Attributes:
        maps: [U,C',h,w] of frames.
        index: int64 [E], place of each edge's frame among them.
    """

    maps: torch.Tensor
    index: torch.Tensor

    def __getitem__(self, index: torch.Tensor) -> SharedMaps:
        """Those of other edges: ``index`` int64 [E'] says of which of these."""
        return SharedMaps(self.maps, self.index[index])


def reset_hidden(
    hx: torch.Tensor,
    zr: torch.Tensor,
    context: torch.Tensor,
    h: torch.Tensor,
    shared: SharedMaps | None = None,
) -> torch.Tensor:
    """The candidate's input [r*h, x] from [h, x]; r = sigmoid(reset gate + its context).

    Args:
        hx: [E,C+X,h,w], hidden state, then input. It may be overwritten.
        zr: [E,2C,h,w], update and reset gate before bias and context.
        context: [E,3C], bias and global context of the gates z, r and the candidate q; or
            [E,3C,h,w], where it differs from pixel to pixel.
        h: [E,C,h,w], hidden state.
        shared: of 3C channels, added to ``context``.

    Returns:
        [E,C+X,h,w].
    """
    if kernels := kernels_for(hx, zr, context, h):
        return kernels.reset_hidden(hx, zr, context, h, shared)
    channels = h.shape[1]
    shift = _over_pixels(context, shared, channels, 2 * channels)
    reset = torch.sigmoid(zr[:, channels:] + shift)  # [E,C,h,w]
    return torch.cat([reset * h, hx[:, channels:]], dim=1)


def renew_hidden(hx: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """[h, x] from [another state, x]: hx [E,C+X,h,w], h [E,C,h,w]. ``hx`` may be overwritten."""
    channels = h.shape[1]
    if torch.is_grad_enabled() and (hx.requires_grad or h.requires_grad):
        return join([(h, None), (hx[:, channels:], None)])
    hx[:, :channels] = h
    return hx


def blend_hidden(
    zr: torch.Tensor,
    context: torch.Tensor,
    q: torch.Tensor,
    h: torch.Tensor,
    shared: SharedMaps | None = None,
) -> torch.Tensor:
    """The new hidden state (1-z) h + z tanh(q + context); arguments as :func:`reset_hidden`.

    ``q`` is [E,C,h,w], the candidate before bias and context. Returns [E,C,h,w].
    """
    if kernels := kernels_for(zr, context, q, h):
        return kernels.blend_hidden(zr, context, q, h, shared)
    channels = h.shape[1]
    update = torch.sigmoid(zr[:, :channels] + _over_pixels(context, shared, 0, channels))
    new = torch.tanh(q + _over_pixels(context, shared, 2 * channels, 3 * channels))
    return (1 - update) * h + update * new


def _over_pixels(
    context: torch.Tensor, shared: SharedMaps | None, start: int, end: int
) -> torch.Tensor:
    """Channels ``start`` to ``end`` of the context, [E,end-start,h,w] or [E,end-start,1,1]."""
    context = context[:, start:end]
    if context.dim() == 2:
        context = context[..., None, None]
    return context if shared is None else context + shared.maps[:, start:end][shared.index]


def shared_gelu(x: torch.Tensor, bias: torch.Tensor, shared: SharedMaps) -> torch.Tensor:
    """GELU(x + bias + the map of the edge's frame), GELU in float32; [E,C,h,w], [C] -> [E,C,h,w]."""
    if kernels := kernels_for(x, bias, shared.maps):
        return kernels.shared_gelu(x, bias, shared)
    shifted = x + bias[:, None, None] + shared.maps[shared.index]  # [E,C,h,w]
    return F.gelu(shifted.float()).to(x.dtype)


def instance_norm(x: torch.Tensor, eps: float, relu: bool) -> torch.Tensor:
    """Each channel of each image to mean 0 and variance 1; [B,C,h,w], in float32; relu of that if asked."""
    if kernels := kernels_for(x):
        return kernels.instance_norm(x, eps, relu)
    values = x.float()  # [B,C,h,w]
    variance, mean = torch.var_mean(values, dim=(2, 3), correction=0, keepdim=True)  # [B,C,1,1]
    normalised = ((values - mean) * torch.rsqrt(variance + eps)).to(x.dtype)
    return F.relu(normalised) if relu else normalised


def norm_gelu(
    x: torch.Tensor,
    shift: torch.Tensor,
    norm: torch.nn.LayerNorm,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """GELU(LayerNorm over the channels of x + shift) + residual; LayerNorm and GELU in float32.

    Args:
        x: [E,C,h,w], h and w at least 2.
        shift: [C]; or [E,C,3,3], a value for the first, the inner and the last row and column of
            the image, such as the convolution of a constant image has with zero padding.
        norm: of C channels.
        residual: [E,C,h,w] or None.

    Returns:
        [E,C,h,w].
    """
    if kernels := kernels_for(x, shift, norm.weight):
        return kernels.norm_gelu(x, shift, norm.weight, norm.bias, norm.eps, residual)
    if shift.dim() == 1:
        shift = shift[:, None, None]  # [C,1,1]
    else:
        shift = shift[:, :, _border_class(x.shape[2], x.device)]  # [E,C,h,3]
        shift = shift[..., _border_class(x.shape[3], x.device)]  # [E,C,h,w]
    rows = (x.float() + shift.float()).permute(0, 2, 3, 1)  # [E,h,w,C]
    rows = F.layer_norm(
        rows, norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps
    )
    activated = F.gelu(rows).permute(0, 3, 1, 2)  # [E,C,h,w]
    if residual is not None:
        activated = activated + residual
    return activated.to(x.dtype)


def _border_class(size: int, device: torch.device) -> torch.Tensor:
    """[size]: 0 at the first place, 2 at the last, 1 between them."""
    place = torch.arange(size, device=device)
    return (place > 0).long() + (place == size - 1).long()
