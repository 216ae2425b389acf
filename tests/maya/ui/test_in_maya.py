"""The dialog with the plug-in's real host, in the stand-in for Maya."""

from __future__ import annotations

import json

import numpy as np
import pytest
from megasam_shared.coordinates import point_to_opencv
from PySide6.QtWidgets import QVBoxLayout, QWidget

from tests.fake_maya.projection import project
from tests.maya.ui.conftest import delete_now, own_threads
from tests.server.conftest import room_clip  # noqa: F401
from tests.server.service.serving import Serving

PATIENCE = 20_000


@pytest.fixture
def solved(qtbot, open_dialog, server, make_plate, host):
    """A dialog that shows the result of a solve of 30 frames, which land on 101."""

    def make(orders: str = "frames=30"):
        dialog = open_dialog(server.address, host)
        dialog.plate.picker.set_path(make_plate(orders, frames=30))
        qtbot.waitUntil(lambda: dialog.plate.plate is not None, timeout=PATIENCE)
        dialog.plate.lands_on.setValue(101)
        qtbot.waitUntil(lambda: dialog.server.dot.state == "connected", timeout=PATIENCE)
        dialog.solve()
        qtbot.waitUntil(lambda: dialog.result.quality is not None, timeout=PATIENCE)
        dialog.applying.panel.points.setCurrentIndex(2)
        return dialog

    return make


def cameras(cmds) -> set[str]:
    return set(cmds.ls(type="camera", long=True) or [])


def test_apply_makes_a_camera_where_the_dialog_said_and_one_undo_takes_it_back(solved, cmds):
    before = cameras(cmds)
    dialog = solved()
    assert cameras(cmds) == before, "nothing is touched before Apply"
    dialog.applying.panel.apply.click()
    (shape,) = cameras(cmds) - before
    assert dialog.message.text.text().startswith("Made |")
    transform = cmds.listRelatives(shape, parent=True, fullPath=True)[0]
    times = cmds.keyframe(f"{transform}.translateX", query=True, timeChange=True)
    assert (min(times), max(times), len(times)) == (101, 130, 30)
    cmds.undo()
    assert cameras(cmds) == before


def test_apply_on_the_selected_camera_needs_one(solved, cmds):
    dialog = solved()
    panel = dialog.applying.panel
    panel.camera.setCurrentIndex(1)
    cmds.select(clear=True)
    panel.apply.click()
    assert dialog.message.text.text().startswith("No camera is selected.")


def test_click_in_the_graph_goes_to_the_frame_in_maya(solved, cmds):
    dialog = solved()
    dialog.result.graph.frame_chosen.emit(1011)
    assert dialog.result.frame.text().startswith("frame 1011:")
    assert cmds.currentTime(query=True) == 111


def test_a_refused_apply_is_said_in_the_window(solved, cmds):
    dialog = solved("frames=30 verdict=failed")
    panel = dialog.applying.panel
    assert not panel.apply.isEnabled()
    before = cameras(cmds)
    panel.anyway.click()
    panel.apply.click()
    assert len(cameras(cmds) - before) == 1


def test_the_plate_of_the_selected_camera(solved, cmds, qtbot):
    dialog = solved()
    cmds.select(clear=True)
    dialog.plate.from_camera.click()
    assert dialog.message.text.text().startswith("No camera is selected.")
    before = cameras(cmds)
    dialog.applying.panel.apply.click()
    (shape,) = cameras(cmds) - before
    cmds.select(cmds.listRelatives(shape, parent=True, fullPath=True)[0], replace=True)
    dialog.plate.picker.set_path(None)
    dialog.plate.from_camera.click()
    qtbot.waitUntil(lambda: dialog.plate.plate is not None, timeout=PATIENCE)
    assert dialog.plate.plate.label == "sh010.%04d.png"
    assert dialog.plate.frame_range == (None, None)


