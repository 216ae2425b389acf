"""The clip of ``megasam demo``: a hand-held walk through a furnished room, a person crosses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from megasam_server.raycast import sets
from megasam_server.raycast.camera_paths import handheld, look_at, walking
from megasam_server.raycast.clip import Take
from megasam_server.raycast.render import Camera, Film
from megasam_server.raycast.scene import Person

WIDTH, HEIGHT, FPS, FRAMES = 640, 360, 24.0, 50
FOCAL_PX = 560.0


def demo_take() -> Take:
    """50 frames of 640x360 with a person over about 10 % of the picture; always the same bytes."""
    person = Person(lambda time: np.array([-0.85 + 0.75 * time, -0.55 + 0.1 * time]), 1.76, seed=41)

    def path(time: float) -> np.ndarray:
        eye = np.array([-0.75 + 0.62 * time, -1.5, -2.75 + 0.12 * time])
        return look_at(eye, np.array([-0.1 + 0.12 * time, -1.05, 2.8]))

    room = sets.furnished_room(23, width=6.4, depth=7.5, furniture=4)
    table = sets.table(np.random.default_rng(23), 1.25, 1.1, -20.0, 23)
    scene = replace(room, static=(*room.static, *table), people=(person,))
    move = handheld(walking(path), 41, 0.008, 0.3)
    camera = Camera(WIDTH, HEIGHT, move, lambda time: FOCAL_PX)
    return Take("demo", scene, camera, Film(noise=1.5), FRAMES, FPS, seed=23)
