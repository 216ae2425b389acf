"""What a machine that lacks something makes of a job: the rows of the design's failure table.

The rows about packages and checkpoints are forced with spoilt packages in processes of their own
and with real files on disk; each is tried with both engines that look for checkpoints and both
fallback policies. The rows about GPU memory that runs out are in
``test_out_of_memory_table.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from megasam_maya.scene.apply import ApplyOptions, apply_shot  # noqa: E402
from megasam_maya.scene_files import SCENE_FILES, copy_scene_files  # noqa: E402
from megasam_maya.shot import read_shot  # noqa: E402
from megasam_server.checkpoints.locate import CHECKPOINTS_VARIABLE  # noqa: E402
from megasam_server.pipeline.engines import choose_engine  # noqa: E402
from megasam_shared.errors import MegasamError  # noqa: E402
from megasam_shared.settings import SolveSettings  # noqa: E402

from tests.fake_maya import running_maya  # noqa: E402
from tests.server.checkpoints.published import (  # noqa: E402
    NOTHING_KNOWN,
    facts_of,
    published,
)
from tests.server.pipeline.failure_cells import outcome, outcomes  # noqa: E402
from tests.server.pipeline.known_clips import walk_take, write_plate  # noqa: E402
from tests.server.pipeline.network_doubles import KnownClip  # noqa: E402

REPOSITORY = Path(__file__).parents[3]
BENCHMARKS = REPOSITORY / "tests" / "benchmarks"
TRACKING, FLOW = "megasam_final.pth", "raft-things.pth"


@pytest.fixture(scope="module")
def plate(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "plate"
    write_plate(KnownClip.of(walk_take(3)), folder)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """What classical solves of the plate leave for each other."""
    return tmp_path_factory.mktemp("stage cache")


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """Whole checkpoints of what the engine megasam cannot do without."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from random_checkpoints import random_checkpoint_folder
    finally:
        sys.path.remove(str(BENCHMARKS))
    folder = tmp_path_factory.mktemp("good")
    random_checkpoint_folder(folder, ["megasam", "raft_things"])
    return folder


@pytest.fixture
def checkpoints(tmp_path, monkeypatch) -> Path:
    """An empty folder of checkpoints, and caches of the test's own."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    monkeypatch.setenv(CHECKPOINTS_VARIABLE, str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def assert_row(found: dict[str, dict[str, Any]], heading: str, code: str, words: list[str]) -> None:
    """The four cells of a row in which the networks cannot run."""
    for engine_and_policy in (
        "auto lower",
        "auto fail",
    ):  # auto has the classical engine to fall to
        cell = found[engine_and_policy]
        assert (cell["source"], cell["usable"], cell["identity"]) == ("Classical", True, False)
        assert cell["status"].startswith(f"{heading}: solved with the classical engine")
        assert_said(cell["warnings"], code, words)
    cell = found["megasam lower"]
    assert (cell["source"], cell["usable"], cell["identity"]) == ("MegaSAM_fallback", False, True)
    assert cell["verdict"] == "failed" and cell["reasons"][0].startswith("Nothing was solved.")
    assert cell["status"] == f"{heading}: not solved, the camera stands still"
    assert_said(cell["warnings"], code, [*words, "engine auto or classical"])
    cell = found["megasam fail"]
    assert (cell["ended"], cell["code"]) == ("error", code)
    assert_said([cell], code, [*words, "engine auto or classical"])


def assert_said(notices: list[dict[str, str]], code: str, words: list[str]) -> None:
    (notice,) = [notice for notice in notices if notice["code"] == code]
    said = f"{notice['message']} {notice['hint']}"
    assert notice["hint"]
    for word in words:
        assert word in said, said


# --- dependencies importable

# A package that is found before the real one.
UNDEFINED_SYMBOL = "raise ImportError('undefined symbol: _ZN3c10')"
NO_LIBRARY = "raise OSError('libcudart.so.13: cannot open shared object file')"
OTHER_VERSION = "raise RuntimeError('operator torchvision::nms does not exist')"
THE_OTHER_LIETORCH = "raise SystemExit('must not be imported')"
# What Python runs when it starts: the package is not there.
HIDING = """
import sys

