"""From a Submit message to a job folder with its plate in place, or a reason why not."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from megasam_shared.errors import MegasamError
from megasam_shared.file_names import safe_name
from megasam_shared.protocol import FileContent, Media, Submit
from megasam_shared.sequence import is_image, is_movie
from megasam_shared.settings import SolveSettings

from megasam_server.service.blobs import BlobStore
from megasam_server.service.jobs import JobFolder
from megasam_server.service.media_roots import MediaRoots


@dataclass(frozen=True)
class PlacedJob:
    """A submission whose files are on the server's disk."""

    plate: Path
    masks: Path | None
    settings: SolveSettings


def place_submission(
    submit: Submit, folder: JobFolder, blobs: BlobStore, roots: MediaRoots
) -> PlacedJob:
    """Check a submission and put its files into the job's folder.

    Raises:
        MegasamError: a setting, file or path that is not allowed, ``upload_missing`` or
            ``server_disk_full``; nothing is left of the folder then.
    """
    settings = SolveSettings.from_map(submit.settings)
    try:
        plate = _place(submit.plate, "plate", folder.plate, blobs, roots)
        masks = None
        if submit.masks is not None:
            masks = _place(submit.masks, "masks", folder.masks, blobs, roots)
    except BaseException:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    return PlacedJob(plate, masks, settings)


def _place(media: Media, what: str, target: Path, blobs: BlobStore, roots: MediaRoots) -> Path:
    if bool(media.files) == bool(media.path):
        raise MegasamError(
            "message_malformed", f"The {what} must have either files or a path, not both or none."
        )
    if media.path:
        return roots.resolve(media.path)
    names = [safe_name(file.name) for file in media.files]
    if len(set(map(str.lower, names))) != len(names):
        raise MegasamError(
            "not_media", f"Two files of the {what} have the same name.", "Rename one of them."
        )
    paths = [target / name for name in names]
    one_movie = len(paths) == 1 and is_movie(paths[0])
    if not one_movie and not all(map(is_image, paths)):
        raise MegasamError(
            "not_media",
            f"The {what} must be one movie or pictures only.",
            "Leave other files out.",
        )
    target.mkdir(parents=True)
    for file, path in zip(media.files, paths, strict=True):
        blobs.place(FileContent(file.sha256, file.size), path)
    return paths[0] if one_movie else target
