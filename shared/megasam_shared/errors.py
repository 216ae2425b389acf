"""The one error family that artists see: what is wrong, why, and what to do about it."""

from __future__ import annotations


class MegasamError(Exception):
    """An error with a message for the person at the screen.

    Args:
        code: stable snake_case identifier that scripts and tests can compare, e.g. ``plate_not_found``.
        message: what is wrong and why, one or two sentences, naming the file, field or value.
        hint: what to do about it; empty when there is nothing to do.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[type[MegasamError], tuple[str, str, str], dict]:
        """Between processes of our own it is pickled."""
        return type(self), (self.code, self.message, self.hint), self.__dict__

    def to_map(self) -> dict[str, str]:
        """The error as the map that travels in ``error`` messages and in ``quality.json``."""
        return {"code": self.code, "message": self.message, "hint": self.hint}

    @classmethod
    def from_map(cls, data: dict) -> MegasamError:
        """Rebuild an error that came over the wire; missing keys become empty strings."""
        return cls(
            str(data.get("code", "unknown")),
            str(data.get("message", "")),
            str(data.get("hint", "")),
        )
