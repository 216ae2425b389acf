"""Frames that are read, and encoded, before they are asked for: the same frames all the same."""

from __future__ import annotations

import threading

import pytest

torch = pytest.importorskip("torch")

from megasam_server.tracking.dense_slam.encoded_frames import EncodedFrames  # noqa: E402
from megasam_server.tracking.dense_slam.frames import TrackingFrame  # noqa: E402
from megasam_server.tracking.dense_slam.read_ahead import ReadAhead  # noqa: E402


class Clip:
    """Frames that are their number; remembers what was asked for."""

    def __init__(self, count: int, broken: int | None = None) -> None:
        self._count, self._broken = count, broken
        self._lock = threading.Lock()
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> TrackingFrame:
        with self._lock:
            self.asked.append(index)
        if index == self._broken:
            raise OSError(f"frame {index} cannot be read")
        return TrackingFrame(torch.full((3, 16, 16), index, dtype=torch.uint8))


def number(frame: TrackingFrame) -> int:
    return int(frame.image[0, 0, 0])


def test_frames_in_order_are_read_once_each():
    clip = Clip(20)
    ahead = ReadAhead(clip)
    assert len(ahead) == 20
    assert [number(ahead[k]) for k in range(20)] == list(range(20))
    assert sorted(clip.asked) == list(range(20))


def test_any_order_gives_the_right_frames():
    ahead = ReadAhead(Clip(12))
    order = [0, 1, 7, 2, 11, 11, 3, 0]
    assert [number(ahead[k]) for k in order] == order


def test_a_frame_that_cannot_be_read_fails_when_it_is_asked_for():
    ahead = ReadAhead(Clip(6, broken=3))
    assert [number(ahead[k]) for k in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="frame 3"):
        ahead[3]
    assert number(ahead[4]) == 4


class Bank:
    """Features that are their frame's number; remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def features(self, frames):
        self.batches.append([number(frame) for frame in frames])
        return torch.stack([torch.full((2, 3, 3), float(number(frame))) for frame in frames])


def test_frames_are_encoded_in_batches_and_do_not_hold_each_other():
    bank = Bank()
    encoded = EncodedFrames(Clip(7), bank, batch=3)
    taken = [encoded.take(k) for k in range(7)]
    assert [number(frame) for frame, _ in taken] == list(range(7))
    assert [float(fmap[0, 0, 0]) for _, fmap in taken] == [float(k) for k in range(7)]
    assert bank.batches == [[0, 1, 2], [3, 4, 5], [6]]
    assert {fmap.untyped_storage().nbytes() for _, fmap in taken} == {2 * 3 * 3 * 4}


def test_frames_out_of_order_are_encoded_anew():
    encoded = EncodedFrames(Clip(9), Bank(), batch=4)
    for k in (0, 1, 5, 6, 2):
        frame, fmap = encoded.take(k)
        assert number(frame) == float(fmap[0, 0, 0]) == k
