"""What one setting may be, as the command line and the dialog read it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from megasam_shared.errors import MegasamError

Kind = Literal["choice", "int", "float", "bool", "text"]

_LONGEST_TEXT = 4096


@dataclass(frozen=True)
class FieldSpec:
    """One setting: its meaning, its allowed values and how to present it.

    Attributes:
        kind: type of the value.
        label: what a dialog writes beside the widget.
        doc: what the setting does, one or two sentences, for tool tips and ``--help``.
        default: value when nothing is given; None where ``none_means`` says what that is.
        unit: ``px``, ``mm``, ``frames`` ...; empty for a number without one.
        minimum, maximum: inclusive range of numbers.
        step: numbers must be multiples of it (and a spin box steps by it); 0 for any.
        choices: allowed values of a ``choice``.
        zero_means: what 0 stands for where it is allowed besides the range, e.g. ``estimate``.
        none_means: what None stands for where it is allowed, e.g. ``as the preset says``.
        advanced: belongs in the collapsed part of the dialog.
        name: identifier, the same in Python, in messages and (with dashes) on the command line.
    """

    kind: Kind
    label: str
    doc: str
    default: Any = None
    unit: str = ""
    minimum: float = -math.inf
    maximum: float = math.inf
    step: int = 0
    choices: tuple[str, ...] = ()
    zero_means: str = ""
    none_means: str = ""
    advanced: bool = False
    name: str = ""

    @property
    def allowed(self) -> str:
        """The allowed values in words: ``0 (estimate) or 1 to 1000000 px``."""
        if self.kind == "choice":
            text = "one of " + ", ".join(self.choices)
        elif self.kind == "bool":
            text = "true or false"
        elif self.kind == "text":
            text = f"text of at most {_LONGEST_TEXT} characters, without NUL"
        else:
            text = f"{self.minimum:.12g} to {self.maximum:.12g} {self.unit}".rstrip()
            if self.kind == "int":
                text += ", a multiple of " + str(self.step) if self.step else ", a whole number"
            if self.zero_means:
                text = f"0 ({self.zero_means}) or {text}"
        return f"{text}, or nothing ({self.none_means})" if self.none_means else text

    def check(self, value: Any) -> Any:
        """Return ``value`` as the setting's own type.

        Whole numbers are taken for a ``float``; nothing else is converted: text is no number and a
        bool is no int.

        Raises:
            MegasamError: ``setting_wrong_type``, ``setting_unknown_choice`` or
                ``setting_out_of_range``; the message names field, value and allowed range.
        """
        if value is None and self.none_means:
            return None
        if self.kind in ("int", "float"):
            return self._checked_number(value)
        if self.kind == "bool":
            if not isinstance(value, bool):
                raise self._error("setting_wrong_type", value)
            return value
        if not isinstance(value, str):
            raise self._error("setting_wrong_type", value)
        if self.kind == "choice" and value not in self.choices:
            raise self._error("setting_unknown_choice", value)
        if self.kind == "text" and (len(value) > _LONGEST_TEXT or "\0" in value):
            raise self._error("setting_out_of_range", value)
        return value

    def _checked_number(self, value: Any) -> int | float:
        accepted = (int,) if self.kind == "int" else (int, float)
        if isinstance(value, bool) or not isinstance(value, accepted):
            raise self._error("setting_wrong_type", value)
        in_range = self.minimum <= value <= self.maximum  # False for NaN
        on_step = not self.step or (in_range and value % self.step == 0)
        is_special_zero = bool(self.zero_means) and value == 0
        if not (in_range and on_step) and not is_special_zero:
            raise self._error("setting_out_of_range", value)
        return int(value) if self.kind == "int" else float(value)

    def _error(self, code: str, value: Any) -> MegasamError:
        shown = repr(value)
        if len(shown) > 80:
            shown = shown[:77] + "..."
        what = f"Setting {self.name} = {shown} ({type(value).__name__}) is not allowed."
        return MegasamError(code, what, f"Allowed: {self.allowed}.")
