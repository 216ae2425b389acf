"""Where the results of a new solve go: a new version beside the earlier ones, never over them."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from megasam_shared.transfer import not_writable


def next_version(parent: Path, name: str, taken: Collection[str] = ()) -> Path:
    """``parent/sh010_solve_v001``, or the version after the last one there.

    Args:
        taken: folders that other jobs have been promised.

    Raises:
        MegasamError: ``output_not_writable``.
    """
    version = re.compile(re.escape(name) + r"_solve_v(\d{3,})(\.partial)?")
    try:
        present = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    except OSError as error:
        raise not_writable(parent, error) from None
    present += [Path(folder).name for folder in taken if Path(folder).parent == parent]
    used = [int(match[1]) for entry in present if (match := version.fullmatch(entry))]
    return parent / f"{name}_solve_v{max(used, default=0) + 1:03d}"
