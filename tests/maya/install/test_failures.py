"""What goes wrong says what, why and what to do, and leaves everything as it was."""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from megasam_maya.install import installation, module_folder
from megasam_shared.errors import MegasamError

from tests.maya.install import mod_reader, tiny_wheels
from tests.maya.install.conftest import SYSTEM, tree


@pytest.fixture
def installed(installer):
    """Version 0.1.0 for Maya 2026, in use; and what it looks like."""
    installer.install("--maya", "2026")
    return installer


def limit_file_size():
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


@pytest.mark.skipif(os.name == "nt", reason="limits of processes are POSIX")
def test_a_disk_that_fills_up_leaves_nothing(installer, tmp_path):
    error = installer.refuses("--maya", "2026", preexec_fn=limit_file_size)
    assert error["code"] == "disk_full"
    assert tree(tmp_path) == {}


@pytest.mark.skipif(os.name == "nt", reason="limits of processes are POSIX")
def test_a_disk_that_fills_up_leaves_the_installed_version(installed, tmp_path):
    before = tree(tmp_path)
    error = installed.refuses("--maya", "2026", preexec_fn=limit_file_size)
    assert error["code"] == "disk_full"
    assert tree(tmp_path) == before


def test_too_little_room_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(
        installation.shutil, "disk_usage", lambda _: SimpleNamespace(total=10**12, free=10**6)
    )
    with pytest.raises(MegasamError) as caught:
        installation.plan(tmp_path / "modules", "0.1.0", [], [])
    assert caught.value.code == "disk_full"
    assert tree(tmp_path) == {}


@pytest.mark.skipif(os.name == "nt", reason="permissions as POSIX has them")
def test_a_home_that_cannot_be_written(installer, tmp_path):
    if os.geteuid() == 0:
        # Nothing is forbidden to root, except in what the kernel makes up.
        forbidden = Path("/sys")
        with contextlib.suppress(OSError):
            (forbidden / "megasam-probe").mkdir()
            pytest.skip("this root may write anywhere")
    else:
        forbidden = tmp_path / "read only"
        forbidden.mkdir(mode=0o555)
    for home in (forbidden, forbidden / "maya"):
        error = installer.refuses("--maya", "2026", "--modules", str(home / "modules"))
        assert error["code"] == "not_writable" and str(home) in error["message"]


def test_a_file_where_a_folder_should_be(installer, tmp_path):
    (tmp_path / "Zoë Müller").write_text("I am a file")
    before = tree(tmp_path)
    error = installer.refuses("--maya", "2026")
    assert error["code"] == "write_failed" and "is a file" in error["message"]
    assert tree(tmp_path) == before


@pytest.mark.parametrize("refused", ["MegaSAM.mod", "installed.json"])
def test_when_the_last_steps_fail_the_version_before_is_still_there(
    installed, tmp_path, monkeypatch, refused
):
    modules = installed.mod.parent
    before = tree(tmp_path)
    real = os.replace
    calls = []

    def replace(source, target):
        if Path(target).name == refused and not calls:
            calls.append(target)
            raise PermissionError(13, "Permission denied", str(target))
        real(source, target)

    monkeypatch.setattr(installation.os, "replace", replace)
    monkeypatch.setattr(installation.os, "name", "posix")
    entry = installation.Entry("2026", SYSTEM, "0.2.0", "+ MegaSAM 0.2.0 ./MegaSAM/0.2.0\n")
    files = [module_folder.NewFile("scripts/x.py", b"x = 1\n")]
    planned = installation.plan(modules, "0.2.0", files, [entry])
    with pytest.raises(MegasamError) as caught:
        installation.install(planned, lambda root: None)
    assert caught.value.code == "not_writable" and calls
    assert tree(tmp_path) == before


