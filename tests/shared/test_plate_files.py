"""Only the files that a solve needs travel, under names that are safe where they go."""

from __future__ import annotations

from pathlib import Path

import pytest
from megasam_shared.errors import MegasamError
from megasam_shared.file_names import safe_name, safe_path_below
from megasam_shared.plate_files import find_plate_files
from megasam_shared.settings import SolveSettings


@pytest.fixture
def plate(tmp_path) -> Path:
    folder = tmp_path / "sh010"
    folder.mkdir()
    for number in range(1001, 1011):
        (folder / f"sh010.{number}.exr").touch()
    return folder


def numbers(files: list[Path]) -> list[int]:
    return [int(file.name.split(".")[-2]) for file in files]


def test_only_the_frame_range_travels(plate):
    for settings, expected in [
        (SolveSettings(first_frame=1003, last_frame=1005), [1003, 1004, 1005]),
        (SolveSettings(first_frame=1009), [1009, 1010]),
        (SolveSettings(last_frame=1002), [1001, 1002]),
        (SolveSettings(), list(range(1001, 1011))),
    ]:
        found = find_plate_files(plate, None, settings)
        assert (found.name, numbers(found.plate), found.masks) == ("sh010", expected, None)


def test_masks_follow_the_plate_by_number_or_travel_whole(plate, tmp_path):
    masks, other = tmp_path / "masks", tmp_path / "other"
    masks.mkdir()
    other.mkdir()
    for number in range(1001, 1011):
        (masks / f"roto.{number}.png").touch()
        (other / f"roto.{number - 1000}.png").touch()
    settings = SolveSettings(first_frame=1003, last_frame=1004)
    assert numbers(find_plate_files(plate, masks, settings).masks) == [1003, 1004]
    assert numbers(find_plate_files(plate, other, settings).masks) == list(range(1, 11))
    with pytest.raises(MegasamError) as caught:
        find_plate_files(plate, tmp_path / "gone", settings)
    assert caught.value.code == "masks_not_found"


def test_movie_travels_whole_even_with_a_range(tmp_path):
    movie = tmp_path / "IMG 0042.MOV"
    movie.touch()
    found = find_plate_files(movie, None, SolveSettings(first_frame=3, last_frame=4))
    assert (found.name, found.plate) == ("IMG 0042", [movie])


def test_names_become_safe_and_keep_number_and_suffix():
    for name, safe in [
        ("plate.1001.exr", "plate.1001.exr"),
        ("../../etc/passwd", "passwd"),
        ("C:\\shots\\a.mov", "a.mov"),
        ("a:b*c?.1.png", "a_b_c_.1.png"),
        ("con.png", "_con.png"),
        (".hidden.png", "_.hidden.png"),
        ("trailing. ", "trailing"),
        ("ä" * 300 + ".1001.exr", "ä" * 95 + ".1001.exr"),
    ]:
        assert safe_name(name) == safe
        assert safe_name(safe) == safe
    for name in ["", "..", "/", "...", " "]:
        with pytest.raises(MegasamError):
            safe_name(name)


def test_result_paths_stay_below_their_folder(tmp_path):
    assert safe_path_below(tmp_path, "depth/a.exr") == tmp_path / "depth" / "a.exr"
    for path in ["", "/etc/passwd", "../a", "a/../b", "a//b", "a/", "./a", "a\\b", "C:a", "a\0b"]:
        with pytest.raises(MegasamError):
            safe_path_below(tmp_path, path)
