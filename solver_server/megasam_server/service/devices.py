"""The devices that a server solves on: each gets one worker."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from megasam_shared.errors import MegasamError
from megasam_shared.protocol import GpuState

_log = logging.getLogger(__name__)

CPU = "cpu"
_ASK_TIMEOUT = 20.0


@dataclass(frozen=True)
class Device:
    """One place to solve.

    Attributes:
        name: ``cpu``, or a GPU as CUDA_VISIBLE_DEVICES takes it: its number or its UUID.
    """

    name: str

    @property
    def title(self) -> str:
        """For the log."""
        return "the CPU" if self.name == CPU else f"GPU {self.name}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that show a worker this device and no other."""
        if self.name == CPU:
            return {"CUDA_VISIBLE_DEVICES": "-1"}
        # Numbers as nvidia-smi shows them; CUDA's own order may be another.
        return {"CUDA_VISIBLE_DEVICES": self.name, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def choose_devices(wanted: Sequence[str] | None) -> list[Device]:
    """The devices of a server.

    Args:
        wanted: numbers or UUIDs of GPUs, or ``cpu``; None for every GPU that is there and that
            CUDA_VISIBLE_DEVICES leaves to this server, else the CPU.

    Raises:
        MegasamError: ``gpu_unknown``: a GPU that this machine does not have, or twice the same.
    """
    if wanted is None:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [gpu.number for gpu in find_gpus()]
        if names and given is not None:
            names = [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
        return [Device(name) for name in names] or [Device(CPU)]
    if list(wanted) == [CPU]:
        return [Device(CPU)]
    gpus = find_gpus()
    chosen = [next((g for g in gpus if name in (g.number, g.uuid)), None) for name in wanted]
    if not wanted or None in chosen or len(set(chosen)) < len(chosen):
        there = ", ".join(f"{gpu.number} ({gpu.name})" for gpu in gpus) or "none"
        raise MegasamError(
            "gpu_unknown",
            f"--gpus {','.join(wanted)} is no choice of GPUs of this machine; it has: {there}.",
            "Name each GPU once by its number as nvidia-smi shows it, or 'cpu'.",
        )
    return [Device(name) for name in wanted]


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver lists it."""

    number: str
    uuid: str
    name: str


def find_gpus() -> list[Gpu]:
    """The NVIDIA GPUs of this machine, asked of the driver's own tool so that no CUDA context is
    made in the server; empty where there is no driver."""
    rows = _ask_driver("index,uuid,name")
    return [Gpu(*row) for row in rows]


def gpu_states() -> list[GpuState]:
    """What the GPUs of this machine are doing now; takes a moment."""
    rows = _ask_driver("index,name,memory.used,memory.total,utilization.gpu")
    return [GpuState(row[0], row[1], *map(_number, row[2:])) for row in rows]


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _ask_driver(fields: str) -> list[list[str]]:
    """One row for each GPU; none where the driver's tool is not there or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.warning("nvidia-smi does not answer, no GPU is used: %s", error)
        return []
    if said.returncode != 0:
        reason = (said.stdout + said.stderr).strip()[:300]
        _log.warning("nvidia-smi found no GPU to use: %s", reason)
        return []
    rows = [[part.strip() for part in line.split(",")] for line in said.stdout.splitlines()]
    return [row for row in rows if len(row) == fields.count(",") + 1]
