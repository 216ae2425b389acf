"""Rendered clips whose truth the doubles of the networks know, and a solve of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from megasam_server.export.result_folder import ResultFolder
from megasam_server.pipeline import networks as networks_module
from megasam_server.pipeline import run
from megasam_server.pipeline.engines import EngineChoice
from megasam_server.pipeline.job import SolveJob
from megasam_server.pipeline.progress import SilentProgress
from megasam_server.raycast import sets
from megasam_server.raycast.camera_paths import PoseAt, aim, handheld, look_at
from megasam_server.raycast.clip import Take
from megasam_server.raycast.render import Camera, Film
from megasam_server.raycast.scene import Person
from megasam_server.raycast.score import ResultErrors, score_results
from megasam_shared.settings import SolveSettings

from tests.server.pipeline.network_doubles import DoubleNetworks, KnownClip

WIDTH, HEIGHT, FOCAL, FPS = 208, 168, 190.0, 24.0
"""A plate that the tracker sees as it is at its lowest resolution, 160."""


def room_take(name: str, path: PoseAt, count: int, people: tuple[Person, ...] = ()) -> Take:
    """A move through a furnished room."""
    scene = replace(sets.furnished_room(23, width=6.4, depth=7.5, furniture=4), people=people)
    camera = Camera(WIDTH, HEIGHT, path, lambda time: FOCAL)
    return Take(name, scene, camera, Film(noise=1.0, samples=1), count, FPS, seed=2)


def walk_take(count: int) -> Take:
    """A hand-held walk sideways and ahead, past a person who walks, too."""

    def path(time: float) -> np.ndarray:
        eye = np.array([-1.2 + 2.2 * np.sin(1.1 * time), -1.4 + 0.1 * time, -2.6 + 0.9 * time])
        return look_at(eye, np.array([0.1 + 0.3 * time, -1.0, 2.8]))

    person = Person(lambda time: np.array([-0.6 + 0.9 * time, 0.2]), 1.76, seed=41)
    return room_take("walk", handheld(path, 41, 0.004, 0.15), count, (person,))


def pan_take(count: int) -> Take:
    """A tripod that pans and tilts."""
    eye = np.array([0.0, -1.4, -2.6])
    return room_take("pan", lambda time: aim(eye, -12 + 40 * time, 3 * np.sin(6 * time)), count)


def orbit_take(count: int) -> Take:
    """Half around the middle of the room."""

    def path(time: float) -> np.ndarray:
        angle = 1.2 * time - 0.6
        eye = np.array([2.2 * np.sin(angle), -1.5, 0.6 - 2.2 * np.cos(angle)])
        return look_at(eye, np.array([0.0, -1.0, 0.6]))

    return room_take("orbit", path, count)


def tiny_baseline_take(count: int) -> Take:
    """Somebody who stands and breathes: centimetres of parallax in a room of metres."""
    eye = np.array([0.0, -1.4, -2.6])
    return room_take(
        "tiny baseline", handheld(lambda time: aim(eye, 10 * time, 0.0), 7, 0.015, 0.4), count
    )


def big_mover_take(count: int) -> Take:
    """The walk, with somebody close who fills much of the picture."""
    take = walk_take(count)
    person = Person(lambda time: np.array([-0.9 + 2.0 * time, -1.0 + 0.3 * time]), 1.76, seed=41)
    return replace(take, name="big mover", scene=replace(take.scene, people=(person,)))


def corridor_take(count: int) -> Take:
    """A long walk to and fro."""

    def path(time: float) -> np.ndarray:
        eye = np.array([1.6 * np.sin(0.9 * time), -1.4, -2.4 + 0.5 * np.sin(0.5 * time)])
        return look_at(eye, np.array([1.2 * np.sin(0.7 * time + 1), -1.0, 2.8]))

    return room_take("corridor", path, count)


@dataclass(frozen=True)
class Solved:
    """What a job returned, where its results lie, and how wrong they are."""

    result: dict
    folder: ResultFolder
    errors: ResultErrors

    @property
    def quality(self) -> dict:
        return self.result["quality"]


def write_plate(known: KnownClip, folder: Path) -> None:
    """The frames of a clip as a sequence that starts at 1001."""
    folder.mkdir()
    for number, rgb in enumerate(known.clip.rgb, start=1001):
        cv2.imwrite(str(folder / f"f.{number}.png"), rgb[..., ::-1])


def solve(
    known: KnownClip,
    networks: DoubleNetworks,
    folder: Path,
    monkeypatch,
    *,
    progress=None,
    masks: Path | None = None,
    cache: Path | None = None,
    **settings,
) -> Solved:
    """Solve a clip in a new folder with ``networks`` in the place of checkpoints."""
    choice = EngineChoice("megasam", "MegaSAM", "Solved with the megasam engine")
    monkeypatch.setattr(run, "choose_engine", lambda settings: choice)
    monkeypatch.setattr(networks_module, "CheckpointNetworks", lambda *arguments: networks)
    defaults = {"tracking_resolution": 160, "cvd_iterations": 12, "engine": "megasam"}
    plate = folder.parent / "plate"
    if not plate.exists():
        write_plate(known, plate)
    job = SolveJob(
        plate,
        masks,
        SolveSettings(**defaults | settings),
        folder / "work",
        folder / "results",
        cache,
    )
    job.work_dir.mkdir(parents=True)
    result = run.run_job(job, progress or SilentProgress())
    results = ResultFolder(job.results_dir)
    return Solved(result, results, score_results(results, known.clip))
