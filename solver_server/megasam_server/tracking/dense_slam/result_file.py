"""A result of the dense tracker in one file: numpy's npz with plain arrays, nothing that runs code."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from megasam_shared.quality import WindowJoin

from megasam_server.tracking.dense_slam.observability import Observability
from megasam_server.tracking.dense_slam.tracker import TrackingResult

_TENSORS = ("cam_from_world", "disparities", "static_probability", "intrinsics")
_PLAIN = ("focal_refined", "prior_scale", "keyframes", "parallax")


def write_result(path: Path, result: TrackingResult) -> None:
    """Write ``result`` to ``path``, which ends in ``.npz``; floats come back to the last bit."""
    plain = {name: getattr(result, name) for name in _PLAIN}
    plain["observability"] = result.observability and asdict(result.observability)
    plain["joins"] = [asdict(join) for join in result.joins]
    tensors = {name: getattr(result, name).numpy() for name in _TENSORS}
    np.savez(path, plain=np.array(json.dumps(plain)), **tensors)


def read_result(path: Path) -> TrackingResult:
    """What :func:`write_result` wrote."""
    with np.load(path, allow_pickle=False) as file:
        plain = json.loads(str(file["plain"]))
        tensors = {name: torch.from_numpy(file[name]) for name in _TENSORS}
    observability, joins = plain.pop("observability"), plain.pop("joins")
    return TrackingResult(
        **tensors,
        **plain,
        observability=observability and Observability(**observability),
        joins=[WindowJoin(**join) for join in joins],
    )
