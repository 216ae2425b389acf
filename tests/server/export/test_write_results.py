"""The result folder as a whole: complete and truthful, or not there at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from megasam_server.export.result_folder import ResultFolder
from megasam_server.export.write_results import write_results
from megasam_server.pipeline.progress import SilentProgress
from megasam_shared.coordinates import camera_to_opencv
from megasam_shared.errors import MegasamError
from megasam_shared.extrinsics import validate_extrinsics
from megasam_shared.settings import SolveSettings

from tests.server.export.conftest import HEIGHT, WIDTH, make_frame_store, make_shot

SETTINGS = SolveSettings()


class RecordedProgress(SilentProgress):
    def __init__(self, cancel_at: int | None = None) -> None:
        self.updates: list[tuple[str, float, float]] = []
        self.cancel_at = cancel_at

    def update(self, stage: str, done: float, total: float, note: str = "") -> None:
        self.updates.append((stage, done, total))
        if len(self.updates) == self.cancel_at:
            raise MegasamError("cancelled", "The artist cancelled the solve.")


def files_below(root: Path) -> set[str]:
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


def expected_files(name: str, numbers: list[int]) -> set[str]:
    return {
        "camera_extrinsics.json",
        "poses_tum.txt",
        "intrinsics.txt",
        "quality.json",
        "points.ply",
        "report.html",
        *(f"camera.{suffix}" for suffix in ("ma", "usda", "abc", "fbx", "chan")),
        *(f"colmap/{name}.txt" for name in ("cameras", "images", "points3D")),
        *(f"depth/{name}.{number:04d}.exr" for number in numbers),
        *(f"depth_preview/{name}.{number:04d}.png" for number in numbers),
        *(f"masks/{name}.{number:04d}.png" for number in numbers),
    }


@pytest.mark.parametrize("numbers", [[7, 8, 9, 12, 13, 14], [1001, 1002, 1003, 1004, 1005, 1006]])
def test_everything_is_written_under_the_plates_frame_numbers(tmp_path, frames, numbers):
    shot = make_shot(tmp_path, frame_numbers=numbers)
    folder = ResultFolder(tmp_path / "new" / "result")
    progress = RecordedProgress()
    write_results(folder, shot, frames, SETTINGS, progress)
    assert files_below(folder.root) == expected_files("sh010_plate", numbers)
    assert all(p.stat().st_size for p in folder.root.rglob("*") if p.is_file())
    assert not folder.unfinished.root.exists()
    for path in folder.root.rglob("*.*"):
        assert b".partial" not in path.read_bytes() if path.is_file() else True

    stages, done, totals = zip(*progress.updates, strict=True)
    assert set(stages) == {"conversion"}
    assert list(done) == list(range(1, len(done) + 1))
    assert set(totals) == {len(done)}


@pytest.mark.parametrize("system", ["maya", "blender", "opencv"])
def test_extrinsics_are_the_solved_camera(tmp_path, shot, frames, system):
    folder = ResultFolder(tmp_path / "result")
    settings = replace(SETTINGS, coordinate_system=system)
    returned = write_results(folder, shot, frames, settings, SilentProgress())
    written = json.loads(folder.camera_extrinsics.read_text())
    assert written == json.loads(json.dumps(returned))
    validate_extrinsics(written)
    assert written["coordinate_system"] == system
    assert written["frame_numbers"] == shot.plate.frame_numbers
    assert (written["image_width"], written["image_height"]) == (WIDTH, HEIGHT)
    assert written["principal_point"] == [WIDTH / 2 + 37, HEIGHT / 2 - 21]
    np.testing.assert_allclose(written["focal_length_px_per_frame"], shot.cameras.intrinsics.fx)
    back = [camera_to_opencv(matrix, system) for matrix in written["matrix_c2w"]]
    np.testing.assert_allclose(back, shot.cameras.world_from_cam, atol=1e-9)


def test_quality_is_json_that_any_reader_takes(tmp_path, shot, frames):
    folder = ResultFolder(tmp_path / "result")
    shot = replace(shot, quality=replace(shot.quality, rms_px=float("nan")))
    write_results(folder, shot, frames, SETTINGS, SilentProgress())

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    quality = json.loads(folder.quality.read_text(), parse_constant=refuse)
    assert quality["rms_px"] is None
    assert (quality["verdict"], quality["usable"]) == ("check", True)
    assert quality["warnings"][0]["code"] == "plate_gap"
    assert quality["checkpoint_licences"][0]["licence"] == "Apache-2.0"
    assert quality["settings"]["quality_preset"] == "balanced"
    assert quality["depth_near_far"] == [3.0, 7.0]


@pytest.mark.parametrize("cancel_at", [1, 6, 12, 20])
def test_cancelling_leaves_nothing_behind(tmp_path, shot, frames, cancel_at):
    folder = ResultFolder(tmp_path / "out" / "result")
    with pytest.raises(MegasamError, match="cancelled"):
        write_results(folder, shot, frames, SETTINGS, RecordedProgress(cancel_at))
    assert list((tmp_path / "out").iterdir()) == []


def test_results_are_never_written_over_others(tmp_path, shot, frames):
    folder = ResultFolder(tmp_path / "result")
    folder.root.mkdir()
    (folder.root / "mine.txt").write_text("keep")
    with pytest.raises(MegasamError) as caught:
        write_results(folder, shot, frames, SETTINGS, SilentProgress())
    assert caught.value.code == "results_exist"
    assert files_below(folder.root) == {"mine.txt"}


def test_an_empty_folder_and_what_a_killed_run_left_are_replaced(tmp_path, shot, frames):
    folder = ResultFolder(tmp_path / "result")
    folder.root.mkdir()
    folder.unfinished.root.mkdir()
    (folder.unfinished.root / "half.exr").write_text("")
    write_results(folder, shot, frames, SETTINGS, SilentProgress())
    assert files_below(folder.root) == expected_files("sh010_plate", shot.plate.frame_numbers)


def test_a_place_that_cannot_be_written_to_is_named(tmp_path, shot, frames):
    (tmp_path / "file").write_text("")
    with pytest.raises(MegasamError) as caught:
        write_results(
            ResultFolder(tmp_path / "file" / "result"), shot, frames, SETTINGS, SilentProgress()
        )
    assert caught.value.code == "results_not_written"
    assert str(tmp_path / "file") in caught.value.message


def test_a_solve_that_is_no_camera_is_refused_before_anything_is_written(tmp_path, shot, frames):
    broken = shot.cameras.world_from_cam.copy()
    broken[3, 0, 3] = np.nan
    shot = replace(shot, cameras=replace(shot.cameras, world_from_cam=broken))
    with pytest.raises(MegasamError) as caught:
        write_results(ResultFolder(tmp_path / "r"), shot, frames, SETTINGS, SilentProgress())
    assert caught.value.code == "extrinsics_invalid"
    assert not (tmp_path / "r").exists()


def test_plate_names_that_other_systems_refuse_become_safe(tmp_path, frames):
    shot = make_shot(tmp_path, name='sh:010 "a"')
    folder = ResultFolder(tmp_path / "result")
    write_results(folder, shot, frames, SETTINGS, SilentProgress())
    assert (folder.depth / "sh_010 _a_.1001.exr").exists()


# Runs with a file system of its own, seen by nobody else, that is too small in several ways.
_FILL_A_DISK = """
import subprocess, sys
from pathlib import Path
from megasam_server.export.result_folder import ResultFolder
from megasam_server.export.write_results import write_results
from megasam_server.pipeline.progress import SilentProgress
from megasam_shared.errors import MegasamError
from megasam_shared.settings import SolveSettings
from tests.server.export.conftest import make_frame_store, make_shot

work, disk = Path(sys.argv[1]), Path(sys.argv[2])
shot, frames = make_shot(work), make_frame_store(work)
for kib in map(int, sys.argv[3:]):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", disk], check=True)
    try:
        write_results(ResultFolder(disk / "r"), shot, frames, SolveSettings(), SilentProgress())
        print(kib, "written", (disk / "r").is_dir())
    except MegasamError as error:
        print(kib, error.code, [p.name for p in disk.iterdir()])
    subprocess.run(["umount", disk], check=True)
"""


def test_full_disk(tmp_path):
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs a private mount namespace (Linux, `unshare -rm`) for a small disk")
    disk, work = tmp_path / "disk", tmp_path / "work"
    disk.mkdir()
    work.mkdir()
    make_frame_store(work)
    # Each fills while another kind of file is written; with the last one there is room for all.
    sizes = [8, 40, 72, 80, 120, 200, 228, 250, 330, 400, 440, 500, 580, 4096]
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", _FILL_A_DISK, work, disk, *map(str, sizes)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    outcomes = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines()]
    assert len(outcomes) == len(sizes)
    assert outcomes[0] == "disk_full []"
    assert outcomes[-1] == "written True"
    assert set(outcomes) == {"disk_full []", "written True"}
