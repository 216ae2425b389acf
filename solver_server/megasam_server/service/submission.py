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
from megasam_server.service.checkpoint_roots import CheckpointRoots
from megasam_server.service.job_folder import JobFolder
from megasam_server.service.media_roots import MediaRoots
from megasam_server.service.options import UploadLimits
from megasam_server.service.upload_requests import check_upload


@dataclass(frozen=True)
class PlacedJob:
    """A submission whose files are on the server's disk."""

    plate: Path
    masks: Path | None
    settings: SolveSettings


def place_submission(
    submit: Submit,
    folder: JobFolder,
    blobs: BlobStore,
    roots: MediaRoots,
    checkpoints: CheckpointRoots,
    client: str,
    limits: UploadLimits,
) -> PlacedJob:
    """Check a submission and put its files into the job's folder.

    Args:
        blobs: what the client has uploaded.
        client: its name on the allow-list, which decides how paths are read.

    Raises:
        MegasamError: a setting, file or path that is not allowed, ``upload_missing``,
            ``server_disk_full`` or what is over the limits; nothing is left of the folder then.
    """
    settings = checkpoints.resolve(SolveSettings.from_map(submit.settings))
    media = [submit.plate, *([submit.masks] if submit.masks else [])]
    check_upload([file for each in media for file in each.files], limits)

    def place(media: Media, what: str, target: Path) -> Path:
        check_media(media, what)
        return (
            roots.resolve(media.path, client) if media.path else _place(media, what, target, blobs)
        )

    try:
        plate = place(submit.plate, "plate", folder.plate)
        masks = None if submit.masks is None else place(submit.masks, "masks", folder.masks)
    except BaseException:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    return PlacedJob(plate, masks, settings)


def check_media(media: Media, what: str) -> None:
    """Raises:
    MegasamError: ``message_malformed``.
    """
    if bool(media.files) == bool(media.path):
        raise MegasamError(
            "message_malformed", f"The {what} must have either files or a path, not both or none."
        )


def _place(media: Media, what: str, target: Path, blobs: BlobStore) -> Path:
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
