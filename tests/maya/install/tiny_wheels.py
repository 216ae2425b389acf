"""Wheels small enough to build in a test, right in everything an installer looks at."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

LINUX = "manylinux_2_26_x86_64.manylinux_2_28_x86_64"
# File names as on the package index: tags of pyzmq and msgpack for each Python and system.
TAGS = {
    "pyzmq": [
        f"{python}-{platform}"
        for python in ("cp311-cp311", "cp312-abi3")
        for platform in ("win_amd64", LINUX, "macosx_10_15_universal2")
    ],
    "msgpack": [
        f"{python}-{python}-{platform}"
        for python in ("cp311", "cp313")
        for platform in ("win_amd64", LINUX, "macosx_11_0_arm64", "macosx_10_9_x86_64")
    ],
}
VERSIONS = {"pyzmq": "27.3.0", "msgpack": "1.2.4"}
MODULES = {"pyzmq": "zmq", "msgpack": "msgpack"}


def build(folder: Path, distribution: str, tags: str, version: str, **more: str) -> Path:
    """Write a wheel whose module knows its version and tags; ``more``: further files by name."""
    library = ".pyd" if "win" in tags else ".so"
    module = MODULES[distribution]
    files = {
        f"{module}/__init__.py": f'__version__ = "{version}"\nTAGS = "{tags}"\n',
        f"{module}/_compiled{library}": "not really",
        f"{distribution}-{version}.dist-info/METADATA": f"Name: {distribution}\n",
        **more,
    }
    rows = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        rows.append(f"{name},sha256={digest.decode()},{len(text)}\n")
    record = f"{distribution}-{version}.dist-info/RECORD"
    path = folder / f"{distribution}-{version}-{tags}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(record, "".join(rows) + f"{record},,\n")
    return path


def fill(folder: Path, **versions: str) -> Path:
    """A wheelhouse for all supported Mayas."""
    folder.mkdir(parents=True)
    for distribution, tags in TAGS.items():
        for tag in tags:
            build(folder, distribution, tag, versions.get(distribution, VERSIONS[distribution]))
    return folder
