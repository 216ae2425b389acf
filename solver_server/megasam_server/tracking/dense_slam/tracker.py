"""The whole track: keyframes one after the other, then all of them, then all frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from megasam_shared.errors import MegasamError
from megasam_shared.quality import WindowJoin
from torch import Tensor

from megasam_server.tracking.dense_slam.backend import GlobalResult, GlobalRule, adjust_all
from megasam_server.tracking.dense_slam.depth_prior import disparities_between
from megasam_server.tracking.dense_slam.encoded_frames import EncodedFrames
from megasam_server.tracking.dense_slam.feature_bank import FeatureBank, FrameFeatures
from megasam_server.tracking.dense_slam.frames import FrameSource, TrackingFrame
from megasam_server.tracking.dense_slam.frontend import Frontend
from megasam_server.tracking.dense_slam.keyframe_store import KeyframeStore
from megasam_server.tracking.dense_slam.motion_filter import MotionFilter
from megasam_server.tracking.dense_slam.network import Correlations, TrackingNetwork
from megasam_server.tracking.dense_slam.observability import Observability, parallax
from megasam_server.tracking.dense_slam.options import TrackerOptions
from megasam_server.tracking.dense_slam.pose_filling import fill_poses
from megasam_server.tracking.dense_slam.windowed_adjustment import adjust_in_windows

# Shares of the progress: following the clip, adjusting keyframes, filling, adjusting all frames.
_FOLLOW, _KEYFRAMES, _FILL, _ALL = 0.45, 0.15, 0.1, 0.3

OnProgress = Callable[[float, str], None]


@dataclass(frozen=True)
class TrackingResult:
    """A solved clip, on the CPU. N frames of H x W pixels, h = H/8, w = W/8.

    Attributes:
        cam_from_world: [N, 7] tx ty tz qx qy qz qw; that of the first frame is the identity.
        disparities: [N, h, w] 1/depth, in the scale of the poses.
        static_probability: [N, h, w]; 1 = static, 0 = moving or masked.
        intrinsics: [4] fx fy cx cy in pixels of the tracker's images.
        focal_refined: whether the focal length was refined.
        prior_scale: lengths of the depth prior over lengths of the result; None without a prior.
        keyframes: frame numbers.
        observability: what the motion could tell; None when there was nothing to adjust.
        parallax: mean motion, in pixels of the tracker's images, that the camera's translation causes between those two
            linked keyframes where it is largest; None as ``observability``.
        joins: how well the windows agree that a long clip was tracked in; frame numbers of the clip.
    """

    cam_from_world: Tensor
    disparities: Tensor
    static_probability: Tensor
    intrinsics: Tensor
    focal_refined: bool
    prior_scale: float | None
    keyframes: list[int]
    observability: Observability | None
    parallax: float | None
    joins: list[WindowJoin] = field(default_factory=list)


class Tracker:
    """Tracks one clip. :meth:`run` does all of it; the steps are there to be looked at one by one.

    Attributes:
        store: the keyframes.
        all_frames: every frame of the clip in a slot of its own; None before :meth:`place_all_frames`.
        observability: None before :meth:`adjust_keyframes`.
    """

    def __init__(
        self,
        frames: FrameSource,
        intrinsics: Tensor,
        network: TrackingNetwork,
        options: TrackerOptions,
        device: torch.device,
        correlations: Correlations | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        """
        Args:
            frames: at least one.
            intrinsics: [4] fx fy cx cy in pixels of the frames' images, to start from.
            network: on ``device``.
            correlations: how features are compared, for networks that are no networks.
            on_progress: called with a share 0..1 and a few words; may raise to stop.
        """
        self._frames, self._network = frames, network
        self._options, self._device = options, device
        self._correlations = correlations or Correlations()
        self._report = on_progress or (lambda share, words: None)
        self._height, self._width = (side // 8 for side in frames[0].image.shape[1:])
        self._intrinsics = intrinsics.to(device, torch.float32) / 8
        # The reference knows no windows.
        self._together = len(frames)
        if not options.reference_behaviour:
            self._together = options.frames_together(self._height * self._width)
        self._bank = FeatureBank(
            frames,
            network,
            device,
            options.feature_dtype,
            options.max_keyframes,
            max_passing=max(self._together, options.fill_group),
        )
        self._encoded = EncodedFrames(frames, self._bank, options.encoded_together)
        # Of each frame that was followed; None where it has none.
        self._priors: list[Tensor | None] = []
        self._keeps: list[Tensor | None] = []
        self.observability: Observability | None = None
        self._focal_refined = False
        self._parallax: float | None = None
        self._final_rule: GlobalRule | None = None
        self._static: Tensor | None = None
        self.all_frames: KeyframeStore | None = None
        self._begin()
        self._filter = MotionFilter(network, self._correlations, self.store.grid)

    @torch.inference_mode()
    def run(self) -> TrackingResult:
        """Track the clip."""
        for number in range(len(self._frames)):
            self.follow(number)
            self._report(_FOLLOW * (number + 1) / len(self._frames), "following the camera")
        self.finish_following()
        if len(self.store) > 1:
            self.adjust_keyframes()
        self.place_all_frames()
        if len(self.all_frames) > 1:
            self.adjust_all_frames()
        return self.result()

    @torch.inference_mode()
    def follow(self, number: int) -> None:
        """Look at the next frame; a keyframe if it moved."""
        frame, fmap = self._encoded.take(number)
        self._priors.append(frame.prior)
        self._keeps.append(frame.keep)
        moved = number == 0 or self._filter.motion(fmap) > self._options.filter_threshold
        self._bank.fmaps.put(number, fmap, soon=moved, lasting=False)
        if moved:
            self._add_keyframe(number, frame)
            self._frontend.keyframe_added()
            self._bank.keep_only(self.store.frame_numbers)

    @torch.inference_mode()
    def finish_following(self) -> None:
        """The last frame is a keyframe too; a clip that hardly moves starts here."""
        last = len(self._frames) - 1
        if self._options.reference_behaviour or last not in self.store.frame_numbers:
            self._add_keyframe(last, self._frames[last])
            self._frontend.keyframe_added(is_last=self._options.reference_behaviour)
        if not self._frontend.initialised and not self._options.reference_behaviour:
            self._spread_keyframes()
        self._frontend.finish()
        self._bank.keep_only(self.store.frame_numbers)

    @torch.inference_mode()
    def adjust_keyframes(self) -> None:
        """Find out what can be observed, then adjust all keyframes, and the focal length, accordingly."""
        options = self._options
        before = self.store.estimate()
        trial = GlobalRule(options.observability_steps, False, options.global_prior_weight)
        words = "finding out what the motion can tell"
        edges = self._adjust(trial, _FOLLOW, 0.0, words).edges
        self.observability = Observability.of(self.store, edges)
        self.store.restore(before)
        self._focal_refined = options.optimise_focal and self.observability.focal_is_observable(
            options
        )
        prior_weight = self.observability.prior_weight(options)
        self._final_rule = GlobalRule(options.all_frames_steps, False, prior_weight)
        rule = GlobalRule(options.keyframe_steps, self._focal_refined, prior_weight)
        words = "adjusting the keyframes"
        edges = self._adjust(rule, _FOLLOW, _KEYFRAMES, words).edges
        self._parallax = parallax(self.store, edges)
        if self._rests_on_prior():
            self._adjust_to_prior()

    @torch.inference_mode()
    def place_all_frames(self) -> None:
        """Poses and first disparities of all frames, from the keyframes."""
        numbers = list(range(len(self._frames)))
        between = numbers
        poses = torch.empty(len(numbers), 7, device=self._device)
        if not self._options.reference_behaviour:
            keyframes = self.store.frame_numbers
            poses[keyframes] = self.store.poses
            between = sorted(set(numbers) - set(keyframes))

        def on_frames(done: int, total: int) -> None:
            self._report(_FOLLOW + _KEYFRAMES + _FILL * done / total, "placing all frames")

        poses[between] = fill_poses(
            self.store, between, self._network, self._correlations, on_frames
        )
        self.all_frames = self._place(poses)

    @torch.inference_mode()
    def adjust_all_frames(self) -> None:
        """Adjust the poses and disparities of all frames."""
        start = _FOLLOW + _KEYFRAMES + _FILL

        def on_step(done: int, total: int) -> None:
            self._report(start + _ALL * done / total, "adjusting all frames")

        self._static = adjust_in_windows(
            self.all_frames,
            self._together,
            self.store.frame_numbers,
            self._network,
            self._correlations,
            self._final_rule,
            on_step,
        )

    def result(self) -> TrackingResult:
        """What has been found.

        Raises:
            MegasamError: ``tracking_diverged``, some of it is not a number.
        """
        store = self.all_frames
        if not all(bool(x.isfinite().all()) for x in (store.poses, store.disps, store.intrinsics)):
            raise MegasamError(
                "tracking_diverged",
                "The camera track went astray: the adjustment of the poses ended in values that are no numbers.",
                "Try a higher tracking resolution or float32; if it stays so, solve with the classical engine.",
            )
        known = store.priors > 0
        scale = None
        if store.has_prior and bool(known.any()):
            scale = float((store.disps[known] / store.priors[known]).median())
        static = self._static if self._static is not None else store.keeps
        return TrackingResult(
            store.poses.cpu().clone(),
            store.disps.cpu().clone(),
            static.cpu().clone(),
            8 * store.intrinsics.cpu(),
            self._focal_refined,
            scale,
            list(self.store.frame_numbers),
            self.observability,
            None if self._parallax is None else 8 * self._parallax,
        )

    def _begin(self) -> None:
        self.store = self._new_store(self._intrinsics)
        self._frontend = Frontend(self.store, self._network, self._correlations)

    def _new_store(self, intrinsics: Tensor) -> KeyframeStore:
        return KeyframeStore(
            self._height, self._width, intrinsics, self._bank, self._device, self._options
        )

    def _add_keyframe(self, number: int, frame: TrackingFrame) -> None:
        net, inp = (x[0] for x in self._bank.context([frame]))
        self._filter.reference = FrameFeatures(self._bank.fmaps.get(number), net, inp)
        if self._options.reference_behaviour and number == 0:
            # The reference stores one channel of the first keyframe, spread over all.
            net, inp = net[:1].expand_as(net), inp[:1].expand_as(inp)
        self._bank.put_context(number, net, inp)
        pose, disparity = self._frontend.predicted_pose(), self._frontend.predicted_disparity()
        prior, keep = (
            None if given is None else given.to(self._device, torch.float32)
            for given in (frame.prior, frame.keep)
        )
        if prior is not None:
            disparity = prior.masked_fill(~(prior > 0), self._options.far_disparity)
        self.store.append(number, pose, disparity, prior, keep)

    def _spread_keyframes(self) -> None:
        """Start over with keyframes at even distances, next to those that the motion filter found."""
        last = len(self._frames) - 1
        even = np.linspace(0, last, min(self._options.warmup, last + 1)).round().astype(int)
        numbers = sorted({*even.tolist(), *self.store.frame_numbers})
        self._begin()
        self._bank.require_fmaps(numbers)
        for number in numbers:
            self._add_keyframe(number, self._frames[number])
        self._frontend.keyframe_added(is_last=True)

    def _adjust(self, rule: GlobalRule, start: float, share: float, words: str) -> GlobalResult:
        """Adjust the keyframes; the progress goes from ``start`` by ``share``."""

        def on_step(done: int, total: int) -> None:
            self._report(start + share * done / total, words)

        if not self.store.has_prior:
            self.store.normalise()
        return adjust_all(self.store, self._network, self._correlations, rule, on_step)

    def _rests_on_prior(self) -> bool:
        """Whether the camera moves so little that the depth prior knows more than the flow."""
        options = self._options
        little = self._parallax < options.min_parallax
        return little and self.store.has_prior and not options.reference_behaviour

    def _adjust_to_prior(self) -> None:
        """Adjust the keyframes again, from the prior's disparities, and hold on to these from now on."""
        options, store = self._options, self.store
        store.disps.copy_(torch.where(store.priors > 0, store.priors, store.disps))
        rule = GlobalRule(options.keyframe_steps, self._focal_refined, options.tripod_prior_weight)
        words = "adjusting the keyframes to the depth prior"
        self._adjust(rule, _FOLLOW + _KEYFRAMES, 0.0, words)
        self._final_rule = GlobalRule(options.all_frames_steps, False, options.tripod_prior_weight)

    def _place(self, poses: Tensor) -> KeyframeStore:
        """A store with a slot for each frame, at the given poses [N, 7]."""
        store = self._new_store(self.store.intrinsics)
        numbers = list(range(len(self._frames)))
        priors, keeps = self._stacked(self._priors, 0.0), self._stacked(self._keeps, 1.0)
        disps = torch.ones((), device=self._device)
        if priors is not None:
            disps = torch.where(priors > 0, priors, self._options.far_disparity)
        store.extend(numbers, poses, disps, priors, keeps)
        if self._options.reference_behaviour:
            store.take_context_of(self.store)
        else:
            store.disps.copy_(disparities_between(self.store, numbers, store.priors))
            store.disps[self.store.frame_numbers] = self.store.disps
        return store

    def _stacked(self, maps: list[Tensor | None], missing: float) -> Tensor | None:
        """[N, h, w] on the device; ``missing`` where a frame has no map, None when none has."""
        if all(given is None for given in maps):
            return None
        blank = torch.full((self._height, self._width), missing)
        maps = [blank if given is None else given.to(torch.float32) for given in maps]
        return torch.stack(maps).to(self._device)