class Hiding:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hiding())
"""


@dataclass(frozen=True)
class Packages:
    """A row: packages that are hidden, or spoilt: name -> text of its ``__init__.py``.

    ``with_checkpoints``: nothing else is missing.
    """

    words: list[str]
    hidden: tuple[str, ...] = ()
    spoilt: dict[str, str] = field(default_factory=dict)
    with_checkpoints: bool = True
    slow: bool = True

    def write(self, site: Path) -> Path:
        site.mkdir()
        (site / "sitecustomize.py").write_text(HIDING.format(names=set(self.hidden)))
        for name, text in self.spoilt.items():
            (site / name).mkdir()
            (site / name / "__init__.py").write_text(text)
        return site


PACKAGES = {
    "neither kornia nor checkpoints": Packages(
        ["needs kornia.", "Install them"], hidden=("kornia",), with_checkpoints=False, slow=False
    ),
    "no torch": Packages(["needs torch."], hidden=("torch",)),
    "no timm, no safetensors": Packages(
        ["needs timm and safetensors."], hidden=("timm", "safetensors")
    ),
    "torch without its libraries": Packages(
        ["torch is installed but cannot be imported (libcudart", "Install the packages again"],
        spoilt={"torch": NO_LIBRARY},
        slow=False,
    ),
    "kornia of another torch": Packages(
        ["kornia is installed but cannot be imported (undefined symbol"],
        spoilt={"kornia": UNDEFINED_SYMBOL},
    ),
    "torchvision of another torch": Packages(
        ["torchvision is installed but cannot be imported (operator torchvision::nms"],
        spoilt={"torchvision": OTHER_VERSION},
    ),
}


def in_a_process(site: Path, plate: Path, folder: Path, cache: Path, facts: dict) -> dict:
    """The outcomes of all cells in a process that finds packages in ``site`` first."""
    places = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.server.pipeline.failure_cells"),
            *(str(plate), str(folder), str(cache), json.dumps(facts)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=name, marks=[pytest.mark.slow] if row.slow else [])
        for name, row in PACKAGES.items()
    ],
)
def test_packages_that_cannot_be_imported(
    row, plate, cache, good, checkpoints, tmp_path, monkeypatch
):
    facts = {}
    if row.with_checkpoints:
        monkeypatch.setenv(CHECKPOINTS_VARIABLE, str(good))
        facts = {name: facts_of(good / name) for name in (TRACKING, FLOW)}
    site = row.write(tmp_path / "site")
    found = in_a_process(site, plate, tmp_path / "jobs", cache, facts)
    assert_row(found, "⚠ Missing dependencies", "missing_dependencies", row.words)


@pytest.mark.slow
def test_the_other_lietorch_is_no_lack(plate, cache, good, tmp_path, monkeypatch):
    """SE3 is built in: the package of that name on PyPI changes nothing."""
    monkeypatch.setenv(CHECKPOINTS_VARIABLE, str(good))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    facts = {name: facts_of(good / name) for name in (TRACKING, FLOW)}
    site = Packages([], spoilt={"lietorch": THE_OTHER_LIETORCH}).write(tmp_path / "site")
    found = in_a_process(site, plate, tmp_path / "jobs", cache, facts)
    assert found["megasam lower"] == found["megasam fail"] == {"ended": "networks"}


# --- checkpoints exist and match their hash or keys

# What is done to good files in the folder; returns what the table says of them.
Spoil = Callable[[Path], dict[str, dict[str, Any]]]


def nothing_there(folder: Path) -> dict:
    for path in folder.iterdir():
        path.unlink()
    return {}


def flow_missing(folder: Path) -> dict:
    (folder / FLOW).unlink()
    return {TRACKING: facts_of(folder / TRACKING)}


def wrong_size(folder: Path) -> dict:
    facts = {name: facts_of(folder / name) for name in (TRACKING, FLOW)}
    with (folder / FLOW).open("ab") as file:
        file.write(b"more")
    return facts


def wrong_hash(folder: Path) -> dict:
    facts = {name: facts_of(folder / name) for name in (TRACKING, FLOW)}
    with (folder / TRACKING).open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"another training")
    return facts


def truncated(folder: Path) -> dict:
    """Where neither size nor hash are published, the file itself must tell."""
    os.truncate(folder / TRACKING, 10_000_000)
    return {TRACKING: NOTHING_KNOWN, FLOW: NOTHING_KNOWN}


def changed_inside(folder: Path) -> dict:
    wrong_hash(folder)
    return {TRACKING: NOTHING_KNOWN, FLOW: NOTHING_KNOWN}


def wrong_keys(folder: Path) -> dict:
    """Each under the name of the other."""
    flow, other = folder / FLOW, folder / "other"
    flow.rename(other)
    (folder / TRACKING).rename(flow)
    other.rename(folder / TRACKING)
    return {TRACKING: NOTHING_KNOWN, FLOW: NOTHING_KNOWN}


def a_web_page(folder: Path) -> dict:
    (folder / TRACKING).write_text("<!DOCTYPE html><title>Sign in</title>")
    return {TRACKING: NOTHING_KNOWN, FLOW: NOTHING_KNOWN}


def with_code(folder: Path) -> dict:
    torch.save({"weights": Path("something that is no tensor")}, folder / FLOW)
    return {TRACKING: NOTHING_KNOWN, FLOW: NOTHING_KNOWN}


CHECKPOINTS = [
    (nothing_there, [TRACKING, FLOW, "No checkpoint for camera tracking in", "import"]),
    (wrong_size, [f"{FLOW} has ", " bytes instead of "]),
    (wrong_hash, [f"{TRACKING} is not the published file: its SHA-256 is"]),
    (truncated, [TRACKING, "is damaged"]),
    (wrong_keys, ["does not hold the weights of MegaSaM", "does not hold the weights of RAFT"]),
]
MORE_CHECKPOINTS = [
    (flow_missing, ["No checkpoint for optical flow in", FLOW, "megasam checkpoints import"]),
    (changed_inside, [TRACKING, "is damaged", "has changed since it was written"]),
    (a_web_page, [TRACKING, "it is a web page"]),
    (with_code, [FLOW, "holds more than weights", "was not run"]),
]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        *(pytest.param(*row, id=row[0].__name__) for row in CHECKPOINTS),
        *(
            pytest.param(*row, id=row[0].__name__, marks=pytest.mark.slow)
            for row in MORE_CHECKPOINTS
        ),
    ],
)
def test_checkpoints_that_are_not_what_they_should_be(
    spoil, words, plate, cache, good, checkpoints, tmp_path
):
    for name in (TRACKING, FLOW):
        (checkpoints / name).write_bytes((good / name).read_bytes())
    with published(spoil(checkpoints)):
        found = outcomes(plate, tmp_path / "jobs", cache)
    assert_row(found, "⚠ Missing checkpoints", "missing_checkpoints", words)


def test_a_folder_of_checkpoints_that_is_not_there(plate, cache, tmp_path, checkpoints):
    there = tmp_path / "somewhere else"
    found = outcomes(plate, tmp_path / "jobs", cache, model_path=str(there))
    words = [f"in {there}"]
    assert_row(found, "⚠ Missing checkpoints", "missing_checkpoints", words)


@pytest.mark.parametrize(
    "facts_about", [facts_of, pytest.param(lambda _: NOTHING_KNOWN, marks=pytest.mark.slow)]
)
def test_whole_checkpoints_run(facts_about, plate, cache, good, checkpoints, tmp_path):
    """The counterpart of all rows above: on this machine, with these files, nothing is missing."""
    for name in (TRACKING, FLOW):
        (checkpoints / name).symlink_to(good / name)
    with published({name: facts_about(good / name) for name in (TRACKING, FLOW)}):
        ended = outcome(plate, tmp_path / "job", cache, engine="megasam")
    assert ended == {"ended": "networks"}


def test_commercial_only_leaves_out_what_it_must_and_says_so(
    plate, cache, good, checkpoints, tmp_path
):
    """What tracking and flow need may be used commercially; of the depth networks some may not."""
    forbidden = checkpoints / "depth_anything_v2_vitb.pth"
    forbidden.write_bytes(b"whole")
    for name in (TRACKING, FLOW):
        (checkpoints / name).symlink_to(good / name)
    facts = {path.name: facts_of(path) for path in checkpoints.iterdir()}
    settings = {"engine": "megasam", "commercial_only": True}
    with published(facts):
        choice = choose_engine(SolveSettings(**settings))
        ended = outcome(plate, tmp_path / "job", cache, **settings)
    assert ended == {"ended": "networks"}
    assert choice.selection.chosen.keys() == {"tracking", "flow"}
    (notice,) = choice.notices
    assert "Depth Anything V2 Base is not used" in notice.message
    assert "CC-BY-NC-4.0 forbids commercial use" in notice.message
    assert notice.hint


# --- what clients do with it


def test_no_client_takes_identity_cameras_for_a_solve(plate, cache, checkpoints, tmp_path):
    assert outcome(plate, tmp_path / "job", cache, engine="megasam")["usable"] is False
    results = tmp_path / "job" / "r"
    shot = read_shot(results)
    assert shot.source == "MegaSAM_fallback"
    assert shot.status.startswith("⚠ Missing checkpoints")
    with running_maya() as maya:
        from megasam_maya.host import MayaHost

        before = maya.snapshot()
        with pytest.raises(MegasamError, match="⚠ Missing checkpoints") as refusal:
            apply_shot(shot, ApplyOptions(), MayaHost())
        assert refusal.value.code == "shot_not_usable"
        assert maya.snapshot() == before
        assert apply_shot(shot, ApplyOptions(insist=True), MayaHost()).camera
    with pytest.raises(MegasamError, match="⚠ Missing checkpoints"):
        copy_scene_files(SCENE_FILES, results, tmp_path / "scenes", "sh010")
    assert not (tmp_path / "scenes").exists()


@pytest.mark.slow
def test_the_command_line_says_it_and_its_exit_code_does(plate, megasam, tmp_path, monkeypatch):
    """Server, worker and client are processes of their own; the worker is what lacks torch."""
    site = Packages([], hidden=("torch",)).write(tmp_path / "site")
    places = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
    asked = ("solve", plate, "--engine", "megasam", "--preset", "fast", "--out", tmp_path / "shot")
    done = megasam(*asked)
    assert done.code == 1, done.err
    assert "⚠ Missing dependencies: not solved, the camera stands still" in done.out
    assert "Verdict: failed" in done.out
    assert "needs torch" in done.out and "engine auto or classical" in done.out
    before = sorted((tmp_path / "shot").rglob("*"))
    refused = megasam(*asked, "--fallback-policy", "fail")
    assert refused.code == 2
    assert "needs torch" in refused.err and "engine auto or classical" in refused.err
    assert sorted((tmp_path / "shot").rglob("*")) == before, "an earlier result stays"
