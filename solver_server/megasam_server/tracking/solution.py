"""What stage 3, camera tracking, hands to the later stages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from megasam_shared.quality import FocalProfile, Notice

from megasam_server.geometry.camera import CameraPath
from megasam_server.geometry.point_cloud import PointCloud


@dataclass(frozen=True)
class TrackingSolution:
    """A camera for every frame and the static points that hold it. Everything in plate pixels.

    Attributes:
        cameras: N cameras; the world is the first camera.
        points: static points with their observations; empty for a tripod shot.
        model: ``perspective``, or ``tripod`` when rotation alone explains the shot.
        focal_given: the focal length was known and held.
        focal_profile: None when the focal length was given.
        rms_px: RMS reprojection error of the static tracks.
        per_frame_rms_px: [N], NaN where a frame sees no static track.
        per_frame_tracks: [N] static tracks seen.
        explained_share: share of all tracked observations, movers among them, that fit the solved camera.
        per_frame_explained: [N] the same for each frame.
        coverage: mean share of 8x8 picture cells that hold a static track.
        median_track_length: frames, median over the static tracks.
        interpolated: bool [N], pose was filled in between neighbours and not measured.
        warnings: for the artist.
    """

    cameras: CameraPath
    points: PointCloud
    model: Literal["perspective", "tripod"]
    focal_given: bool
    focal_profile: FocalProfile | None
    rms_px: float
    per_frame_rms_px: np.ndarray
    per_frame_tracks: np.ndarray
    explained_share: float
    per_frame_explained: np.ndarray
    coverage: float
    median_track_length: float
    interpolated: np.ndarray
    warnings: list[Notice]

    def scaled(self, factor: float) -> TrackingSolution:
        """The same cameras and points in a unit of length of 1 / factor."""
        points = replace(self.points, xyz=self.points.xyz * factor)
        return replace(self, cameras=self.cameras.scaled(factor), points=points)

    @property
    def in_words(self) -> str:
        """What was solved, for the status."""
        if self.model == "tripod":
            return "no parallax, solved as a tripod shot (rotation only)"
        return "camera path and points"
