"""A clip of any length: tracked in windows that overlap, which are joined by similarities."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from megasam_shared.quality import WindowJoin
from torch import Tensor

from megasam_server.geometry import se3
from megasam_server.tracking.dense_slam.frame_windows import even_windows
from megasam_server.tracking.dense_slam.frames import FrameSource, TrackingFrame
from megasam_server.tracking.dense_slam.network import Correlations, TrackingNetwork
from megasam_server.tracking.dense_slam.options import TrackerOptions
from megasam_server.tracking.dense_slam.tracker import OnProgress, Tracker, TrackingResult
from megasam_server.tracking.dense_slam.window_join import SharedFrames, join_windows

# Times the information about the focal length that just suffices.
_WELL_SHOWN = 10.0


def track_clip(
    frames: FrameSource,
    intrinsics: Tensor,
    network: TrackingNetwork,
    options: TrackerOptions,
    device: torch.device,
    correlations: Correlations | None = None,
    on_progress: OnProgress | None = None,
) -> TrackingResult:
    """Track a clip; arguments as of :class:`.tracker.Tracker`.

    A clip of at most ``tracked_together`` frames is tracked by it as a whole. In a longer one each window is joined to
    those before it by the frames that they share, and fades in over these.

    There is one focal length, for one camera filmed it all. The first window whose motion shows it well decides; until
    there is one, that whose motion shows it best. The others hold it: those that were tracked with another are tracked
    again.

    Raises:
        MegasamError: ``tracking_diverged``.
    """
    windows = [range(len(frames))]
    if not options.reference_behaviour:
        windows = even_windows(len(frames), options.tracked_together, options.tracked_overlap)
    report = on_progress or (lambda share, words: None)

    def track(window: range, lens: Tensor, optimise_focal: bool, progress: OnProgress):
        return Tracker(
            _Stretch(frames, window),
            lens,
            network,
            replace(options, optimise_focal=optimise_focal),
            device,
            correlations,
            progress,
        ).run()

    lens, optimise, best = intrinsics.to("cpu", torch.float32), options.optimise_focal, 0.0
    if len(windows) == 1:
        return track(windows[0], lens, optimise, report)
    results: list[TrackingResult] = []
    for number, window in enumerate(windows):

        def on_window(share: float, words: str, number: int = number) -> None:
            report((number + share) / len(windows), words)

        def on_repetition(share: float, words: str, number: int = number) -> None:
            report((number + 1) / len(windows), f"again with the focal length found: {words}")

        results.append(track(window, lens, optimise, on_window))
        if results[-1].focal_refined and (shown := _focal_information(results[-1])) > best:
            best, lens = shown, results[-1].intrinsics
            optimise = best < _WELL_SHOWN * options.min_focal_hessian_per_residual
        for earlier, result in enumerate(results):
            if not torch.equal(result.intrinsics, lens):
                results[earlier] = track(windows[earlier], lens, False, on_repetition)
    return join_results(windows, results)


def join_results(windows: list[range], results: list[TrackingResult]) -> TrackingResult:
    """The results of consecutive windows that overlap as one, in the world of the first."""
    clip = _Clip.of(results[0])
    joins, keyframes = [], set(results[0].keyframes)
    prior_scales = [results[0].prior_scale]
    for window, result in zip(windows[1:], results[1:], strict=True):
        scale, join = clip.add(window.start, _Clip.of(result))
        joins.append(join)
        keyframes |= {window.start + number for number in result.keyframes}
        prior_scales.append(result.prior_scale and result.prior_scale / scale)
    decided = any(result.focal_refined for result in results)
    seen = [result for result in results if result.observability is not None]
    telling = max(seen, key=_focal_information, default=results[0])
    known = [scale for scale in prior_scales if scale]
    return TrackingResult(
        cam_from_world=clip.cam_from_world.float(),
        disparities=clip.disparities,
        static_probability=clip.static_probability,
        intrinsics=results[-1].intrinsics,
        focal_refined=decided,
        prior_scale=float(np.median(known)) if known else None,
        keyframes=sorted(keyframes),
        observability=telling.observability,
        parallax=max((result.parallax for result in seen), default=None),
        joins=joins,
    )


def _focal_information(result: TrackingResult) -> float:
    """About the focal length, for each residual."""
    return result.observability.median_calib / result.observability.residuals


class _Stretch:
    """Consecutive frames of a clip as a clip of their own."""

    def __init__(self, frames: FrameSource, window: range) -> None:
        self._frames, self._window = frames, window

    def __len__(self) -> int:
        return len(self._window)

    def __getitem__(self, index: int) -> TrackingFrame:
        return self._frames[self._window[index]]


@dataclass
class _Clip:
    """Frames from the first on: cam_from_world [N, 7] float64, disparities and static probability [N, h, w]."""

    cam_from_world: Tensor
    disparities: Tensor
    static_probability: Tensor

    @classmethod
    def of(cls, result: TrackingResult) -> _Clip:
        poses = result.cam_from_world.double()
        return cls(poses, result.disparities, result.static_probability)

    def add(self, start: int, later: _Clip) -> tuple[float, WindowJoin]:
        """Add a window from frame ``start`` on, which is among these frames.

        Returns:
            Lengths in this world over lengths in the window's, and how well the shared frames agree.
        """
        count = len(self.cam_from_world) - start
        numbers = start, start + count - 1
        placed, join = join_windows(self._shared(start, None), later._shared(0, count), numbers)
        world_from_cam = se3.matrix(se3.inverse(later.cam_from_world)).numpy()
        poses = se3.inverse(se3.from_matrix(torch.from_numpy(placed.poses(world_from_cam))))
        disparities = later.disparities / placed.scale
        share = torch.arange(1, count + 1) / (count + 1)

        before = self.cam_from_world[start:]
        step = se3.log(se3.relative(poses[:count], before))
        poses[:count] = se3.retract(before, share[:, None] * step)
        share = share[:, None, None]
        disparities[:count] = torch.lerp(
            self.disparities[start:].log(), disparities[:count].log(), share
        ).exp()
        static = later.static_probability.clone()
        static[:count] = torch.lerp(self.static_probability[start:], static[:count], share)

        self.cam_from_world = torch.cat([self.cam_from_world[:start], poses])
        self.disparities = torch.cat([self.disparities[:start], disparities])
        self.static_probability = torch.cat([self.static_probability[:start], static])
        return placed.scale, join

    def _shared(self, start: int, end: int | None) -> SharedFrames:
        poses = se3.matrix(se3.inverse(self.cam_from_world[start:end]))
        return SharedFrames(
            poses.numpy(),
            self.disparities[start:end].double().numpy(),
            self.static_probability[start:end].numpy(),
        )
