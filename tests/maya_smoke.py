"""For whoever has a Maya: is what the stand-ins of our tests assume about it true?

Install the plug-in first. Then, in a terminal:

    mayapy tests/maya_smoke.py

or, to test shelf and window as well, in the Python tab of Maya's script editor:

    import runpy; runpy.run_path("/path/to/tests/maya_smoke.py", run_name="__main__")

Prints a line PASS, FAIL or SKIP for each check, with the measured figure. Starts a new scene, and
refuses to when there are changes in the open one. Please send us the output.
"""

from __future__ import annotations

import math
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path

WIDTH, HEIGHT, FIRST, LAST = 1920, 1080, 1001, 1100
PLUG_IN = "megasam_plugin"
CONTROL = "megasamWorkspaceControl"
# In front of the path that the camera of `shot` travels; solver units, Maya's axes.
POINTS = ((0.0, 0.0, -8.0), (2.0, 1.0, -9.0), (-2.5, -1.2, -7.0), (1.0, -1.5, -12.0))
Projection = Callable[[tuple[float, float, float], int], tuple[float, float]]


class Skipped(Exception):
    """Why a check cannot run in this session."""


# What is applied ------------------------------------------------------------------------------


def make_shot(folder: Path):
    """A solved shot: a turning, travelling camera, focal length and principal point known."""
    from megasam_maya.shot import SolvedShot
    from megasam_shared.rotations import PanTiltRoll

    for frame in range(FIRST, LAST + 1):
        _write_png(folder / f"plate.{frame}.png", frame % 256)
    count = LAST - FIRST + 1
    at = [i / (count - 1) for i in range(count)]
    return SolvedShot(
        name="smoke",
        folder=folder,
        width=WIDTH,
        height=HEIGHT,
        fps=24.0,
        frame_numbers=list(range(FIRST, LAST + 1)),
        positions=[(2.0 * t, 0.3 * math.sin(6 * t), -1.0 * t) for t in at],
        angles=[PanTiltRoll(0.2 * t, -0.1 * t, 0.05 * math.sin(5 * t)) for t in at],
        focal_px=[1800.0 + 20.0 * t for t in at],
        principal_point=(1000.0, 500.0),
        scale_is_metric=True,
        usable=True,
        source="Classical",
        status="made by maya_smoke.py",
        verdict="good",
        reasons=[],
        rms_px=0.0,
        depth_near_far=(5.0, 15.0),
        plate=folder / f"plate.{FIRST}.png",
    )


def expected_pixel(shot, point, frame: int) -> tuple[float, float]:
    """Where a point (solver units) lies in the plate, from the shot's numbers alone; corners."""
    i = frame - FIRST
    pan, tilt, roll = shot.angles[i].pan, shot.angles[i].tilt, shot.angles[i].roll
    x, y, z = (a - b for a, b in zip(point, shot.positions[i], strict=True))
    # The inverse of Ry(pan) Rx(tilt) Rz(roll), one axis after the other.
    x, z = x * math.cos(pan) - z * math.sin(pan), x * math.sin(pan) + z * math.cos(pan)
    y, z = y * math.cos(tilt) + z * math.sin(tilt), -y * math.sin(tilt) + z * math.cos(tilt)
    x, y = x * math.cos(roll) + y * math.sin(roll), -x * math.sin(roll) + y * math.cos(roll)
    focal, (cx, cy) = shot.focal_px[i], shot.principal_point
    return cx + focal * x / -z, cy - focal * y / -z


def _write_png(path: Path, grey: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes([grey]) * WIDTH) * HEIGHT, 1)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


# Checks of the scene: also run in the stand-in by our tests -----------------------------------


def check_apply(shot, host) -> tuple[object, str]:
    """Apply once; what was made, and a figure."""
    from maya import cmds
    from megasam_maya.scene.apply import ApplyOptions, apply_shot

    began = time.perf_counter()
    applied = apply_shot(shot, ApplyOptions(depth_preview=False, points="none"), host)
    took = time.perf_counter() - began
    camera = host.path(applied.camera)
    assert cmds.getAttr(f"{camera}.rotateOrder") == 2, "rotation order is not zxy"
    for attribute in ("translateX", "rotateY", "rotateZ"):
        times = cmds.keyframe(f"{camera}.{attribute}", query=True, timeChange=True)
        assert list(times) == shot.frame_numbers, f"{attribute} has keys at other frames"
    return applied, f"{len(shot.frame_numbers)} frames in {took:.2f} s"


