"""The tracking network is taught by what is true, and a run of its training goes on where it stopped."""

from __future__ import annotations

import csv
import subprocess
import sys

import pytest
import torch
from megasam_server.geometry.projective import pixel_grid
from megasam_server.models.droid_net import DroidNet
from megasam_server.training.checkpoint_files import TRACKER, load_run, load_tensors, save_run
from megasam_server.training.clips import clip_edges, film_clips
from megasam_server.training.curves import draw_curves, smoothed
from megasam_server.training.exercise import Exercise
from megasam_server.training.pieces import follow
from megasam_server.training.tracker_losses import SURE_CELLS, confidence_loss
from megasam_server.training.train_tracker import fresh_network
from megasam_server.training.unrolling import (
    ClipGraph,
    Lesson,
    Plan,
    State,
    cold_start,
    project,
    random_start,
)
from megasam_server.training.validate_tracker import area_under_curve, load_tracker
from megasam_server.training.working_copy import WorkingCopy

CLIPS, FRAMES, HEIGHT, WIDTH = 2, 3, 64, 96
SIZE = (HEIGHT // 8, WIDTH // 8)


def film(bank, seed: int, static: bool = False):
    return film_clips(bank, seed, CLIPS, FRAMES, HEIGHT, WIDTH, static, samples=1)


@pytest.fixture(scope="module")
def graph() -> ClipGraph:
    return ClipGraph(CLIPS, FRAMES, SIZE, torch.device("cpu"))


@pytest.fixture(scope="module")
def lesson(bank, graph) -> Lesson:
    return Lesson.of(film(bank, 1), graph)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_true_cameras_and_disparities_induce_the_flow_of_what_stands_still(bank, graph, seed):
    lesson = Lesson.of(film(bank, seed), graph)
    off = (lesson.rigid - lesson.target).norm(dim=-1)
    known = lesson.valid & (lesson.target.abs().amax(-1) < 40)
    assert (known & lesson.static).float().mean() > 0.3
    # Cells count as moving from an eighth on; what really stands still is far more exact.
    assert off[known & lesson.static].max() < 0.13
    assert off[known & lesson.static].median() < 1e-3


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nothing_moves_in_static_clips_and_movers_do_elsewhere(bank, seed):
    assert not film(bank, seed, static=True).moving.any()
    clips = film(bank, seed)
    assert 0.005 < clips.moving.float().mean() < 0.9
    again = film(bank, seed)
    assert torch.equal(clips.pictures, again.pictures)
    assert torch.equal(clips.target, again.target)


def test_pictures_follow_the_targets_of_cells_that_stand_still(bank):
    """The centre of cell (x, y) is pixel (8 x + 3.5, 8 y + 3.5): there the pictures agree."""
    clips = film_clips(bank, 6, 1, 2, 96, 128, static=True, steps_px=(12.0, 13.0), samples=4)
    first, second = clips.pictures[0].float().mean(1)  # [H,W] each
    target = clips.target[0, 0]
    start = pixel_grid(12, 16, torch.float32)

    def colour(picture: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        at = 2 * (8 * cells + 4) / torch.tensor([128.0, 96.0]) - 1  # corners at -1 and 1
        blurred = torch.nn.functional.avg_pool2d(picture[None, None], 5, 1, 2)
        return torch.nn.functional.grid_sample(blurred, at[None], align_corners=False)[0, 0]

    inside = ((target > 0) & (target < torch.tensor([15.0, 11.0]))).all(-1)
    moved = (colour(second, target) - colour(first, start)).abs()[inside].median()
    unmoved = (colour(second, start) - colour(first, start)).abs()[inside].median()
    assert moved < 0.5 * unmoved


def test_bundle_adjustment_finds_the_cameras_that_true_targets_show(lesson, graph):
    state = cold_start(lesson, graph)
    weight = (lesson.static & lesson.valid)[..., None].expand_as(lesson.target).float()
    for _ in range(8):
        state = graph.adjust(state, lesson.intrinsics, lesson.rigid, weight)
    coords, _ = project(state, lesson.intrinsics, graph)
    off = (coords - lesson.rigid).norm(dim=-1)[lesson.static & lesson.valid]
    assert off.mean() < 0.05  # cells


def test_a_start_lies_between_the_cold_one_and_the_truth(lesson, graph):
    cold = cold_start(lesson, graph)
    whole = torch.ones(CLIPS * FRAMES)
    arrived = cold.toward(lesson.truth, whole, whole)
    assert torch.allclose(arrived.poses[:, :3], lesson.truth.poses[:, :3], atol=1e-4)
    seen = lesson.truth.disps > 0.01
    assert torch.allclose(arrived.disps[seen], lesson.truth.disps[seen], rtol=1e-3)
    start = random_start(lesson, graph, torch.Generator().manual_seed(0))
    assert isinstance(start, State)
    assert start.disps.isfinite().all()


def test_the_best_confidence_is_the_information_of_the_residual():
    logit = torch.zeros(3, requires_grad=True)
    residual = SURE_CELLS * torch.tensor([0.25, 1.0, 9.0])
    optimiser = torch.optim.Adam([logit], lr=0.3)
    for _ in range(120):
        optimiser.zero_grad()
        weight = torch.sigmoid(logit)
        confidence_loss(weight[:, None].expand(3, 2), residual[:, None]).sum().backward()
        optimiser.step()
    weight = torch.sigmoid(logit).detach()
    assert torch.allclose(weight, torch.tensor([0.64, 0.25, 0.01]), rtol=0.05)


def test_a_few_steps_reduce_the_loss(bank):
    torch.manual_seed(1)
    graph = ClipGraph(1, FRAMES, (8, 8), torch.device("cpu"))
    clips = film_clips(bank, 2, 1, FRAMES, 64, 64, static=False, steps_px=(4.0, 8.0))
    lesson = Lesson.of(clips, graph)
    copy = WorkingCopy(fresh_network(), torch.float32)
    optimiser = torch.optim.AdamW(copy.master.parameters(), lr=1e-3, fused=True)
    start = cold_start(lesson, graph)
    exercise = Exercise(copy, graph, torch.amp.GradScaler("cpu", enabled=False), geometry=True)
    history = []
    for _ in range(8):
        figures = exercise.work_through(lesson, start, Plan(2, motion=True))
        # Also the damping learns, through bundle adjustment.
        assert copy.master.update.agg.eta[0].bias.grad.abs().max() > 0
        torch.nn.utils.clip_grad_norm_(copy.master.parameters(), 1.0)
        optimiser.step()
        copy.take_weights()
        history.append(figures["loss"].item())
    assert min(history[-2:]) < 0.85 * history[0]


def test_a_run_is_small_enough_to_carry_and_goes_on(tmp_path):
    torch.manual_seed(0)
    network = fresh_network()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    for parameter in network.fnet.parameters():  # as after a stage that trains a part
        parameter.grad = torch.randn_like(parameter)
    optimiser.step()
    average = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    follow(average, network, 1)
    save_run(tmp_path, TRACKER, network, average, optimiser, 7)
    files = list(tmp_path.iterdir())
    assert len(files) <= 4
    assert max(file.stat().st_size for file in files) < 16 * 2**20
    other = DroidNet()
    other_optimiser = torch.optim.AdamW(other.parameters(), lr=1e-3, fused=True)
    other_average = {key: torch.zeros_like(t) for key, t in average.items()}
    assert load_run(tmp_path, TRACKER, other, other_average, other_optimiser) == 7
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    moment = other_optimiser.state[other.fnet.conv1.weight]["exp_avg"]
    expected = optimiser.state[network.fnet.conv1.weight]["exp_avg"]
    assert torch.allclose(moment, expected, rtol=0.01)
    assert other.cnet.conv1.weight not in other_optimiser.state
    copy = WorkingCopy(other, torch.float32)
    copy.take_gradients(copy.network.features(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).sum())
    other_optimiser.step()
    assert other_optimiser.state[other.fnet.conv1.weight]["step"] == 8
    # The finished weights are the average, under the official names.
    loaded = load_tracker(tmp_path).state_dict()
    assert loaded.keys() == load_tensors(tmp_path, TRACKER).keys()
    for key, tensor in average.items():
        assert torch.allclose(loaded[key], tensor, rtol=1e-3, atol=1e-6)


def test_ranking_and_smoothing():
    score = torch.tensor([0.1, 0.4, 0.35, 0.8])
    positive = torch.tensor([False, False, True, True])
    assert area_under_curve(score, positive) == 0.75
    line = smoothed([1.0, float("nan"), 2.0])
    assert line[0] == 1.0
    assert line[2] == pytest.approx(1.2)


def test_edges_go_both_ways_by_source():
    edges = clip_edges(5).tolist()
    assert len(edges) == 18
    assert edges == sorted(edges)
    assert [4, 1] in edges
    assert [0, 4] not in edges


@pytest.mark.slow
def test_both_stages_one_after_the_other(tmp_path):
    command = [sys.executable, "-m", "megasam_server.training.train_tracker", "--device", "cpu"]
    command += ["--minutes", "9", "--steps", "3", "--bundle-from", "1", "--batch", "1"]
    command += ["--height", "64", "--width", "64", "--frames", "3", "--iterations", "2"]
    command += ["--textures", "8", "--texture-size", "64", "--clips", "1", "--held-out", "1"]
    command += ["--log-seconds", "0", "--type", "float32"]
    out = tmp_path / "run"
    for stage, resume in (("1", []), ("2", ["--resume", str(out)])):
        subprocess.run(
            [*command, "--stage", stage, "--out", str(out), *resume], check=True, timeout=400
        )
    with (out / "validation.csv").open() as file:
        pieces = list(csv.DictReader(file))
    assert [(row["step"], row["stage"]) for row in pieces] == [("3", "1"), ("6", "2")]
    with (out / "training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == list("123456")
    assert rows[0]["static"] == "nan"
    assert float(rows[-1]["static"]) > 0
    assert "error_px" in draw_curves(out).read_text()
    assert len(list(out.iterdir())) <= 7
