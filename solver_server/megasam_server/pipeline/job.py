"""What a worker is asked to solve: everything on its own disk, nothing about clients or sockets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megasam_shared.settings import SolveSettings

from megasam_server.pipeline.network_shelf import NetworkShelf


@dataclass(frozen=True)
class SolveJob:
    """One solve.

    Attributes:
        plate: a movie, one frame of a sequence, or the folder that holds the sequence.
        masks: the same for pixels to leave out (white = leave out); None without masks.
        settings: validated settings.
        work_dir: scratch for decoded frames and stage outputs; may be deleted afterwards.
        results_dir: the result folder to be written.
        cache_dir: where outputs of stages are kept for other attempts and jobs; None for nowhere.
        shelf: where networks wait for their next use; None for nowhere.
    """

    plate: Path
    masks: Path | None
    settings: SolveSettings
    work_dir: Path
    results_dir: Path
    cache_dir: Path | None = None
    shelf: NetworkShelf | None = None
