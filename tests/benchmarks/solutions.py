"""A solve to be scored: by the product's command line, from the folder it wrote."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from megasam_server.geometry.camera import CameraPath
from megasam_server.geometry.trajectory import read_tum
from truth import TrueClip


@dataclass(frozen=True)
class Solution:
    """Cameras of the frames that were posed.

    Attributes:
        poses: {frame: world_from_cam [4,4]}.
        lenses: {frame: (fx, fy, cx, cy, k1)}, pixels, pixel *corners* at integers; k1 as in
            COLMAP's SIMPLE_RADIAL.
        verdict: good, check, failed; ``-`` for a solver that gives none.
        seconds: wall clock.
        reasons: why it is not good.
    """

    poses: dict[int, np.ndarray]
    lenses: dict[int, tuple[float, float, float, float, float]]
    verdict: str
    seconds: float
    reasons: list[str]

    @classmethod
    def of_cameras(
        cls, cameras: CameraPath, verdict: str, seconds: float, reasons: list[str]
    ) -> Solution:
        """As :func:`read_solution` reads it from the files."""
        lens = cameras.intrinsics
        centres = lens.corner_principal_points()
        lenses = {
            i: (float(lens.fx[i]), float(lens.fy[i]), *map(float, centres[i]), 0.0)
            for i in range(len(lens))
        }
        poses = dict(enumerate(cameras.world_from_cam))
        return cls(poses, lenses, verdict, seconds, reasons)

    def to_map(self) -> dict:
        """JSON types."""
        return {
            "poses": {str(i): pose.tolist() for i, pose in self.poses.items()},
            "lenses": {str(i): list(lens) for i, lens in self.lenses.items()},
            "verdict": self.verdict,
            "seconds": self.seconds,
            "reasons": self.reasons,
        }

    @classmethod
    def from_map(cls, data: dict) -> Solution:
        return cls(
            {int(i): np.array(pose) for i, pose in data["poses"].items()},
            {int(i): tuple(lens) for i, lens in data["lenses"].items()},
            data["verdict"],
            data["seconds"],
            data["reasons"],
        )


def read_solution(folder: Path, seconds: float) -> Solution:
    """The solve in a result folder (``poses_tum.txt``, ``intrinsics.txt``, ``quality.json``)."""
    quality = json.loads((folder / "quality.json").read_text())
    rows = np.loadtxt(folder / "intrinsics.txt", ndmin=2)
    lenses = {int(row[0]): (*map(float, row[1:5]), 0.0) for row in rows}
    poses = read_tum(folder / "poses_tum.txt")
    return Solution(poses, lenses, quality["verdict"], seconds, quality["reasons"])


def solve_into(work: Path | None, clip: TrueClip, options: list[str]) -> Solution:
    """:func:`solve_with_product` into ``work / clip name``, or into a folder that is deleted."""
    if work is not None:
        out = work / clip.name
        shutil.rmtree(out, ignore_errors=True)
        return solve_with_product(clip, out, options)
    with tempfile.TemporaryDirectory(prefix="megasam_bench_") as scratch:
        return solve_with_product(clip, Path(scratch) / "out", options)


def solve_with_product(clip: TrueClip, out: Path, options: list[str]) -> Solution:
    """Run ``megasam solve`` in its own process, as an artist's script would.

    A solve that writes no result counts as failed, with no frame posed.
    """
    megasam = shutil.which("megasam", path=sysconfig.get_path("scripts"))
    if megasam is None:
        raise SystemExit(f"megasam is not installed for {sys.executable}.")
    command = [megasam, "solve", str(clip.frames[0].parent), "--out", str(out), "--json"]
    command += options
    start = time.monotonic()
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    if not (out / "quality.json").is_file():
        reason = " ".join(finished.stderr.split())[-500:]
        return Solution({}, {}, "failed", seconds, [reason or f"exit code {finished.returncode}"])
    return read_solution(out, seconds)
