"""How much GPU memory each stage of a solve needs, known before the solve begins.

What grows with the settings is counted from the shapes of the tensors; what the libraries and the
small tensors add is a number per cell or pixel, fitted to measurements. The benchmark
``tests/benchmarks/engine_gpu.py`` prints prediction and measurement side by side.

Cells are those of the tracker's grid, an eighth of its picture on each side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from megasam_shared.settings import SolveSettings

from megasam_server.flow.network_flow import STEPS
from megasam_server.media.decode import solver_size
from megasam_server.metric_depth.input_size import metric_input_size
from megasam_server.models.correlation import CORRELATION_SCRATCH
from megasam_server.models.network_size import (
    depth_anything_v1_size,
    depth_anything_v2_size,
    unidepth_size,
)
from megasam_server.pipeline.footage import frame_store_long_side
from megasam_server.tracking.dense_slam.factor_graph import volume_bytes
from megasam_server.tracking.dense_slam.frame_size import MULTIPLE, FrameSize
from megasam_server.tracking.dense_slam.options import TrackerOptions
from megasam_server.video_depth.consistency_memory import OVERLAP, cvd_bytes

MIB = 2**20

HALF, FULL = 2, 4
"""Bytes of a number."""

OVERHEAD = 256 * MIB
"""Of every stage: workspaces of the libraries, and what lies between the tensors."""

_FEATURE_CHANNELS = 128

LEAST_CVD_RESOLUTION = 0.25
"""Where the ladder of consistent depth ends, share of the tracker's resolution."""

_CVD_FRAMES = 3 * OVERLAP
"""Of a window of consistent depth: longer ones are taken where there is room."""

# Bytes of the update operator for an edge and cell: what goes in, what comes out, and between.
_PER_EDGE_CELL = 3400
# Most edges of a chunk over the average.
_UNEVEN = 1.15
# A recorded graph has memory of its own, beside what runs plainly left behind: Balanced was seen to
# need the ladder in 4 GiB, where its tensors take 3.4.
_TWICE = 1.5
# Bytes of RAFT for a pair one way and cell, beside the correlation volume: with the room for what goes
# in and comes out of its graph.
_PER_FLOW_CELL = 20_000
# Bytes of a bundle adjustment for each pixel that it works on at a time, with the equations it keeps.
_PER_BUNDLE_PIXEL = 620


@dataclass(frozen=True)
class NetworkMemory:
    """Attributes:
    weights: bytes on the device. per_pixel: bytes per image and pixel that the network sees.
    """

    weights: int
    per_pixel: int


# In half precision, but for what follows UniDepth's encoder. Of encoders that were not measured the
# bytes per pixel are in proportion to their width.
DEPTH_NETWORKS = {
    "depth_anything_v2_vits": NetworkMemory(48 * MIB, 240),
    "depth_anything_v2_vitb": NetworkMemory(186 * MIB, 430),
    "depth_anything_v2_vitl": NetworkMemory(640 * MIB, 570),
    "depth_anything_v1_vitl": NetworkMemory(640 * MIB, 570),
    "unidepth_v2_vits": NetworkMemory(260 * MIB, 1100),
    "unidepth_v2_vitl": NetworkMemory(805 * MIB, 1170),
}


@dataclass(frozen=True)
class StageNeed:
    """GPU memory of a stage, bytes.

    Attributes:
        wanted: with the settings as they are.
        least: at the end of its ladder, where it takes as little as possible at a time.
        optional: the solve can do without the stage.
    """

    wanted: int
    least: int
    optional: bool


