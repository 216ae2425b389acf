"""The decoded plate of a job, from the stage cache where an earlier solve left it."""

from __future__ import annotations

from dataclasses import dataclass

from megasam_shared.settings import SolveSettings

from megasam_server.media.decode import decode, solver_size
from megasam_server.media.frame_store import FrameStore
from megasam_server.media.masks import decode_masks
from megasam_server.media.open_plate import open_plate
from megasam_server.media.plate import Plate, PlateInfo
from megasam_server.pipeline.job import SolveJob
from megasam_server.pipeline.progress import Progress
from megasam_server.pipeline.stage_cache import KEPT, StageCache, identity_of, key_of


@dataclass(frozen=True)
class Footage:
    """The decoded plate: what it is, its frames, and the artist's masks or None. ``key`` stands for
    all of that in the keys of the stages that build on it."""

    plate: PlateInfo
    frames: FrameStore
    user_masks: FrameStore | None
    key: str


def frame_store_long_side(settings: SolveSettings) -> int:
    """Longest side of the decoded frames, pixels: 640 for fast, 1024 for balanced, 1280 for best.

    ``tracking_resolution`` is the height of a 4:3 picture with as many pixels as tracking sees, so
    its width is 4/3 of it. Frames are stored at twice that, because corners are located to a
    fraction of a pixel and the error in plate pixels shrinks with the size of the stored frame;
    beyond it, time and disk grow and the sensor noise of the finer pixels eats up the gain.
    """
    return round(settings.tracking_resolution * 8 / 3)


def plate_of(job: SolveJob) -> Plate:
    """The plate of a job; none of its frames is decoded yet."""
    settings = job.settings
    return open_plate(
        job.plate, settings.first_frame, settings.last_frame, max_frames=settings.max_frames
    )


def read_footage(plate: Plate, job: SolveJob, cache: StageCache, progress: Progress) -> Footage:
    """Decode the plate and the masks of a job."""
    settings = job.settings
    long_side = frame_store_long_side(settings)
    numbers = plate.info.frame_numbers
    key = key_of("plate", files=identity_of(job.plate), frames=numbers, long_side=long_side)
    path = job.work_dir / "frames.rgb"
    if cache.reuse("plate", key, job.work_dir):
        size = solver_size(plate.info.width, plate.info.height, long_side)
        frames = FrameStore(path, len(plate), *size, 3)
        progress.update("plate", len(plate), len(plate), KEPT)
    else:
        frames = decode(plate, path, long_side, progress)
        cache.keep("plate", key, [path])
    if job.masks is None:
        return Footage(plate.info, frames, None, key)
    path = job.work_dir / "user_masks.u8"
    key = key_of("masks", plate=key, files=identity_of(job.masks))
    if cache.reuse("masks", key, job.work_dir):
        masks = FrameStore(path, frames.num_frames, frames.width, frames.height, 1)
    else:
        masks = decode_masks(job.masks, plate.info, frames, path, progress)
        cache.keep("masks", key, [path])
    return Footage(plate.info, frames, masks, key)
