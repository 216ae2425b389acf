"""Memory that the C library keeps although nobody uses it."""

from __future__ import annotations

import ctypes
import sys


def give_back_freed_memory() -> None:
    """Hand the memory that this process has freed back to the system, on glibc."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
