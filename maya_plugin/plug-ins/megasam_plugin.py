"""The Maya plug-in: a command ``megasam`` and a menu, both of which open the MegaSAM window.

Loads in mayapy and batch as well, without the menu. The file must not be called megasam_maya:
plug-ins/ is on Python's path and would hide the package.
"""

from __future__ import annotations

import sys

import megasam_shared
from maya import cmds, mel
from maya.api import OpenMaya as om

COMMAND = "megasam"
MENU = "megasamMenu"


def maya_useNewAPI() -> None:  # noqa: N802 - Maya looks for this name
    """Tells Maya that this plug-in uses the Python API 2.0."""


class OpenCommand(om.MPxCommand):
    """``cmds.megasam()``: open the window, or bring it to the front."""

    def doIt(self, _arguments: om.MArgList) -> None:  # noqa: N802 - Maya's name
        open_window()


def open_window() -> None:
    """Open the window; what prevents it is shown to the artist."""
    from megasam_maya import vendored
    from megasam_shared.errors import MegasamError

    try:
        vendored.load()
        from megasam_maya.ui import open_in_maya

        open_in_maya()
    except MegasamError as error:
        cmds.confirmDialog(
            title="MegaSAM", message=f"{error.message}\n\n{error.hint}".strip(), button=["OK"]
        )


def initializePlugin(plugin: om.MObject) -> None:  # noqa: N802 - Maya's name
    """Register the command, and the menu where there is a main window."""
    registry = om.MFnPlugin(plugin, "MegaSAM for Maya", megasam_shared.__version__, "Any")
    registry.registerCommand(COMMAND, OpenCommand)
    if om.MGlobal.mayaState() in (om.MGlobal.kInteractive, om.MGlobal.kBaseUIMode):
        try:
            _make_menu()
        except Exception:
            registry.deregisterCommand(COMMAND)
            raise


def uninitializePlugin(plugin: om.MObject) -> None:  # noqa: N802 - Maya's name
    """Close the window, if this session opened it, and take back menu and command."""
    ui = sys.modules.get("megasam_maya.ui")
    if ui is not None:
        ui.close_in_maya()
    if cmds.menu(MENU, exists=True):
        cmds.deleteUI(MENU, menu=True)
    om.MFnPlugin(plugin).deregisterCommand(COMMAND)


def _make_menu() -> None:
    main_window = mel.eval("$megasam = $gMainWindow")
    if cmds.menu(MENU, exists=True):
        cmds.deleteUI(MENU, menu=True)
    cmds.menu(MENU, label="MegaSAM", parent=main_window, tearOff=True)
    cmds.menuItem(
        label="Solve Camera...",
        parent=MENU,
        image="megasam_solve.png",
        annotation="Solve the camera of a plate and bake it",
        command=lambda *_: open_window(),
    )
