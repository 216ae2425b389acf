"""Stage 4 with a network: flow at the steps of MegaSaM, both ways, to parts of a pixel, on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from megasam_server.flow.consistency import consistent, resize_flow
from megasam_server.flow.flow_store import FlowStore
from megasam_server.flow.sub_pixel import FlowRefinement, grey
from megasam_server.media.lagging_copies import LaggingCopies

STEPS = (1, 2, 4, 8, 15)
"""Frames between the two of a pair (MegaSaM)."""

ITERATIONS = 22
"""Of RAFT (MegaSaM)."""

FAR_PX = 100.0
"""Median motion of a pair beyond which its flow starts where the shorter one points to."""


class FlowNetwork(Protocol):
    """:class:`megasam_server.models.raft.RaftFlow` is one; features are of a kind of its own, which
    has ``cat`` and gives those of some frames for a slice."""

    def encode(self, images: Tensor): ...

    def flow_both_ways(self, a, b, iterations, init_ab, init_ba): ...

    def finish(self) -> None: ...


def step_pairs(count: int, block: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Batches of pairs (i, i + step) of ``count`` frames: the step and its pairs.

    In blocks of targets, and within a block from the shortest step to the longest: then only the
    last few frames' features are needed, and a pair's flow can start from that of the same source,
    or back from the same target, at the step before.
    """
    for start in range(1, count, block):
        targets = range(start, min(start + block, count))
        for step in STEPS:
            pairs = [(j - step, j) for j in targets if j >= step]
            if pairs:
                yield step, pairs


def start_from(before: Tensor, step: int) -> Tensor:
    """Where the flow of pairs ``step`` frames apart starts, given that of the next shorter step.

    MegaSaM starts at the shorter flow itself, and RAFT is then a little more exact than from a start that is
    nearly right. Motion beyond what it overlooks, half a turn of the picture for instance, is only found from the
    shorter flow extrapolated.

    Args:
        before: [B,2,h,w] in 1/8 pixels.
    """
    further = step / STEPS[STEPS.index(step) - 1]
    motion_px = 8 * further * torch.linalg.vector_norm(before, dim=1).flatten(1).median(1).values
    return torch.where(motion_px > FAR_PX, further, 1.0)[:, None, None, None] * before


def compute_network_flow(
    image_of: Callable[[int], np.ndarray],
    count: int,
    stored_size: tuple[int, int],
    network: FlowNetwork,
    chunk_size: int,
    device: torch.device,
    folder: Path,
    report: Callable[[int, int], None],
    iterations: int = ITERATIONS,
) -> FlowStore:
    """Flow of all pairs of :func:`step_pairs`, each frame encoded once.

    Args:
        image_of: frame number -> RGB uint8 [H,W,3], sides multiples of 8, at least 128.
        stored_size: width and height that flow and masks are stored at.
        chunk_size: frames, and pairs, both ways counted as one, that the network takes at once.
        report: told how many of how many pairs are done.

    Returns:
        The store; trust is 255 where forward and backward flow agree to a stored pixel.
    """
    batches = list(step_pairs(count, chunk_size))
    edges = np.array([pair for _, pairs in batches for pair in pairs], np.int64).reshape(-1, 2)
    width, height = stored_size
    store = FlowStore.create(folder, edges, width, height)
    np.save(_files(folder)[2], store.pairs)
    encoded: dict[int, object] = {}
    pictures: dict[int, Tensor] = {}  # grey [1,H,W]
    ahead: dict[int, Tensor] = {}  # [2,h,w] flow of the last step from each frame
    back: dict[int, Tensor] = {}
    refined = FlowRefinement()
    done = 0
    writer = LaggingCopies(lambda flow, trust: store.append(flow.numpy(), trust.numpy()))
    for step, pairs in batches:
        sources, targets = ([pair[side] for pair in pairs] for side in (0, 1))
        new = sorted({*sources, *targets} - encoded.keys())
        for start in range(0, len(new), chunk_size):
            chunk = new[start : start + chunk_size]
            images = torch.from_numpy(np.stack([image_of(frame) for frame in chunk])).to(device)
            images = images.permute(0, 3, 1, 2)  # [B,3,H,W]
            features = network.encode(images)
            encoded.update((frame, features[k : k + 1]) for k, frame in enumerate(chunk))
            pictures.update(zip(chunk, grey(images), strict=True))
        for frame in [f for f in encoded if f < targets[0] - STEPS[-1]]:
            # Nobody comes back to these.
            for kept in (encoded, pictures, ahead, back):
                kept.pop(frame, None)
        starts = (None, None)
        if step > STEPS[0]:
            starts = (
                start_from(torch.stack([ahead[i] for i in sources]), step),
                start_from(torch.stack([back[j] for j in targets]), step),
            )
        kind = type(encoded[sources[0]])
        ends = [kind.cat([encoded[f] for f in frames]) for frames in (sources, targets)]
        forward, backward = network.flow_both_ways(*ends, iterations, *starts)
        ahead.update(zip(sources, forward.low, strict=True))
        back.update(zip(targets, backward.low, strict=True))
        looks = [torch.stack([pictures[f] for f in frames]) for frames in (sources, targets)]
        fine = refined(
            torch.cat([forward.full, backward.full]), torch.cat(looks), torch.cat(looks[::-1])
        )
        there, home = resize_flow(fine, height, width).split(len(pairs))
        # Pair after pair, there and home.
        flow = torch.stack([there, home], 1).flatten(0, 1).half()  # [2B,2,h,w]
        trust = torch.stack([_trusted(there, home), _trusted(home, there)], 1).flatten(0, 1)
        writer.put(flow, trust)
        done += len(pairs)
        report(done, len(edges))
    writer.finish()
    network.finish()
    return store


def _trusted(forward: Tensor, backward: Tensor) -> Tensor:
    """Bool [B,h,w]: the round trip leads home, and stays within the picture.

    The reference trusts what leaves the picture by less than a pixel, because outside the way back
    counts as zero; the depths that it is compared with there are zeros, too.
    """
    height, width = forward.shape[2:]
    x = torch.arange(width, device=forward.device) + forward[:, 0]  # [B,h,w]
    y = torch.arange(height, device=forward.device)[:, None] + forward[:, 1]  # [B,h,w]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return inside & consistent(forward, backward)


def open_network_flow(folder: Path, size: tuple[int, int]) -> FlowStore:
    """The store that an earlier :func:`compute_network_flow` left in ``folder``.

    Args:
        size: width and height it was stored at.
    """
    return FlowStore(*_files(folder)[:2], np.load(_files(folder)[2]), *size)


def flow_files(folder: Path) -> list[Path]:
    """The files of a finished store."""
    return list(_files(folder))


def _files(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "flow.f16", folder / "flow_trust.u8", folder / "flow_pairs.npy"
