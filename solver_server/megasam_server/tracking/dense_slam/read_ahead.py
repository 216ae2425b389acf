"""Frames that are read while the ones before are worked on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from megasam_server.tracking.dense_slam.frames import FrameSource, TrackingFrame

_AHEAD = 6
_THREADS = 3


class ReadAhead:
    """A frame source before another: whoever asks for a frame will soon ask for the next ones."""

    def __init__(self, frames: FrameSource) -> None:
        self._frames = frames
        self._pool = ThreadPoolExecutor(_THREADS, "read-ahead")
        self._coming: dict[int, Future[TrackingFrame]] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> TrackingFrame:
        wanted = range(index, min(index + _AHEAD, len(self)))
        for other in self._coming.keys() - set(wanted):
            self._coming.pop(other).cancel()
        for number in wanted:
            if number not in self._coming:
                self._coming[number] = self._pool.submit(self._frames.__getitem__, number)
        return self._coming.pop(index).result()
