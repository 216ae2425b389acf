"""What of its environment a server hands on to workers: a list, because secrets have no pattern."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

# Where programs, libraries, the user's folders and temporary files are.
_SYSTEM = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP"),
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"),
    *("CONDA_PREFIX", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"),
    *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "USERPROFILE", "APPDATA"),
    *("LOCALAPPDATA", "PROGRAMDATA", "PROGRAMFILES", "NUMBER_OF_PROCESSORS"),
)
# How libraries use the processors and the GPU; OCIO is the studio's colour configuration.
_LIBRARIES = ("PYTORCH_CUDA_ALLOC_CONF", "OCIO", "TORCH_HOME", "OPENIMAGEIO_THREADS")
_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "PYTORCH_", "TORCHINDUCTOR_")
# Ours: where weights are. The keys of the server are not for workers.
_OURS = ("MEGASAM_CHECKPOINTS", "MEGASAM_BUILT_IN_WEIGHTS")


def worker_environment(
    further: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The variables of ``environment`` (this process's own, unless given) that a worker gets.

    Args:
        further: names that are handed on as well.
    """
    given = os.environ if environment is None else environment
    # Windows does not tell names apart by case, and writes them in many.
    plain = str.upper if sys.platform == "win32" else str
    kept = {plain(name) for name in (*_SYSTEM, *_LIBRARIES, *_OURS, *further)}
    return {
        name: value
        for name, value in given.items()
        if plain(name) in kept or plain(name).startswith(_PREFIXES)
    }