def predicted_needs(
    settings: SolveSettings, width: int, height: int, count: int, networks: Mapping[str, str]
) -> dict[str, StageNeed]:
    """What the stages of a solve with CUDA need, by stage key; those that do not run are left out.

    Args:
        width, height: of the plate. count: its frames.
        networks: by stage key, the network that the stage's checkpoint is for.

    Raises:
        MegasamError: ``frame_too_narrow``.
    """
    size = FrameSize.of_whole_plate(width, height, settings.tracking_resolution).cropped
    stored = solver_size(width, height, frame_store_long_side(settings))
    cells = size[0] * size[1] // MULTIPLE**2
    chunk = settings.depth_chunk_size
    needs = {}
    if "mono_depth" in networks:
        needs["mono_depth"] = StageNeed(
            _mono_depth(networks["mono_depth"], *stored, chunk),
            _mono_depth(networks["mono_depth"], *stored, 1),
            optional=True,
        )
    if "metric_depth" in networks and settings.run_metric_depth:
        needs["metric_depth"] = StageNeed(
            _metric_depth(networks["metric_depth"], width, height, chunk),
            _metric_depth(networks["metric_depth"], width, height, 1),
            optional=True,
        )
    options = TrackerOptions(max_keyframes=settings.max_keyframes, feature_dtype=torch.float16)
    needs["tracking"] = StageNeed(
        _tracking(cells, count, options),
        _tracking(cells, count, options.with_global_chunk(1)),
        optional=False,
    )
    needs["flow"] = StageNeed(
        _flow(cells, settings.flow_chunk_size), _flow(cells, 1), optional=False
    )
    if settings.run_cvd:
        needs["video_depth"] = StageNeed(
            _video_depth(size, count, settings.cvd_resolution),
            _video_depth(size, count, LEAST_CVD_RESOLUTION),
            optional=True,
        )
    return needs


def _mono_depth(network: str, width: int, height: int, chunk: int) -> int:
    """``width`` and ``height`` of the stored frames."""
    memory = DEPTH_NETWORKS[network]
    size_of = depth_anything_v1_size if "_v1_" in network else depth_anything_v2_size
    across, down = size_of(width, height)
    # Pictures as bytes and twice as floats, and the disparity at their size.
    pictures = width * height * (3 + 2 * 3 * FULL + 2 * FULL)
    return OVERHEAD + memory.weights + chunk * (across * down * memory.per_pixel + pictures)


def _metric_depth(network: str, width: int, height: int, chunk: int) -> int:
    memory = DEPTH_NETWORKS[network]
    across, down, _ = unidepth_size(*metric_input_size(width, height))
    return OVERHEAD + memory.weights + chunk * across * down * memory.per_pixel


def _tracking(cells: int, count: int, options: TrackerOptions) -> int:
    feature = _FEATURE_CHANNELS * cells * HALF
    together = min(count, options.frames_together(cells))
    edges = options.global_edges_per_frame
    bank = 3 * min(count, options.max_keyframes) * feature

    frontend = options.max_edges * cells * _PER_EDGE_CELL
    volumes = volume_bytes(cells, options)
    frontend += volumes if volumes <= options.max_volume_bytes else CORRELATION_SCRATCH

    # Of all frames together: the pyramid of the matching features, 4/3, and what the context adds to
    # three gates; while they are made a little more.
    stacked = together * feature * 5
    states = min(together * edges * feature, options.max_state_bytes)
    flows = together * edges * cells * 4 * FULL
    chunk = int(_TWICE * _UNEVEN * options.global_chunk * edges) * cells * _PER_EDGE_CELL
    bundle = options.bundle_pixels * _PER_BUNDLE_PIXEL
    everything = stacked + states + flows + max(chunk + CORRELATION_SCRATCH, bundle)
    return OVERHEAD + bank + max(frontend, everything)


def _flow(cells: int, chunk: int) -> int:
    """Both ways of ``chunk`` pairs, and the features of the frames they come from."""
    volumes = 2 * chunk * cells * cells * HALF * 4 // 3
    features = (STEPS[-1] + 2 * chunk) * 4 * _FEATURE_CHANNELS * cells * HALF
    return OVERHEAD + volumes + features + 2 * chunk * cells * _PER_FLOW_CELL


def _video_depth(size: tuple[int, int], count: int, share: float) -> int:
    frames = min(count, _CVD_FRAMES)
    width, height = (round(side * share) for side in size)
    return OVERHEAD + cvd_bytes(frames, len(STEPS) * frames, height, width)
