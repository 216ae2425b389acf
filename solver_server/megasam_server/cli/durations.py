"""Seconds in words."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """``42 s``, ``3:07 min``, ``5:30 h``, ``12 days``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    if whole < 2 * 86400:
        return f"{whole // 3600}:{whole // 60 % 60:02d} h"
    return f"{whole // 86400} days"
