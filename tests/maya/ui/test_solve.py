"""A solve through the real dialog: a real server process, a real worker, real files."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from megasam_shared.client import SolverClient
from PySide6.QtCore import Qt

from tests.maya.ui.job_functions import write_result

PATIENCE = 20_000


@pytest.fixture
def ready(qtbot, open_dialog, server, make_plate):
    """A connected dialog with a plate in it."""

    def make(orders: str = "frames=10", frames: int = 5, host=None):
        dialog = open_dialog(server.address, host)
        dialog.plate.picker.set_path(make_plate(orders, frames))
        qtbot.waitUntil(lambda: dialog.plate.plate is not None, timeout=PATIENCE)
        qtbot.waitUntil(lambda: dialog.server.dot.state == "connected", timeout=PATIENCE)
        return dialog

    return make


def wait_until_solved(qtbot, dialog) -> None:
    qtbot.waitUntil(lambda: dialog.result.quality is not None, timeout=PATIENCE)


def hold(tmp_path: Path) -> tuple[str, Path]:
    """Orders of a job that waits in the tracking stage until the file is gone."""
    file = tmp_path / "hold"
    file.touch()
    return f"frames=10 hold={file}", file


def test_solve_shows_stages_quality_and_writes_scene_files(qtbot, ready, tmp_path):
    dialog = ready("frames=30 verdict=check", frames=30)
    dialog.plate.lands_on.setValue(101)
    assert dialog.plate.mapping.text() == "plate 1001-1030 → scene 101-130"

    dialog.solve_button.click()
    assert not dialog.solve_button.isEnabled() and dialog.cancel_button.isEnabled()
    wait_until_solved(qtbot, dialog)

    assert dialog.tabs.currentIndex() == 1
    assert dialog.result.verdict.text().startswith("Check: look before you use it")
    assert "solved as a tripod shot" in dialog.result.words.text()
    assert "Motion blur?" in dialog.result.words.text()
    assert all(bar.value() == bar.maximum() for key, bar in dialog.progress.bars.items()
               if key not in ("metric_depth",))  # fmt: skip
    assert dialog.progress.notes["metric_depth"].text() == "skipped"
    assert dialog.progress.preview.caption.startswith("frame ")

    folder = tmp_path / "plate_sh010" / "sh010_solve_v001"
    assert (folder / "quality.json").exists()
    dialog.applying.panel.folder.set_path(tmp_path / "scenes")
    dialog.applying.panel.apply.click()
    assert {p.name for p in (tmp_path / "scenes").iterdir()} == {
        f"sh010_solve_v001{suffix}" for suffix in (".ma", ".usda", ".abc", ".fbx", ".chan", ".json")
    }
    assert dialog.message.text.text().startswith("Wrote sh010_solve_v001.ma")
    assert dialog.solve_button.isEnabled()


def test_a_second_solve_is_a_new_version(qtbot, ready, tmp_path):
    dialog = ready()
    for version in ("v001", "v002"):
        dialog.result.clear("")
        dialog.solve()
        wait_until_solved(qtbot, dialog)
        assert (tmp_path / "plate_sh010" / f"sh010_solve_{version}" / "quality.json").exists()


def test_failed_job_says_what_is_wrong_and_what_to_do(qtbot, ready):
    dialog = ready("frames=3 fail=yes")
    dialog.solve()
    qtbot.waitUntil(dialog.message.isVisible, timeout=PATIENCE)
    assert dialog.message.text.text() == "The plate is black. Shoot it again."
    assert dialog.solve_button.isEnabled()


def test_failed_solve_is_applied_only_when_insisted_on(qtbot, ready, tmp_path):
    dialog = ready("frames=30 verdict=failed")
    dialog.solve()
    wait_until_solved(qtbot, dialog)
    assert dialog.result.verdict.text().startswith("Failed: do not use it")
    panel = dialog.applying.panel
    panel.folder.set_path(tmp_path / "scenes")
    assert panel.anyway.isVisible() and not panel.apply.isEnabled()
    # Nor does what goes past the button, such as a script.
    dialog.applying.apply()
    assert "not fit for use" in dialog.message.text.text()
    assert not (tmp_path / "scenes").exists()
    panel.anyway.click()
    panel.apply.click()
    assert (tmp_path / "scenes" / "sh010_solve_v001.ma").exists()


@pytest.mark.parametrize("verdict", ["check", "failed"])
def test_in_maya_a_failed_solve_needs_insisting_and_one_to_look_at_does_not(
    qtbot, ready, host, cmds, verdict
):
    dialog = ready(f"frames=30 verdict={verdict}", frames=30, host=host)
    dialog.solve()
    wait_until_solved(qtbot, dialog)
    panel = dialog.applying.panel
    failed = verdict == "failed"
    assert panel.anyway.isVisible() == failed and panel.apply.isEnabled() != failed
    if failed:
        dialog.applying.apply()
        assert "not fit for use" in dialog.message.text.text()
        assert len(cmds.ls(type="camera")) == 4
        panel.anyway.click()
    panel.points.setCurrentIndex(panel.points.findData("none"))
    panel.apply.click()
    assert dialog.message.text.text().startswith("Made |"), dialog.message.text.text()
    assert len(cmds.ls(type="camera")) == 5


def test_nothing_solved_has_no_error_to_show(qtbot, open_dialog, tmp_path):
    """Identity cameras: an RMS of nothing would read as a perfect one."""
    folder = tmp_path / "identity"
    write_result(folder, 5, "failed")
    quality = json.loads((folder / "quality.json").read_text())
    quality |= {"rms_px": 0.0, "per_frame_rms_px": [None] * 5}
    (folder / "quality.json").write_text(json.dumps(quality))
    dialog = open_dialog("")
    dialog.load_folder(folder)
    wait_until_solved(qtbot, dialog)
    assert dialog.result.verdict.text() == "Failed: do not use it"


def test_from_the_keyboard_cancel_is_acknowledged_within_a_second(qtbot, ready, tmp_path, server):
    orders, _ = hold(tmp_path)
    dialog = ready(orders)
    dialog.activateWindow()
    qtbot.waitUntil(dialog.isActiveWindow)
    qtbot.keyClick(dialog, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    tracking = dialog.progress.bars["tracking"]
    qtbot.waitUntil(lambda: tracking.value() > 0, timeout=PATIENCE)
    began = time.monotonic()
    qtbot.keyClick(dialog, Qt.Key.Key_Period, Qt.KeyboardModifier.ControlModifier)
    qtbot.waitUntil(
        lambda: dialog.progress.headline.text() in ("Cancelling…", "Cancelled."), timeout=1000
    )
    assert time.monotonic() - began < 1.0
    qtbot.waitUntil(lambda: dialog.progress.headline.text() == "Cancelled.", timeout=PATIENCE)
    assert dialog.solve_button.isEnabled()
    with SolverClient(server.address) as client:
        client.connect()
        assert [job.state for job in client.list_jobs()] == ["cancelled"]


def test_closed_in_mid_solve_a_new_dialog_attaches_and_applies(
    qtbot, ready, open_dialog, tmp_path, server
):
    orders, held = hold(tmp_path)
    dialog = ready(orders)
    dialog.plate.lands_on.setValue(11)
    dialog.solve()
    qtbot.waitUntil(lambda: dialog.progress.bars["tracking"].value() > 0, timeout=PATIENCE)
    session = dialog.session
    dialog.close()
    qtbot.waitUntil(lambda: not session.alive, timeout=PATIENCE)

    other = open_dialog(server.address)
    qtbot.waitUntil(lambda: other.progress.bars["tracking"].value() > 0, timeout=PATIENCE)
    assert other.cancel_button.isEnabled()
    held.unlink()
    wait_until_solved(qtbot, other)
    assert other.applying.frame_offset == 11 - 1001
    assert (tmp_path / "plate_sh010" / "sh010_solve_v001" / "quality.json").exists()


def test_closed_while_the_plate_is_sent_the_job_is_submitted_all_the_same(
    qtbot, ready, open_dialog, server
):
    dialog = ready("frames=10", frames=200)
    session = dialog.session
    dialog.solve()
    dialog.close()
    qtbot.waitUntil(lambda: not session.alive, timeout=PATIENCE)
    other = open_dialog(server.address)
    wait_until_solved(qtbot, other)


def test_result_of_the_history_and_of_a_folder_are_shown_again(
    qtbot, ready, open_dialog, server, tmp_path
):
    dialog = ready("frames=10 verdict=check")
    dialog.solve()
    wait_until_solved(qtbot, dialog)
    dialog.close()

    other = open_dialog(server.address)
    assert other.jobs.list.topLevelItemCount() == 1
    item = other.jobs.list.topLevelItem(0)
    assert (item.text(0), item.text(1)) == ("sh010", "solved, check")
    item.setSelected(True)
    other.jobs.open.click()
    wait_until_solved(qtbot, other)

    other.result.clear("")
    other.load_folder(tmp_path / "plate_sh010" / "sh010_solve_v001")
    wait_until_solved(qtbot, other)
    assert other.applying.frame_offset == 0
    other.load_folder(tmp_path)
    qtbot.waitUntil(other.message.isVisible, timeout=PATIENCE)
    assert "cannot be used as the result of a solve" in other.message.text.text()


def test_values_are_remembered(qtbot, ready, open_dialog, server, own_config):
    dialog = ready()
    dialog.settings.fields["quality_preset"].value = "best"
    dialog.settings.fields["tracking_resolution"].value = 320
    dialog.lens.mode.setCurrentIndex(1)
    dialog.lens.focal.setValue(29.5)
    dialog.close()
    kept = json.loads((own_config / "dialog.json").read_text())
    assert kept["servers"][0] == server.address

    other = open_dialog("")
    assert other.server.address.currentText() == server.address
    settings = other.settings.settings()
    assert (settings["quality_preset"], settings["tracking_resolution"]) == ("best", 320)
    assert settings["flow_chunk_size"] is None
    assert other.lens.settings()["focal_mm"] == 29.5


def test_settings_reach_the_server(qtbot, ready, tmp_path):
    dialog = ready("frames=10", frames=12)
    dialog.plate.first.setValue(1003)
    dialog.plate.last.setValue(1008)
    dialog.settings.fields["quality_preset"].value = "fast"
    dialog.lens.mode.setCurrentIndex(1)
    dialog.lens.focal.setValue(35.0)
    dialog.solve()
    wait_until_solved(qtbot, dialog)
    folder = tmp_path / "plate_sh010" / "sh010_solve_v001"
    got = json.loads((folder / "settings.json").read_text())
    wanted = {
        "first_frame": 1003,
        "last_frame": 1008,
        "quality_preset": "fast",
        "focal_mm": 35.0,
        "film_back_mm": 36.0,
        "tracking_resolution": 240,
    }
    assert {name: got[name] for name in wanted} == wanted
