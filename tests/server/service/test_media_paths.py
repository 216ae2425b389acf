"""Plates named by path: prefixes of clients, and every way out of the media roots."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from megasam_server.service import counters as names
from megasam_server.service.media_roots import (
    MEDIA_ROOTS_VARIABLE,
    MediaRoots,
    check_still_below_roots,
)
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import Media
from megasam_shared.settings import SolveSettings

from tests.server.service.curve_server import CurveStudio

pytestmark = pytest.mark.skipif(os.name != "posix", reason="symbolic links and POSIX paths")


@pytest.fixture
def disk(tmp_path) -> Path:
    """A media root with plates, with links inside it and out of it, and a folder beside it."""
    root, outside = tmp_path / "shows", tmp_path / "secret"
    for folder in (root / "Seq", root / "bad", root / "sub", outside, tmp_path / "shows2"):
        folder.mkdir(parents=True)
    for number in (1, 2):
        (root / "Seq" / f"P.{number:04d}.png").write_bytes(b"solve")
        (root / "bad" / f"p.{number}.png").write_bytes(b"x")
        (outside / f"p.{number}.png").write_bytes(b"x")
        (tmp_path / "shows2" / f"p.{number}.png").write_bytes(b"x")
    (root / "clip.mov").write_bytes(b"solve")
    (root / "Twice.mov").write_bytes(b"x")
    (root / "twice.MOV").write_bytes(b"x")
    (root / "notes.txt").write_bytes(b"x")
    (outside / "clip.mov").write_bytes(b"secret")
    (root / "link").symlink_to(outside)
    (root / "sub" / "up").symlink_to("../..")
    (root / "link.mov").symlink_to("/etc/passwd")
    (root / "far.mov").symlink_to(outside / "clip.mov")
    (root / "loop.mov").symlink_to("loop.mov")
    (root / "bad" / "p.3.png").symlink_to("/etc/passwd")
    (root / "inner.mov").symlink_to(root / "clip.mov")
    (root / "dev.mov").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe.mov")
    return root


@pytest.fixture
def roots(disk) -> MediaRoots:
    return MediaRoots(
        [disk],
        {
            "*": {"Z:/shows": disk, "//nas/Work/shows": disk, "/Volumes/shows": disk},
            "anna": {"Z:/shows/private": disk.parent / "secret"},
        },
    )


@pytest.mark.parametrize(
    "given, found",
    [
        ("{root}/clip.mov", "clip.mov"),
        ("{root}/inner.mov", "clip.mov"),
        ("{root}/Seq", "Seq"),
        ("{root}/Seq/P.0001.png", "Seq/P.0001.png"),
        ("{root}/Seq/P.%04d.png", "Seq/P.%04d.png"),
        ("{root}/./Seq//P.0001.png", "Seq/P.0001.png"),
        ("Z:/shows/clip.mov", "clip.mov"),
        ("z:\\SHOWS\\Seq\\P.0001.png", "Seq/P.0001.png"),
        ("Z:\\Shows\\seq\\p.0001.PNG", "Seq/P.0001.png"),
        ("Z:/shows/seq", "Seq"),
        ("\\\\NAS\\work\\Shows\\clip.mov", "clip.mov"),
        ("//nas/Work/shows/clip.mov", "clip.mov"),
        ("/Volumes/shows/clip.mov", "clip.mov"),
    ],
)
def test_plates_are_found_as_the_client_names_them(roots, disk, given, found):
    assert roots.resolve(given.format(root=disk)) == disk / found


def test_prefixes_of_one_client_are_not_those_of_others(roots, disk):
    secret = disk.parent / "secret"
    for given, found in [("Z:/shows/private", secret), ("z:/shows/PRIVATE/clip.mov", None)]:
        assert roots.resolve(given, "anna") == (found or secret / "clip.mov")
        for client in ("", "ben", "*", "Anna"):
            with pytest.raises(MegasamError) as caught:
                roots.resolve(given, client)
            assert caught.value.code == "path_not_allowed"


ESCAPES = [
    "{root}/../secret",
    "{root}/../secret/clip.mov",
    "{root}/Seq/../../secret/p.1.png",
    "{root}/Seq/../clip.mov",
    "{root}/link",
    "{root}/link/p.1.png",
    "{root}/link/clip.mov",
    "{root}/link/p.%d.png",
    "{root}/sub/up/secret/clip.mov",
    "{root}/link.mov",
    "{root}/far.mov",
    "{root}/loop.mov",
    "{root}/dev.mov",
    "{root}/pipe.mov",
    "{root}/bad",
    "{root}/bad/p.1.png",
    "{root}/bad/p.%d.png",
    "{root}2/p.1.png",
    "{root}2",
    "{root}/notes.txt",
    "{root}/gone.mov",
    "{root}/clip.mov/../../secret/clip.mov",
    "{root}/Seq\0/P.0001.png",
    "/etc/passwd",
    "/dev/zero",
    "/proc/self/mem",
    "/proc/self/root{root}/../secret/clip.mov",
    "clip.mov",
    "../shows/clip.mov",
    "~/clip.mov",
    "file://{root}/clip.mov",
    "Z:/shows/../secret/clip.mov",
    "Z:\\shows\\..\\secret\\clip.mov",
    "Z:\\shows\\Seq\\..\\..\\secret",
    "Z:/shows/link/clip.mov",
    "Z:/shows2/p.1.png",
    "Z:/shows/clip.mov:stream",
    "Z:/shows/clip.mov.",
    "Z:/shows/TWICE.mov",
    "Z:clip.mov",
    "Y:/shows/clip.mov",
    "Z:/",
    "\\\\nas\\Work\\shows\\..\\..\\secret\\clip.mov",
    "\\\\other\\Work\\shows\\clip.mov",
    "\\\\?\\Z:\\shows\\clip.mov",
    "\\\\.\\pipe\\clip.mov",
    "/Volumes/shows/../../etc/passwd",
    "/Volumes/SHOWS/clip.mov",
    "/Volumes\\shows\\clip.mov",
    "/" + "a/" * 2000,
]


def test_no_path_leads_out_of_the_media_roots(disk, roots, tmp_path):
    """Each as an allowed client submits it; each refusal is counted, no job comes of it."""
    assert len(set(ESCAPES)) >= 30
    maps = {"*": {"Z:/shows": disk, "//nas/Work/shows": disk, "/Volumes/shows": disk}}
    counted = 0
    with CurveStudio(tmp_path, media_roots=[disk], prefix_maps=maps) as studio:
        client = studio.client(studio.keys("anna"))
        for path in ESCAPES:
            with pytest.raises(MegasamError) as caught:
                client.submit(Media(path=path.format(root=disk)), SolveSettings())
            code = caught.value.code
            assert code in ("path_not_allowed", "not_media", "plate_ambiguous"), path
            assert "secret" not in caught.value.message or "secret" in path
            counted += 1
            assert studio.count(names.REFUSED_MESSAGES) == counted
        assert client.list_jobs() == []
        assert list((tmp_path / "state" / "jobs").iterdir()) == []
        job = client.submit(Media(path="Z:\\shows\\seq"), SolveSettings())
        assert client.wait(job.job, timeout=20).state == "done"


def test_refusal_does_not_tell_what_exists(roots, disk):
    messages = set()
    for name in ("clip.mov", "gone.mov"):
        with pytest.raises(MegasamError) as caught:
            roots.resolve(str(disk.parent / "secret" / name))
        messages.add(str(caught.value).replace(name, ""))
    assert len(messages) == 1


def test_without_roots_nothing_can_be_named(disk):
    with pytest.raises(MegasamError) as caught:
        MediaRoots().resolve(str(disk / "clip.mov"))
    assert caught.value.code == "path_not_allowed"


@pytest.mark.parametrize("prefix", ["", "shows", "Z:", "Z:shows", "Z:/a/../b", "/", "../x"])
def test_prefix_that_is_none(disk, prefix):
    with pytest.raises(MegasamError) as caught:
        MediaRoots([], {"*": {prefix: disk}})
    assert caught.value.code == "prefix_malformed"


def test_plate_that_became_a_link_after_it_was_submitted_is_refused(disk, roots, monkeypatch):
    """What a worker does directly before it opens the files."""
    monkeypatch.setenv(MEDIA_ROOTS_VARIABLE, roots.to_text())
    job_folder = disk.parent / "job"
    movie, folder = roots.resolve(str(disk / "clip.mov")), roots.resolve(str(disk / "Seq"))
    check_still_below_roots([movie, None], job_folder)
    check_still_below_roots([folder, movie], job_folder)
    check_still_below_roots([job_folder / "plate" / "clip.mov"], job_folder)

    def is_refused(path: Path) -> None:
        with pytest.raises(MegasamError) as caught:
            check_still_below_roots([path], job_folder)
        assert caught.value.code == "path_not_allowed"

    (disk / "Seq" / "P.0003.png").symlink_to("/etc/passwd")
    is_refused(folder)
    movie.unlink()
    is_refused(movie)
    movie.symlink_to(disk.parent / "secret" / "clip.mov")
    is_refused(movie)
    (disk / "Seq").rename(disk / "old")
    (disk / "Seq").symlink_to(disk.parent / "shows2")
    is_refused(folder)
    monkeypatch.setenv(MEDIA_ROOTS_VARIABLE, "")
    is_refused(disk / "Twice.mov")


def test_job_whose_plate_leaves_the_roots_while_it_waits_fails(disk, tmp_path):
    with CurveStudio(tmp_path, media_roots=[disk]) as studio:
        client = studio.client(studio.keys("anna"))
        (disk / "clip.mov").write_text(f"hang {tmp_path / 'pids'}")
        first = client.submit(Media(path=str(disk / "clip.mov")), SolveSettings()).job
        second = client.submit(Media(path=str(disk / "Seq")), SolveSettings()).job
        (disk / "Seq").rename(disk / "old")
        (disk / "Seq").symlink_to(tmp_path / "secret")
        client.cancel(first)
        result = client.wait(second, timeout=20)
        assert result.state == "failed" and result.error.code == "path_not_allowed"
