"""pyzmq and msgpack from the module's own vendor folder, without pushing anybody's aside.

The folder is put at the end of ``sys.path`` here, not through PYTHONPATH in the .mod file: that
would reach every Python which Maya starts, of whatever version, and come before its packages.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

from megasam_maya.maya_versions import running_vendor_tag

# The same floors as in pyproject.toml: distribution, module, version.
REQUIRED = (("pyzmq", "zmq", (26,)), ("msgpack", "msgpack", (1, 0, 8)))


@dataclass(frozen=True)
class LoadedPackage:
    """A package as this session sees it; ``ours`` when it came from the vendor folder."""

    name: str
    version: str
    file: Path
    ours: bool


def module_root() -> Path:
    """The folder with plug-ins/, scripts/, icons/, shelves/ and, once installed, vendor/."""
    return Path(__file__).resolve().parents[2]


def vendor_folder() -> Path | None:
    """The folder with the packages for the Python that runs now, or None if none is installed."""
    tag = running_vendor_tag()
    folder = module_root() / "vendor" / tag if tag else None
    return folder if folder is not None and folder.is_dir() else None


def add_to_path() -> None:
    """Let ``import zmq, msgpack`` find the vendored ones, after everything that is there."""
    folder = vendor_folder()
    if folder is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))


def load() -> list[LoadedPackage]:
    """Import both packages, whoever brought them.

    Another tool's copy is used when it is new enough: two of them in one process do not go well.

    Raises:
        MegasamError: ``package_missing`` or ``package_too_old``.
    """
    from megasam_shared.errors import MegasamError

    folder = vendor_folder()
    loaded = []
    for distribution, module_name, floor in REQUIRED:
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            python = "{}.{}".format(*sys.version_info[:2])
            raise MegasamError(
                "package_missing",
                f"{distribution} cannot be loaded in Python {python}: {error}.",
                "Run install_maya.py again for this version of Maya.",
            ) from error
        file = Path(module.__file__ or "")
        version = str(getattr(module, "__version__", "0"))
        if _numbers(version) < floor:
            raise MegasamError(
                "package_too_old",
                f"Another tool brought {distribution} {version} ({file.parent}); "
                f"{'.'.join(map(str, floor))} or newer is needed.",
                "Update that tool, or start Maya without it.",
            )
        ours = folder is not None and folder in file.parents
        loaded.append(LoadedPackage(distribution, version, file, ours))
    return loaded


def _numbers(version: str) -> tuple[int, ...]:
    """``27.1.0rc1`` -> (27, 1, 0): the leading number of each part."""
    parts = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)
