"""Plates as artists name them lead to the right files."""

from __future__ import annotations

from pathlib import Path

import pytest
from megasam_shared.errors import MegasamError
from megasam_shared.sequence import find_sequence


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


@pytest.mark.parametrize(
    "given", [".", "plate.1002.exr", "plate.%04d.exr", "plate.####.exr", "plate.*.exr"]
)
def test_every_way_to_name_a_sequence_finds_the_same_files(tmp_path, given):
    touch(
        tmp_path, "plate.1001.exr", "plate.1002.exr", "plate.1004.exr", "notes.txt", ".hidden.exr"
    )
    found = find_sequence(tmp_path / given)
    assert found.frames == [1001, 1002, 1004]
    assert [f.name for f in found.files] == [f"plate.{n}.exr" for n in (1001, 1002, 1004)]
    assert found.missing == [1003]
    assert (found.prefix, found.suffix, found.padding) == ("plate.", ".exr", 4)
    assert found.pattern == "plate.%04d.exr"
    assert found.name == "plate"


def test_the_number_that_varies_counts(tmp_path):
    touch(tmp_path, *(f"sh010_{n:03d}_v2_640x480.png" for n in range(5)))
    found = find_sequence(tmp_path / "sh010_003_v2_640x480.png")
    assert found.frames == [0, 1, 2, 3, 4]
    assert found.suffix == "_v2_640x480.png"


def test_unpadded_numbers_sort_by_value_and_long_numbers_outgrow_the_padding(tmp_path):
    touch(tmp_path, *(f"f{n}.jpg" for n in (1, 2, 10, 11)))
    assert find_sequence(tmp_path).frames == [1, 2, 10, 11]
    other = tmp_path / "long"
    other.mkdir()
    touch(other, "p.9999.jpg", "p.10000.jpg")
    assert find_sequence(other / "p.%04d.jpg").frames == [9999, 10000]


def test_bare_numbers_take_the_folder_for_a_name(tmp_path):
    folder = tmp_path / "sh020"
    folder.mkdir()
    touch(folder, "000001.jpg", "000002.jpg")
    assert find_sequence(folder).name == "sh020"


def test_one_sequence_beside_stray_pictures_is_no_question(tmp_path):
    touch(tmp_path, "p.1.png", "p.2.png", "thumbnail.jpg", "lens_grid_50mm.jpg")
    assert find_sequence(tmp_path).frames == [1, 2]


def test_one_frame_is_a_sequence_of_one(tmp_path):
    touch(tmp_path, "still.png")
    assert find_sequence(tmp_path).frames == [1]


def test_range_keeps_the_gaps_inside_it(tmp_path):
    touch(tmp_path, *(f"p.{n}.png" for n in (1, 2, 4, 9)))
    part = find_sequence(tmp_path).between(2, 5)
    assert (part.frames, part.missing) == ([2, 4], [3])
    with pytest.raises(MegasamError, match="1-9") as caught:
        find_sequence(tmp_path).between(20, 30)
    assert caught.value.code == "frame_range_empty"


@pytest.mark.parametrize(
    ("names", "given", "code"),
    [
        ([], ".", "plate_empty"),
        (["a.txt"], ".", "plate_empty"),
        ([], "nothing.mp4", "plate_not_found"),
        ([], "gone/plate.%04d.exr", "plate_not_found"),
        (["p.1.png"], "p.%04d.png", "plate_not_found"),
        (["a.txt"], "a.txt", "plate_not_a_sequence"),
        (["left.png", "right.png"], ".", "plate_not_a_sequence"),
        (["1.png", "999999999.png"], ".", "plate_not_a_sequence"),
        (["l.1.png", "l.2.png", "r.1.png", "r.2.png"], ".", "plate_ambiguous"),
        (["p.1.png", "p.01.png"], ".", "plate_ambiguous"),
        ([], "a\0b", "plate_not_found"),
    ],
)
def test_what_is_no_sequence_is_said_so(tmp_path, names, given, code):
    touch(tmp_path, *names)
    with pytest.raises(MegasamError) as caught:
        find_sequence(tmp_path / given)
    assert caught.value.code == code
