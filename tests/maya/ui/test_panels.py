"""The parts of the dialog on their own: what they show, and that the keyboard is enough."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from megasam_maya.film_back_presets import user_table
from megasam_maya.ui.error_graph import ErrorGraph
from megasam_maya.ui.lens_panel import LensPanel
from megasam_maya.ui.path_field import PathField
from megasam_maya.ui.progress_panel import ProgressPanel
from megasam_maya.ui.settings_panel import ADVANCED, MACHINE, MAIN, SettingsPanel
from megasam_shared.protocol import Progress
from megasam_shared.settings import FIELDS, PRESETS, SolveSettings
from PySide6.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QKeySequence, QWheelEvent
from PySide6.QtWidgets import QAbstractButton, QApplication, QComboBox, QLabel, QLineEdit

LENS = {"focal_length_px", "focal_mm", "film_back_mm", "optimize_focal"}
FRAMES = {"first_frame", "last_frame"}


@pytest.fixture
def shown(qapp):
    widgets = []

    def show(widget):
        widgets.append(widget)
        widget.show()
        return widget

    yield show
    for widget in widgets:
        widget.close()
        widget.deleteLater()


def test_every_setting_has_its_place_and_advanced_is_what_the_design_says():
    assert (
        *("depth_chunk_size", "flow_chunk_size", "max_keyframes", "tracking_resolution"),
        *("run_cvd", "cvd_resolution", "cvd_iterations", "model_path"),
    ) == ADVANCED
    assert {*MAIN, *ADVANCED, *MACHINE} | LENS | FRAMES == set(FIELDS)


@pytest.mark.parametrize("preset", PRESETS)
def test_untouched_settings_are_those_of_the_preset(shown, preset):
    panel = shown(SettingsPanel())
    panel.fields["quality_preset"].value = preset
    assert SolveSettings(**panel.settings()) == SolveSettings(quality_preset=preset)
    for name, value in PRESETS[preset].values.items():
        assert panel.fields[name]._read() == value


def test_what_the_artist_sets_stays_at_another_preset_until_given_back(qtbot, shown):
    panel = shown(SettingsPanel())
    field = panel.fields["tracking_resolution"]
    assert not panel.advanced.content.isVisible()
    panel.advanced.set_open(True)
    field.editor.selectAll()
    qtbot.keyClicks(field.editor, "323")
    qtbot.keyClick(field.editor, Qt.Key.Key_Return)
    panel.fields["quality_preset"].value = "fast"
    assert panel.settings()["tracking_resolution"] == 320
    assert field.reset.isVisible() and field.label.font().bold()
    field.reset.click()
    assert panel.settings()["tracking_resolution"] is None
    assert field.editor.value() == 240


def test_lens_in_mm_in_pixels_and_unknown(shown):
    panel = shown(LensPanel())
    panel.load_presets()
    names = [panel.film_back.itemText(i) for i in range(panel.film_back.count())]
    panel.film_back.setCurrentIndex(next(i for i, n in enumerate(names) if "Alexa 65" in n))
    panel.film_back.activated.emit(panel.film_back.currentIndex())
    assert panel.film_back_mm == 54.12
    assert not any(panel.settings().values())
    panel.mode.setCurrentIndex(1)
    panel.focal.setValue(50.0)
    panel.refine.click()
    assert SolveSettings(**panel.settings()).focal_px_at(5412) == pytest.approx(5000)
    assert panel.settings()["optimize_focal"]
    panel.mode.setCurrentIndex(2)
    assert panel.settings()["focal_length_px"] == 50.0 and not panel.settings()["film_back_mm"]
    panel.width_mm.setValue(31.234)
    assert panel.film_back.currentText() == "Custom width"


def test_users_extend_the_film_backs_and_hear_of_mistakes(shown):
    user_table().parent.mkdir(parents=True)
    own = [{"name": "Studio rig", "width_mm": 31.5, "height_mm": 20.0}]
    user_table().write_text(json.dumps(own))
    panel = shown(LensPanel())
    panel.load_presets()
    assert panel.film_back.itemText(1).startswith("Studio rig")

    user_table().write_text('[{"name": "Studio rig"}]')
    problems = []
    panel.problem.connect(problems.append)
    panel.load_presets()
    assert problems[0].code == "film_back_table_invalid" and "width_mm" in str(problems[0])


@pytest.mark.parametrize(
    ("done", "total", "words"), [(12, 30, "12 of 30"), (0.3, 1, "30%"), (1, 1, "100%")]
)
def test_a_stage_says_frames_or_else_its_share(shown, done, total, words):
    panel = shown(ProgressPanel())
    panel.show_progress(Progress("j" * 32, "tracking", done, total, "", 0.4, [], 3.0))
    assert panel.notes["tracking"].text() == words


def test_a_plate_is_dropped_on_its_field(shown, tmp_path):
    field = shown(PathField("plate", ""))
    files = QMimeData()
    files.setUrls([QUrl.fromLocalFile(str(tmp_path / "sh010.1001.exr"))])
    files.setText(files.urls()[0].toString())  # some file managers send both
    committed = []
    field.committed.connect(lambda: committed.append(field.path))
    how = (
        Qt.DropAction.CopyAction, files, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier,
    )  # fmt: skip
    over = field.edit.rect().center()
    QApplication.sendEvent(field.edit, QDragEnterEvent(over, *how))
    QApplication.sendEvent(field.edit, QDropEvent(over, *how))
    assert committed == [tmp_path / "sh010.1001.exr"]


def test_graph_click_and_arrow_keys_choose_frames(qtbot, shown):
    graph = shown(ErrorGraph())
    graph.resize(400, 150)
    graph.show_errors(range(1001, 1121), [0.5] * 60 + [None] * 10 + [3.0] * 50, 1.2)
    chosen = []
    graph.frame_chosen.connect(chosen.append)
    at = QPoint(round(graph.x_of(40)), 60)
    qtbot.mouseClick(graph, Qt.MouseButton.LeftButton, pos=at)
    qtbot.keyClick(graph, Qt.Key.Key_Right)
    qtbot.keyClick(graph, Qt.Key.Key_Left)
    assert chosen == [1041, 1042, 1041]
    assert graph.top >= 3.0
    assert not graph.grab().isNull()


def test_the_wheel_changes_only_what_has_the_focus(qtbot, qapp, open_dialog):
    dialog = open_dialog("tcp://127.0.0.1:9")
    dialog.activateWindow()
    width = dialog.lens.width_mm

    def turn() -> float:
        at = QPointF(width.rect().center())
        event = QWheelEvent(
            at, width.mapToGlobal(at), QPoint(0, 0), QPoint(0, 120), Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
        )  # fmt: skip
        qapp.sendEvent(width, event)
        return width.value()

    assert turn() == 36.0
    width.setFocus()
    qtbot.waitUntil(width.hasFocus)
    assert turn() == 37.0


def test_every_control_can_be_reached_by_tab_and_has_a_name(qtbot, open_dialog):
    dialog = open_dialog("tcp://127.0.0.1:9")
    dialog.settings.advanced.set_open(True)
    dialog.activateWindow()
    reached, widget = set(), dialog.plate.picker.edit
    while widget not in reached:
        reached.add(widget)
        widget = widget.nextInFocusChain()
    kinds = (QAbstractButton, QComboBox, QLineEdit)
    controls = [
        w
        for kind in kinds
        for w in dialog.findChildren(kind)
        if w.isEnabled() and w.isVisible() and w.focusPolicy() & Qt.FocusPolicy.TabFocus
    ]
    assert len(controls) > 20
    assert {w for w in controls if w not in reached} == set()
    for control in controls:
        is_part = isinstance(control, QLineEdit) and not isinstance(
            control.parentWidget(), QComboBox
        )
        named = control.accessibleName() or getattr(control, "text", str)()
        if isinstance(control, QAbstractButton):
            assert named or control.toolTip(), control
        elif not is_part:
            assert named or _buddy_of(dialog, control), control


@pytest.mark.parametrize("in_maya", [True, False], ids=["Maya", "window"])
def test_each_underlined_letter_goes_to_one_place(open_dialog, host, in_maya):
    dialog = open_dialog("tcp://127.0.0.1:9", host if in_maya else None)
    for index in range(dialog.tabs.count()):
        dialog.tabs.setCurrentIndex(index)
        texts = [dialog.tabs.tabText(i) for i in range(dialog.tabs.count())]
        for kind in (QLabel, QAbstractButton):
            texts += [w.text() for w in dialog.findChildren(kind) if w.isVisible()]
        letters = Counter(QKeySequence.mnemonic(text).toString() for text in texts)
        del letters[""]
        assert len(letters) >= 15
        assert [letter for letter, count in letters.items() if count > 1] == []


def test_alt_and_the_underlined_letter_go_there(qtbot, qapp, open_dialog, make_plate):
    dialog = open_dialog("tcp://127.0.0.1:9")
    dialog.plate.picker.set_path(make_plate())
    qtbot.waitUntil(lambda: dialog.plate.plate is not None)
    dialog.activateWindow()
    qtbot.waitUntil(dialog.isActiveWindow)

    def press(text: str) -> None:
        key = Qt.Key(QKeySequence.mnemonic(text)[0].key())
        qtbot.keyClick(dialog, key, Qt.KeyboardModifier.AltModifier)

    gone_to = []
    for label in dialog.findChildren(QLabel):
        if label.isVisible() and not QKeySequence.mnemonic(label.text()).isEmpty():
            press(label.text())
            focus, buddy = qapp.focusWidget(), label.buddy()
            assert focus is buddy or buddy.isAncestorOf(focus), label.text()
            gone_to.append(focus)
    assert len(set(gone_to)) == len(gone_to) >= 9
    for index in (2, 1, 0):
        press(dialog.tabs.tabText(index))
        assert dialog.tabs.currentIndex() == index


def _buddy_of(dialog, control) -> bool:
    return any(
        label.buddy() in (control, control.parentWidget()) for label in dialog.findChildren(QLabel)
    )
