"""A Maya session into which install_maya.py is dropped: run by a test, in a process of its own.

Reads from argv[1] a JSON map: checkout, app_dir, version, drops, batch. Builds on the stand-in for Maya,
with the commands of windows and plug-ins added; prints what the artist saw.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

from tests.fake_maya import running_maya


class Session:
    """Windows, plug-ins and their menus; unknown flags are TypeErrors, as they are in Maya."""

    def __init__(self, app_dir: str, version: str, batch: bool) -> None:
        self._app_dir, self._version, self._batch = app_dir, version, batch
        self.dialogs: list[str] = []
        self.busy: list[bool] = []
        self.menus: dict[str, list[str]] = {}
        self.commands: dict[str, type] = {}
        self.plug_ins: dict[str, ModuleType] = {}

    def about(self, *, version: bool) -> str:
        return self._version

    def internalVar(self, *, userAppDir: bool) -> str:  # noqa: N802, N803
        return self._app_dir + "/"

    def waitCursor(self, *, state: bool) -> None:  # noqa: N802
        self.busy.append(state)

    def confirmDialog(self, *, title: str, message: str, button: list[str]) -> str:  # noqa: N802
        self.dialogs.append(message)
        return button[0]

    def loadPlugin(self, path: str) -> list[str]:  # noqa: N802
        if not Path(path).is_file():
            raise RuntimeError(f"Plug-in, {path}, was not found on MAYA_PLUG_IN_PATH.")
        self.plug_ins[Path(path).stem] = plug_in = import_file(path)
        plug_in.initializePlugin(object())
        return [Path(path).stem]

    def menu(self, name: str, *, exists=None, label=None, parent=None, tearOff=None):  # noqa: N803
        if exists:
            return name in self.menus
        assert parent == "MayaWindow"
        self.menus[name] = []
        return name

    def menuItem(self, *, label, parent, image, annotation, command) -> None:  # noqa: N802
        self.menus[parent].append(label)

    def deleteUI(self, name: str, *, menu: bool) -> None:  # noqa: N802
        del self.menus[name]

    def plug_in_api(self) -> SimpleNamespace:
        session = self

        class MFnPlugin:
            def __init__(self, plugin, vendor="", version="", api="Any") -> None:
                self._version = version

            def registerCommand(self, name: str, command: type) -> None:  # noqa: N802
                if name in session.commands:
                    raise RuntimeError("(kFailure): Unexpected Internal Failure")
                session.commands[name] = command

            def deregisterCommand(self, name: str) -> None:  # noqa: N802
                del session.commands[name]

        current = 1 if session._batch else 0
        state = SimpleNamespace(kInteractive=0, kBaseUIMode=2, mayaState=lambda: current)
        return SimpleNamespace(
            MFnPlugin=MFnPlugin, MGlobal=state, MPxCommand=object, MArgList=object, MObject=object
        )


def import_file(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(wish: dict) -> dict:
    # This machine's own copies of the packages are none of that Maya's.
    parts = ("maya_plugin", "shared", "solver_server")
    sys.path = [p for p in sys.path if not p.endswith(parts) and "maya_plugin" not in p]
    with running_maya():
        session = Session(wish["app_dir"], wish["version"], wish["batch"])
        cmds, api = sys.modules["maya.cmds"], sys.modules["maya.api.OpenMaya"]
        for name in ("about", "internalVar", "waitCursor", "confirmDialog", "loadPlugin"):
            setattr(cmds, name, getattr(session, name))
        for name in ("menu", "menuItem", "deleteUI"):
            setattr(cmds, name, getattr(session, name))
        vars(api).update(vars(session.plug_in_api()))
        mel = ModuleType("maya.mel")
        mel.eval = {"$megasam = $gMainWindow": "MayaWindow"}.__getitem__
        sys.modules["maya.mel"] = sys.modules["maya"].mel = mel
        for _ in range(wish["drops"]):
            # As maya.app.general.executeDroppedPythonFile does.
            import_file(str(Path(wish["checkout"]) / "install_maya.py")).onMayaDroppedPythonFile(0)
        loaded = {"menus": dict(session.menus), "commands": list(session.commands)}
        shared = sys.modules.get("megasam_shared")
        for plug_in in session.plug_ins.values():
            plug_in.uninitializePlugin(object())
        return {
            **loaded,
            "dialogs": session.dialogs,
            "busy": session.busy,
            "shared": getattr(shared, "__file__", None),
            "menus_left": session.menus,
            "commands_left": list(session.commands),
        }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
