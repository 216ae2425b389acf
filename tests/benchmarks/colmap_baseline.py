"""pycolmap's own automatic incremental pipeline on the frames of a clip: the column to beat.

SIFT with default settings, one camera with unknown focal length (SIMPLE_RADIAL, as ``automatic``
takes), every pair up to 10 frames apart matched, incremental mapping with defaults, the model with
the most frames. No time cap. Frames it does not pose are missing. It takes minutes, so results are
cached.

    python tests/benchmarks/colmap_baseline.py CLIP_OR_FOLDER... --cache DIR [--masks] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pycolmap
from report import print_table, row_of
from solutions import Solution
from truth import TrueClip, find_clips


def baseline(clip: TrueClip, cache: Path, masks: bool = False, threads: int = 1) -> Solution:
    """pycolmap's result for the clip, from ``cache`` when it is there.

    Args:
        clip: what to solve.
        cache: folder of JSON files.
        masks: leave the pixels of the clip's ``masks/`` out of feature extraction.
        threads: for extraction, matching and mapping.
    """
    file = _cache_file(clip, cache, masks)
    if file.is_file():
        stored = json.loads(file.read_text())
        if stored["fingerprint"] == clip.fingerprint():
            return Solution.from_map(stored["solution"])
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="colmap_") as scratch:
        solution = run_colmap(clip, Path(scratch), masks, threads)
    stored = {
        "clip": clip.name,
        "fingerprint": clip.fingerprint(),
        "pycolmap": pycolmap.__version__,
        "masks": masks,
        "solution": solution.to_map(),
    }
    unfinished = file.with_suffix(".part")
    unfinished.write_text(json.dumps(stored))
    unfinished.replace(file)
    return solution


def _cache_file(clip: TrueClip, cache: Path, masks: bool) -> Path:
    return cache / f"{clip.name}{'.masks' if masks else ''}.colmap.json"


def run_colmap(clip: TrueClip, scratch: Path, masks: bool, threads: int) -> Solution:
    """Run the pipeline in ``scratch``."""
    pycolmap.set_random_seed(0)
    start = time.monotonic()
    pictures = clip.frames[0].parent
    database = scratch / "database.db"
    reader = pycolmap.ImageReaderOptions()
    if masks:
        reader.mask_path = _colmap_masks(clip, scratch / "masks")
    extraction = pycolmap.FeatureExtractionOptions()
    matching = pycolmap.FeatureMatchingOptions()
    mapping = pycolmap.IncrementalPipelineOptions()
    extraction.num_threads = matching.num_threads = mapping.num_threads = threads
    pycolmap.extract_features(
        database,
        pictures,
        [file.name for file in clip.frames],
        camera_mode=pycolmap.CameraMode.SINGLE,
        reader_options=reader,
        extraction_options=extraction,
    )
    # Quadratic overlap would replace the plain window of 10 by offsets 1, 2, 4, 8 ...
    pairing = pycolmap.SequentialPairingOptions(overlap=10, quadratic_overlap=False)
    pycolmap.match_sequential(database, matching_options=matching, pairing_options=pairing)
    (scratch / "models").mkdir()
    models = pycolmap.incremental_mapping(database, pictures, scratch / "models", mapping)
    seconds = time.monotonic() - start
    if not models:
        return Solution({}, {}, "-", seconds, ["no model"])
    largest = max(models.values(), key=lambda model: model.num_reg_images())
    return _solution(largest, clip, seconds, len(models))


def _solution(
    model: pycolmap.Reconstruction, clip: TrueClip, seconds: float, models: int
) -> Solution:
    index = {file.name: i for i, file in enumerate(clip.frames)}
    poses, lenses = {}, {}
    for image_id in model.reg_image_ids():
        image = model.image(image_id)
        pose = np.eye(4)
        pose[:3] = image.cam_from_world().inverse().matrix()
        focal, cx, cy, k1 = map(float, image.camera.params)
        poses[index[image.name]] = pose
        lenses[index[image.name]] = (focal, focal, cx, cy, k1)
    return Solution(poses, lenses, "-", seconds, [f"{models} models"] if models > 1 else [])


def _colmap_masks(clip: TrueClip, folder: Path) -> Path:
    """COLMAP's masks: named as the picture with .png behind, black = leave out."""
    folder.mkdir()
    for frame, picture in enumerate(clip.frames):
        still = np.where(clip.moving(frame), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{picture.name}.png"), still)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="clips, or folders of clips")
    parser.add_argument("--cache", type=Path, required=True, help="where results are kept")
    parser.add_argument("--clips", nargs="+", default=None, help="only clips of these names")
    parser.add_argument("--masks", action="store_true", help="use the clips' exact masks")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if shutil.disk_usage(tempfile.gettempdir()).free < 2**30:
        raise SystemExit("Less than 1 GiB free for temporary files: COLMAP's database needs it.")
    rows = []
    for clip in find_clips(options.folders):
        if options.clips and clip.name not in options.clips:
            continue
        if options.masks and not (clip.folder / "masks").is_dir():
            continue
        solution = baseline(clip, options.cache, options.masks, options.threads)
        rows.append(row_of(clip, "pycolmap" + (" + masks" if options.masks else ""), solution))
        print_table(rows[-1:])
    print_table(rows)


if __name__ == "__main__":
    main()
