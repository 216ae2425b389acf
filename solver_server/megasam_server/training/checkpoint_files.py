"""The state of a training run as files small enough to carry: to go on exactly where it stopped.

``state``: weights in float32 and Adam's moments in bfloat16. The finished weights are the running
average of the weights in float16; a run that goes on takes its average from them.
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PART_BYTES = 15_000_000
FINISHED = "raft_fp16"
TRACKER = "tracker_fp16"
STATE = "state"
MOMENTS = ("exp_avg", "exp_avg_sq")


def save_tensors(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    """Write ``name``.0.safetensors, ``name``.1.safetensors ... of at most about 15 MB each."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{name}.*.safetensors"):
        old.unlink()
    parts: list[dict[str, Tensor]] = [{}]
    filled = 0
    for key, tensor in tensors.items():
        stored = tensor.detach().cpu()
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


def in_float16(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Floating-point tensors in half precision, the others as they are."""
    return {key: t.half() if t.is_floating_point() else t for key, t in tensors.items()}


def save_run(
    folder: Path,
    finished: str,
    model: torch.nn.Module,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    step: int,
) -> None:
    """Write the state of the run, and its running average as weights called ``finished``."""
    state = {f"weight|{key}": tensor for key, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key in MOMENTS:
            moment = optimiser.state.get(parameter, {}).get(key)
            if moment is not None:
                state[f"{key}|{name}"] = moment.bfloat16()
    state["step"] = torch.tensor(step)
    save_tensors(folder, STATE, state)
    save_tensors(folder, finished, in_float16(average))


@torch.no_grad()
def load_run(
    folder: Path,
    finished: str,
    model: torch.nn.Module,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> int:
    """Restore what :func:`save_run` wrote, in place.

    A folder that has nothing but finished weights gives these to the model too; the optimiser then
    starts anew.

    Returns:
        the step at which the run stopped; 0 when that is not known.

    Raises:
        FileNotFoundError: ``folder`` has no finished weights.
    """
    stored = load_tensors(folder, finished)
    if not stored:
        raise FileNotFoundError(f"{folder} has no {finished}.*.safetensors to go on from.")
    for key, tensor in average.items():
        tensor.copy_(stored[key])
    state = load_tensors(folder, STATE)
    if not state:
        model.load_state_dict(stored)
        return 0
    prefix = "weight|"
    weights = {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}
    model.load_state_dict(weights)
    step = int(state["step"])
    for name, parameter in model.named_parameters():
        if f"{MOMENTS[0]}|{name}" not in state:
            continue  # it has not been trained yet
        # In the layout of the parameter; a fused optimiser counts its steps on the device.
        moments = {key: torch.empty_like(parameter) for key in MOMENTS}
        for key, moment in moments.items():
            moment.copy_(state[f"{key}|{name}"])
        device = parameter.device if optimiser.defaults.get("fused") else None
        optimiser.state[parameter] = {"step": torch.tensor(float(step), device=device), **moments}
    return step


def append_row(path: Path, row: dict[str, float | int | str]) -> None:
    """Add a line to a CSV file, with a header when it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
