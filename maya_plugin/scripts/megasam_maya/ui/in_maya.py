"""The dialog inside Maya: one of it, docked, and gone with the plug-in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import shiboken6
from megasam_shared.config_folder import config_folder

from megasam_maya.ui.dialog import SolveDialog

if TYPE_CHECKING:
    from megasam_maya.host import MayaHost

CONTROL = "megasamWorkspaceControl"
TITLE = "MegaSAM"
# Maya keeps this text in its layout and runs it at the next start, when the plug-in may be gone.
UI_SCRIPT = """
try:
    from megasam_maya.ui import fill_workspace_control
    fill_workspace_control()
except ImportError:
    print("MegaSAM is not installed any more: close this tab.")
"""

_dialog: SolveDialog | None = None
_forget_exit: Callable[[], None] | None = None


def open_docked(host: MayaHost) -> None:
    """Show the dialog, making it if there is none."""
    host.show_docked(CONTROL, TITLE, UI_SCRIPT)


def fill_control(host: MayaHost) -> SolveDialog | None:
    """Put a dialog into the empty dock that Maya has just made; called by ``UI_SCRIPT``."""
    global _dialog, _forget_exit
    layout = host.dock_layout(CONTROL)
    if layout is None:
        return None
    close_dialog()
    _dialog = SolveDialog(host, hash_cache=config_folder() / "plate_hashes.json")
    layout.addWidget(_dialog)
    # Plug-ins are not always unloaded when Maya ends.
    _forget_exit = host.on_exit(close_dialog)
    return _dialog


def close_dialog() -> None:
    """End the dialog and its thread, whether the server answers or not; jobs go on."""
    global _dialog, _forget_exit
    dialog, _dialog = _dialog, None
    forget_exit, _forget_exit = _forget_exit, None
    if forget_exit is not None:
        forget_exit()
    if dialog is None:
        return
    with contextlib.suppress(RuntimeError):
        if shiboken6.isValid(dialog):
            dialog.shut_down()
            dialog.close()
