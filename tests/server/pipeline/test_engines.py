"""Which engine runs, and what the artist reads about it."""

from __future__ import annotations

import importlib.util

import pytest
from megasam_server.pipeline import engines
from megasam_shared.errors import MegasamError
from megasam_shared.settings import SolveSettings


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

    return install


@pytest.mark.parametrize(
    ("packages", "heading", "code"),
    [
        ((), "⚠ Missing dependencies", "missing_dependencies"),
        (("torch",), "⚠ Missing dependencies", "missing_dependencies"),
        (("torch", "kornia"), "⚠ Missing checkpoints", "missing_checkpoints"),
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
    installed("torch")
    notice = engines.choose_engine(SolveSettings(engine="auto")).notices[0]
    assert "kornia" in notice.message
    assert "torch" not in notice.message


def test_the_classical_engine_asked_for_has_nothing_to_complain_about():
    choice = engines.choose_engine(SolveSettings(engine="classical"))
    assert choice.engine == "classical"
    assert choice.notices == []
    assert "⚠" not in choice.status


def test_checkpoints_are_looked_for_in_the_setting_then_the_variable(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    for name in ("b.pth", "a.safetensors", "notes.txt"):
        (first / name).touch()
    monkeypatch.setenv(engines.CHECKPOINTS_VARIABLE, str(second))
    assert engines.checkpoint_folder() == second
    assert engines.find_checkpoints() == []
    found = engines.find_checkpoints(str(first))
    assert [path.name for path in found] == ["a.safetensors", "b.pth"]
