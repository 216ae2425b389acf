"""The part of a plate that is asked for."""

from __future__ import annotations

from megasam_shared.errors import MegasamError


def select_range(
    numbers: list[int], first: int | None, last: int | None, name: str
) -> tuple[int, int]:
    """First and last frame number to use; None means the plate's own.

    Args:
        numbers: ascending frame numbers that the plate has.
        first, last: frame numbers asked for, both included.
        name: plate, for messages.

    Raises:
        MegasamError: ``frame_range_outside`` or ``frame_range_empty``.
    """
    first = numbers[0] if first is None else first
    last = numbers[-1] if last is None else last
    if first < numbers[0] or last > numbers[-1]:
        raise MegasamError(
            "frame_range_outside",
            f"Frames {first}-{last} were asked for, but {name} has frames"
            f" {numbers[0]}-{numbers[-1]}.",
            "Give a range in the plate's own frame numbers; movies count from 1.",
        )
    if first > last:
        raise MegasamError(
            "frame_range_empty",
            f"The range {first}-{last} of {name} holds no frame.",
            "The first frame must not come after the last one.",
        )
    return first, last


def name_frames(numbers: list[int]) -> str:
    """Frame numbers as people write them: ``1003, 1007-1010 and 12 more``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [str(a) if a == b else f"{a}-{b}" for a, b in runs[:8]]
    hidden = sum(b - a + 1 for a, b in runs[8:])
    return ", ".join(shown) + (f" and {hidden} more" if hidden else "")
