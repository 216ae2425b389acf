"""What the process beside is asked to do in tests."""

from __future__ import annotations

import os

import numpy as np
from megasam_shared.errors import MegasamError


class StubbornError(Exception):
    """Cannot be made again from what it was made of."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} {other}")


def count_to(end: int) -> np.ndarray:
    return np.arange(end, dtype=np.int64)


def total_and_process(numbers: np.ndarray) -> tuple[int, int]:
    return int(numbers.sum()), os.getpid()


def talk() -> str:
    print("printed", flush=True)
    return "done"


def fail(kind: type[Exception]) -> None:
    if kind is MegasamError:
        raise MegasamError("no_room", "There is no room.", "Free some.")
    raise kind("no room")


def fail_stubbornly() -> None:
    raise StubbornError("of two", "words")
