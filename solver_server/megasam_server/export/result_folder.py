"""The one owner of the layout of a result folder: nobody else builds these paths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megasam_shared.file_names import safe_name

FRAME_PADDING = 4


def frame_text(frame_number: int) -> str:
    """Frame number as it stands in file names, ``1001`` or ``0007``; the number is the plate's."""
    return f"{frame_number:0{FRAME_PADDING}d}"


@dataclass(frozen=True)
class ResultFolder:
    """Where each file of a solve lies under ``root``; the folder need not exist.

    Frame files are named ``<plate name>.<frame number of the plate>.<suffix>``.
    """

    root: Path

    @property
    def unfinished(self) -> ResultFolder:
        """The folder beside this one that is written first and renamed once it is complete."""
        return ResultFolder(self.root.with_name(self.root.name + ".partial"))

    @property
    def camera_extrinsics(self) -> Path:
        return self.root / "camera_extrinsics.json"

    @property
    def poses_tum(self) -> Path:
        return self.root / "poses_tum.txt"

    @property
    def intrinsics(self) -> Path:
        return self.root / "intrinsics.txt"

    @property
    def quality(self) -> Path:
        return self.root / "quality.json"

    @property
    def points(self) -> Path:
        return self.root / "points.ply"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def maya_scene(self) -> Path:
        return self.root / "camera.ma"

    @property
    def usd_scene(self) -> Path:
        return self.root / "camera.usda"

    @property
    def alembic_scene(self) -> Path:
        return self.root / "camera.abc"

    @property
    def fbx_scene(self) -> Path:
        return self.root / "camera.fbx"

    @property
    def nuke_chan(self) -> Path:
        return self.root / "camera.chan"

    @property
    def colmap(self) -> Path:
        """Folder of the COLMAP text model."""
        return self.root / "colmap"

    @property
    def colmap_cameras(self) -> Path:
        return self.colmap / "cameras.txt"

    @property
    def colmap_images(self) -> Path:
        return self.colmap / "images.txt"

    @property
    def colmap_points(self) -> Path:
        return self.colmap / "points3D.txt"

    @property
    def depth(self) -> Path:
        return self.root / "depth"

    @property
    def depth_preview(self) -> Path:
        return self.root / "depth_preview"

    @property
    def masks(self) -> Path:
        return self.root / "masks"

    def depth_image(self, plate_name: str, frame_number: int) -> Path:
        return self.depth / _frame_file(plate_name, frame_number, "exr")

    def depth_preview_image(self, plate_name: str, frame_number: int) -> Path:
        return self.depth_preview / _frame_file(plate_name, frame_number, "png")

    def mask_image(self, plate_name: str, frame_number: int) -> Path:
        return self.masks / _frame_file(plate_name, frame_number, "png")


def _frame_file(plate_name: str, frame_number: int, suffix: str) -> str:
    """Safe on every system: a plate found on Linux may be fetched to Windows."""
    return safe_name(f"{plate_name}.{frame_text(frame_number)}.{suffix}")
