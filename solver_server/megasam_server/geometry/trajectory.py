"""Aligning a solved camera path to a true one, and what remains.

Rotation errors come after the best *rotation* between the two sets of orientations, never after a
rotation fitted to positions: on a tripod, or on a straight line, positions do not determine one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from megasam_server.geometry.rotation import angle_between, nearest_rotation


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + translation."""

    scale: float
    rotation: np.ndarray
    translation: np.ndarray

    def points(self, points: np.ndarray) -> np.ndarray:
        """Transformed points, float64 [...,3]."""
        return self.scale * points @ self.rotation.T + self.translation

    def poses(self, world_from_cam: np.ndarray) -> np.ndarray:
        """Camera-to-world poses [N,4,4] seen from the other world; rotations stay rotations."""
        moved = np.array(world_from_cam, dtype=np.float64)
        moved[:, :3, :3] = self.rotation @ moved[:, :3, :3]
        moved[:, :3, 3] = self.points(moved[:, :3, 3])
        return moved


def umeyama(source: np.ndarray, target: np.ndarray, with_scale: bool = True) -> Similarity:
    """Similarity that takes ``source`` [N,3] to ``target`` [N,3] with least squared error.

    S. Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    IEEE TPAMI 13(4), 1991, equations 34-43. Where the points do not determine the rotation (a
    line, one point) some best rotation is returned; with coincident ``source`` points the scale is
    1.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    centre_s, centre_t = source.mean(axis=0), target.mean(axis=0)
    a, b = source - centre_s, target - centre_t
    u, d, vt = np.linalg.svd(b.T @ a / len(a))
    sign = np.ones(3)
    if np.linalg.det(u) * np.linalg.det(vt) < 0:
        sign[2] = -1.0
    rotation = u @ np.diag(sign) @ vt
    variance = (a**2).sum() / len(a)
    scale = float(d @ sign / variance) if with_scale and variance > 0 else 1.0
    return Similarity(scale, rotation, centre_t - scale * rotation @ centre_s)


def mean_rotation(rotations: np.ndarray) -> np.ndarray:
    """Chordal L2 mean of rotations [N,3,3] (Hartley et al., "Rotation Averaging", IJCV 2013)."""
    return nearest_rotation(np.asarray(rotations).sum(axis=0))


def align_orientations(solved: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Rotation [3,3] from the solved to the true world that best matches orientations [N,3,3]."""
    return mean_rotation(true @ np.swapaxes(solved, 1, 2))


def rotation_angles_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angle between rotations [N,3,3] frame by frame, degrees, float64 [N]."""
    return np.degrees(angle_between(a, b))


@dataclass(frozen=True)
class TrajectoryError:
    """What is left after alignment.

    Attributes:
        rotation_deg: [M] angle of each posed frame after the best common rotation, degrees.
        position: [M] distance after the best similarity, in units of the truth.
        path_length: of the true path over *all* frames, same units.
        alignment: solved world -> true world: the similarity fitted to positions.
    """

    rotation_deg: np.ndarray
    position: np.ndarray
    path_length: float
    alignment: Similarity

    @property
    def rotation_rms_deg(self) -> float:
        return float(np.sqrt(np.mean(self.rotation_deg**2)))

    @property
    def rotation_max_deg(self) -> float:
        return float(self.rotation_deg.max())

    @property
    def ate(self) -> float:
        """Absolute trajectory error, RMS, in units of the truth."""
        return float(np.sqrt(np.mean(self.position**2)))

    @property
    def ate_percent(self) -> float:
        """ATE in percent of the path length; nan where the camera stands still."""
        return 100.0 * self.ate / self.path_length if self.path_length > 0 else float("nan")


def compare(solved: dict[int, np.ndarray], true: np.ndarray) -> TrajectoryError:
    """Compare solved poses, {frame: world_from_cam [4,4]}, with the true ones of all N frames
    [N,4,4].

    Frames without a solved pose do not enter the error: report their number beside it.

    Raises:
        ValueError: no solved pose, or a frame index outside 0..N-1.
    """
    frames = sorted(solved)
    if not frames or frames[0] < 0 or frames[-1] >= len(true):
        raise ValueError(f"Solved frames must lie in 0..{len(true) - 1} and be at least one.")
    ours = np.stack([solved[i] for i in frames])
    truth = np.asarray(true, np.float64)[frames]
    rotation = align_orientations(ours[:, :3, :3], truth[:, :3, :3])
    alignment = umeyama(ours[:, :3, 3], truth[:, :3, 3])
    steps = np.diff(np.asarray(true)[:, :3, 3], axis=0)
    return TrajectoryError(
        rotation_angles_deg(rotation @ ours[:, :3, :3], truth[:, :3, :3]),
        np.linalg.norm(alignment.points(ours[:, :3, 3]) - truth[:, :3, 3], axis=1),
        float(np.linalg.norm(steps, axis=1).sum()),
        alignment,
    )


def read_tum(path: Path) -> dict[int, np.ndarray]:
    """Poses of a text file with lines "index tx ty tz qx qy qz qw": {index: world_from_cam [4,4]}.

    Raises:
        ValueError: a line that does not have eight numbers, or a zero quaternion.
    """
    rows = np.loadtxt(path, ndmin=2, comments="#")
    if rows.size and rows.shape[1] != 8:
        raise ValueError(f"{path}: expected 8 numbers a line, found {rows.shape[1]}.")
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    if len(rows):
        poses[:, :3, :3] = Rotation.from_quat(rows[:, 4:8]).as_matrix()
        poses[:, :3, 3] = rows[:, 1:4]
    return {int(row[0]): pose for row, pose in zip(rows, poses, strict=True)}
