"""Clip folders with ground truth: what is in them, and how far each truth may be trusted."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from megasam_server.geometry.camera import CameraPath, Intrinsics
from megasam_server.geometry.trajectory import read_tum

_PICTURES = {".png", ".jpg", ".jpeg"}


@dataclass(frozen=True)
class ScoreRules:
    """What may be scored on a clip.

    Attributes:
        focal: the true focal length is known well enough.
        path_percent: the path is long enough for ATE in percent to mean something.
        units: of the ground truth's positions.
        note: printed below the table.
    """

    focal: bool = True
    path_percent: bool = True
    units: str = "m"
    note: str = ""


RULES: dict[str, ScoreRules] = {
    "seven_redkitchen_a": ScoreRules(
        focal=False, note="nominal focal; pycolmap with exact masks: 1.4 deg and 2.7 % from this GT"
    ),
    "composite_kitchen_player_a": ScoreRules(
        focal=False, note="poses as the kitchen's: 1.4 deg and 2.7 % may be the GT's own error"
    ),
    "tum_fr1_rpy_a": ScoreRules(
        path_percent=False, note="path only 0.28 m: rotation, and ATE in metres"
    ),
    "euroc_v101_static": ScoreRules(
        focal=False, path_percent=False, note="camera stands still: GT good to 3 mm, 0.2 degrees"
    ),
    "orbit_gum_a": ScoreRules(units="units", note="COLMAP's poses: agreement, not accuracy"),
    "phone_desk": ScoreRules(units="units", note="COLMAP's poses: agreement, not accuracy"),
}


@dataclass(frozen=True)
class TrueClip:
    """A folder with ``frames/``, ``camera.json``, ``poses.txt`` and perhaps ``masks/``, ``depth/``.

    Attributes:
        folder: the folder.
    """

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def rules(self) -> ScoreRules:
        return RULES.get(self.name, ScoreRules())

    @cached_property
    def frames(self) -> list[Path]:
        """Picture files in order."""
        files = (self.folder / "frames").iterdir()
        return sorted(file for file in files if file.suffix.lower() in _PICTURES)

    @cached_property
    def cameras(self) -> CameraPath:
        """True cameras, one for each frame; pixel centres at integers.

        Raises:
            ValueError: poses.txt does not have exactly one pose for each frame.
        """
        description = json.loads((self.folder / "camera.json").read_text())
        poses = read_tum(self.folder / "poses.txt")
        if sorted(poses) != list(range(len(self.frames))):
            raise ValueError(f"{self.folder}: {len(poses)} poses for {len(self.frames)} frames.")
        each = np.ones(len(poses))
        intrinsics = Intrinsics(
            description["width"],
            description["height"],
            each * description["fx"],
            each * description["fy"],
            each * description["cx"] - 0.5,
            each * description["cy"] - 0.5,
        )
        return CameraPath(np.stack([poses[i] for i in range(len(poses))]), intrinsics)

    def depth_frames(self) -> list[int]:
        """Frames with exact depth (rendered clips only)."""
        return sorted(int(file.stem) for file in (self.folder / "depth").glob("*.npy"))

    def depth(self, frame: int) -> np.ndarray:
        """Exact z-depth, float32 [H,W]; 0 = sky."""
        return np.load(self.folder / "depth" / f"{frame:06d}.npy").astype(np.float32)

    def moving(self, frame: int) -> np.ndarray:
        """Exact mask of moving pixels, bool [H,W]."""
        file = self.folder / "masks" / f"{frame:06d}.png"
        return cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) > 127

    def fingerprint(self) -> str:
        """Changes when the frames do."""
        digest = hashlib.sha256()
        for file in self.frames:
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        return digest.hexdigest()[:16]


def find_clips(folders: list[Path]) -> list[TrueClip]:
    """Clips among ``folders``: each one a clip, or a folder of clips.

    Raises:
        SystemExit: nothing with a ground truth there.
    """
    found = []
    for folder in folders:
        inside = [folder, *sorted(folder.iterdir())] if folder.is_dir() else []
        found += [TrueClip(f) for f in inside if (f / "poses.txt").is_file()]
    if not found:
        names = ", ".join(map(str, folders))
        raise SystemExit(f"No clip with ground truth (poses.txt, camera.json, frames/) in {names}.")
    return found
