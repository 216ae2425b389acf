"""Stage 5 with networks: the depth of every frame, consistent over time or as the prior has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from megasam_server.flow.flow_store import FlowStore
from megasam_server.geometry.camera import CameraPath
from megasam_server.media.in_order import map_in_order
from megasam_server.media.lagging_copies import LaggingCopies
from megasam_server.metric_depth.alignment import LEAST_SAMPLES, robust_line
from megasam_server.models.cuda_graph import release_graph_memory
from megasam_server.models.gpu_kernels import kernels_for
from megasam_server.video_depth.consistency_losses import FlowPairs
from megasam_server.video_depth.consistency_memory import (
    free_bytes,
    pairs_within,
    windows_that_fit,
)
from megasam_server.video_depth.depth_range import HALF_FLOAT, preview_range
from megasam_server.video_depth.optimise import (
    ConsistencyOptions,
    depth_at_size,
    make_consistent,
    uncertainty_from_motion,
)
from megasam_server.video_depth.window_flow import read_flow

LEAST_DISPARITY = 1e-2
"""Of the finished depth, tracker units: what is farther is at infinity for all purposes."""

_STATIC = 0.5


@dataclass(frozen=True)
class TrackedClip:
    """What the tracker found, in its own unit of length; N frames on a grid of h x w cells.

    Attributes:
        cameras: N cameras, intrinsics at any resolution.
        disparities: [N,h,w]. static: probability of being static [N,h,w].
        prior: frame -> aligned mono disparity [H,W], 0 = unknown; None without mono depth.
    """

    cameras: CameraPath
    disparities: Tensor
    static: Tensor
    prior: Callable[[int], Tensor | None]

    def __len__(self) -> int:
        return len(self.cameras)

    def disparity(self, frame: int, height: int, width: int) -> Tensor:
        """Disparity of a frame before stage 5, float32 [height,width], positive.

        That of the mono depth, by one line fitted to what the tracker measured in static cells;
        the tracker's own where there is none.
        """
        measured = self.disparities[frame]
        own = _resized(measured, height, width)
        prior = self.prior(frame)
        if prior is None:
            return own.clamp(min=LEAST_DISPARITY)
        coarse = _resized(prior, *measured.shape)
        usable = (coarse > 0) & (self.static[frame] > _STATIC)
        scale, shift = _line(coarse[usable].double().numpy(), measured[usable].double().numpy())
        fine = _resized(prior, height, width)
        return torch.where(fine > 0, scale * fine + shift, own).clamp(min=LEAST_DISPARITY)


class DepthFile:
    """Depth float32 [N,height,width] that is written frame by frame.

    Args:
        unit: length of the tracker's unit in that of the result.
    """

    def __init__(self, path: Path, count: int, size: tuple[int, int], unit: float) -> None:
        width, height = size
        self.shape = (count, height, width)
        self._path, self._unit = path, unit
        np.memmap(path, np.float32, mode="w+", shape=self.shape)

    @property
    def map(self) -> np.memmap:
        """The file in memory, mapped anew: what was touched stays in memory as long as the map."""
        return np.memmap(self._path, np.float32, mode="r+", shape=self.shape)

    def write(self, first: int, disparity: Tensor) -> None:
        """Depth of frames from ``first`` on, from their disparity [n,h,w] at any size."""
        height, width = self.shape[1:]
        with self._path.open("r+b") as file:
            file.seek(4 * first * height * width)
            copies = LaggingCopies(lambda depth: file.write(depth.numpy().data))
            for one in disparity:
                depth = depth_at_size(one[None], height, width)[0]  # [height,width]
                copies.put(depth.mul_(self._unit).clamp_(*HALF_FLOAT))
            copies.finish()

    def near_far(self) -> tuple[float, float]:
        """Nearest and farthest depth for previews, fixed over the clip."""
        frames = range(self.shape[0])
        return preview_range(np.concatenate([self.map[f, ::16, ::16].ravel() for f in frames]))


def write_prior_depth(clip: TrackedClip, file: DepthFile, report: Callable[[int], None]) -> None:
    """Depth without optimisation: :meth:`TrackedClip.disparity` of every frame."""
    disparities = map_in_order(
        lambda frame: clip.disparity(frame, *file.shape[1:]), range(len(clip))
    )
    for frame, disparity in enumerate(disparities):
        file.write(frame, disparity[None])
        report(frame + 1)


def write_consistent_depth(
    clip: TrackedClip,
    flows: FlowStore,
    size: tuple[int, int],
    iterations: int,
    device: torch.device,
    file: DepthFile,
    report: Callable[[float, float], None],
    memory: int | None = None,
) -> None:
    """Consistent depth of every frame, in overlapping windows where the clip is long.

    Cameras are fixed and so is their scale: windows agree but for what each could not see, and
    fade into each other over the frames they share.

    Args:
        flows: of pairs of frames, both ways; those ahead are used, as in the reference.
        size: width and height that is optimised at; flow of another size is resized.
        iterations: of the part where every pixel is free; the part before has a quarter of it.
        memory: bytes of the device that a window may take; None: what is free now.
    """
    width, height = size
    release_graph_memory()
    ahead = np.flatnonzero(flows.pairs[:, 0] < flows.pairs[:, 1])
    ahead = ahead[np.argsort(flows.pairs[ahead, 0], kind="stable")]
    windows = windows_that_fit(
        len(clip),
        flows.pairs[ahead],
        height,
        width,
        free_bytes(device) if memory is None else memory,
        kernels=kernels_for(torch.empty(0, device=device)) is not None,
    )
    options = ConsistencyOptions(
        frame_iterations=max(1, iterations // 4), pixel_iterations=iterations
    )
    before: Tensor | None = None  # [n,height,width], what the last window said of shared frames
    for number, (first, last) in enumerate(windows):

        def on_step(done: int, total: int, number: int = number) -> None:
            report(number + done / total, len(windows))

        chosen = ahead[pairs_within(flows.pairs[ahead], first, last)]
        disparity = _optimised(clip, flows, chosen, size, first, last, options, device, on_step)
        if before is not None:
            shared = len(before)
            share = torch.linspace(0, 1, shared + 2, device=device)[1:-1, None, None]
            disparity[:shared] = torch.lerp(before, disparity[:shared], share)
        after = windows[number + 1][0] if number + 1 < len(windows) else last
        file.write(first, disparity[: after - first])
        before = disparity[after - first :].clone()
        del disparity  # before the next window takes its memory


def _optimised(
    clip: TrackedClip,
    flows: FlowStore,
    chosen: np.ndarray,
    size: tuple[int, int],
    first: int,
    last: int,
    options: ConsistencyOptions,
    device: torch.device,
    report: Callable[[int, int], None],
) -> Tensor:
    """Consistent disparity of the frames ``first`` .. ``last`` - 1, [n,height,width], on the device.

    Args:
        chosen: indices of the pairs within those frames.
    """
    width, height = size
    prior = torch.empty(last - first, height, width, device=device)
    frames = range(first, last)
    disparities = map_in_order(lambda frame: clip.disparity(frame, height, width), frames)
    for place, disparity in enumerate(disparities):
        prior[place] = disparity
    if len(prior) == 1:
        return prior
    lens = clip.cameras.intrinsics.at_resolution(width, height)
    intrinsics = torch.from_numpy(np.stack([lens.fx, lens.fy, lens.cx, lens.cy], axis=1)).float()
    pairs = FlowPairs.between(
        *torch.from_numpy(flows.pairs[chosen]).unbind(1),
        *read_flow(flows, chosen, height, width, device),
        torch.from_numpy(clip.cameras.world_from_cam),
        intrinsics.double(),
    )
    found = make_consistent(
        prior,
        uncertainty_from_motion(clip.static[first:last].to(device), height, width),
        pairs.counted_from(first).to(device),
        intrinsics[first:last].to(device),
        options,
        report,
    )
    return found.disparity


def _resized(values: Tensor, height: int, width: int) -> Tensor:
    """[a,b] at another size, bilinear, averaged where it shrinks."""
    return F.interpolate(
        values[None, None].float(), (height, width), mode="bilinear", antialias=True
    )[0, 0]


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Scale and shift of y = scale x + shift; only a scale where a line cannot be told."""
    if len(x) == 0:
        return 1.0, 0.0
    if len(x) >= LEAST_SAMPLES and np.ptp(x) > 1e-3 * np.median(x):
        scale, shift = robust_line(x, y)
        if scale > 0:
            return scale, shift
    return float(np.median(y / x)), 0.0
