"""Which engine runs, and what the artist reads about it."""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest
from megasam_server.checkpoints.locate import CHECKPOINTS_VARIABLE
from megasam_server.checkpoints.registry import find_checkpoint
from megasam_server.pipeline import engines
from megasam_shared.errors import MegasamError
from megasam_shared.install_command import install_command
from megasam_shared.settings import SolveSettings

from tests.server.checkpoints.published import facts_of, published

ALL_PACKAGES = engines.MEGASAM_DEPENDENCIES


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder of checkpoints, and caches of the test's own."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    monkeypatch.setenv(CHECKPOINTS_VARIABLE, str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def installed(monkeypatch):
    """Say which packages of the megasam engine are importable."""
    real = importlib.util.find_spec

    def install(*names: str) -> None:
        def find_spec(name, package=None):
            if name in engines.MEGASAM_DEPENDENCIES:
                return real("json") if name in names else None
            return real(name, package)

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)
        for name in names:
            if real(name) is None:  # this machine is without it
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    return install


@pytest.mark.parametrize(
    ("packages", "heading", "code"),
    [
        ((), "⚠ Missing dependencies", "missing_dependencies"),
        (("torch",), "⚠ Missing dependencies", "missing_dependencies"),
        (ALL_PACKAGES, "⚠ Missing checkpoints", "missing_checkpoints"),
    ],
)
def test_what_the_megasam_engine_lacks_decides_status_and_cameras(
    installed, packages, heading, code
):
    installed(*packages)

    auto = engines.choose_engine(SolveSettings(engine="auto"))
    assert (auto.engine, auto.source) == ("classical", "Classical")
    assert auto.status.startswith(heading)
    assert "classical" in auto.status

    asked = engines.choose_engine(SolveSettings(engine="megasam"))
    assert (asked.engine, asked.source) == ("identity", "MegaSAM_fallback")
    assert asked.status.startswith(heading)
    assert [notice.code for notice in asked.notices] == [code]
    assert asked.notices[0].hint

    with pytest.raises(MegasamError) as error:
        engines.choose_engine(SolveSettings(engine="megasam", fallback_policy="fail"))
    assert error.value.code == code


def test_a_missing_package_is_named(installed):
    installed("torch", "torchvision", "safetensors")
    notice = engines.choose_engine(SolveSettings(engine="auto")).notices[0]
    assert "needs timm and kornia." in notice.message
    assert install_command("networks") in notice.hint


def test_the_classical_engine_asked_for_has_nothing_to_complain_about():
    choice = engines.choose_engine(SolveSettings(engine="classical"))
    assert choice.engine == "classical"
    assert choice.notices == []
    assert "⚠" not in choice.status


def test_missing_and_damaged_checkpoints_are_named_and_the_hint_says_what_to_do(installed, folder):
    installed(*ALL_PACKAGES)
    (folder / "raft-things.pth").write_bytes(b"cut off")
    choice = engines.choose_engine(SolveSettings(engine="megasam"))
    notice = choice.notices[0]
    assert "megasam_final.pth" in notice.message
    assert "raft-things.pth has 7 bytes instead of 21,108,000" in notice.message
    assert str(folder) in notice.message
    assert "megasam checkpoints import" in notice.hint
    assert "engine auto or classical" in notice.hint


def test_with_the_required_checkpoints_the_megasam_engine_is_chosen(installed, folder, monkeypatch):
    torch = pytest.importorskip("torch")
    installed(*ALL_PACKAGES)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    facts = {}
    for name in ("megasam", "raft_things"):
        path = folder / find_checkpoint(name).files[0].name
        path.write_bytes(name.encode())
        facts[path.name] = facts_of(path)
    with published(facts):
        for engine in ("auto", "megasam"):
            choice = engines.choose_engine(SolveSettings(engine=engine))
            assert (choice.engine, choice.source) == ("megasam", "MegaSAM")
            assert choice.selection.chosen.keys() == {"tracking", "flow"}
            assert choice.licences == choice.selection.licences
            assert "⚠" not in choice.status
            # The depth stages can be left out, but not in silence.
            assert [notice.code for notice in choice.notices] == ["missing_depth_checkpoints"]
            assert "mono depth" in choice.notices[0].message
        classical = engines.choose_engine(SolveSettings(engine="classical"))
        # Without a GPU the networks take most of a minute a frame: only when asked for.
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        auto = engines.choose_engine(SolveSettings(engine="auto"))
        assert (auto.engine, auto.notices[0].code) == ("classical", "no_gpu")
        assert engines.choose_engine(SolveSettings(engine="megasam")).engine == "megasam"
    assert classical.engine == "classical"
    assert classical.selection is None
