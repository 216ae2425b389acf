"""Speed and memory of the networks and of the stages' kernels, with a check of every result.

    python tests/benchmarks/networks_gpu.py [--device cuda] [--only WORD...] [--quick] [--compile]
        [--profile] [--out DIR]

One row per network or kernel, batch size and float type:

- ms: median of CUDA graph replays (``*``: of plain calls, because a graph cannot be captured); plain:
  median of plain calls. Inputs are taken in turn from two or three sets;
- MiB: weights, and the most that a call allocates beyond its inputs;
- TFLOP/s of the matrix products, convolutions and attention that were run; GB/s of inputs and
  outputs, each moved once; %: the larger share of the two ceilings that this machine reaches, which
  are measured first (8192^3 matrix products, a copy of 1 GiB);
- error: norm of the difference to the same work in float32 on the CPU by plain torch, relative.
  One row of each kind and float type is checked.

float32 is true float32, no TF32. ``--only`` keeps the rows whose name has one of the words,
``--quick`` makes everything tiny, without goals (for ``--device cpu``, which leaves float16 out:
CPUs emulate it), ``--compile`` adds torch.compile rows, ``--profile`` writes the longest kernels of
the rows that miss their goal. With ``--out``: table.md, table.csv and the profiles. Exit code 1
when a row fails or is wrong; a missed goal is no failure.
"""

from __future__ import annotations

import argparse
import csv
import gc
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from gpu_timing import Measured, ceilings, measure, profile
from kernel_rows import bundle_rows, consistency_rows, correlation_rows
from network_rows import (
    Bench,
    Row,
    depth_anything_rows,
    encoder_rows,
    raft_rows,
    unidepth_rows,
    update_rows,
)

FAMILIES = (
    update_rows,
    correlation_rows,
    bundle_rows,
    consistency_rows,
    encoder_rows,
    raft_rows,
    depth_anything_rows,
    unidepth_rows,
)
COLUMNS = ["row", "n", "of", "type", "ms", "plain", "MiB", "TFLOP/s", "GB/s", "%", "error", "goal"]


def share(measured: Measured, row: Row, bytes_moved: int | None, best: dict) -> float:
    """The larger share of the two ceilings."""
    arithmetic = measured.flops / (measured.ms / 1000) / best[_type(row)]
    memory = (bytes_moved or 0) / (measured.ms / 1000) / best["copy"]
    return max(arithmetic, memory)


def meets_goal(row: Row, measured: Measured, best: dict) -> bool:
    """True also where there is none."""
    if row.goal is None:
        return True
    if row.goal.most_ms is not None:
        return measured.ms / row.batch <= row.goal.most_ms
    return share(measured, row, None, best) >= row.goal.least_share


def _type(row: Row) -> str:
    return str(row.dtype).removeprefix("torch.")


def _line(row: Row, measured: Measured, bytes_moved: int | None, best: dict) -> list[str]:
    seconds = measured.ms / 1000
    goal = ""
    if row.goal is not None:
        goal = f"{row.goal}: {'met' if meets_goal(row, measured, best) else 'MISSED'}"
    return [
        f"{measured.ms:.3f}" + ("" if measured.graph else "*"),
        f"{measured.eager_ms:.3f}",
        "-" if measured.peak_mib is None else f"{measured.peak_mib:.0f}",
        f"{measured.flops / seconds / 1e12:.1f}" if measured.flops else "-",
        "-" if bytes_moved is None else f"{bytes_moved / seconds / 1e9:.0f}",
        f"{100 * share(measured, row, bytes_moved, best):.0f}",
        "-" if measured.error is None else f"{measured.error:.1e}",
        goal,
    ]


def run(row: Row, bench: Bench, best: dict, folder: Path | None, profiled: bool):
    """The row's line, and whether it worked and was right."""
    start = [row.name, str(row.batch), row.what, _type(row)]
    try:
        with torch.no_grad():
            work = row.build()
            measured = measure(work, bench.device, 0.02 if bench.quick else 0.2)
            right = measured.error is None or measured.error <= work.tolerance
            line = start + _line(row, measured, work.bytes_moved, best)
            if profiled and not meets_goal(row, measured, best):
                _write_profile(row, profile(work, bench.device), folder)
    except Exception as failure:  # a row that fails must not take the others with it
        text = f"{type(failure).__name__}: {failure}".splitlines()[0]
        return start + ["FAILED"] + ["-"] * 6 + [text], False
    if not right:
        line[-2] += f" WRONG (> {work.tolerance:g})"
    return line, right


def _write_profile(row: Row, table: str, folder: Path | None) -> None:
    if folder is None:
        print(f"\nprofile of {row.name}, {row.batch}, {_type(row)}\n{table}")
        return
    name = re.sub(r"\W+", "_", f"profile {row.name} {row.batch} {_type(row)}")
    (folder / f"{name}.txt").write_text(table)


def _rows(bench: Bench, words: list[str]) -> Iterator[Row]:
    for family in FAMILIES:
        for row in family(bench):
            if bench.device.type == "cpu" and row.dtype == torch.float16:
                continue
            if not words or any(word.lower() in row.name.lower() for word in words):
                yield replace(row, goal=None) if bench.quick else row


def main(arguments: list[str] | None = None) -> int:
    """See the module's docstring. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD")
    parser.add_argument("--out", type=Path, metavar="DIR")
    for switch in ("--quick", "--compile", "--profile"):
        parser.add_argument(switch, action="store_true")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; to try the benchmark out: --device cpu --quick")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)

    begun = time.perf_counter()
    bench = Bench(device, options.quick, options.compile)
    best = ceilings(device, options.quick)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    heading = f"{name}, torch {torch.__version__}: " + ", ".join(
        f"{kind} {value / 1e9:.0f} GB/s" if kind == "copy" else f"{kind} {value / 1e12:.1f} TFLOP/s"
        for kind, value in best.items()
    )
    print(heading, flush=True)
    lines, worked = [COLUMNS], True
    for row in _rows(bench, options.only):
        line, good = run(row, bench, best, options.out, options.profile)
        worked = worked and good
        lines.append(line)
        print(_text(line), flush=True)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    table = "\n".join(_text(line) for line in [COLUMNS, ["---"] * len(COLUMNS), *lines[1:]])
    print(f"\n{heading}\n\n{table}\n\n{time.perf_counter() - begun:.0f} s")
    if options.out:
        (options.out / "table.md").write_text(f"{heading}\n\n{table}\n")
        with (options.out / "table.csv").open("w", newline="") as file:
            csv.writer(file).writerows(lines)
    return 0 if worked else 1


def _text(line: list[str]) -> str:
    return "| " + " | ".join(line) + " |"


if __name__ == "__main__":
    sys.exit(main())
