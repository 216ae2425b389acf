"""The state of a training run as files small enough to carry: to go on exactly where it stopped."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PART_BYTES = 12_000_000
FINISHED = "raft_fp16"


def save_tensors(folder: Path, name: str, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Write ``name``.0.safetensors, ``name``.1.safetensors ... of at most about 12 MB each.

    Floating-point tensors are stored as ``dtype``; the others as they are.
    """
    parts: list[dict[str, Tensor]] = [{}]
    filled = 0
    for key, tensor in tensors.items():
        stored = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None)
        size = stored.numel() * stored.element_size()
        if filled + size > PART_BYTES and parts[-1]:
            parts.append({})
            filled = 0
        parts[-1][key] = stored.clone().contiguous()
        filled += size
    for number, part in enumerate(parts):
        save_file(part, folder / f"{name}.{number}.safetensors")


def load_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """What :func:`save_tensors` wrote; empty when there is nothing of that name."""
    files = sorted(folder.glob(f"{name}.*.safetensors"))
    return {key: tensor for file in files for key, tensor in load_file(file).items()}


def save_run(
    folder: Path,
    model: torch.nn.Module,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    step: int,
) -> None:
    """Weights and their running average in float32, Adam's moments in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder, "weights", model.state_dict(), torch.float32)
    save_tensors(folder, "average", average, torch.float32)
    names = [name for name, _ in model.named_parameters()]
    states = optimiser.state_dict()["state"]
    moments = {
        f"{names[i]}|{key}": states[i][key] for i in states for key in ("exp_avg", "exp_avg_sq")
    }
    moments["step"] = torch.tensor(step)
    save_tensors(folder, "moments", moments, torch.bfloat16)


def load_run(
    folder: Path,
    model: torch.nn.Module,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> int:
    """Restore what :func:`save_run` wrote, in place.

    A folder that has nothing but finished weights (``raft_fp16``) gives these to model and average;
    the optimiser then starts anew.

    Returns:
        the step at which the run stopped; 0 when that is not known.
    """
    moments = load_tensors(folder, "moments")
    if not moments:
        model.load_state_dict(load_tensors(folder, FINISHED))
        for key, tensor in model.state_dict().items():
            average[key].copy_(tensor)
        return 0
    model.load_state_dict(load_tensors(folder, "weights"))
    stored = load_tensors(folder, "average")
    for key, tensor in average.items():
        tensor.copy_(stored[key])
    step = int(moments.pop("step"))
    state = optimiser.state_dict()
    for i, (name, parameter) in enumerate(model.named_parameters()):
        state["state"][i] = {
            "step": torch.tensor(float(step)),
            **{
                key: moments[f"{name}|{key}"].to(parameter.device, parameter.dtype)
                for key in ("exp_avg", "exp_avg_sq")
            },
        }
    optimiser.load_state_dict(state)
    return step


def append_row(path: Path, row: dict[str, float | int | str]) -> None:
    """Add a line to a CSV file, with a header when it is new."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