def check_image_plane(applied, host) -> str:
    """The plate's frame number follows the time line, and the plane has the film's size."""
    from maya import cmds

    plane, shape = host.path(applied.image_plane), host.path(applied.camera_shape)
    for frame in (FIRST, LAST, FIRST + 7):
        cmds.currentTime(frame, edit=True)
        shown = cmds.getAttr(f"{plane}.frameExtension")
        assert shown == frame, f"it shows {shown} at frame {frame}"
    for size, film in (("sizeX", "horizontalFilmAperture"), ("sizeY", "verticalFilmAperture")):
        is_, should = cmds.getAttr(f"{plane}.{size}"), cmds.getAttr(f"{shape}.{film}")
        assert math.isclose(is_, should, rel_tol=1e-6), f"{size} {is_} is not {film} {should}"
    return "frame drive and size"


def check_reprojection(shot, project: Projection) -> str:
    """Known points through Maya's camera, against the shot's own numbers."""
    worst = 0.0
    for frame in (FIRST, (FIRST + LAST) // 2, LAST):
        for point in POINTS:
            # A metre of the solve is 100 cm in the scene.
            found = project((point[0] * 100, point[1] * 100, point[2] * 100), frame)
            worst = max(worst, math.dist(found, expected_pixel(shot, point, frame)))
    assert worst < 0.01, f"worst {worst:.4f} px"
    return f"worst {worst:.5f} px"


def check_undo(before: set[str]) -> str:
    """One undo takes everything back; redo and undo again do no harm."""
    from maya import cmds

    for command in (cmds.undo, cmds.redo, cmds.undo):
        command()
    after = set(cmds.ls(long=True))
    assert after == before, f"left: {sorted(after - before)}, lost: {sorted(before - after)}"
    return f"{len(after)} nodes as before"


# Checks that need a real Maya -----------------------------------------------------------------


def check_versions() -> str:
    """Python and PySide6 of this Maya are what our table says; zmq and msgpack load."""
    import PySide6
    from maya import cmds
    from megasam_maya import vendored
    from megasam_maya.maya_versions import version_named

    name = str(cmds.about(version=True))
    row = version_named(name)
    assert row is not None, f"Maya {name} is not in the table"
    python = sys.version_info[:2]
    assert python == row.python, f"Python {python}, the table says {row.python}"
    packages = ", ".join(
        f"{p.name} {p.version} {'ours' if p.ours else p.file}" for p in vendored.load()
    )
    is_newer = "" if PySide6.__version__ == row.pyside else f" (the table says {row.pyside})"
    return f"Maya {name}, Python {sys.version.split()[0]}, PySide6 {PySide6.__version__}{is_newer}, {packages}"


def check_module() -> str:
    """The .mod file was read: module, shelf path; also in mayapy."""
    import os

    from maya import cmds

    modules = cmds.moduleInfo(listModules=True) or []
    assert "MegaSAM" in modules, f"modules: {', '.join(modules)}"
    shelves = os.environ.get("MAYA_SHELF_PATH", "")
    assert "MegaSAM" in shelves, f"MAYA_SHELF_PATH is {shelves!r}"
    return str(cmds.moduleInfo(moduleName="MegaSAM", path=True))


def check_plug_in() -> str:
    """It loads, unloads and loads again."""
    from maya import cmds

    for _ in range(2):
        if not cmds.pluginInfo(PLUG_IN, query=True, loaded=True):
            cmds.loadPlugin(f"{PLUG_IN}.py", quiet=True)
        assert cmds.pluginInfo(PLUG_IN, query=True, loaded=True)
        cmds.unloadPlugin(PLUG_IN)
    cmds.loadPlugin(f"{PLUG_IN}.py", quiet=True)
    return str(cmds.pluginInfo(PLUG_IN, query=True, path=True))


def check_shelf() -> str:
    from maya import cmds, mel

    _needs_windows()
    top = mel.eval("global string $gShelfTopLevel; $megasamTop = $gShelfTopLevel")
    tabs = cmds.shelfTabLayout(top, query=True, tabLabel=True) or []
    assert "MegaSAM" in tabs, f"shelves: {', '.join(tabs)}"
    return "there"


def check_dialog() -> str:
    """The window opens, docks, and closes with the plug-in."""
    from maya import cmds, mel

    _needs_windows()
    mel.eval("megasam")
    assert cmds.workspaceControl(CONTROL, query=True, exists=True), "no window"
    cmds.workspaceControl(CONTROL, edit=True, dockToMainWindow=("right", True))
    assert not cmds.workspaceControl(CONTROL, query=True, floating=True), "it does not dock"
    cmds.deleteUI(CONTROL, control=True)
    return "opened, docked, closed"


def maya_projection(shape: str) -> Projection:
    """Projection through Maya's own matrices of a camera shape."""
    from maya import cmds
    from maya.api import OpenMaya as om

    selection = om.MSelectionList().add(shape)
    camera_path = selection.getDagPath(0)

    def project(point: tuple[float, float, float], frame: int) -> tuple[float, float]:
        cmds.currentTime(frame, edit=True)
        # Maya 2026's API 2.0 may hand out an MFloatMatrix, which MPoint does not take.
        numbers = [float(n) for n in om.MFnCamera(camera_path).projectionMatrix()]  # pyright: ignore
        seen = om.MPoint(*point) * camera_path.inclusiveMatrixInverse() * om.MMatrix(numbers)
        x, y = seen.x / seen.w, seen.y / seen.w
        return (x + 1) / 2 * WIDTH, (1 - y) / 2 * HEIGHT

    return project


def _needs_windows() -> None:
    from maya import cmds

    if cmds.about(batch=True):
        raise Skipped("no windows in mayapy")


# The run --------------------------------------------------------------------------------------


def report(name: str, check: Callable[[], str]) -> bool:
    """Run one check and print its line; False when it failed."""
    try:
        print(f"PASS {name}: {check()}")
    except Skipped as why:
        print(f"SKIP {name}: {why}")
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        print(
            f"FAIL {name}: {error or type(error).__name__} ({Path(at.filename).name}:{at.lineno})"
        )
        return False
    return True


def main() -> int:
    """All checks; the number of those that failed."""
    if "maya.cmds" not in sys.modules:
        import maya.standalone

        maya.standalone.initialize(name="python")
    from maya import cmds

    if not cmds.about(batch=True) and cmds.file(query=True, modified=True):
        print("FAIL start: the scene has changes; save it or start a new one first.")
        return 1
    cmds.file(newFile=True, force=True)
    # mayapy starts without an undo queue.
    cmds.undoInfo(state=True)
    passed = [
        report("versions", check_versions),
        report("module", check_module),
        report("plug-in loads", check_plug_in),
        report("shelf", check_shelf),
        report("dialog opens and docks", check_dialog),
    ]
    with tempfile.TemporaryDirectory() as folder:
        passed += check_scene(Path(folder))
        cmds.file(newFile=True, force=True)
    failed = passed.count(False)
    print(f"{'FAIL' if failed else 'PASS'} all: {failed} of {len(passed)} checks failed")
    return failed


def check_scene(folder: Path) -> list[bool]:
    """Apply a shot to the empty scene, look at it, and take it back."""
    from maya import cmds
    from megasam_maya.host import MayaHost

    host, shot = MayaHost(), make_shot(folder)
    before = set(cmds.ls(long=True))
    made = []

    def apply_and_undo() -> str:
        check_apply(shot, host)
        return check_undo(before)

    def apply() -> str:
        applied, figure = check_apply(shot, host)
        made.append(applied)
        return figure

    # Undo first: the checks of what was made move the current time, an undo step of its own.
    passed = [report("undo", apply_and_undo), report("apply", apply)]
    if made:
        shape = host.path(made[0].camera_shape)
        passed += [
            report("image plane", lambda: check_image_plane(made[0], host)),
            report("reproject", lambda: check_reprojection(shot, maya_projection(shape))),
        ]
    return passed


if __name__ == "__main__":
    failures = main()
    # In the script editor, exiting would end Maya.
    if Path(sys.executable).stem.lower().startswith(("mayapy", "python")):
        sys.exit(1 if failures else 0)
