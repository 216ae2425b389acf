"""The dialog. PySide6 only: Maya is reached through the host object that is handed in.

These functions are what plug-in and shelf call. Maya and Qt are imported when they are, so that a
session without windows can load the package.
"""

from __future__ import annotations


def open_in_maya() -> None:
    """Show the dialog in the running Maya, docked where the artist last had it."""
    from megasam_maya.host import MayaHost
    from megasam_maya.ui.in_maya import open_docked

    open_docked(MayaHost())


def fill_workspace_control() -> None:
    """What Maya calls when it makes the dock of the dialog, also at its own start."""
    from megasam_maya.host import MayaHost
    from megasam_maya.ui.in_maya import fill_control

    fill_control(MayaHost())


def close_in_maya() -> None:
    """End the dialog; for the plug-in's unloading and for Maya's exit. Waits 2 s at most."""
    from megasam_maya.ui.in_maya import close_dialog

    close_dialog()
