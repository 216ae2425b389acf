"""Find the files of an image sequence from whatever the artist points at.

A frame, a folder or a pattern (``plate.%04d.exr``, ``plate.####.exr``, ``plate.*.png``) lead to the
same answer: which files, which frame numbers, which are missing. Only names are looked at; no file
is opened, so the client can do it without any image library.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from megasam_shared.errors import MegasamError

IMAGE_SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".tif",
        ".tiff",
        ".dpx",
        ".exr",
        ".cin",
        ".bmp",
        ".webp",
        ".tga",
        ".hdr",
        ".jp2",
    ]
)
MOVIE_SUFFIXES = frozenset(
    [
        ".mp4",
        ".mov",
        ".m4v",
        ".mkv",
        ".avi",
        ".webm",
        ".mxf",
        ".mpg",
        ".mpeg",
        ".mts",
        ".m2ts",
        ".wmv",
        ".ogv",
        ".3gp",
    ]
)

# Nine digits hold every frame number in use; longer runs of digits are time stamps or hashes.
_NUMBER = re.compile(r"(?<!\d)\d{1,9}(?!\d)")
_PLACEHOLDER = re.compile(r"%0?(\d*)d|#+")
_LONGEST_SPAN = 1_000_000


@dataclass(frozen=True)
class FileSequence:
    """The files of one image sequence, in the order of their frame numbers.

    Attributes:
        prefix, suffix: text before and after the number; the suffix holds the extension.
        padding: digits of the number, filled with zeros (1 = not padded).
        frames: [N] frame numbers as in the file names, ascending.
        files: [N] the files.
        missing: frame numbers absent between the first and the last one.
    """

    prefix: str
    suffix: str
    padding: int
    frames: list[int]
    files: list[Path]
    missing: list[int]

    @property
    def name(self) -> str:
        """Name for folders and labels: the file name without number and extension."""
        bare = (self.prefix + Path("x" + self.suffix).stem[1:]).strip("._- ")
        return bare or self.files[0].absolute().parent.name or "plate"

    @property
    def pattern(self) -> str:
        """The sequence as one name, e.g. ``plate.%04d.exr``."""
        number = f"%0{self.padding}d" if self.padding > 1 else "%d"
        return f"{self.prefix}{number}{self.suffix}"

    def between(self, first: int, last: int) -> FileSequence:
        """The part from frame ``first`` to ``last``, both included.

        Raises:
            MegasamError: ``frame_range_empty`` when no file lies in the range.
        """
        kept = [i for i, frame in enumerate(self.frames) if first <= frame <= last]
        if not kept:
            raise MegasamError(
                "frame_range_empty",
                f"No frame of {self.pattern} lies in {first}-{last}:"
                f" it has frames {self.frames[0]}-{self.frames[-1]}.",
                "Give a range in the plate's own frame numbers.",
            )
        frames = [self.frames[i] for i in kept]
        return replace(
            self, frames=frames, files=[self.files[i] for i in kept], missing=_missing(frames)
        )


def is_movie(path: Path) -> bool:
    """Whether the name says that the file is a movie."""
    return Path(path).suffix.lower() in MOVIE_SUFFIXES


def is_image(path: Path) -> bool:
    """Whether the name says that the file is a picture that can be a frame."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def find_sequence(path: Path | str) -> FileSequence:
    """The image sequence that ``path`` means.

    Args:
        path: one frame, the folder that holds the sequence (other files may lie there as long as
            only one sequence does), or a pattern with ``%04d``, ``####`` or ``*`` in the name.

    Raises:
        MegasamError: ``plate_not_found``, ``plate_unreadable``, ``plate_empty`` (no picture in the
            folder), ``plate_not_a_sequence`` (names without usable numbers) or
            ``plate_ambiguous`` (several sequences, or one number twice).
    """
    path = Path(path)
    if "\0" in str(path):
        raise MegasamError("plate_not_found", "The plate's path contains a NUL character.")
    if path.is_dir():
        return _only_sequence(path, _picture_names(path), str(path))
    if path.exists():
        return _sequence_of_frame(path)
    placeholder = _PLACEHOLDER.search(path.name)
    if placeholder or "*" in path.name:
        return _sequence_of_pattern(path, placeholder)
    raise MegasamError(
        "plate_not_found",
        f"There is no file or folder {path}.",
        "Check the path; a sequence may be given as a folder, one of its frames,"
        " or a pattern such as plate.%04d.exr.",
    )


def _picture_names(folder: Path) -> list[str]:
    try:
        names = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    except FileNotFoundError:
        raise MegasamError("plate_not_found", f"There is no folder {folder}.") from None
    except OSError as error:
        raise MegasamError(
            "plate_unreadable",
            f"The folder {folder} cannot be read: {error.strerror}.",
            "Check its permissions.",
        ) from None
    return sorted(name for name in names if is_image(Path(name)))


