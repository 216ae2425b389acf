"""A synthetic solve: exact, small, and awkward where real ones are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from megasam_server.geometry.camera import CameraPath, Intrinsics
from megasam_server.geometry.point_cloud import PointCloud
from megasam_server.media.frame_store import FrameStore
from megasam_server.media.plate import PlateInfo
from megasam_server.pipeline.solved_shot import SolvedShot
from megasam_shared.quality import FocalProfile, Notice, Quality, WindowJoin
from scipy.spatial.transform import Rotation

WIDTH, HEIGHT = 641, 359
FIRST_FRAME = 1001
NUM_FRAMES = 6


def synthetic_cameras(num_frames: int = NUM_FRAMES, *, zoom: bool = True) -> CameraPath:
    """A walk that turns, looks down and rolls; principal point off-centre, odd picture size."""
    t = np.linspace(0, 1, num_frames)
    world_from_cam = np.tile(np.eye(4), (num_frames, 1, 1))
    angles = np.stack([-12 * t, 25 * t**2, 6 * np.sin(4 * t)], axis=1)
    world_from_cam[:, :3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    world_from_cam[:, :3, 3] = np.stack([1.2 * t, -0.3 * t**2, 0.8 * t], axis=1)
    focal = 700.0 + (150.0 * t if zoom else 0 * t)
    centre = np.full(num_frames, (WIDTH - 1) / 2), np.full(num_frames, (HEIGHT - 1) / 2)
    intrinsics = Intrinsics(WIDTH, HEIGHT, focal, focal.copy(), centre[0] + 37, centre[1] - 21)
    return CameraPath(world_from_cam, intrinsics)


def synthetic_points(cameras: CameraPath, num_points: int = 400) -> PointCloud:
    """Points in front of every camera, each observed exactly where it lies in the picture."""
    random = np.random.default_rng(7)
    xyz = random.uniform((-2, -1.5, 4), (3, 1.5, 9), (num_points, 3))
    rgb = random.integers(0, 256, (num_points, 3), dtype=np.uint8)
    points, frames = (grid.ravel() for grid in np.mgrid[:num_points, : len(cameras)])
    pixels, z = cameras.project(xyz[points], frames)
    inside = (z > 0) & np.all(pixels > 0, axis=1) & np.all(pixels < (WIDTH - 1, HEIGHT - 1), axis=1)
    return PointCloud(
        xyz=xyz,
        rgb=rgb,
        error_px=random.uniform(0.1, 2.0, num_points),
        seen_point=points[inside],
        seen_frame=frames[inside],
        seen_xy=pixels[inside],
    )


def synthetic_quality(num_frames: int = NUM_FRAMES) -> Quality:
    errors: list[float | None] = [0.4 + 0.05 * i for i in range(num_frames)]
    errors[2] = None
    return Quality(
        verdict="check",
        reasons=["The focal length is only known to within 6 %: give it if you know the lens."],
        rms_px=0.52,
        per_frame_rms_px=errors,
        coverage=0.61,
        moving_share=0.09,
        baseline_to_depth=0.21,
        median_track_length=5.0,
        num_points=400,
        focal_profile=FocalProfile(
            focal_px=[560.0, 630.0, 700.0, 770.0, 840.0],
            rms_px=[0.9, 0.6, 0.52, 0.57, 0.8],
            interval_px=(670.0, 735.0),
            observable=False,
        ),
        scale_is_metric=False,
        warnings=[Notice("plate_gap", "Frame <1003> is dark.", "Look at it & decide.")],
        window_joins=[WindowJoin(1003, 1004, 0.0213, 0.105, None, 1.0)],
    )


def write_memmap(path: Path, array: np.ndarray) -> np.ndarray:
    """``array`` as a stage leaves it: memory-mapped, read-only."""
    array.tofile(path)
    return np.memmap(path, array.dtype, "r", shape=array.shape)


def make_shot(
    folder: Path,
    *,
    num_frames: int = NUM_FRAMES,
    zoom: bool = True,
    fps: float = 24000 / 1001,
    name: str = "sh010_plate",
    frame_numbers: list[int] | None = None,
) -> SolvedShot:
    """A solved shot whose depth and masks lie in ``folder`` at half the plate's resolution."""
    cameras = synthetic_cameras(num_frames, zoom=zoom)
    numbers = frame_numbers or list(range(FIRST_FRAME, FIRST_FRAME + num_frames))
    rows, columns = np.mgrid[: HEIGHT // 2, : WIDTH // 2]
    depth = np.stack([3.0 + rows * 0.02 + 0.1 * i for i in range(num_frames)]).astype(np.float16)
    depth[:, 0, 0] = np.nan
    masks = np.stack([(columns // 40 == 1 + i % 5) for i in range(num_frames)]).astype(np.uint8)
    return SolvedShot(
        plate=PlateInfo(
            name=name,
            kind="sequence",
            width=WIDTH,
            height=HEIGHT,
            fps=fps,
            frame_numbers=numbers,
            times=[(number - numbers[0]) / fps for number in numbers],
            files=[f"{name}.{number:04d}.exr" for number in numbers],
            missing=sorted(set(range(numbers[0], numbers[-1])) - set(numbers)),
        ),
        cameras=cameras,
        points=synthetic_points(cameras),
        depth=write_memmap(folder / "depth.raw", depth),
        depth_near_far=(3.0, 7.0),
        motion_masks=write_memmap(folder / "masks.raw", masks),
        quality=synthetic_quality(num_frames),
        source="Classical",
        solving_method="classical: perspective, unknown focal length",
        status="Solved with the classical engine",
        stage_seconds={"plate": 1.5, "tracking": 12.25, "flow": 4.0},
        stage_peak_mib={"tracking": 512.0},
        checkpoint_licences=[("Depth Anything V2 Small", "Apache-2.0")],
    )


def make_frame_store(folder: Path, num_frames: int = NUM_FRAMES) -> FrameStore:
    """Colourful frames at 320 x 179."""
    width, height = WIDTH // 2, HEIGHT // 2
    rows, columns = np.mgrid[:height, :width]
    with (folder / "frames.raw").open("wb") as file:
        for index in range(num_frames):
            red = (columns + 10 * index) % 256
            frame = np.stack([red, rows % 256, np.full_like(rows, 90)], axis=2)
            file.write(frame.astype(np.uint8).tobytes())
    return FrameStore(folder / "frames.raw", num_frames, width, height, 3)


@pytest.fixture
def shot(tmp_path: Path) -> SolvedShot:
    return make_shot(tmp_path)


@pytest.fixture
def frames(tmp_path: Path) -> FrameStore:
    return make_frame_store(tmp_path)
