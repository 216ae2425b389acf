"""The solver server under load, beside what plain sockets reach on the same machine.

    python tests/benchmarks/server_load.py [--jobs] [--uploads] [--gigabytes 10] [--rounds 2]
        [--folder DIR]

Jobs: 50 clients in five processes submit 300 small plates at once to one server with one worker,
whose engine keeps a core busy for 0.3 s a job and says what time it is. Latency is from the
worker's word to the client that hears it. Memory is the server's after a fifth of the jobs and at
the end.

Uploads: 8 clients, a process each, bring files of noise that the server has not seen: each is read
and hashed, sent, hashed again and written. Beside it the same files through plain sockets, eight
processes that read and send and one that receives with a thread each: thrown away, written to files
on the same disk, and the latter with SHA-256 on both sides, which is the least that any upload by
content must do. ``--folder`` decides which disk is measured; it takes twice the bytes. Each is
measured ``--rounds`` times and the best counts, because others may use the machine.

Without a choice both are run. Exit code 1 when a bar of the project is missed: a job lost or run
twice, p99 of 200 ms, 15 MiB of growth, 60 % of the copy to files.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.server.service.load import (  # noqa: E402
    bare_copy,
    hash_speed,
    load_with_jobs,
    load_with_uploads,
    random_files,
)
from tests.server.service.serving import Serving  # noqa: E402

CLIENTS, FILES_EACH = 8, 5
MOST_LATENCY, MOST_GROWTH_MIB, LEAST_SHARE = 0.2, 15, 0.6


def measure_jobs(folder: Path) -> bool:
    """Print the figures of 300 jobs; whether the bars are met."""
    load = load_with_jobs(folder, clients=50, jobs_each=6, seconds_each=0.3)
    print_row("jobs of 50 clients", ", ".join(f"{n} {state}" for state, n in load.states.items()))
    print_row("run / run twice", f"{load.runs} / {load.repeated}")
    print_row("seconds in all", f"{load.seconds:.0f}")
    latency = f"{load.p50 * 1e3:.0f} / {load.p99 * 1e3:.0f} / {load.worst * 1e3:.0f} ms"
    print_row(f"latency of {load.reports} reports, p50 / p99 / worst", latency)
    print_row("server memory", f"{load.early_mib:.1f} -> {load.late_mib:.1f} MiB")
    return (
        load.states == {"done": 300}
        and (load.runs, load.repeated) == (300, 0)
        and load.p99 < MOST_LATENCY
        and load.late_mib - load.early_mib < MOST_GROWTH_MIB
    )


def measure_uploads(folder: Path, count: int, rounds: int) -> bool:
    """Print the figures of ``count`` bytes; whether the bar is met."""
    files = random_files(folder / "files", CLIENTS, FILES_EACH, count // CLIENTS // FILES_EACH)
    target = folder / "target"

    def uploaded() -> float:
        with Serving(target / "state", "--gpus", "cpu") as server:
            return load_with_uploads(server.address, files)

    ways = {
        f"upload of {count / 1e9:.1f} GB": uploaded,
        "bare sockets, to files": lambda: bare_copy(files, target),
        "bare sockets, to files, hashed": lambda: bare_copy(files, target, hashed=True),
        "bare sockets, thrown away": lambda: bare_copy(files, None),
    }
    best = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for name, way in ways.items():
            target.mkdir()
            settle()
            best[name] = max(best[name], count / way() / 1e6)
            shutil.rmtree(target)
    for name, megabytes in best.items():
        print_row(name, f"{megabytes:.0f} MB/s")
    upload, written, hashed, _ = best.values()
    print_row("SHA-256 of one core", f"{hash_speed() / 1e6:.0f} MB/s")
    print_row("share of the copy to files", f"{upload / written:.0%}")
    print_row("share of the hashed copy to files", f"{upload / hashed:.0%}")
    return upload >= LEAST_SHARE * written


def settle() -> None:
    """Let the disk catch up, so that nobody pays for what another wrote."""
    os.sync()


def print_row(what: str, value: str) -> None:
    print(f"| {what} | {value} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", action="store_true")
    parser.add_argument("--uploads", action="store_true")
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    both = not (given.jobs or given.uploads)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    print_row("load of the machine before", " ".join(f"{n:.1f}" for n in os.getloadavg()))
    met = True
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="server-load-") as folder:
        if given.jobs or both:
            met &= measure_jobs(Path(folder) / "jobs")
        if given.uploads or both:
            met &= measure_uploads(
                Path(folder) / "uploads", int(given.gigabytes * 1e9), given.rounds
            )
    print_row("load of the machine after", " ".join(f"{n:.1f}" for n in os.getloadavg()))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