def _groups(names: list[str]) -> dict[tuple[str, str], dict[str, str]]:
    """Every way to read the names as numbered: (prefix, suffix) -> digits -> name."""
    groups: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for name in names:
        for match in _NUMBER.finditer(Path(name).stem):
            groups[name[: match.start()], name[match.end() :]][match.group()] = name
    return groups


def _sequence_of_frame(path: Path) -> FileSequence:
    if not is_image(path):
        raise MegasamError(
            "plate_not_a_sequence",
            f"{path.name} is not a picture that can be a frame of a sequence.",
            f"Pictures end in {' '.join(sorted(IMAGE_SUFFIXES))}.",
        )
    names = _picture_names(path.parent)
    if path.name not in names:
        names.append(path.name)
    # The number that counts is the one that varies; the last one when nothing tells.
    best = max(
        ((key, group) for key, group in _groups(names).items() if path.name in group.values()),
        key=lambda item: (len(item[1]), len(item[0][0])),
        default=None,
    )
    if best is None:
        return FileSequence(path.stem, path.suffix, 1, [1], [path], [])
    return _build(path.parent, *best)


def _sequence_of_pattern(path: Path, placeholder: re.Match | None) -> FileSequence:
    names = _picture_names(path.parent)
    if placeholder is None:
        chosen = re.compile(".*".join(map(re.escape, path.name.split("*"))))
        return _only_sequence(path.parent, [n for n in names if chosen.fullmatch(n)], str(path))
    digits = int(placeholder.group(1) or 1) if placeholder.group(1) is not None else 0
    padding = digits or len(placeholder.group())
    prefix, suffix = path.name[: placeholder.start()], path.name[placeholder.end() :]
    number = re.compile(re.escape(prefix) + r"(\d{1,9})" + re.escape(suffix))
    group = {}
    for name in names:
        match = number.fullmatch(name)
        # "%04d" also writes 10000, but never 00001 or 1.
        if match and len(match[1]) == max(padding, len(str(int(match[1])))):
            group[match[1]] = name
    if not group:
        raise MegasamError(
            "plate_not_found",
            f"No file matches {path}.",
            "Check the folder, the name and the number of digits.",
        )
    return _build(path.parent, (prefix, suffix), group)


def _only_sequence(folder: Path, names: list[str], asked: str) -> FileSequence:
    if not names:
        raise MegasamError(
            "plate_empty",
            f"{asked} holds no picture that can be read as a frame.",
            f"Pictures end in {' '.join(sorted(IMAGE_SUFFIXES))}; give movies by file name.",
        )
    if len(names) == 1:
        return _sequence_of_frame(folder / names[0])
    found: list[tuple[tuple[str, str], dict[str, str]]] = []
    groups = _groups(names)
    while groups:
        key = max(groups, key=lambda key: (len(groups[key]), len(key[0])))
        group = groups.pop(key)
        if len(group) < 2:
            break
        found.append((key, group))
        taken = set(group.values())
        for other in list(groups):
            left = {digits: n for digits, n in groups[other].items() if n not in taken}
            if left:
                groups[other] = left
            else:
                del groups[other]
    if not found:
        raise MegasamError(
            "plate_not_a_sequence",
            f"The pictures of {asked} are not numbered as one sequence: {', '.join(names[:3])} ...",
            "Name them with one running frame number, e.g. plate.1001.exr.",
        )
    if len(found) > 1:
        listed = ", ".join(_build(folder, *item).pattern for item in found[:4])
        raise MegasamError(
            "plate_ambiguous",
            f"{asked} holds {len(found)} sequences: {listed}.",
            "Give one of them, as a frame or as a pattern.",
        )
    return _build(folder, *found[0])


def _build(folder: Path, key: tuple[str, str], group: dict[str, str]) -> FileSequence:
    numbered = sorted((int(digits), digits, name) for digits, name in group.items())
    frames = [frame for frame, _, _ in numbered]
    for (frame, _, name), (next_frame, _, next_name) in zip(numbered, numbered[1:], strict=False):
        if frame == next_frame:
            raise MegasamError(
                "plate_ambiguous",
                f"Frame {frame} exists twice in {folder}: {name} and {next_name}.",
                "Remove one, or give a pattern with the number of digits, e.g. plate.%04d.exr.",
            )
    if frames[-1] - frames[0] > _LONGEST_SPAN:
        raise MegasamError(
            "plate_not_a_sequence",
            f"The numbers of {key[0]}*{key[1]} run from {frames[0]} to {frames[-1]}:"
            " they are not frame numbers.",
            "Name the files with a running frame number, e.g. plate.1001.exr.",
        )
    return FileSequence(
        prefix=key[0],
        suffix=key[1],
        padding=min(len(digits) for _, digits, _ in numbered),
        frames=frames,
        files=[folder / name for _, _, name in numbered],
        missing=_missing(frames),
    )


def _missing(frames: list[int]) -> list[int]:
    present = set(frames)
    return [frame for frame in range(frames[0], frames[-1] + 1) if frame not in present]
