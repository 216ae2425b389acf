"""What the tracks of corners make of the dense tracker's path, on real clips with ground truth.

    python tests/benchmarks/refinement_accuracy.py TRACKS DIR... [--clips NAME...]
        [--focal unknown known] [--json FILE]

TRACKS: a folder that ``engine_accuracy.py --keep`` has filled, on a GPU. DIR is a clip folder or a folder of
clips (see truth.py): the same clips, of any size. Two rows for each: the path as the dense tracker left
it, and refined. Needs no GPU, so the same dense paths can be refined with other code, or on larger frames.
Columns as in accuracy.py; seconds are those of finding the tracks and of the refinement.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from plate_by_opencv import read_footage, read_plate, stand_in_for_media

sys.path.insert(0, str(Path(__file__).parents[2]))
stand_in_for_media()

from engine_accuracy import dense_track_file  # noqa: E402
from megasam_server.pipeline.dense_solution import DensePath  # noqa: E402
from megasam_server.pipeline.on_tracks import followed, refined_on_tracks  # noqa: E402
from megasam_server.tracking.dense_slam.result_file import read_result  # noqa: E402
from megasam_shared.settings import SolveSettings  # noqa: E402
from report import Row, print_head, print_row, row_of  # noqa: E402
from solutions import Solution  # noqa: E402
from truth import TrueClip, find_clips  # noqa: E402


def rows_of(clip: TrueClip, focals: dict[str, Path]) -> list[Row]:
    """Dense and refined, for each focal length's file; the tracks are found once."""
    with tempfile.TemporaryDirectory(prefix="megasam_bench_") as folder:
        settings = SolveSettings(engine="megasam")
        job = SimpleNamespace(
            plate=clip.frames[0].parent, work_dir=Path(folder), settings=settings, masks=None
        )
        footage = read_footage(read_plate(job), job)
        plate, frames = footage.plate, footage.frames
        started = time.monotonic()
        tracks = followed(frames, None)
        following = time.monotonic() - started
        rows = []
        for focal, file in focals.items():
            result = read_result(file)
            # The file does not say how large the tracker's picture was; its cells do.
            width = 8 * result.disparities.shape[2]
            dense = DensePath.of(result, plate, width)
            rows.append(
                row_of(clip, f"{focal}, dense", Solution.of_cameras(dense.cameras, "-", 0.0, []))
            )
            started = time.monotonic()
            lens = "known" if focal == "known" else "shown" if result.focal_refined else "unknown"
            static = result.static_probability.numpy()
            found = refined_on_tracks(
                dense.cameras, dense.tripod, static, tracks, frames, plate, lens
            )
            seconds = following + time.monotonic() - started
            if found:
                rows.append(
                    row_of(
                        clip,
                        f"{focal}, refined",
                        Solution.of_cameras(found.cameras, "-", seconds, []),
                    )
                )
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tracks", type=Path, metavar="TRACKS")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--clips", nargs="+", help="only clips of these names")
    parser.add_argument("--focal", nargs="+", choices=("unknown", "known"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_intermixed_args()
    rows: list[Row] = []
    print_head()
    for clip in find_clips(options.folders):
        if options.clips and clip.name not in options.clips:
            continue
        files = {
            focal: dense_track_file(options.tracks, clip, focal)
            for focal in options.focal or ("unknown", "known")
        }
        for row in rows_of(clip, {focal: f for focal, f in files.items() if f.is_file()}):
            rows.append(row)
            print_row(row)
            if options.json:
                options.json.write_text(json.dumps([r.to_map() for r in rows], indent=1))


if __name__ == "__main__":
    main()
