"""The plate behind the camera, and the depth preview in front of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from megasam_shared.quality import Notice
from megasam_shared.sequence import is_movie

from megasam_maya.scene.camera_keys import CameraKeys
from megasam_maya.scene.record import DEPTH_PLANE, PLATE_PLANE, link

if TYPE_CHECKING:
    from megasam_maya.host import MayaHost

_FIT_TO_SIZE = 4
_DISPLAY_RGBA = 3
_TYPE_IMAGE, _TYPE_MOVIE = 0, 2
# In front of the plate, yet behind everything that was solved.
_DEPTH_PREVIEW_AT = 0.98
_DEPTH_OPACITY = 0.6
DEPTH_SWITCH, DEPTH_OPACITY = "depthPreview", "depthOpacity"


def show_plate(
    host: MayaHost, shape: str, name: str, file: Path, keys: CameraKeys, frame_offset: int
) -> tuple[str, list[Notice]]:
    """Full path of the plate's image plane, made or brought up to date, and what to tell."""
    notices = []
    if file.suffix.lower() == ".exr" and not host.load_plugin("OpenEXRLoader"):
        notices.append(
            Notice(
                "exr_loader_missing",
                "The image plane stays empty: Maya's OpenEXRLoader plug-in could not be loaded.",
                "Load it in the Plug-in Manager.",
            )
        )
    if is_movie(file):
        notices.append(
            Notice(
                "plate_is_movie",
                f"Maya plays {file.name} only where the system has a codec for it.",
                "If the image plane stays empty, write the plate as an image sequence.",
            )
        )
    plane = _plane(host, shape, PLATE_PLANE, f"{name}_imagePlane", file)
    ours = (plane, host.linked(shape, DEPTH_PLANE))
    others = [other for other in host.image_planes(shape) if other not in ours]
    if others:
        notices.append(
            Notice(
                "other_image_planes",
                f"The camera also has the image plane {others[0].rsplit('|', 1)[-1]}.",
                "Hide it if it stands in front of the plate: it was left as it is.",
            )
        )
    _fit(host, plane, keys, keys.plate_distance)
    host.set(f"{plane}.type", _TYPE_MOVIE if is_movie(file) else _TYPE_IMAGE)
    _drive(host, plane, name + "_plate", frame_offset)
    return plane, notices


def show_depth_preview(
    host: MayaHost,
    transform: str,
    shape: str,
    name: str,
    file: Path,
    keys: CameraKeys,
    frame_offset: int,
) -> str:
    """Full path of the depth preview's image plane.

    The camera's ``depthPreview`` switches it (off at first) and ``depthOpacity`` sets its opacity.
    """
    plane = _plane(host, shape, DEPTH_PLANE, f"{name}_depthPlane", file)
    _fit(host, plane, keys, keys.plate_distance * _DEPTH_PREVIEW_AT)
    # It holds numbers, not light; a colour rule for PNG would change them.
    host.set(f"{plane}.ignoreColorSpaceFileRules", True)
    host.set(f"{plane}.colorSpace", "Raw")
    _drive(host, plane, name + "_depth", frame_offset)
    if not host.has(transform, DEPTH_SWITCH):
        host.add_switch(transform, DEPTH_SWITCH, False)
    if not host.has(transform, DEPTH_OPACITY):
        host.add_share(transform, DEPTH_OPACITY, _DEPTH_OPACITY)
    incoming = host.incoming(plane)
    for control, attribute in ((DEPTH_SWITCH, "visibility"), (DEPTH_OPACITY, "alphaGain")):
        if attribute not in incoming:
            host.connect(f"{transform}.{control}", f"{plane}.{attribute}")
    return plane


def remove_plane(host: MayaHost, shape: str, role: str) -> None:
    """Take away an image plane that Apply made before."""
    plane = host.linked(shape, role)
    if plane is not None:
        host.stop_drive(f"{plane}.frameExtension")
        host.delete(host.parent(plane) or plane)


def _plane(host: MayaHost, camera_shape: str, role: str, name: str, file: Path) -> str:
    plane = host.linked(camera_shape, role)
    if plane is not None:
        host.set_image(plane, file.absolute().as_posix())
        return plane
    _, plane = host.add_image_plane(camera_shape, file.absolute().as_posix(), name)
    link(host, camera_shape, role, plane)
    return plane


def _fit(host: MayaHost, plane: str, keys: CameraKeys, distance: float) -> None:
    film = keys.film
    host.set(f"{plane}.fit", _FIT_TO_SIZE)
    host.set(f"{plane}.size", (film.horizontal_aperture_in, film.vertical_aperture_in))
    # A film offset moves the frustum; the plane stays on the optical axis unless it moves along.
    host.set(f"{plane}.offset", (film.horizontal_offset_in, film.vertical_offset_in))
    host.set_length(f"{plane}.depth", distance)
    host.set(f"{plane}.displayOnlyIfCurrent", True)
    host.set(f"{plane}.displayMode", _DISPLAY_RGBA)


def _drive(host: MayaHost, plane: str, name: str, frame_offset: int) -> None:
    host.set(f"{plane}.useFrameExtension", True)
    # frameOffset is left alone: with a drive of one's own, versions differ in whether it counts.
    back = f" - {frame_offset}" if frame_offset > 0 else f" + {-frame_offset}"
    expression = "frame" + (back if frame_offset else "")
    host.drive_by_expression(f"{plane}.frameExtension", expression, f"{name}_frame")
