"""What the artist chooses for Apply, and what Apply made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from megasam_shared.errors import MegasamError
from megasam_shared.quality import Notice

# A metre, or what a solve without scale takes for one, in Maya's centimetres.
CM_PER_METRE = 100.0
MOST_LOCATORS = 2000


@dataclass(frozen=True, kw_only=True)
class ApplyOptions:
    """How a shot is put into the scene.

    Attributes:
        camera: existing camera by name, path or UUID; None makes a new one.
        name: prefix of new nodes; empty for the plate's name.
        scene_scale: 1 makes a metre of the solve 100 cm.
        frame_offset: added to the plate's frame numbers: Maya frame = plate frame + offset.
        film_back_mm: width of the film back; 0 for that of the solve, or else 36.
        lens_mm: focal length of the lens, when known: the film back is then what fits the solve.
        focal: keys on the focal length where it changes, or its median.
        image_plane: show the plate.
        depth_preview: a second image plane with the solved depth, switched off at first.
        points: none, locators to snap to, or all of them as a USD stage.
        max_points: most locators.
        lock: lock translate, rotate and scale of the camera.
        playback_range: set the time slider to the shot.
        insist: also apply a solve that is not usable.

    Raises:
        MegasamError: ``apply_option_invalid``.
    """

    camera: str | None = None
    name: str = ""
    scene_scale: float = 1.0
    frame_offset: int = 0
    film_back_mm: float = 0.0
    lens_mm: float = 0.0
    focal: Literal["animated", "constant"] = "animated"
    image_plane: bool = True
    depth_preview: bool = True
    points: Literal["none", "locators", "usd"] = "locators"
    max_points: int = 300
    lock: bool = True
    playback_range: bool = False
    insist: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scene_scale) and self.scene_scale > 0):
            raise _invalid(f"scene scale {self.scene_scale:g} is not above 0")
        for what, value in (("film back", self.film_back_mm), ("lens", self.lens_mm)):
            if not (math.isfinite(value) and value >= 0):
                raise _invalid(f"{what} {value:g} mm is not a length")
        if not 0 <= self.max_points <= MOST_LOCATORS:
            raise _invalid(f"{self.max_points} locators are not between 0 and {MOST_LOCATORS}")
        if self.focal not in ("animated", "constant"):
            raise _invalid(f"focal is {self.focal!r}, not animated or constant")
        if self.points not in ("none", "locators", "usd"):
            raise _invalid(f"points is {self.points!r}, not none, locators or usd")

    @property
    def cm_per_unit(self) -> float:
        """Centimetres in the scene for one unit of the solve."""
        return CM_PER_METRE * self.scene_scale


@dataclass(frozen=True)
class AppliedShot:
    """What lies in the scene now. Nodes by UUID, empty for those that were not made.

    Attributes:
        group, camera, camera_shape: the solve group, the camera's transform and shape.
        image_plane, depth_plane: shapes of the image planes.
        points: the node that holds the points.
        camera_path: full path of the camera's transform, to show.
        replaced: the camera was there before.
        notices: what the artist should know.
    """

    group: str
    camera: str
    camera_shape: str
    image_plane: str
    depth_plane: str
    points: str
    camera_path: str
    replaced: bool
    notices: list[Notice] = field(default_factory=list)


def _invalid(what: str) -> MegasamError:
    return MegasamError("apply_option_invalid", f"The shot cannot be applied: {what}.")
