"""The compiled packages: which wheel suits which Maya, getting them, and unpacking them."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from megasam_shared.errors import MegasamError

from megasam_maya.install.python_process import run_python
from megasam_maya.maya_versions import MayaVersion, System, vendor_tag

# What every supported Maya's system has at least: RHEL/Rocky 8, macOS 12.
_GLIBC = (2, 28)
_MACOS = (12, 0)
_OLD_MANYLINUX = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_FILE_NAME = re.compile(
    r"(?P<name>[^-]+)-(?P<version>[^-]+)(-\d[^-]*)?"
    r"-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl$"
)


@dataclass(frozen=True)
class Target:
    """One Python that needs the packages: that of a Maya version, on a system and architecture."""

    python: tuple[int, int]
    system: System
    architecture: str

    @property
    def python_tag(self) -> str:
        return "cp{}{}".format(*self.python)

    @property
    def folder_name(self) -> str:
        return vendor_tag(self.python_tag, self.system, self.architecture)

    @property
    def pip_platforms(self) -> list[str]:
        """What ``pip download --platform`` accepts for this target, newest first."""
        if self.system.name == "win64":
            return [f"win_{self.architecture}"]
        if self.system.name == "mac":
            return ["macosx_{}_{}_{}".format(*_MACOS, self.architecture)]
        modern = [f"manylinux_2_{minor}_{self.architecture}" for minor in range(_GLIBC[1], 16, -1)]
        return [*modern, f"manylinux2014_{self.architecture}"]

    def accepts(self, python: str, abi: str, platform: str) -> bool:
        """Whether a wheel with these three tags (each may be several, joined by dots) runs here."""
        return any(
            self._accepts_python(p, a) for p in python.split(".") for a in abi.split(".")
        ) and any(self._accepts_platform(p) for p in platform.split("."))

    def _accepts_python(self, python: str, abi: str) -> bool:
        if python == "py3":
            return abi == "none"
        if python == self.python_tag:
            return abi in (self.python_tag, "abi3", "none")
        stable = re.fullmatch(r"cp3(\d+)", python)
        return abi == "abi3" and stable is not None and int(stable[1]) <= self.python[1]

    def _accepts_platform(self, platform: str) -> bool:
        if platform == "any":
            return True
        if self.system.name == "win64":
            return platform == f"win_{self.architecture}"
        if self.system.name == "mac":
            mac = re.fullmatch(r"macosx_(\d+)_(\d+)_(\w+)", platform)
            return (
                mac is not None
                and (int(mac[1]), int(mac[2])) <= _MACOS
                and mac[3] in (self.architecture, "universal2")
            )
        glibc = re.fullmatch(rf"manylinux_(\d+)_(\d+)_{self.architecture}", platform)
        if glibc is not None:
            return (int(glibc[1]), int(glibc[2])) <= _GLIBC
        old = platform[: -len(self.architecture) - 1]
        return platform.endswith(self.architecture) and (old in _OLD_MANYLINUX or old == "linux")


def targets_for(versions: list[MayaVersion], systems: list[System]) -> list[Target]:
    """Each Python once: Maya 2025 and 2026 share theirs. On a Mac, both architectures."""
    found = {
        Target(version.python, system, architecture): None
        for version in versions
        for system in systems
        for architecture in system.architectures
        if system.name in version.systems
    }
    return list(found)


def pick(wheelhouse: Path, distribution: str, floor: tuple[int, ...], target: Target) -> Path:
    """The newest wheel of a package in a folder that runs on the target.

    Raises:
        MegasamError: ``no_wheel``; the message lists what was there instead.
    """
    suitable, seen = [], []
    for path in sorted(wheelhouse.glob("*.whl")):
        tags = _FILE_NAME.match(path.name)
        if tags is None or tags["name"].lower().replace("_", "-") != distribution:
            continue
        seen.append(path.name)
        version = tuple(int(n) for n in re.findall(r"\d+", tags["version"])[:3])
        if version >= floor and target.accepts(tags["python"], tags["abi"], tags["platform"]):
            suitable.append((version, tags["python"] == target.python_tag, path))
    if suitable:
        return max(suitable)[2]
    wanted = "{}.{} on {} ({})".format(*target.python, target.system.name, target.architecture)
    there = f"of {distribution} it has {', '.join(seen)}" if seen else f"it has no {distribution}"
    raise MegasamError(
        "no_wheel",
        f"{wheelhouse} has no wheel of {distribution} {'.'.join(map(str, floor))} or newer for "
        f"Python {wanted}: {there}.",
        f"Fill it on a machine with network: {download_command(target, wheelhouse)}",
    )


def download_command(target: Target, into: Path, lock: str = "mod/vendor_lock.txt") -> str:
    """The command line, for messages, that fills a wheelhouse for one target."""
    return "python -m pip " + " ".join(_pip_arguments(target, into, lock))


def _pip_arguments(target: Target, into: Path, lock: str | Path) -> list[str]:
    arguments = ["download", "--only-binary=:all:", "--no-deps", "--require-hashes"]
    for platform in target.pip_platforms:
        arguments += ["--platform", platform]
    arguments += ["--python-version", "{}.{}".format(*target.python), "--implementation", "cp"]
    arguments += ["--abi", target.python_tag, "--abi", "abi3"]
    return [*arguments, "--dest", str(into), "--requirement", str(lock)]


def download(lock: Path, targets: list[Target], into: Path, python: Path) -> None:
    """Fetch the locked versions for all targets with the pip of ``python``.

    Raises:
        MegasamError: ``no_download`` with what pip said last.
    """
    for target in targets:
        pip = ["-s", "-m", "pip", "--disable-pip-version-check", "--no-input"]
        outcome = run_python(python, [*pip, *_pip_arguments(target, into, lock)], timeout=600)
        if not outcome.succeeded:
            lines = outcome.said.splitlines()
            reason = next((line for line in reversed(lines) if "ERROR" in line), lines[-1])
            raise MegasamError(
                "no_download",
                f"pyzmq and msgpack could not be downloaded: {reason.strip()}",
                "Without network: fill a folder elsewhere with "
                f'"{download_command(target, Path("wheelhouse"))}" and pass it with --wheelhouse.',
            )


@dataclass(frozen=True)
class UnpackedFile:
    """A file of a wheel: where it goes, relative to the vendor folder, and its content."""

    path: str
    content: bytes


def read(path: Path) -> list[UnpackedFile]:
    """The files of a wheel, each compared with the hash in the wheel's RECORD.

    Raises:
        MegasamError: ``damaged_wheel``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            contents = {m.filename: archive.read(m) for m in members}
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise _damaged(path, str(error)) from error
    records = [name for name in contents if re.fullmatch(r"[^/]+\.dist-info/RECORD", name)]
    if len(records) != 1:
        raise _damaged(path, "it has no RECORD")
    rows = csv.reader(io.StringIO(contents[records[0]].decode("utf-8", "replace")))
    hashes = {row[0]: row[1] for row in rows if len(row) >= 2}
    files = []
    for name, content in contents.items():
        if "\\" in name or ":" in name or name.startswith("/") or ".." in name.split("/"):
            raise _damaged(path, f"{name} would be written outside of the folder")
        if name != records[0]:
            kind, _, expected = hashes.get(name, "").partition("=")
            if kind not in ("sha256", "sha384", "sha512"):
                raise _damaged(path, f"RECORD has no hash of {name}")
            digest = base64.urlsafe_b64encode(hashlib.new(kind, content).digest())
            if digest.rstrip(b"=").decode() != expected:
                raise _damaged(path, f"{name} is not what RECORD says")
        files.append(UnpackedFile(name, content))
    return files


def _damaged(path: Path, why: str) -> MegasamError:
    return MegasamError(
        "damaged_wheel", f"{path} is damaged: {why}.", "Delete it and download it again."
    )
