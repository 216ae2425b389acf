"""Depth of a tracked clip: the prior on the tracker's scale, windows of long clips."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from megasam_server.flow.flow_store import FlowStore  # noqa: E402
from megasam_server.geometry.camera import CameraPath, Intrinsics  # noqa: E402
from megasam_server.video_depth.clip_depth import (  # noqa: E402
    DepthFile,
    TrackedClip,
    write_consistent_depth,
    write_prior_depth,
)
from megasam_server.video_depth.consistency_memory import (  # noqa: E402
    OVERLAP,
    cvd_bytes,
    frame_windows,
    windows_that_fit,
)

HEIGHT, WIDTH, COUNT, STEP = 24, 32, 48, 0.05


@pytest.mark.parametrize(("count", "number"), [(1, 1), (40, 1), (48, 2), (500, 10), (97, 5)])
def test_windows_cover_the_clip_and_share_frames(count, number):
    windows = frame_windows(count, number)
    assert len(windows) == number
    assert windows[0][0] == 0 and windows[-1][1] == count
    lengths = [last - first for first, last in windows]
    assert max(lengths) - min(lengths) <= 1
    for (_, last), (first, _) in zip(windows, windows[1:], strict=False):
        assert last - first == OVERLAP
    # No frame is in three windows.
    for (_, last), (first, _) in zip(windows, windows[2:], strict=False):
        assert last <= first


def ahead(count: int) -> np.ndarray:
    return np.array([(i, i + s) for s in (1, 2, 4, 8, 15) for i in range(count - s)])


def test_windows_are_as_long_as_the_memory_allows():
    pairs = ahead(200)
    whole = cvd_bytes(200, len(pairs), HEIGHT, WIDTH)

    def windows(budget):
        return windows_that_fit(200, pairs, HEIGHT, WIDTH, budget, kernels=True)

    assert windows(whole) == [(0, 200)]
    halves = windows(whole - 1)
    assert len(halves) == 2
    # A third and the overlap: what a window takes, it has.
    for budget in (cvd_bytes(80, 400, HEIGHT, WIDTH), cvd_bytes(50, 250, HEIGHT, WIDTH)):
        chosen = windows(budget)
        assert len(chosen) > 2
        for first, last in chosen:
            inside = ((pairs >= first) & (pairs < last)).all(axis=1).sum()
            assert cvd_bytes(last - first, inside, HEIGHT, WIDTH) <= budget
    shortest = windows(0)
    assert all(last - first >= 2 * OVERLAP for first, last in shortest)
    assert len(shortest) > 5


def test_more_of_anything_takes_more_memory():
    base = (50, 220, 96, 128)
    for kernels in (True, False):
        least = cvd_bytes(*base, kernels=kernels)
        for place in range(4):
            more = [size * (1 + (place == k)) for k, size in enumerate(base)]
            assert cvd_bytes(*more, kernels=kernels) > least


def tracked(prior=None, noise: float = 0.0) -> TrackedClip:
    """A camera that slides along a slanted wall."""
    poses = np.tile(np.eye(4), (COUNT, 1, 1))
    poses[:, 0, 3] = STEP * np.arange(COUNT)
    lens = Intrinsics.centred(WIDTH, HEIGHT, np.full(COUNT, 30.0))
    ramp = torch.linspace(0.4, 0.8, HEIGHT // 8)[:, None].expand(-1, WIDTH // 8)
    disps = ramp[None].repeat(COUNT, 1, 1)
    disps = disps * (noise * torch.randn(COUNT, 1, 1, generator=_seeded(3))).exp()
    static = torch.ones(COUNT, HEIGHT // 8, WIDTH // 8)
    return TrackedClip(CameraPath(poses, lens), disps, static, prior or (lambda frame: None))


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wall() -> np.ndarray:
    """True disparity [H,W] of every frame."""
    cells = torch.linspace(0.4, 0.8, HEIGHT // 8)[:, None].expand(-1, WIDTH // 8)
    size = (HEIGHT, WIDTH)
    return torch.nn.functional.interpolate(cells[None, None], size, mode="bilinear")[0, 0].numpy()


def exact_flow(folder) -> FlowStore:
    edges = np.array([(i, i + s) for s in (1, 2, 4) for i in range(COUNT - s)])
    store = FlowStore.create(folder, edges, WIDTH, HEIGHT)
    for i, j in store.pairs:
        flow = np.stack([-30 * STEP * (j - i) * wall(), np.zeros((HEIGHT, WIDTH))])
        arrives = np.arange(WIDTH) + flow[0]
        store.append(flow, (arrives >= 0) & (arrives <= WIDTH - 1))
    return store


def test_the_prior_is_put_on_the_tracker_s_scale_frame_by_frame(tmp_path):
    true = torch.from_numpy(wall())
    holes = torch.ones_like(true)
    holes[:, :3] = 0
    clip = tracked(lambda frame: holes * (0.5 + 0.01 * frame) * true)
    file = DepthFile(tmp_path / "depth", COUNT, (WIDTH, HEIGHT), unit=2.0)
    write_prior_depth(clip, file, lambda done: None)
    np.testing.assert_allclose(
        file.map[:, :, 3:], np.tile(2 / wall()[:, 3:], (COUNT, 1, 1)), rtol=0.05
    )
    # Where the prior knows nothing, what the tracker found.
    np.testing.assert_allclose(
        file.map[:, :, :3], np.tile(2 / wall()[:, :3], (COUNT, 1, 1)), rtol=0.05
    )
    near, far = file.near_far()
    assert 2 < near < far < 6


def test_flicker_is_taken_out_also_in_windows(tmp_path):
    clip, flows = tracked(noise=0.1), exact_flow(tmp_path)
    before = DepthFile(tmp_path / "before", COUNT, (WIDTH, HEIGHT), 1.0)
    write_prior_depth(clip, before, lambda done: None)

    def consistent(name: str, memory: int | None) -> DepthFile:
        file = DepthFile(tmp_path / name, COUNT, (WIDTH, HEIGHT), 1.0)
        calls = []
        write_consistent_depth(
            clip,
            flows,
            (WIDTH, HEIGHT),
            60,
            torch.device("cpu"),
            file,
            lambda done, total: calls.append((done / total, total)),
            memory=memory,
        )
        shares = [share for share, _ in calls]
        assert shares == sorted(shares) and shares[-1] == 1
        assert calls[-1][1] == (1 if memory is None else 2), "windows"
        return file

    whole, parts = consistent("whole", None), consistent("parts", 0)

    def flicker(file: DepthFile) -> float:
        inside = file.map[:, 6:-6, 8:-8]
        return float(np.abs(np.diff(inside, axis=0)).mean())

    def error(file: DepthFile) -> float:
        return float(np.median(np.abs(file.map * wall() - 1)))

    for after in (whole, parts):
        assert flicker(after) < 0.35 * flicker(before)
        assert error(after) < 0.6 * error(before)
    assert np.median(np.abs(parts.map / whole.map - 1)) < 0.2 * error(before)
