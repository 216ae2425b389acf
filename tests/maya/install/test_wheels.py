"""Which wheel suits which Maya; the lock; and, slow, the real wheels of the package index."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from megasam_maya.install import wheels
from megasam_maya.maya_versions import MAYA_VERSIONS, SYSTEMS, system_named, version_named
from megasam_maya.vendored import REQUIRED
from megasam_shared.errors import MegasamError

from tests.maya.install import mod_reader, tiny_wheels
from tests.maya.install.conftest import CHECKOUT, SYSTEM


def target(maya: str, system: str, architecture: str) -> wheels.Target:
    return wheels.Target(version_named(maya).python, system_named(system), architecture)


@pytest.mark.parametrize(
    ("tags", "mayas"),
    [
        ("cp311-cp311-manylinux_2_28_x86_64", "2025 2026"),
        ("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", "2025 2026"),
        ("cp312-abi3-manylinux_2_28_x86_64", "2027"),
        ("cp39-abi3-manylinux1_x86_64", "2025 2026 2027"),
        ("cp313-cp313-manylinux2014_x86_64", "2027"),
        ("py3-none-any", "2025 2026 2027"),
        ("cp313-cp313t-manylinux2014_x86_64", ""),
        ("cp312-cp312-manylinux2014_x86_64", ""),
        ("cp314-abi3-manylinux2014_x86_64", ""),
        ("cp311-cp311-manylinux_2_34_x86_64", ""),
        ("cp311-cp311-musllinux_1_2_x86_64", ""),
        ("cp311-cp311-manylinux2014_aarch64", ""),
        ("cp311-cp311-win_amd64", ""),
        ("cp311-cp311-win32", ""),
        ("pp311-pypy311_pp73-manylinux2014_x86_64", ""),
    ],
)
def test_wheels_for_maya_on_linux(tags, mayas):
    python, abi, platform = tags.split("-")
    suits = [
        v.name
        for v in MAYA_VERSIONS
        if target(v.name, "linux", "x86_64").accepts(python, abi, platform)
    ]
    assert suits == mayas.split()


@pytest.mark.parametrize(
    ("platform", "suits"),
    [
        ("macosx_11_0_arm64", ["arm64"]),
        ("macosx_10_9_x86_64", ["x86_64"]),
        ("macosx_10_15_universal2", ["arm64", "x86_64"]),
        ("macosx_14_0_arm64", []),
        ("win_arm64", []),
    ],
)
def test_wheels_for_maya_on_a_mac(platform, suits):
    found = [
        a
        for a in ("arm64", "x86_64")
        if target("2026", "mac", a).accepts("cp311", "cp311", platform)
    ]
    assert found == suits


def test_the_newest_wheel_wins_and_its_own_python_before_the_stable_abi(tmp_path):
    linux = "manylinux2014_x86_64"
    for tags, version in (
        (f"cp39-abi3-{linux}", "27.3.0"),
        (f"cp313-cp313-{linux}", "27.3.0"),
        (f"cp39-abi3-{linux}", "27.10.0"),
        (f"cp313-cp313-{linux}", "9.0.0"),
        ("cp313-cp313-win_amd64", "28.0.0"),
    ):
        tiny_wheels.build(tmp_path, "pyzmq", tags, version)
    on_2027 = target("2027", "linux", "x86_64")
    assert wheels.pick(tmp_path, "pyzmq", (26,), on_2027).name.startswith("pyzmq-27.10.0-cp39")
    (tmp_path / f"pyzmq-27.10.0-cp39-abi3-{linux}.whl").unlink()
    assert wheels.pick(tmp_path, "pyzmq", (26,), on_2027).name.startswith("pyzmq-27.3.0-cp313")
    with pytest.raises(MegasamError, match="28"):
        wheels.pick(tmp_path, "pyzmq", (28,), on_2027)


def test_mayas_with_the_same_python_share_their_packages():
    found = wheels.targets_for(list(MAYA_VERSIONS), [system_named("win64")])
    assert [t.folder_name for t in found] == ["cp311-win64-amd64", "cp313-win64-amd64"]


def lock() -> str:
    return (CHECKOUT / "mod" / "vendor_lock.txt").read_text(encoding="ascii")


def test_the_lock_pins_what_is_required_with_hashes():
    pins = dict(re.findall(r"^(\S+)==(\S+) \\$", lock(), re.MULTILINE))
    assert set(pins) == {distribution for distribution, _, _ in REQUIRED}
    for distribution, _, floor in REQUIRED:
        assert tuple(map(int, pins[distribution].split("."))) >= floor
    hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", lock())
    assert len(hashes) == len(set(hashes)) == 14


def test_the_floors_are_those_of_the_project():
    import tomllib

    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    floors = {f"{name}>={'.'.join(map(str, floor))}" for name, _, floor in REQUIRED}
    assert set(project["dependencies"]) == floors


# The real wheels. They come through pip from wherever it is configured to look. ---------------


@pytest.fixture(scope="module")
def real_wheelhouse(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    every = wheels.targets_for(list(MAYA_VERSIONS), list(SYSTEMS))
    try:
        wheels.download(CHECKOUT / "mod" / "vendor_lock.txt", every, folder, Path(sys.executable))
    except MegasamError as error:
        if "hash" in error.message.lower():
            raise
        pytest.skip(error.message)
    return folder


@pytest.mark.slow
def test_the_lock_has_every_real_wheel_and_no_other(real_wheelhouse):
    assert len(list(real_wheelhouse.glob("*.whl"))) == 14


@pytest.mark.slow
def test_real_wheels_for_every_system(installer, real_wheelhouse, tmp_path):
    installer.wheelhouse = real_wheelhouse
    platforms = [word for system in SYSTEMS for word in ("--platform", system.name)]
    installer.install("--modules", str(tmp_path / "studio"), *platforms)
    for maya in MAYA_VERSIONS:
        for system in SYSTEMS:
            session = mod_reader.start(tmp_path / "studio" / "MegaSAM.mod", maya.name, system.name)
            for architecture in system.architectures:
                folder = wheels.Target(maya.python, system, architecture).folder_name
                vendor = session.modules[0].root / "vendor" / folder
                ending = ".pyd" if system.name == "win64" else ".so"
                assert list((vendor / "zmq").rglob(f"*{ending}"))
                assert list((vendor / "msgpack").glob(f"_cmsgpack*{ending}"))


@pytest.mark.slow
@pytest.mark.parametrize("maya", ["2026", "2027"])
def test_the_client_talks_with_real_packages(installer, real_wheelhouse, maya):
    """In the Python of that Maya: a socket pair, a packed message, the whole client imported."""
    python = shutil.which("python{}.{}".format(*version_named(maya).python))
    if python is None or subprocess.run([python, "-c", ""]).returncode != 0:
        pytest.skip(f"no Python of Maya {maya} here")
    installer.wheelhouse = real_wheelhouse
    installer.install("--maya", maya)
    scripts = mod_reader.start(installer.mod, maya, SYSTEM).python_path[0]
    program = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "import megasam_maya, json\n"
        "from megasam_maya import vendored\n"
        "assert all(p.ours for p in vendored.load())\n"
        "import megasam_shared.client, megasam_shared.remote_solve, zmq, msgpack\n"
        "assert zmq.has('curve') and msgpack.Packer.__module__ == 'msgpack._cmsgpack'\n"
        "context = zmq.Context(); a, b = context.socket(zmq.PAIR), context.socket(zmq.PAIR)\n"
        "port = a.bind_to_random_port('tcp://127.0.0.1'); b.connect(f'tcp://127.0.0.1:{port}')\n"
        "b.send(msgpack.packb({'frame': 1001})); print(json.dumps(msgpack.unpackb(a.recv())))\n"
        "context.destroy(linger=0)"
    )
    done = subprocess.run(
        [python, "-E", "-s", "-S", "-c", program, str(scripts)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"frame": 1001}


@pytest.mark.slow
def test_an_install_that_downloads(installer, real_wheelhouse):
    done = installer.run("--maya", "2026")
    assert done.returncode == 0, done.stderr
    assert installer.mod.is_file()
