"""Read one picture file: PNG, JPEG, TIFF, DPX, Cineon, OpenEXR and what else OpenImageIO reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import OpenImageIO as oiio
from megasam_shared.errors import MegasamError

from megasam_server.media.jpeg2000_size import jpeg2000_size
from megasam_server.media.orientation import UPRIGHT, Orientation, from_exif
from megasam_server.media.picture_limits import check_frame_bytes, check_plate_size
from megasam_server.media.square_pixels import square_size, to_square_pixels

# Film formats carry the squeeze of the lens on purpose; the resolution tags of JPEG, PNG and TIFF
# are about printing and often wrong.
FORMATS_WITH_PIXEL_ASPECT = ("openexr", "dpx", "cineon")
TYPE_BYTES = {"uint8": 1, "half": 2, "uint16": 2, "float": 4}
JPEG2000_BYTES = 4  # OpenJPEG holds every sample as an int
LOG_TRANSFERS = ("Printing density", "Logarithmic")

# A file is read as what its suffix says, or not at all: the other readers of OpenImageIO, some of
# which decode a file to tell its size, never see it.
oiio.attribute("try_all_readers", 0)


@dataclass(frozen=True)
class StillHeader:
    """What a picture file says before its pixels are read.

    Attributes:
        width, height: upright, square pixels.
        is_log: uint16 in Cineon printing density.
        is_float: scene-linear half or float; otherwise integers.
        pixel_aspect: width of a stored pixel divided by its height.
        fps: frames per second in the header, None where there is none.
        channels: indices of R, G, B and, where there is one, alpha; a grey picture repeats one.
        subimage: part of the file that holds them.
        orientation: how to turn the stored picture upright.
    """

    width: int
    height: int
    is_log: bool
    is_float: bool
    pixel_aspect: float
    fps: float | None
    channels: tuple[int, ...]
    subimage: int
    orientation: Orientation


def read_header(path: Path) -> StillHeader:
    """Header of a picture file.

    Raises:
        MegasamError: ``frame_unreadable``, ``plate_unreadable``, ``plate_not_found``,
            ``plate_too_small`` or ``plate_too_large``.
    """
    source = _open(path)
    try:
        return _header(source, path)
    finally:
        source.close()


def read_still(path: Path, frame: int) -> tuple[StillHeader, np.ndarray]:
    """Header and pixels of one frame.

    The display window of an EXR decides what the picture is: a smaller data window is put on
    black, overscan is cut off. Other formats have no such windows. Alpha comes as it is stored;
    RGB is never multiplied by it.

    Args:
        path: picture file.
        frame: frame number for messages.

    Returns:
        header; [H,W,3] or [H,W,4] of uint8, uint16, float16 or float32, upright, square pixels.

    Raises:
        MegasamError: as ``read_header``; ``non_finite_pixels`` for NaN or infinity.
    """
    source = _open(path)
    try:
        header = _header(source, path)
        spec, kind = source.spec(), source.format_name()
        low, high = min(header.channels), max(header.channels) + 1
        pixels = source.read_image(header.subimage, 0, low, high, _read_type(spec.format))
        complaint = source.geterror()
    finally:
        source.close()
    if pixels is None or complaint:
        raise _unreadable(path, complaint)
    picture = pixels.reshape(spec.height, spec.width, high - low)
    if header.channels != tuple(range(low, high)):
        picture = picture[:, :, [channel - low for channel in header.channels]]
    if header.is_float:
        _check_finite(picture, path, frame)
    if kind == "openexr":
        picture = _display_window(picture, spec)
    picture = to_square_pixels(picture, header.pixel_aspect)
    return header, header.orientation.apply(picture)


def _open(path: Path) -> oiio.ImageInput:
    try:
        # This also finds out why a file cannot be opened: OpenImageIO does not say.
        claimed = jpeg2000_size(path)
    except FileNotFoundError:
        raise MegasamError("plate_not_found", f"There is no file {path}.") from None
    except OSError as error:
        raise MegasamError(
            "plate_unreadable",
            f"{path} cannot be read: {error.strerror}.",
            "Check its permissions.",
        ) from None
    if claimed is not None:
        width, height, components = claimed
        check_plate_size(width, height, path.name)
        check_frame_bytes(width * height * components * JPEG2000_BYTES, path.name)
    wanted = oiio.ImageSpec()
    wanted.attribute("oiio:UnassociatedAlpha", 1)  # leave RGB as stored
    source = oiio.ImageInput.open(str(path), wanted)
    if source is None:
        raise _unreadable(path, oiio.geterror())
    return source


def _unreadable(path: Path, complaint: str) -> MegasamError:
    reason = complaint.strip().splitlines()[0] if complaint.strip() else "the file is damaged"
    return MegasamError(
        "frame_unreadable",
        f"The picture {path.name} cannot be read: {reason}.",
        "Check that the file was copied or rendered completely.",
    )


def _header(source: oiio.ImageInput, path: Path) -> StillHeader:
    subimage, channels = _find_colour(source, path)
    source.seek_subimage(subimage, 0)
    spec = source.spec()
    kind = source.format_name()
    is_float = spec.format.basetype in (oiio.HALF, oiio.FLOAT, oiio.DOUBLE)
    width, height = spec.width, spec.height
    if kind == "openexr":
        width, height = spec.full_width, spec.full_height
    aspect = spec.get_float_attribute("PixelAspectRatio", 1.0)
    if kind not in FORMATS_WITH_PIXEL_ASPECT or not 0.25 <= aspect <= 4.0:
        aspect = 1.0
    orientation = UPRIGHT
    if kind != "openexr":
        orientation = from_exif(spec.get_int_attribute("Orientation", 1))
    check_plate_size(max(spec.width, width), max(spec.height, height), path.name)
    read_channels = max(channels) + 1 - min(channels)
    pixels = spec.width * spec.height * max(1, spec.depth)
    check_frame_bytes(pixels * read_channels * TYPE_BYTES[_read_type(spec.format)], path.name)
    width, height = orientation.size(*square_size(width, height, aspect))
    check_plate_size(width, height, path.name)
    is_log = kind == "cineon" or spec.get_string_attribute("dpx:Transfer") in LOG_TRANSFERS
    return StillHeader(
        width=width,
        height=height,
        is_log=is_log and not is_float,
        is_float=is_float,
        pixel_aspect=aspect,
        fps=_frame_rate(spec),
        channels=channels,
        subimage=subimage,
        orientation=orientation,
    )


def _find_colour(source: oiio.ImageInput, path: Path) -> tuple[int, tuple[int, ...]]:
    """Part of the file with a colour picture, and its channels; else one with a grey picture.

    A plain R, G, B comes before the same in a layer (``beauty.R``), any colour before grey (Y).
    """
    parts: list[list[str]] = []
    while source.seek_subimage(len(parts), 0):
        parts.append([name.lower() for name in source.spec().channelnames])
    source.geterror()  # running past the last part is not an error
    for plain in (True, False):
        for index, names in enumerate(parts):
            for layer in [""] if plain else [n[:-1] for n in names if n.endswith(".r")]:
                if all(layer + colour in names for colour in "rgb"):
                    alpha = [layer + "a"] if layer + "a" in names else []
                    wanted = [layer + "r", layer + "g", layer + "b", *alpha]
                    return index, tuple(names.index(name) for name in wanted)
    for index, names in enumerate(parts):
        grey = next((i for i, name in enumerate(names) if name in ("y", "i")), None)
        if grey is None and len(names) <= 2:
            grey = 0
        if grey is not None:
            alpha = (names.index("a"),) if "a" in names and names.index("a") != grey else ()
            return index, (grey, grey, grey, *alpha)
    raise MegasamError(
        "frame_unreadable",
        f"{path.name} has no R, G, B and no grey channel, only {', '.join(parts[0][:8])}.",
        "Write the plate with its channels named R, G, B.",
    )


def _read_type(stored: oiio.TypeDesc) -> str:
    if stored.basetype in (oiio.HALF, oiio.UINT8):
        return "half" if stored.basetype == oiio.HALF else "uint8"
    return "float" if stored.basetype in (oiio.FLOAT, oiio.DOUBLE) else "uint16"


def _frame_rate(spec: oiio.ImageSpec) -> float | None:
    for name in ("FramesPerSecond", "dpx:FrameRate", "dpx:TemporalFrameRate", "dpx:FilmFrameRate"):
        value = spec.get(name)
        if isinstance(value, tuple) and len(value) == 2 and value[1]:
            value = value[0] / value[1]
        if isinstance(value, (int, float)) and 0.1 <= value <= 1000:
            return float(value)
    return None


def _check_finite(picture: np.ndarray, path: Path, frame: int) -> None:
    # NaN and infinity survive a sum, and float64 holds the sum of any finite float32 picture.
    if np.isfinite(picture[..., :3].sum(dtype=np.float64)):
        return
    finite = np.isfinite(picture[..., :3]).all(axis=2)
    bad = int(finite.size - np.count_nonzero(finite))
    row, column = np.unravel_index(int(np.argmin(finite)), finite.shape)
    raise MegasamError(
        "non_finite_pixels",
        f"Frame {frame} ({path.name}) has {bad} pixel{'s' * (bad > 1)} with NaN or infinity,"
        f" the first at column {column}, row {row} of the stored picture.",
        "Render or repair the frame: NaN means that an earlier step of the plate went wrong.",
    )


def _display_window(picture: np.ndarray, spec: oiio.ImageSpec) -> np.ndarray:
    """The display window of a picture stored as its data window; black where that has nothing."""
    left, top = spec.x - spec.full_x, spec.y - spec.full_y
    width, height = spec.full_width, spec.full_height
    if (left, top, spec.width, spec.height) == (0, 0, width, height):
        return picture
    shown = np.zeros((height, width, picture.shape[2]), picture.dtype)
    x0, x1 = np.clip([left, left + spec.width], 0, width)
    y0, y1 = np.clip([top, top + spec.height], 0, height)
    shown[y0:y1, x0:x1] = picture[y0 - top : y1 - top, x0 - left : x1 - left]
    return shown
