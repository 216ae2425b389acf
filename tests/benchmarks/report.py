"""Scores of solves against the truth, and the table of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import cv2
import numpy as np
from megasam_server.geometry.trajectory import align_orientations, compare
from solutions import Solution
from truth import TrueClip

GOOD_MAX_ROTATION_DEG = 2.0  # a worse solve must not be called good
GOOD_MAX_ATE_PERCENT = 5.0


@dataclass(frozen=True)
class Row:
    """One line of the table. None = not scored on this clip, or nothing posed.

    Attributes:
        clip, solver: which.
        posed, frames: frames with a pose, of how many.
        rotation_rms_deg, rotation_max_deg: after the best common rotation, over posed frames.
        ate_percent: RMS position error after the best similarity, in % of the true path.
        ate: the same in ``units``.
        units: of the ground truth.
        focal_percent: median over posed frames of |fx / true fx - 1|, %.
        drift_px: median reprojection drift of true static points, pixels (:func:`drift`).
        verdict: of the solver about itself.
        seconds: wall clock.
        reasons: the solver's own words.
        mask_overlap: intersection over union of the pixels found moving and the truly moving ones.
    """

    clip: str
    solver: str
    posed: int
    frames: int
    rotation_rms_deg: float | None
    rotation_max_deg: float | None
    ate_percent: float | None
    ate: float | None
    units: str
    focal_percent: float | None
    drift_px: float | None
    verdict: str
    seconds: float
    reasons: list[str]
    mask_overlap: float | None = None

    @property
    def wrongly_good(self) -> bool:
        """Called good although it is not: the worst that can happen."""
        rotation, ate = self.rotation_rms_deg or 0.0, self.ate_percent or 0.0
        wrong = rotation > GOOD_MAX_ROTATION_DEG or ate > GOOD_MAX_ATE_PERCENT
        return self.verdict == "good" and (wrong or self.posed < self.frames)

    def to_map(self) -> dict:
        return asdict(self)


def row_of(
    clip: TrueClip,
    solver: str,
    solution: Solution,
    rotation_only: bool = False,
    motion_masks: np.ndarray | None = None,
) -> Row:
    """Score a solution.

    Args:
        rotation_only: positions mean nothing on this clip (tripod).
        motion_masks: what the solver found moving, uint8 [N,h,w], 1 = moving; scored on clips with
            exact masks.
    """
    truth, rules = clip.cameras, clip.rules
    rotation_rms = rotation_max = percent = ate = focal = moved = None
    if solution.poses:
        error = compare(solution.poses, truth.world_from_cam)
        rotation_rms, rotation_max = error.rotation_rms_deg, error.rotation_max_deg
        if len(solution.poses) > 2:
            ate = error.ate
            percent = error.ate_percent if rules.path_percent and not rotation_only else None
        if rules.focal:
            ratios = [lens[0] / truth.intrinsics.fx[i] for i, lens in solution.lenses.items()]
            focal = 100.0 * float(np.median(np.abs(np.array(ratios) - 1.0)))
        if clip.depth_frames():
            moved = drift(clip, solution, rotation_only)
    return Row(
        clip.name,
        solver,
        len(solution.poses),
        len(clip.frames),
        rotation_rms,
        rotation_max,
        percent,
        ate,
        rules.units,
        focal,
        moved,
        solution.verdict,
        solution.seconds,
        solution.reasons,
        None if motion_masks is None else mask_overlap(clip, motion_masks),
    )


def mask_overlap(clip: TrueClip, motion_masks: np.ndarray) -> float | None:
    """Intersection over union over all frames, at the size of the true masks; None without these."""
    if not (clip.folder / "masks").is_dir():
        return None
    both = either = 0
    for frame, found in enumerate(motion_masks):
        moving = clip.moving(frame)
        size = moving.shape[::-1]
        found = cv2.resize(np.asarray(found), size, interpolation=cv2.INTER_NEAREST) > 0
        both += int((moving & found).sum())
        either += int((moving | found).sum())
    return both / either if either else None


def drift(clip: TrueClip, solution: Solution, rotation_only: bool) -> float | None:
    """How far an object that is pinned to the true scene slides in the solved shot, pixels.

    For each posed frame with exact depth, 400 random true static points (depth known, not moving)
    are brought to the true world and projected through the true and through the solved camera; the
    distance of the two pixels is the drift; the median over all points and frames is returned. The
    solved cameras are first brought to the true world by one similarity for the whole clip:
    rotation from the orientations (positions on a straight path do not determine it), then scale
    and shift from the positions by least squares. On ``rotation_only`` clips the points are taken
    infinitely far away along their true directions: only orientations and focal length matter then.
    """
    truth = clip.cameras
    frames = sorted(solution.poses)
    ours = np.stack([solution.poses[i] for i in frames])
    true = truth.world_from_cam[frames]
    rotation = align_orientations(ours[:, :3, :3], true[:, :3, :3])
    places, targets = ours[:, :3, 3] @ rotation.T, true[:, :3, 3]
    spread = places - places.mean(axis=0)
    power = float((spread**2).sum())
    scale = float((spread * (targets - targets.mean(axis=0))).sum()) / power if power > 0 else 0.0
    places = scale * spread + targets.mean(axis=0)
    distances = []
    for frame in clip.depth_frames():
        if frame not in solution.poses:
            continue
        position = frames.index(frame)
        pixels, points = _static_points(clip, frame)
        if rotation_only:
            towards = points - truth.world_from_cam[frame][:3, 3]
        else:
            towards = points - places[position]
        in_cam = towards @ (rotation @ ours[position][:3, :3])
        distances.append(_distance(in_cam, solution.lenses[frame], pixels))
    return float(np.median(np.concatenate(distances))) if distances else None


def _static_points(clip: TrueClip, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """400 random static pixels [400,2] (centres at integers) and their true points [400,3]."""
    depth = clip.depth(frame)
    rows, columns = np.nonzero((depth > 0) & ~clip.moving(frame))
    chosen = np.random.default_rng(frame).choice(len(rows), min(400, len(rows)), replace=False)
    x, y = columns[chosen].astype(float), rows[chosen].astype(float)
    lens, pose = clip.cameras.intrinsics, clip.cameras.world_from_cam[frame]
    rays = np.stack(
        [(x - lens.cx[frame]) / lens.fx[frame], (y - lens.cy[frame]) / lens.fy[frame], x * 0 + 1]
    )
    points = (rays * depth[rows[chosen], columns[chosen]]).T @ pose[:3, :3].T + pose[:3, 3]
    return np.stack([x, y], axis=1), points


def _distance(in_cam: np.ndarray, lens: tuple, pixels: np.ndarray) -> np.ndarray:
    """Pixels between the projection of ``in_cam`` [M,3] and ``pixels``; inf behind the camera."""
    fx, fy, cx, cy, k1 = lens
    with np.errstate(divide="ignore", invalid="ignore"):
        plane = in_cam[:, :2] / in_cam[:, 2:]
    plane = plane * (1.0 + k1 * (plane**2).sum(axis=1, keepdims=True))
    projected = plane * [fx, fy] + [cx - 0.5, cy - 0.5]
    return np.where(in_cam[:, 2] > 0, np.linalg.norm(projected - pixels, axis=1), np.inf)


def print_table(rows: list[Row], passes: Callable[[Row], bool] | None = None) -> None:
    """Print rows as plain text; ``passes`` adds a column pass/FAIL."""
    print_head()
    for row in rows:
        print_row(row, passes)


def print_head() -> None:
    """What stands above the rows."""
    head = f"{'clip':<27}{'solver':<17}{'posed':>9}{'rot rms':>9}{'max deg':>9}{'ATE %':>8}"
    head += f"{'ATE':>12}{'focal %':>9}{'drift px':>9}{'masks':>7}{'verdict':>9}{'s':>7}"
    print(head)
    print("-" * len(head), flush=True)


def print_row(row: Row, passes: Callable[[Row], bool] | None = None) -> None:
    """Print one row."""
    ate = "-" if row.ate is None else f"{row.ate:.4f} {row.units[:5]}"
    line = f"{row.clip:<27}{row.solver:<17}{f'{row.posed}/{row.frames}':>9}"
    line += f"{_number(row.rotation_rms_deg):>9}{_number(row.rotation_max_deg):>9}"
    line += f"{_number(row.ate_percent, 2):>8}{ate:>12}{_number(row.focal_percent, 2):>9}"
    line += f"{_number(row.drift_px, 2):>9}{_number(row.mask_overlap, 2):>7}"
    line += f"{row.verdict:>9}{row.seconds:>7.0f}"
    if passes is not None:
        line += "  pass" if passes(row) else "  FAIL"
    if row.wrongly_good:
        line += "  WRONG BUT CALLED GOOD"
    print(line, flush=True)


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
