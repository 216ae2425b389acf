"""How much freed memory the C library keeps."""

from __future__ import annotations

import ctypes
import sys

# mallopt's, malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# Larger than any message; as much as a server has on the way at once.
_OWN_MAPPING = 16 << 20
_KEPT = 64 << 20


def keep_freed_memory() -> None:
    """Let this process keep some memory that it has freed.

    A server receives pieces of files of a megabyte, thousands a second. glibc gives the memory of
    each back at once, and the system clears it before it hands it out again, which costs as much as
    everything else that is done with the piece. Elsewhere than on glibc nothing happens.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
