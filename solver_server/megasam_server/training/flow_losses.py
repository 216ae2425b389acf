"""What RAFT is taught by: the flow after every iteration, the later ones counting more."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from megasam_server.models.correlation import CorrelationVolume
from megasam_server.models.raft_encoder import encoder_input, feature_map, first_state
from megasam_server.models.raft_update import RADIUS, Revision, full_flow, revisions
from megasam_server.training.flow_pairs import FlowPairs
from megasam_server.training.recorded_losses import Losses

DISCOUNT = 0.85


def flow_losses(network: nn.Module, pairs: FlowPairs, iterations: int) -> Losses:
    """Those of torchvision's ``network`` on B pairs."""
    flows = unrolled_flows(network, pairs.first, pairs.second, iterations)
    loss, error = sequence_loss(flows, pairs)
    return Losses(loss, {"loss": loss.detach(), "error_px": error})


def unrolled_flows(network: nn.Module, first: Tensor, second: Tensor, iterations: int) -> Tensor:
    """The flow after each of N iterations.

    Args:
        network: torchvision's.
        first, second: RGB 0..255, uint8 [B,3,H,W].

    Returns:
        pixels, float32 [N,B,2,H,W].
    """
    dtype = next(network.parameters()).dtype
    pictures = encoder_input(torch.cat([first, second]), dtype)  # [2B,3,H,W]
    count = len(first)
    volume = CorrelationVolume(*feature_map(network, pictures).split(count), radius=RADIUS)
    hidden, context = first_state(network, pictures[:count])  # [B,128,h,w] each
    at_rest = hidden.new_zeros(count, *hidden.shape[2:], 2, dtype=torch.float32)
    found = list(revisions(network, volume, Revision(hidden, at_rest), context, iterations))
    # All at once: one softmax over one large mask.
    together = Revision(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    return full_flow(network, together).unflatten(0, (iterations, count))


def sequence_loss(flows: Tensor, pairs: FlowPairs) -> tuple[Tensor, Tensor]:
    """Discounted L1 over the iterations, and the end-point error of the last, in pixels.

    Args:
        flows: pixels, float32 [N,B,2,H,W].
    """
    valid = pairs.valid[:, None].float()  # [B,1,H,W]
    count = valid.sum().clamp(min=1)
    ahead = torch.arange(len(flows) - 1, -1, -1, device=flows.device)
    misses = ((flows - pairs.flow).abs() * valid).sum((1, 2, 3, 4))  # [N]
    loss = (DISCOUNT**ahead * misses).sum() / (2 * count)
    error = (flows[-1].detach() - pairs.flow).norm(dim=1, keepdim=True)
    return loss, (error * valid).sum() / count
