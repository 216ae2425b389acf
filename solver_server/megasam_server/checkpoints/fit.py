"""Whether tensors are those of a network: every name and every shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]

_LISTED = 4


@dataclass(frozen=True)
class Fit:
    """How the tensors of a file differ from what a network wants.

    Attributes:
        missing: names that the network wants and the file lacks.
        unexpected: names that the network does not know.
        reshaped: (name, shape in the file, shape that the network wants).
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def exact(self) -> bool:
        """Nothing differs."""
        return not (self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        """The differences in one line; long lists are cut, with counts."""
        parts = [
            *_part("missing", self.missing),
            *_part("unexpected", self.unexpected),
            *_part(
                "of another shape",
                [f"{n} ({_by(has)} instead of {_by(wants)})" for n, has, wants in self.reshaped],
            ),
        ]
        return "; ".join(parts)


def compare(has: Shapes, wants: Shapes) -> Fit:
    """Compare the shapes in a file with those that a network wants."""
    return Fit(
        missing=tuple(sorted(wants.keys() - has.keys())),
        unexpected=tuple(sorted(has.keys() - wants.keys())),
        reshaped=tuple(
            (name, tuple(has[name]), tuple(wants[name]))
            for name in sorted(has.keys() & wants.keys())
            if tuple(has[name]) != tuple(wants[name])
        ),
    )


def _part(what: str, names: Iterable[str]) -> list[str]:
    names = list(names)
    if not names:
        return []
    more = [f"and {len(names) - _LISTED} more"] if len(names) > _LISTED else []
    return [f"{len(names)} {what}: {', '.join(names[:_LISTED] + more)}"]


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
