"""Optical flow of many frame pairs on disk, read one pair at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class FlowStore:
    """P ordered pairs (i, j): the pixel x of frame i is seen in frame j at x + flow(x).

    Attributes:
        flow_path: raw float16 file [P,2,h,w], pixels, channel 0 = x.
        trust_path: raw uint8 file [P,h,w]: 255 = forward and backward flow agree, 0 = they do not,
            or the pixel leaves the picture.
        pairs: int64 [P,2].
        width, height: size the flow was computed at.
    """

    flow_path: Path
    trust_path: Path
    pairs: np.ndarray
    width: int
    height: int
    _from_frame: dict[int, list[int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        table: dict[int, list[int]] = {}
        for index, (i, _) in enumerate(self.pairs):
            table.setdefault(int(i), []).append(index)
        object.__setattr__(self, "_from_frame", table)

    @classmethod
    def create(cls, folder: Path, edges: np.ndarray, width: int, height: int) -> FlowStore:
        """An empty store for both ways of ``edges`` [E,2]: pair 2e is (i, j), 2e + 1 is (j, i)."""
        pairs = np.stack([edges, edges[:, ::-1]], axis=1).reshape(-1, 2)
        store = cls(folder / "flow.f16", folder / "flow_trust.u8", pairs, width, height)
        for path in (store.flow_path, store.trust_path):
            path.write_bytes(b"")
        return store

    def append(self, flow: np.ndarray, trust: np.ndarray) -> None:
        """Write the next pairs: ``flow`` [...,2,h,w] pixels, ``trust`` 0-1 [...,h,w]."""
        with self.flow_path.open("ab") as file:
            file.write(np.ascontiguousarray(flow, dtype=np.float16).data)
        with self.trust_path.open("ab") as file:
            file.write((trust * np.uint8(255)).astype(np.uint8, copy=False).data)

    def flow(self, pair: int) -> np.ndarray:
        """Flow of one pair, float32 [2,h,w], in memory."""
        size = 2 * self.height * self.width
        flat = np.fromfile(self.flow_path, np.float16, count=size, offset=pair * size * 2)
        return flat.reshape(2, self.height, self.width).astype(np.float32)

    def trust(self, pair: int) -> np.ndarray:
        """Trust of one pair, float32 0-1 [h,w], in memory."""
        size = self.height * self.width
        flat = np.fromfile(self.trust_path, np.uint8, count=size, offset=pair * size)
        return flat.reshape(self.height, self.width).astype(np.float32) * np.float32(1 / 255)

    def read_into(self, pair: int, flow: np.ndarray, trust: np.ndarray) -> None:
        """Flow and trust of one pair as they are stored, without memory of its own.

        Args:
            flow: float16 [2,h,w], pixels. trust: uint8 [h,w], 0-255. Both C-contiguous.

        Raises:
            OSError: a file ends before the pair does.
        """
        for path, array in ((self.flow_path, flow), (self.trust_path, trust)):
            with path.open("rb", buffering=0) as file:
                file.seek(pair * array.nbytes)
                if file.readinto(array.reshape(-1).view(np.uint8)) != array.nbytes:
                    raise OSError(f"{path} ends before the flow of pair {pair}")

    def pairs_from(self, frame: int) -> list[int]:
        """Indices of the pairs (``frame``, j)."""
        return self._from_frame.get(frame, [])