def test_what_does_not_load_is_not_installed(installer, make_mayapy, tmp_path, installed):
    before = tree(installer.app_dir)
    location = make_mayapy("2026", before='echo "ImportError: libcrypto" >&2; exit 1')
    error = installer.refuses("--maya", "2026", environment={"MAYA_LOCATION": str(location)})
    assert error["code"] == "does_not_load" and "libcrypto" in error["message"]
    assert tree(installer.app_dir) == before


def test_an_installer_killed_in_the_middle_leaves_what_maya_sees(installed, make_mayapy):
    before = installed.mod.read_bytes()
    location = make_mayapy("2026", before="kill -9 $PPID")
    done = installed.run(
        *("--wheelhouse", str(installed.wheelhouse), "--maya", "2026"),
        environment={"MAYA_LOCATION": str(location)},
    )
    assert done.returncode == -9
    assert installed.mod.read_bytes() == before
    assert mod_reader.start(installed.mod, "2026", SYSTEM).modules[0].root.is_dir()
    installed.install("--maya", "2026")
    assert installed.run("--uninstall").returncode == 0
    assert not installed.app_dir.exists()


def test_what_a_killed_first_install_left_can_be_uninstalled(installer, make_mayapy, tmp_path):
    location = make_mayapy("2026", before="kill -9 $PPID")
    installer.run(
        *("--wheelhouse", str(installer.wheelhouse), "--maya", "2026"),
        environment={"MAYA_LOCATION": str(location)},
    )
    assert not installer.mod.exists() and list(installer.app_dir.rglob("*.py"))
    assert installer.run("--uninstall").returncode == 0
    assert not [path for path in installer.app_dir.rglob("*") if path.is_file()]
    assert not (installer.mod.parent / "MegaSAM").exists()


def test_libraries_in_use_stop_an_uninstall_before_anything_is_broken(installed, monkeypatch):
    modules = installed.mod.parent
    root = mod_reader.start(installed.mod, "2026", SYSTEM).modules[0].root
    before = tree(root)
    unlink = Path.unlink

    def locked(self, missing_ok=False):
        # Windows, with the library loaded in Maya.
        if self.suffix == ".so":
            raise PermissionError(13, "The process cannot access the file")
        unlink(self, missing_ok)

    with monkeypatch.context() as windows:
        windows.setattr(Path, "unlink", locked)
        with pytest.raises(MegasamError) as caught:
            installation.uninstall(modules, None)
    assert caught.value.code == "in_use" and "Close Maya" in caught.value.hint
    assert tree(root) == before, "the Maya that runs still has all of it"
    assert not installed.mod.exists(), "and the next start has none"
    installation.uninstall(modules, None)
    assert not installed.app_dir.exists()


def test_an_upgrade_with_the_old_version_in_use_succeeds(installed, monkeypatch):
    installed.install("--maya", "2026")
    modules = installed.mod.parent
    monkeypatch.setattr(module_folder, "remove", in_use)
    entry = installation.Entry("2026", SYSTEM, "0.3.0", "+ MegaSAM 0.3.0 ./MegaSAM/0.3.0\n")
    planned = installation.plan(modules, "0.3.0", [module_folder.NewFile("x", b"")], [entry])
    installation.install(planned, lambda root: None)
    assert installation.read_state(modules).superseded == ["0.1.0", "0.1.0-2"]


def in_use(folder):
    raise MegasamError("in_use", f"{folder} is in use")


def test_a_mod_file_of_somebody_else_is_not_overwritten(installer, tmp_path):
    installer.mod.parent.mkdir(parents=True)
    installer.mod.write_text("+ MegaSAM 9 /studio/megasam\n")
    before = tree(tmp_path)
    assert installer.refuses("--maya", "2026")["code"] == "foreign_mod"
    assert tree(tmp_path) == before


def test_a_damaged_record_of_what_is_installed(installed):
    state = installed.mod.parent / "MegaSAM" / "installed.json"
    for text in ("", "[]", '{"entries": [{"maya": 1}]}'):
        state.write_text(text)
        error = installed.refuses("--maya", "2026")
        assert error["code"] == "damaged_state" and str(state) in error["message"]


