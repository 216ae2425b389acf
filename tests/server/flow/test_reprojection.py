"""What the flow says about a dense track: right cameras, wrong cameras, movers, points."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from megasam_server.flow.flow_store import FlowStore  # noqa: E402
from megasam_server.flow.reprojection import (  # noqa: E402
    DenseTrack,
    reprojection,
    static_points,
)
from megasam_server.geometry.camera import CameraPath, Intrinsics  # noqa: E402

CPU = torch.device("cpu")
WIDTH, HEIGHT, COUNT, PLATE = 16, 12, 5, (1600, 1200)
FOCAL, STEP, DEPTH = 14.0, 0.2, 4.0


def slide(step: float = STEP, static: np.ndarray | None = None) -> DenseTrack:
    """A camera that slides to the right, before a wall."""
    poses = np.tile(np.eye(4), (COUNT, 1, 1))
    poses[:, 0, 3] = step * np.arange(COUNT)
    lens = Intrinsics.centred(WIDTH, HEIGHT, np.full(COUNT, FOCAL))
    shape = (COUNT, HEIGHT, WIDTH)
    disparity = np.full(shape, 1 / DEPTH, np.float32)
    return DenseTrack(
        CameraPath(poses, lens), disparity, np.ones(shape) if static is None else static
    )


@pytest.fixture
def flows(tmp_path) -> FlowStore:
    """True flow of the slide at twice the grid; the upper left quarter moves on its own."""
    edges = np.array([(i, i + s) for s in (1, 2) for i in range(COUNT - s)])
    store = FlowStore.create(tmp_path, edges, 2 * WIDTH, 2 * HEIGHT)
    for i, j in store.pairs:
        flow = np.zeros((2, 2 * HEIGHT, 2 * WIDTH))
        flow[0] = -2 * FOCAL * STEP * (j - i) / DEPTH
        flow[1, :HEIGHT, :WIDTH] += 1.0 * (j - i)
        x = np.arange(2 * WIDTH) + flow[0]
        store.append(flow, (x >= 0) & (x <= 2 * WIDTH - 1))
    return store


def static_but_corner() -> np.ndarray:
    static = np.ones((COUNT, HEIGHT, WIDTH))
    static[:, : HEIGHT // 2, : WIDTH // 2] = 0
    return static


def test_right_cameras_explain_all_but_the_mover(flows):
    fit = reprojection(slide(static=static_but_corner()), flows, PLATE[0], CPU)
    assert fit.rms_px < 0.05
    assert np.nanmax(fit.per_frame_rms_px) < 0.05
    assert fit.explained_share == pytest.approx(0.75, abs=0.05)
    assert fit.per_frame_explained == pytest.approx(np.full(COUNT, 0.75), abs=0.05)
    assert fit.coverage == pytest.approx(0.75, abs=0.08)


def test_wrong_cameras_explain_nothing(flows):
    fit = reprojection(slide(step=0.0), flows, PLATE[0], CPU)
    assert fit.explained_share == 0
    assert np.isnan(fit.rms_px)
    assert fit.coverage == 0


def test_a_slightly_wrong_lens_is_seen_in_plate_pixels(flows):
    track = slide(static=static_but_corner())
    track.cameras.intrinsics.cx[1:] += 0.02  # cells of 100 plate pixels
    fit = reprojection(track, flows, PLATE[0], CPU)
    assert fit.rms_px == pytest.approx(2.0, abs=1.0)


def test_points_lie_on_the_wall_and_are_seen_where_they_project(flows):
    track = slide(static=static_but_corner())
    colours = {k: np.full((HEIGHT, WIDTH, 3), 40 * k, np.uint8) for k in (0, 3)}
    points = static_points(track, flows, [0, 3], colours, PLATE)
    assert len(points.xyz) > 100
    np.testing.assert_allclose(points.xyz[:, 2], DEPTH, rtol=1e-6)
    assert set(np.unique(points.rgb)) == {0, 120}
    assert points.error_px.max() < 0.1
    plate = track.cameras.at_resolution(*PLATE)
    pixels, _ = plate.project(points.xyz[points.seen_point], points.seen_frame)
    np.testing.assert_allclose(points.seen_xy, pixels, atol=0.1)
    assert np.bincount(points.seen_point).min() >= 2
    # None on the mover.
    own = points.seen_frame == 0
    assert not ((points.seen_xy[own] < (790, 590)).all(axis=1)).any()


def test_without_keyframes_there_are_no_points(flows):
    assert len(static_points(slide(), flows, [], {}, PLATE).xyz) == 0


def test_a_keyframe_without_flow_has_no_points(flows, tmp_path):
    alone = FlowStore(flows.flow_path, flows.trust_path, flows.pairs[:2], flows.width, flows.height)
    colours = {k: np.zeros((HEIGHT, WIDTH, 3), np.uint8) for k in (0, 4)}
    points = static_points(slide(static=static_but_corner()), alone, [0, 4], colours, PLATE)
    assert set(points.seen_frame) == {0, 1}
