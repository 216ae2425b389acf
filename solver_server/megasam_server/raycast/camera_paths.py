"""Camera moves as functions of time (seconds), and the shake of a real hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

PoseAt = Callable[[float], np.ndarray]
"""Time in seconds -> world_from_cam float64 [4,4]."""


class SmoothNoise:
    """Band-limited noise: sinusoids with a 1/f amplitude, the spectrum of hand shake.

    Calling it with a time in seconds gives float64 [channels] of unit RMS over a long time.
    """

    def __init__(
        self, seed: int, channels: int = 3, low_hz: float = 0.25, high_hz: float = 5.0
    ) -> None:
        rng = np.random.default_rng(seed)
        count = 24
        self._hz = np.exp(rng.uniform(np.log(low_hz), np.log(high_hz), (channels, count)))
        self._phase = rng.uniform(0, 2 * np.pi, (channels, count))
        amplitude = 1.0 / self._hz
        power = np.sqrt(0.5 * (amplitude**2).sum(axis=1, keepdims=True))
        self._amplitude = amplitude / power

    def __call__(self, time: float) -> np.ndarray:
        return (self._amplitude * np.sin(2 * np.pi * self._hz * time + self._phase)).sum(axis=1)


def pose_of(eye: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """world_from_cam [4,4] from a position [3] and a rotation [3,3]."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, eye
    return pose


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Level camera at ``eye`` that looks at ``target``: world_from_cam [4,4]."""
    forward = np.asarray(target, float) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    return pose_of(eye, np.stack([right, np.cross(forward, right), forward], axis=1))


def aim(eye: np.ndarray, pan_deg: float, tilt_deg: float) -> np.ndarray:
    """Camera at ``eye`` turned right by ``pan_deg`` and up by ``tilt_deg`` from +z: [4,4]."""
    return pose_of(eye, Rotation.from_euler("YX", [pan_deg, tilt_deg], degrees=True).as_matrix())


def ease(time: float, start: float, stop: float) -> float:
    """0 before ``start``, 1 after ``stop``, smooth (C2) between, as operators begin and end."""
    x = float(np.clip((time - start) / (stop - start), 0.0, 1.0))
    return x**3 * (10.0 - 15.0 * x + 6.0 * x * x)


def handheld(move: PoseAt, seed: int, position_m: float, rotation_deg: float) -> PoseAt:
    """``move`` with hand shake of the given RMS for each axis."""
    shift = SmoothNoise(seed)
    turn = SmoothNoise(seed + 1)

    def pose_at(time: float) -> np.ndarray:
        rotation = Rotation.from_rotvec(np.radians(rotation_deg) * turn(time)).as_matrix()
        return move(time) @ pose_of(position_m * shift(time), rotation)

    return pose_at


def walking(move: PoseAt, step_hz: float = 1.8) -> PoseAt:
    """``move`` carried by a walking operator: 2 cm up and down, 1.5 cm sideways, roll and nod."""

    def pose_at(time: float) -> np.ndarray:
        phase = 2 * np.pi * step_hz * time
        sway, bob = np.sin(phase / 2), np.sin(phase)
        turn = Rotation.from_rotvec(np.radians([0.35 * bob, 0.25 * sway, 0.45 * sway])).as_matrix()
        return move(time) @ pose_of(np.array([0.015 * sway, 0.02 * bob, 0.0]), turn)

    return pose_at


def through(times: list[float], places: np.ndarray) -> Callable[[float], np.ndarray]:
    """Smooth curve through ``places`` [K,D] at ``times`` [K] (natural cubic spline)."""
    from scipy.interpolate import CubicSpline

    spline = CubicSpline(times, np.asarray(places, float), bc_type="natural")
    return lambda time: spline(time)
