"""Twelve situations that a matchmover meets, each a clip with exact ground truth.

Landscape 640x360, portrait 360x640; focal lengths between 0.7 and 1.6 picture widths, never given
to the solver. Every clip has hand shake or the tremor of its support and sensor noise; most have
the motion blur of a fast shutter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from megasam_server.raycast import sets
from megasam_server.raycast.camera_paths import (
    PoseAt,
    aim,
    ease,
    handheld,
    look_at,
    pose_of,
    through,
    walking,
)
from megasam_server.raycast.clip import OnFrame, RenderedClip, Take, render_clip
from megasam_server.raycast.render import Camera, Film, RenderedFrame
from megasam_server.raycast.scene import Person, Scene


@dataclass(frozen=True)
class Situation:
    """One of the twelve.

    Attributes:
        name: of the clip.
        description: one line for tables.
        build: makes the take (scene, camera, film).
        rotation_only: the camera does not move enough to see parallax; positions and depth mean
            nothing.
    """

    name: str
    description: str
    build: Callable[[], Take]
    rotation_only: bool = False


def _take(
    name: str,
    scene: Scene,
    move: PoseAt,
    focal: float | Callable[[float], float],
    frames: int,
    film: Film,
    *,
    fps: float = 24.0,
    size: tuple[int, int] = (640, 360),
) -> Take:
    """``focal`` in picture widths (of 640), constant or over time."""
    focal_at = focal if callable(focal) else lambda time: focal
    camera = Camera(*size, move, lambda time: 640.0 * focal_at(time))
    return Take(name, scene, camera, film, frames, fps, seed=sum(name.encode()))


def _walk(start: tuple[float, float], way: tuple[float, float]) -> Callable[[float], np.ndarray]:
    """Straight walk on the floor: (x, z) at a time; metres and metres a second."""
    return lambda time: np.array(start) + np.array(way) * time


def _dolly() -> Take:
    scene = sets.furnished_room(3, width=4.2, depth=12.0, furniture=8)

    def rail(time: float) -> np.ndarray:
        return aim(np.array([0.25, -1.35, -4.6 + 4.2 * ease(time, -0.6, 3.6)]), -1.5, -2.0)

    move = handheld(rail, 11, 0.0015, 0.03)
    return _take("dolly", scene, move, 0.9, 72, Film(shutter=0.25, noise=1.2))


def _walk_two_movers() -> Take:
    scene = sets.furnished_room(4, width=8.0, depth=11.0, furniture=9)
    people = (
        Person(_walk((-2.6, 1.6), (0.95, 0.15)), 1.78, seed=21),
        Person(_walk((2.1, 3.6), (-0.55, -0.75)), 1.68, seed=34, stride_hz=0.9),
    )

    def path(time: float) -> np.ndarray:
        eye = np.array([-0.9 + 0.35 * time, -1.6, -4.4 + 0.75 * time])
        return look_at(eye, np.array([0.3 + 0.1 * time, -1.25, 4.5]))

    move = handheld(walking(path), 12, 0.008, 0.35)
    film = Film(shutter=0.3, noise=1.8)
    return _take("walk_two_movers", replace(scene, people=people), move, 0.95, 96, film)


def _orbit() -> Take:
    scene = sets.furnished_room(5, width=8.0, depth=8.0, furniture=8)
    rng = np.random.default_rng(5)
    centre_piece = sets.table(rng, 0.0, 0.0, 10.0, 5)
    scene = replace(scene, static=(*scene.static, *centre_piece))

    def path(time: float) -> np.ndarray:
        around = np.radians(-55 + 110 * ease(time, -0.8, 4.8))
        eye = np.array([2.1 * np.sin(around), -1.5 + 0.08 * np.sin(time), -2.1 * np.cos(around)])
        return look_at(eye, np.array([0.0, -0.85, 0.0]))

    move = handheld(walking(path, 1.3), 13, 0.006, 0.3)
    return _take("orbit", scene, move, 0.85, 96, Film(shutter=0.3, noise=1.5))


def _outdoor_truck() -> Take:
    def path(time: float) -> np.ndarray:
        return aim(np.array([-4.0 + 2.4 * time, -1.7, 0.0]), 4.0 - 2.0 * time, 3.0)

    move = handheld(path, 14, 0.006, 0.15)
    film = Film(shutter=0.2, noise=1.2, gain_at=lambda time: 1.05 + 0.06 * np.sin(1.3 * time))
    return _take("outdoor_truck", sets.street(6), move, 1.1, 84, film)


def _tripod_pan_tilt() -> Take:
    def head(time: float) -> np.ndarray:
        pan = -24 + 48 * ease(time, 0.3, 2.9)
        tilt = 3.0 + 9.0 * ease(time, 1.7, 3.5)
        turned = aim(np.zeros(3), pan, tilt)
        # The entrance pupil of a fluid-head set-up sits a few centimetres before the pan axis.
        return turned @ pose_of(np.array([0.0, -0.02, 0.03]), np.eye(3))

    def place(time: float) -> np.ndarray:
        turned = head(time)
        turned[:3, 3] += [0.0, -1.65, 0.0]
        return turned

    move = handheld(place, 15, 0.0003, 0.015)
    return _take("tripod_pan_tilt", sets.square(7), move, 1.15, 90, Film(shutter=0.3, noise=1.5))


def _big_mover() -> Take:
    scene = sets.furnished_room(8, width=8.0, depth=9.0, furniture=9)
    people = (Person(_walk((-1.75, -2.88), (0.98, 0.0)), 1.82, seed=51),)

    def path(time: float) -> np.ndarray:
        eye = np.array([-0.75 + 0.42 * time, -1.45, -3.55 + 0.05 * time])
        return look_at(eye, np.array([-0.3 + 0.32 * time, -1.25, 3.0]))

    move = handheld(path, 16, 0.010, 0.4)
    film = Film(shutter=0.3, noise=1.8)
    return _take("big_mover", replace(scene, people=people), move, 0.9, 84, film)


def _low_texture() -> Take:
    def path(time: float) -> np.ndarray:
        eye = np.array([-1.3 + 0.62 * time, -1.5, -2.4 + 0.25 * time])
        return look_at(eye, np.array([0.1, -1.15, 3.2]))

    move = handheld(path, 17, 0.010, 0.6)
    film = Film(shutter=0.6, noise=4.0, gain_at=lambda time: 0.85 + 0.05 * np.sin(0.9 * time))
    return _take("low_texture", sets.plain_office(9), move, 0.8, 90, film)


def _loop() -> Take:
    scene = sets.furnished_room(10, width=9.0, depth=9.0, furniture=12)
    duration = 300 / 24.0

    def path(time: float) -> np.ndarray:
        # Once round an oval, looking outwards and ahead; the last second sees the first again.
        around = 2 * np.pi * 1.04 * time / duration
        eye = np.array([1.7 * np.sin(around), -1.55, -1.4 * np.cos(around)])
        pan = 180.0 - np.degrees(around) + 35.0 * np.sin(2 * around)
        return aim(eye, pan, -4.0 + 3.0 * np.sin(3 * around))

    move = handheld(walking(path), 18, 0.008, 0.35)
    return _take("loop", scene, move, 0.8, 300, Film(shutter=0.25, noise=1.5))


def _portrait() -> Take:
    scene = sets.furnished_room(13, width=6.5, depth=8.0, furniture=8)
    people = (Person(_walk((1.5, 2.4), (-0.5, -0.1)), 1.70, seed=61),)

    def path(time: float) -> np.ndarray:
        eye = np.array([-0.6 + 0.3 * time, -1.55 + 0.05 * time, -3.0 + 0.45 * time])
        return look_at(eye, np.array([0.15, -1.2, 3.0]))

    move = handheld(walking(path), 19, 0.010, 0.45)
    film = Film(shutter=0.3, noise=2.2, gain_at=lambda time: 1.0 + 0.08 * np.sin(1.1 * time))
    scene = replace(scene, people=people)
    # 0.75 of the long side: the wide lens of a phone.
    return _take("portrait", scene, move, 0.75, 90, film, fps=30.0, size=(360, 640))


def _zoom() -> Take:
    scene = sets.furnished_room(15, width=7.0, depth=9.0, furniture=9)

    def path(time: float) -> np.ndarray:
        eye = np.array([-0.8 + 0.45 * time, -1.5, -3.4 + 0.12 * time])
        return look_at(eye, np.array([0.3, -1.2, 3.5]))

    def focal(time: float) -> float:
        return 0.85 * (1.0 + 0.6 * ease(time, 0.5, 3.2))

    move = handheld(path, 20, 0.006, 0.25)
    return _take("zoom", scene, move, focal, 90, Film(shutter=0.25, noise=1.5))


def _tiny_baseline() -> Take:
    scene = sets.furnished_room(17, width=7.0, depth=8.0, furniture=8)

    def stand(time: float) -> np.ndarray:
        return aim(np.array([0.2, -1.6, -3.2]), 4.0 * np.sin(0.7 * time), -5.0)

    move = handheld(stand, 22, 0.012, 0.5)
    return _take("tiny_baseline", scene, move, 1.0, 80, Film(shutter=0.25, noise=1.5))


def _whip_pan() -> Take:
    scene = sets.furnished_room(19, width=8.0, depth=8.0, furniture=10)
    drift = through(
        [0.0, 1.2, 2.0, 3.0], np.array([[-0.9, -1.2], [-0.5, -1.0], [0, -1], [0.6, -1]])
    )

    def path(time: float) -> np.ndarray:
        x, z = drift(time)
        return aim(np.array([x, -1.55, z]), -38 + 92 * ease(time, 0.95, 1.7), -3.0)

    move = handheld(path, 23, 0.008, 0.35)
    return _take("whip_pan", scene, move, 0.78, 66, Film(shutter=0.5, noise=1.8))


SITUATIONS: dict[str, Situation] = {
    situation.name: situation
    for situation in (
        Situation("dolly", "straight forward on a rail", _dolly),
        Situation("walk_two_movers", "walking, two people cross", _walk_two_movers),
        Situation("orbit", "110 degrees around a table", _orbit),
        Situation("outdoor_truck", "sideways outdoors, sky, exposure drift", _outdoor_truck),
        Situation("tripod_pan_tilt", "pan and tilt on a tripod", _tripod_pan_tilt, True),
        Situation("big_mover", "a person over up to 45 % of the picture", _big_mover),
        Situation("low_texture", "plain walls, noise, motion blur", _low_texture),
        Situation("loop", "300 frames, back to the start", _loop),
        Situation("portrait", "phone upright, a person, exposure drift", _portrait),
        Situation("zoom", "zoom 1-1.6x while moving", _zoom),
        Situation("tiny_baseline", "standing still, hand-held", _tiny_baseline),
        Situation("whip_pan", "92 degrees in 0.75 s with motion blur", _whip_pan),
    )
}


def build_take(name: str) -> Take:
    """The take of a situation, nothing rendered yet.

    Raises:
        KeyError: unknown name.
    """
    return SITUATIONS[name].build()


def stream_situation(name: str) -> Iterator[RenderedFrame]:
    """Frames of a situation one by one; the same bytes every time."""
    return build_take(name).frames()


def render_situation(name: str, progress: OnFrame | None = None) -> RenderedClip:
    """A whole situation in memory."""
    return render_clip(build_take(name), progress)
