"""A decoded clip as the dense tracker sees it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from megasam_server.geometry.camera import Intrinsics
from megasam_server.media.frame_store import FrameStore, write_frame_store
from megasam_server.media.in_order import map_in_order
from megasam_server.metric_depth.alignment import ClipAlignment
from megasam_server.tracking.dense_slam.depth_prior import prior_from_disparity
from megasam_server.tracking.dense_slam.frame_size import MULTIPLE
from megasam_server.tracking.dense_slam.frames import TrackingFrame


class ClipFrames:
    """N frames, read from disk when they are asked for.

    Args:
        frames: N RGB frames.
        left_out: N masks, 1 = leave out; None without masks.
        size: width and height of the tracker's pictures, multiples of 8, of the whole frame.
        disparities: relative disparity float32 [N,height,width]; None without mono depth.
        alignment: of the disparities; None without mono depth.
    """

    def __init__(
        self,
        frames: FrameStore,
        left_out: FrameStore | None,
        size: tuple[int, int],
        disparities: np.ndarray | None,
        alignment: ClipAlignment | None,
    ) -> None:
        self._frames, self._left_out, self.size = frames, left_out, size
        self._disparities, self._alignment = disparities, alignment
        # Of the grid, so a clip's are small: frames are asked for several times.
        self._cell_priors: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return self._frames.num_frames

    def __getitem__(self, index: int) -> TrackingFrame:
        image = torch.from_numpy(self.rgb(index)[..., ::-1].transpose(2, 0, 1).copy())
        return TrackingFrame(image, self._cell_prior(index), self.keep(index))

    def rgb(self, index: int) -> np.ndarray:
        """Frame ``index``, uint8 [height,width,3]."""
        frame = self._frames.frame(index)
        if frame.shape[1::-1] == tuple(self.size):
            return frame
        return cv2.resize(frame, self.size, interpolation=cv2.INTER_AREA)

    def reduced_to(self, path: Path) -> ClipFrames:
        """The same clip with its pictures reduced once, in a file."""
        width, height = self.size
        store = FrameStore(path, len(self), width, height, 3)
        write_frame_store(store, map_in_order(self.rgb, range(len(self))))
        return ClipFrames(store, self._left_out, self.size, self._disparities, self._alignment)

    def prior(self, index: int) -> torch.Tensor | None:
        """Aligned mono disparity float32 [height,width] in the tracker's unit, 0 = unknown."""
        if self._disparities is None or self._alignment is None:
            return None
        depth = self._alignment.tracker_depth(np.array(self._disparities[index]))
        return torch.from_numpy(np.where(depth > 0, 1 / np.maximum(depth, 1e-30), 0.0)).float()

    def _cell_prior(self, index: int) -> torch.Tensor | None:
        """:meth:`prior` on the grid, [height/8,width/8]."""
        if index not in self._cell_priors:
            prior = self.prior(index)
            if prior is None:
                return None
            self._cell_priors[index] = prior_from_disparity(prior)
        return self._cell_priors[index]

    def keep(self, index: int) -> torch.Tensor | None:
        """How much of each cell [height/8,width/8] the artist's mask leaves, 0..1; None: no masks."""
        if self._left_out is None:
            return None
        left_out = (self._left_out.frame(index) > 0).astype(np.float32)
        cells = (self.size[0] // MULTIPLE, self.size[1] // MULTIPLE)
        return torch.from_numpy(1 - cv2.resize(left_out, cells, interpolation=cv2.INTER_AREA))


def tracker_intrinsics(plate: Intrinsics, size: tuple[int, int]) -> torch.Tensor:
    """fx, fy, cx, cy [4] for the tracker, of the first frame of ``plate``.

    The tracker divides by 8 and calls the centres of its cells 0, 1, 2, ...: its principal point
    is that of a picture of width/8 x height/8 pixels (centres at integers), times 8. Dividing the
    pixels' principal point, as the reference does, is half a cell off.
    """
    cells = plate.at_resolution(size[0] // MULTIPLE, size[1] // MULTIPLE)
    return MULTIPLE * torch.tensor([cells.fx[0], cells.fy[0], cells.cx[0], cells.cy[0]])
