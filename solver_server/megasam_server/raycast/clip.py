"""Filmed clips: frames with their ground truth, one at a time or all in memory, and as a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from megasam_server.export.poses_tum import write_poses_tum
from megasam_server.geometry.camera import CameraPath, Intrinsics
from megasam_server.raycast.render import Camera, Film, RenderedFrame, render_frame
from megasam_server.raycast.scene import Scene

OnFrame = Callable[[int, int], None]
"""Called with (frames done, frames in all)."""


@dataclass(frozen=True)
class Take:
    """A scene, a camera move and how it is filmed: everything known before a pixel is rendered.

    Attributes:
        name: of the clip.
        scene, camera, film: what is filmed and how.
        num_frames, fps: frame i is taken at i / fps seconds.
        seed: of the sensor noise.
    """

    name: str
    scene: Scene
    camera: Camera
    film: Film
    num_frames: int
    fps: float
    seed: int

    def cameras(self) -> CameraPath:
        """Exact cameras; the first one is wherever the scene has it, not the identity."""
        times = np.arange(self.num_frames) / self.fps
        focal = np.array([self.camera.focal_at(t) for t in times], dtype=np.float64)
        poses = np.stack([self.camera.pose_at(t) for t in times])
        return CameraPath(poses, Intrinsics.centred(self.camera.width, self.camera.height, focal))

    def frame(self, index: int) -> RenderedFrame:
        """Render one frame."""
        return render_frame(self.scene, self.camera, self.film, index, self.fps, self.seed)

    def frames(self, progress: OnFrame | None = None) -> Iterator[RenderedFrame]:
        """Render all frames, one in memory at a time."""
        for index in range(self.num_frames):
            yield self.frame(index)
            if progress:
                progress(index + 1, self.num_frames)


@dataclass(frozen=True)
class RenderedClip:
    """A whole clip in memory; for short ones.

    Attributes:
        rgb: uint8 [N,H,W,3].
        depth: metres, float32 [N,H,W]; 0 = sky.
        moving: bool [N,H,W].
        cameras: exact cameras of the N frames.
        fps: frames per second.
    """

    rgb: np.ndarray
    depth: np.ndarray
    moving: np.ndarray
    cameras: CameraPath
    fps: float


def render_clip(take: Take, progress: OnFrame | None = None, workers: int = 1) -> RenderedClip:
    """Render the whole take into memory; ``workers`` frames at a time, with the same bytes."""
    frames = []
    with ThreadPoolExecutor(workers) as pool:
        for frame in pool.map(take.frame, range(take.num_frames)):
            frames.append(frame)
            if progress:
                progress(len(frames), take.num_frames)
    return RenderedClip(
        np.stack([f.rgb for f in frames]),
        np.stack([f.depth for f in frames]),
        np.stack([f.moving for f in frames]),
        take.cameras(),
        take.fps,
    )


def write_truth(folder: Path, cameras: CameraPath, fps: float) -> None:
    """Write ``poses.txt`` and then ``camera.json`` of exact cameras; see :func:`write_clip`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_poses_tum(folder / "poses.txt", cameras)
    intrinsics = cameras.intrinsics
    centre = intrinsics.corner_principal_points()[0]
    description = {
        "width": intrinsics.width,
        "height": intrinsics.height,
        "fps": fps,
        "n_frames": len(cameras),
        "fx": intrinsics.fx.tolist(),
        "fy": intrinsics.fy.tolist(),
        "cx": float(centre[0]),
        "cy": float(centre[1]),
        "principal_point_convention": "pixel corners at integers, centre = (width/2, height/2)",
        "model": "PINHOLE",
        "pose_units": "metres",
        "distortion": None,
    }
    (folder / "camera.json").write_text(json.dumps(description, indent=1))


def write_clip(
    take: Take, folder: Path, depth_step: int = 5, progress: OnFrame | None = None
) -> None:
    """Render the take into ``folder``, one frame in memory at a time.

    Layout: ``frames/000000.png``; ``masks/000000.png`` (255 = moving); ``depth/000000.npy``
    (float16 metres, 0 = sky) for every ``depth_step``-th frame; ``poses.txt`` ("index tx
    ty tz qx qy qz qw", camera to world, OpenCV axes); ``camera.json`` with fx and fy as lists (one
    value for each frame), cx and cy with pixel *corners* at integers: the centre of the picture is
    (W/2, H/2).
    ``camera.json`` is written last: a folder that has it is complete.
    """
    for part in ("frames", "masks", "depth"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(take.frames(progress)):
        stem = f"{index:06d}"
        cv2.imwrite(str(folder / "frames" / f"{stem}.png"), frame.rgb[..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"{stem}.png"), frame.moving.astype(np.uint8) * 255)
        if index % depth_step == 0:
            np.save(folder / "depth" / f"{stem}.npy", frame.depth.astype(np.float16))
    write_truth(folder, take.cameras(), take.fps)
