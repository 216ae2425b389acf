"""GPU memory that runs out in the middle of a stage, after some of its output was written.

The last row of the design's failure table. Each case solves a known clip in which one call into a
network fails as a full GPU does; the retry must start clean, so that all outputs are, to the last
bit, those of a solve that took the smaller chunks from the start. The stage cache spares what is
not looked at.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from megasam_server.pipeline import megasam_engine  # noqa: E402
from megasam_server.pipeline.progress import SilentProgress  # noqa: E402
from megasam_server.video_depth import clip_depth, consistency_memory  # noqa: E402

from tests.server.pipeline.known_clips import Solved, solve, walk_take  # noqa: E402
from tests.server.pipeline.network_doubles import (  # noqa: E402
    DoubleNetworks,
    KnownClip,
    all_doubles,
)

SETTINGS = {"depth_chunk_size": 2, "metric_depth_every": 3, "run_cvd": False}
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (injected)")
FULL_FOR_CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")

FOLLOWING = "following the camera"
TRIAL = "finding out what the motion can tell"
KEYFRAMES = "adjusting the keyframes"
ALL_FRAMES = "adjusting all frames"


class LastWords(SilentProgress):
    """Remembers what tracking says that it does."""

    def __init__(self) -> None:
        self.doing = ""

    def update(self, stage: str, done: float, total: float, note: str = "") -> None:
        if stage == "tracking":
            self.doing = note


@dataclass
class RunsOut:
    """Calls of a double's methods until the GPU is full.

    Attributes:
        moment: (method, what tracking says meanwhile or None for anything, how many such calls), to
            be counted off one after the other: the last call of the last one fails.
        error: what it fails with.
        progress: of the solve.
        happened: how often it failed.
    """

    moment: list[tuple[str, str | None, int]]
    error: Exception
    progress: LastWords
    happened: int = 0
    _left: list[list] = field(init=False)

    def __post_init__(self) -> None:
        self._left = [list(step) for step in self.moment]

    def watch(self, double: object) -> None:
        """Count the calls of ``double``."""
        for method in {method for method, *_ in self.moment}:
            setattr(double, method, self._counted(method, getattr(double, method)))

    def _counted(self, method: str, real: Callable) -> Callable:
        def call(*arguments, **named):
            if self._left and self._is_next(method):
                self._left[0][2] -= 1
                if self._left[0][2] == 0:
                    self._left.pop(0)
                    if not self._left:
                        self.happened += 1
                        raise self.error
            return real(*arguments, **named)

        return call

    def _is_next(self, method: str) -> bool:
        wanted, words, _ = self._left[0]
        return method == wanted and words in (None, self.progress.doing)


@pytest.fixture(scope="module")
def walk() -> KnownClip:
    return KnownClip.of(walk_take(10))


@pytest.fixture(scope="module")
def undisturbed(walk, tmp_path_factory) -> Path:
    """A folder with the plate, and with the stage cache that a solve with room enough left."""
    root = tmp_path_factory.mktemp("walk")
    with pytest.MonkeyPatch.context() as patch:
        networks = DoubleNetworks(all_doubles(walk))
        solved = solve(walk, networks, root / "undisturbed", patch, cache=root / "kept", **SETTINGS)
    assert "⚠" not in solved.result["status"]
    return root


@pytest.fixture
def solve_without(walk, undisturbed, tmp_path, monkeypatch) -> Callable[..., Solved]:
    """Solve the walk with what the undisturbed solve left, but for the output of one stage."""

    def run(stage: str, name: str, networks: DoubleNetworks, progress=None, **settings) -> Solved:
        cache = tmp_path / f"{name} cache"
        shutil.copytree(undisturbed / "kept", cache, copy_function=os.link)
        for entry in cache.glob(f"{stage}-*"):
            shutil.rmtree(entry)
        folder = undisturbed / f"{tmp_path.name} {name}"
        settings = SETTINGS | settings
        return solve(
            walk, networks, folder, monkeypatch, progress=progress, cache=cache, **settings
        )

    return run


def outputs(solved: Solved) -> dict[str, object]:
    """Everything that the stages found."""
    work = solved.folder.root.parent / "work"
    found: dict[str, object] = {
        path.relative_to(work).as_posix(): path.read_bytes()
        for path in work.rglob("*")
        if path.is_file()
    }
    # What says how it was solved.
    found["camera"] = solved.result["extrinsics"] | {"status": "", "solving_method": ""}
    return found


def assert_same(solved: Solved, reference: Solved, but_for: tuple[str, ...] = ()) -> None:
    found, wanted = outputs(solved), outputs(reference)
    # What an attempt that came to nothing left in the scratch is nobody's.
    differing = [name for name in wanted if found[name] != wanted[name] and name not in but_for]
    assert differing == []


def assert_reduced(solved: Solved, what: str) -> None:
    """The solve came to its end, and says that and where it took less."""
    assert solved.result["status"].startswith(f"⚠ Reduced {what}: solved with the megasam engine")
    warnings = {warning["code"]: warning for warning in solved.result["warnings"]}
    assert what in warnings["reduced_for_memory"]["message"]
    assert warnings["reduced_for_memory"]["hint"]
    assert solved.result["extrinsics"]["source"] == "MegaSAM"
    assert solved.result["usable"] is True
    assert solved.errors.rotation_max_deg < 0.1


# --- the stages whose chunk is a setting


@dataclass(frozen=True)
class ChunkRow:
    """A full GPU at the ``call``-th call of ``method``: ``what`` is reduced, as if ``set`` to less."""

    stage: str
    method: str
    call: int
    what: str
    set: dict[str, int]
    entry: str = ""
    error: Exception = FULL
    slow: bool = False


CHUNK_ROWS = [
    ChunkRow("mono_depth", "disparity", 3, "mono depth (chunk 2 to 1)", {"depth_chunk_size": 1}),
    ChunkRow(
        *("metric_depth", "infer", 2, "metric alignment (chunk 2 to 1)", {"depth_chunk_size": 1}),
        error=FULL_FOR_CUBLAS,
    ),
    ChunkRow(
        *("flow", "flow_both_ways", 3, "optical flow (chunk 8 to 4)", {"flow_chunk_size": 4}),
        entry="network_flow",
    ),
    ChunkRow(
        *("flow", "encode", 2, "optical flow (chunk 8 to 4)", {"flow_chunk_size": 4}),
        entry="network_flow",
        slow=True,
    ),
]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.method, marks=[pytest.mark.slow] if row.slow else [])
        for row in CHUNK_ROWS
    ],
)
def test_a_stage_starts_again_with_half_the_chunk(walk, solve_without, row):
    networks = DoubleNetworks(all_doubles(walk))
    runs_out = RunsOut([(row.method, None, row.call)], row.error, LastWords())
    runs_out.watch(networks.doubles[row.stage])
    entry = row.entry or row.stage
    solved = solve_without(entry, "disturbed", networks)
    assert runs_out.happened == 1
    assert networks.borrowed == [row.stage, row.stage]
    assert_reduced(solved, row.what)
    reference = solve_without(entry, "reference", DoubleNetworks(all_doubles(walk)), **row.set)
    assert "⚠" not in reference.result["status"]
    assert_same(solved, reference)


# --- tracking, in each of its steps

TRACKING_ROWS = {
    "the first frame": [("context", "", 1)],
    "looking for motion": [("update", FOLLOWING, 3)],
    "the window of keyframes": [("context", FOLLOWING, 1), ("update", FOLLOWING, 12)],
    "trying what can be told": [("update", TRIAL, 3)],
    "the keyframes": [("update", KEYFRAMES, 3)],
    "context of the frames between": [("update", KEYFRAMES, 1), ("context", None, 1)],
    "placing all frames": [("update", KEYFRAMES, 1), ("context", None, 1), ("update", None, 2)],
    "all frames": [("update", ALL_FRAMES, 5)],
}


@pytest.fixture(scope="module")
def tracking_halved(walk, undisturbed, tmp_path_factory) -> Callable[[int], Solved]:
    """Tracking that took so many halvings from the start."""

    @functools.cache
    def solved(halvings: int) -> Solved:
        networks = DoubleNetworks(all_doubles(walk), {"tracking": halvings})
        cache = tmp_path_factory.mktemp("cache") / "cache"
        shutil.copytree(undisturbed / "kept", cache, copy_function=os.link)
        for entry in cache.glob("tracking-*"):
            shutil.rmtree(entry)
        folder = undisturbed / f"tracking {halvings}"
        with pytest.MonkeyPatch.context() as patch:
            return solve(walk, networks, folder, patch, cache=cache, **SETTINGS)

    return solved


@pytest.mark.slow
@pytest.mark.parametrize("moment", TRACKING_ROWS.values(), ids=TRACKING_ROWS.keys())
def test_tracking_starts_again_from_the_first_frame(walk, solve_without, tracking_halved, moment):
    networks, progress = DoubleNetworks(all_doubles(walk)), LastWords()
    runs_out = RunsOut(moment, FULL, progress)
    runs_out.watch(networks.doubles["tracking"])
    solved = solve_without("tracking", "disturbed", networks, progress)
    assert runs_out.happened == 1
    assert networks.borrowed == ["tracking", "tracking"]
    assert_reduced(solved, "camera tracking (chunk 8 to 4)")
    assert_same(solved, tracking_halved(1))


@pytest.mark.slow
def test_tracking_that_fails_in_another_step_each_time_goes_down_to_one(
    walk, solve_without, tracking_halved
):
    networks, progress = DoubleNetworks(all_doubles(walk)), LastWords()
    moments = ("looking for motion", "the keyframes", "all frames")
    # The first to be watched is the innermost: each takes its turn.
    failures = [RunsOut(TRACKING_ROWS[name], FULL, progress) for name in moments]
    for failure in failures:
        failure.watch(networks.doubles["tracking"])
    solved = solve_without("tracking", "disturbed", networks, progress)
    assert [failure.happened for failure in failures] == [1, 1, 1]
    assert_reduced(solved, "camera tracking (chunk 8 to 1)")
    assert_same(solved, tracking_halved(3))


# --- the stages that can be left out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "method", "what"),
    [
        ("mono_depth", "disparity", "mono depth (skipped)"),
        ("metric_depth", "infer", "metric alignment (skipped)"),
    ],
)
def test_a_depth_stage_that_never_fits_is_left_out(walk, solve_without, stage, method, what):
    """It gets some way each time: what it wrote counts for nothing."""
    networks = DoubleNetworks(all_doubles(walk))
    calls = []

    def never_twice(real):
        def call(*arguments, **named):
            calls.append(method)
            if len(calls) % 2 == 0:
                raise FULL
            return real(*arguments, **named)

        return call

    double = networks.doubles[stage]
    setattr(double, method, never_twice(getattr(double, method)))
    solved = solve_without(stage, "disturbed", networks)
    assert len(calls) == 4, "chunks of 2 and of 1"
    assert solved.result["status"].startswith(f"⚠ Reduced {what}: solved with the megasam engine")
    assert solved.result["usable"] is True
    assert solved.result["quality"]["scale_is_metric"] is False
    without = DoubleNetworks(all_doubles(walk, **{stage: False}))
    assert_same(solved, solve_without(stage, "reference", without))


@pytest.fixture
def short_windows(monkeypatch) -> None:
    """Consistent depth in windows of four frames, so that one is written before the next fails."""
    monkeypatch.setattr(consistency_memory, "OVERLAP", 2)
    windowed = functools.partial(clip_depth.write_consistent_depth, memory=0)
    monkeypatch.setattr(megasam_engine, "write_consistent_depth", windowed)


@pytest.fixture
def full_at(monkeypatch) -> Callable[[Callable[[int], bool]], list[tuple[int, ...]]]:
    """The optimisation runs out of memory at calls that a test chooses by their number; gives the
    sizes that were tried."""
    real = clip_depth.make_consistent

    def install(is_full: Callable[[int], bool]) -> list[tuple[int, ...]]:
        tried: list[tuple[int, ...]] = []

        def make_consistent(prior, *arguments, **named):
            tried.append(tuple(prior.shape[1:]))
            if is_full(len(tried)):
                raise FULL
            return real(prior, *arguments, **named)

        monkeypatch.setattr(clip_depth, "make_consistent", make_consistent)
        return tried

    return install


CONSISTENT = {"run_cvd": True, "cvd_resolution": 0.5, "cvd_iterations": 4}


def test_consistent_depth_starts_again_at_half_the_size(
    walk, solve_without, short_windows, full_at
):
    tried = full_at(lambda call: call == 3)
    solved = solve_without("none", "disturbed", DoubleNetworks(all_doubles(walk)), **CONSISTENT)
    assert tried[:4] == [(84, 104)] * 3 + [(42, 52)] and len(tried) > 5
    assert_reduced(solved, "consistent depth (resolution 0.5 to 0.25)")
    full_at(lambda call: call == 1)
    networks = DoubleNetworks(all_doubles(walk))
    assert_same(solved, solve_without("none", "reference", networks, **CONSISTENT))


@pytest.mark.slow
def test_consistent_depth_that_never_fits_leaves_nothing_of_its_attempts(
    walk, solve_without, short_windows, full_at
):
    tried = full_at(lambda call: call % 2 == 0)
    solved = solve_without("none", "disturbed", DoubleNetworks(all_doubles(walk)), **CONSISTENT)
    assert tried == [(84, 104)] * 2 + [(42, 52)] * 2
    assert_reduced(solved, "consistent depth (skipped)")
    networks = DoubleNetworks(all_doubles(walk))
    reference = solve_without("none", "reference", networks, **CONSISTENT | {"run_cvd": False})
    assert_same(solved, reference)