def test_a_manifest_cannot_make_us_delete_what_is_elsewhere(tmp_path):
    folder = tmp_path / "MegaSAM" / "0.1.0"
    folder.mkdir(parents=True)
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    paths = ["../../victim.txt", str(victim), "a/../../../victim.txt", "C:/x", "..\\..\\victim.txt"]
    listed = '{"files": [' + ", ".join(f'"{p}"' for p in paths).replace("\\", "\\\\") + "]}"
    (folder / "manifest.json").write_text(listed)
    assert module_folder.listed_files(folder) == []
    module_folder.remove(folder)
    assert victim.exists() and not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--maya", "2024"], "unsupported_maya"),
        (["--maya", "latest"], "unsupported_maya"),
        (["--platform", "win64"], "no_modules_folder"),
        ([], "no_maya"),
    ],
)
def test_wishes_that_cannot_be_met(installer, tmp_path, arguments, code):
    if code == "no_maya" and SYSTEM != "linux":
        pytest.skip("there may be a Maya here")
    assert installer.refuses(*arguments)["code"] == code
    assert tree(tmp_path) == {}


def test_a_wheelhouse_that_is_not_there(installer, tmp_path):
    done = installer.run("--maya", "2026", "--wheelhouse", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "is not a folder" in done.stderr and "Traceback" not in done.stderr


def test_a_wheelhouse_without_the_right_wheel_says_what_it_has(installer, tmp_path, wheelhouse):
    poor = tmp_path / "poor"
    poor.mkdir()
    tiny_wheels.build(poor, "pyzmq", "cp39-cp39-win_amd64", "27.3.0")
    error = installer.refuses("--maya", "2027", "--wheelhouse", str(poor))
    assert error["code"] == "no_wheel"
    assert "Python 3.13" in error["message"] and "cp39-cp39-win_amd64" in error["message"]
    assert "pip download" in error["hint"] and "--python-version 3.13" in error["hint"]


@pytest.mark.parametrize("damage", ["cut", "bit", "escape", "no record", "unlisted"])
def test_a_damaged_wheel(installer, tmp_path, damage, wheelhouse):
    bad = tiny_wheels.fill(tmp_path / "bad")
    tags = f"cp311-cp311-{tiny_wheels.LINUX}"
    if SYSTEM != "linux":
        pytest.skip("the damaged wheel is one for Linux")
    path = bad / f"msgpack-1.2.4-{tags}.whl"
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "bit":
        at = data.index(b"not really")
        path.write_bytes(data[:at] + b"N" + data[at + 1 :])
    elif damage == "escape":
        tiny_wheels.build(bad, "msgpack", tags, "1.2.4", **{"../../outside.py": "x"})
    elif damage == "no record":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("msgpack/__init__.py", "")
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("msgpack/extra.py", "import os")
    error = installer.refuses("--maya", "2026", "--wheelhouse", str(bad))
    assert error["code"] == "damaged_wheel" and str(path) in error["message"]
    assert not installer.app_dir.exists()
    assert not list(tmp_path.rglob("outside.py"))


def test_a_download_that_fails_says_how_to_go_without_network(installer, tmp_path):
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    nowhere |= {"PIP_CONFIG_FILE": os.devnull}
    done = installer.run("--maya", "2026", environment=nowhere)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "could not be downloaded" in done.stderr and "--wheelhouse" in done.stderr
    assert tree(tmp_path) == {}


def test_an_incomplete_download_says_so(installer, newer_checkout):
    installer.script = newer_checkout / "install_maya.py"
    shutil.rmtree(newer_checkout / "maya_plugin" / "icons")
    assert installer.refuses("--maya", "2026")["code"] == "no_source"
    shutil.rmtree(newer_checkout / "shared")
    done = installer.run("--maya", "2026")
    assert done.returncode == 2 and "not complete" in done.stderr
    assert "Traceback" not in done.stderr