class DockingHost:
    """Docks of a Maya with windows, around a host of the stand-in, which has none."""

    def __init__(self, host) -> None:
        self._host = host
        self.docks: dict[str, QWidget] = {}
        self.at_exit: list = []

    def __getattr__(self, name: str):
        return getattr(self._host, name)

    def show_docked(self, control: str, title: str, ui_script: str) -> None:
        compile(ui_script, "uiScript", "exec")
        if control not in self.docks:
            self.docks[control] = QWidget()
            QVBoxLayout(self.docks[control])

    def dock_layout(self, control: str):
        return self.docks[control].layout() if control in self.docks else None

    def on_exit(self, call):
        self.at_exit.append(call)
        return lambda: self.at_exit.remove(call)


def test_the_dock_holds_one_dialog_which_ends_with_maya(qtbot, qapp, host):
    from megasam_maya.ui import in_maya

    docking = DockingHost(host)
    in_maya.open_docked(docking)
    first = in_maya.fill_control(docking)
    session = first.session
    second = in_maya.fill_control(docking)
    assert not session.alive
    delete_now(qapp)
    assert docking.docks[in_maya.CONTROL].layout().count() == 1
    session = second.session
    (at_exit,) = docking.at_exit
    at_exit()
    assert not session.alive and docking.at_exit == []
    in_maya.close_dialog()
    docking.docks.clear()
    delete_now(qapp)
    qtbot.waitUntil(lambda: own_threads() == [], timeout=PATIENCE)


@pytest.mark.slow
def test_a_real_solve_reprojects_in_maya_as_it_was_solved(
    qtbot,
    open_dialog,
    host,
    maya,
    cmds,
    tmp_path,
    room_clip,  # noqa: F811
):
    """Solver, server, client, dialog and Apply in one: points of the solve, seen through the baked
    camera by a projection of its own, lie where the solved camera sees them."""
    with Serving(tmp_path / "state", job_function=None) as server:
        dialog = open_dialog(server.address, host)
        dialog.plate.picker.set_path(room_clip.movie)
        qtbot.waitUntil(lambda: dialog.plate.plate is not None, timeout=PATIENCE)
        assert (dialog.plate.plate.width, dialog.plate.plate.count) == (480, 24)
        dialog.results_in.set_path(tmp_path)
        dialog.settings.fields["quality_preset"].value = "fast"
        qtbot.waitUntil(lambda: dialog.server.dot.state == "connected", timeout=PATIENCE)
        before = cameras(cmds)
        dialog.solve()
        qtbot.waitUntil(lambda: dialog.result.quality is not None, timeout=300_000)
        panel = dialog.applying.panel
        if panel.anyway.isVisible():
            panel.anyway.click()
        panel.apply.click()
        (name,) = cameras(cmds) - before
        folder = dialog.applying._folder
        shot = json.loads((folder / "camera_extrinsics.json").read_text())
        offset = dialog.applying.frame_offset
    from megasam_maya.shot import read_shot

    points = np.array(read_shot(folder).points(200))
    (shape,) = maya.find(name)
    in_opencv = np.array([point_to_opencv(tuple(p), "maya") for p in points])
    flip = np.diag([1.0, -1, -1, 1])
    for index, number in enumerate(shot["frame_numbers"]):
        world_from_cam = flip @ np.array(shot["matrix_c2w"][index]) @ flip
        in_cam = (np.linalg.inv(world_from_cam) @ np.c_[in_opencv, np.ones(len(points))].T).T
        seen = in_cam[:, 2] > 0.1
        focal = shot["focal_length_px_per_frame"][index]
        true = in_cam[seen, :2] / in_cam[seen, 2:3] * focal + shot["principal_point"]
        made = project(
            maya, shape, points[seen] * 100, shot["image_width"], shot["image_height"],
            number + offset,
        )  # fmt: skip
        assert np.abs(made - true).max() < 0.01
    cmds.undo()
    assert cameras(cmds) == before
