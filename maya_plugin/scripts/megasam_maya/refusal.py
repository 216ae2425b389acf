"""The one place that keeps a failed solve from being used by mistake."""

from __future__ import annotations

from collections.abc import Sequence

from megasam_shared.errors import MegasamError


def refuse_unusable(usable: bool, status: str, reasons: Sequence[str], insist: bool) -> None:
    """Stop what would use a solve that is not fit for use, unless somebody insists.

    Args:
        usable: see :func:`megasam_shared.quality.is_usable`.
        status, reasons: what the solve says of itself.

    Raises:
        MegasamError: ``shot_not_usable``.
    """
    if usable or insist:
        return
    raise MegasamError(
        "shot_not_usable",
        f"This solve is not fit for use ({status}): {' '.join(reasons)}".strip(),
        "Solve again with other settings, or use it all the same if you insist.",
    )
