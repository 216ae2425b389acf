"""Training runs in pieces, as its own process, and goes on where it stopped."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from megasam_server.training import flow_pairs
from megasam_server.training.checkpoint_files import FINISHED, load_run, load_tensors, save_run
from megasam_server.training.flow_losses import DISCOUNT, flow_losses
from megasam_server.training.flow_pairs import FlowPairs, stream
from megasam_server.training.pieces import Clock, piece_options
from megasam_server.training.recorded_losses import RecordedLosses
from megasam_server.training.working_copy import WorkingCopy
from torchvision.models.optical_flow import raft_large


def small_run(seed: int):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 4))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def train(model, optimiser, steps: int) -> None:
    x = torch.linspace(-1, 1, 24).reshape(8, 3)
    for _ in range(steps):
        optimiser.zero_grad()
        (model(x) - 1).square().sum().backward()
        optimiser.step()


def test_a_run_goes_on_where_it_stopped(tmp_path):
    model, optimiser = small_run(0)
    train(model, optimiser, 5)
    average = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    save_run(tmp_path, FINISHED, model, average, optimiser, 5)
    other, other_optimiser = small_run(1)
    other_average = {key: torch.zeros_like(t) for key, t in other.state_dict().items()}
    assert load_run(tmp_path, FINISHED, other, other_average, other_optimiser) == 5
    # The average is kept in half precision.
    for key, tensor in average.items():
        assert torch.allclose(tensor.float(), other_average[key].float(), rtol=1e-3, atol=1e-6)
    train(model, optimiser, 3)
    train(other, other_optimiser, 3)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        # Adam's moments are kept in half the bits, so the steps agree to a percent of a step.
        assert torch.allclose(one, two, atol=3e-4)


def drawn_pairs() -> FlowPairs:
    """One pair, of noise."""
    random = torch.Generator().manual_seed(2)
    first, second = torch.randint(0, 256, (2, 1, 3, 128, 136), generator=random).to(torch.uint8)
    flow = 8 * torch.randn(1, 2, 128, 136, generator=random)
    return FlowPairs(first, second, flow, torch.rand(1, 128, 136, generator=random) > 0.2)


def drawn_network() -> torch.nn.Module:
    """Of random weights, and batch norms that have seen something."""
    torch.manual_seed(3)
    network = raft_large()
    for module in network.context_encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.3)
    return network


def recorded_step(copy: WorkingCopy, scaler, device: torch.device) -> RecordedLosses:
    return RecordedLosses(
        lambda *given: flow_losses(copy.network, FlowPairs(*given[:4]), given[4]),
        *(copy, scaler, device),
    )


@pytest.mark.parametrize("frozen", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_loss_and_gradients_are_those_of_the_network_as_torchvision_has_it(frozen):
    iterations, pairs = 2, drawn_pairs()
    plain = drawn_network().train(not frozen)
    copy = WorkingCopy(drawn_network().train(not frozen), torch.float32)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    recorded = recorded_step(copy, scaler, torch.device("cpu"))
    tensors = pairs.first, pairs.second, pairs.flow, pairs.valid
    figures = recorded.work_through(*tensors, plan=iterations)
    images = (picture.float() / 127.5 - 1 for picture in (pairs.first, pairs.second))
    flows = plain(*images, num_flow_updates=iterations)
    misses = [(flow - pairs.flow).abs().mean(1)[pairs.valid].mean() for flow in flows]
    loss = sum(DISCOUNT ** (iterations - 1 - i) * miss for i, miss in enumerate(misses))
    loss.backward()
    assert figures["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    off = (flows[-1] - pairs.flow).norm(dim=1)[pairs.valid].mean()
    assert figures["error_px"].item() == pytest.approx(off.item(), rel=1e-5)
    largest = max(parameter.grad.norm() for parameter in plain.parameters())
    for (name, ours), expected in zip(
        copy.master.named_parameters(), plain.parameters(), strict=True
    ):
        found = torch.zeros(()) if ours.grad is None else ours.grad
        difference = (found - expected.grad).norm()
        # Where a relu or a place has a kink, rounding decides.
        assert difference < 1e-2 * expected.grad.norm() + 1e-6 * largest, name
    copy.hand_over_statistics()
    for (name, ours), expected in zip(copy.master.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, expected, msg=name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares with a CUDA GPU")
def test_the_graph_of_a_step_in_half_precision_says_what_the_cpu_says():
    iterations, pairs = 2, drawn_pairs()
    tensors = pairs.first, pairs.second, pairs.flow, pairs.valid
    found = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.float16)):
        master = drawn_network().eval().to(device, memory_format=torch.channels_last)
        copy = WorkingCopy(master, dtype)
        scaler = torch.amp.GradScaler(device, init_scale=256.0)
        recorded = recorded_step(copy, scaler, torch.device(device))
        for _ in range(3):  # plain, recorded, replayed
            figures = recorded.work_through(*(x.to(device) for x in tensors), plan=iterations)
        gradients = [p.grad.cpu().flatten() for p in master.parameters() if p.grad is not None]
        found.append((figures["loss"].item(), torch.cat(gradients)))
    (expected_loss, expected), (loss, gradient) = found
    assert loss == pytest.approx(expected_loss, rel=1e-2)
    assert (gradient - expected).norm() < 0.2 * expected.norm()


def test_batches_are_drawn_the_same_each_time_and_each_pair_is_used_as_often_as_asked(
    bank, monkeypatch
):
    filmed = []

    def numbered(bank, seed, clips, height, width) -> FlowPairs:
        filmed.append(seed)
        count = 6 * clips
        number = torch.arange(count) + 1000.0 * seed
        pictures = torch.zeros(count, 3, height, width, dtype=torch.uint8)
        flow = number[:, None, None, None].expand(-1, 2, height, width)
        return FlowPairs(pictures, pictures, flow, flow[:, 0] > 0)

    monkeypatch.setattr(flow_pairs, "generate", numbered)

    def drawn(batches: int) -> list[list[float]]:
        lots = stream(bank, 7, 4, 8, 8, clips=2, kept=5, reuse=2.0)
        return [next(lots).flow[:, 0, 0, 0].tolist() for _ in range(batches)]

    first = drawn(60)
    # Twelve pairs of a lot, used twice, serve six batches of four; one lot is filmed ahead.
    assert 10 <= len(filmed) <= 12
    assert filmed == list(range(7, 7 + len(filmed)))
    assert drawn(60) == first
    last_lots = {int(number // 1000) for batch in first[-6:] for number in batch}
    assert max(last_lots) - min(last_lots) < 5


@pytest.mark.parametrize(("step", "share"), [(0, 0.1), (4, 0.5), (9, 1.0), (500, 1.0)])
def test_the_rate_rises_while_the_optimiser_is_new_also_where_a_run_goes_on(step, share, tmp_path):
    parser = piece_options("", batch=1, size=(8, 8), rate=1e-3)
    given = ["--minutes", "1000", "--out", str(tmp_path), "--resume", str(tmp_path)]
    clock = Clock(parser.parse_args([*given, "--warm-up", "10"]))
    assert clock.rate(step) == pytest.approx(share * 1e-3, rel=1e-3)


@pytest.mark.slow
def test_two_pieces_of_raft_training(tmp_path):
    command = [sys.executable, "-m", "megasam_server.training.train_raft", "--device", "cpu"]
    command += ["--minutes", "0.02", "--batch", "2", "--height", "128", "--width", "128"]
    command += ["--textures", "8", "--clips", "1", "--held-out", "1", "--log-seconds", "0"]
    out = tmp_path / "run"
    subprocess.run([*command, "--out", str(out)], check=True, timeout=400)
    subprocess.run([*command, "--out", str(out), "--resume", str(out)], check=True, timeout=400)
    with (out / "validation.csv").open() as file:
        pieces = list(csv.DictReader(file))
    assert int(pieces[1]["step"]) > int(pieces[0]["step"]) > 0
    assert all(path.stat().st_size < 16 * 2**20 for path in out.iterdir())
    weights = load_tensors(out, FINISHED)
    assert sum(tensor.numel() for tensor in weights.values()) > 5_000_000


@pytest.mark.slow
def test_processes_of_a_run_step_by_the_average_of_all_gradients(tmp_path):
    script = Path(__file__).with_name("one_replica.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--log-dir", str(tmp_path / "logs")]
    subprocess.run([*command, str(script), str(tmp_path)], check=True, timeout=120)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(one["average"], other["average"])
    assert torch.allclose(one["average"], (one["own"] + other["own"]) / 2)
    assert not one["overflown"].isfinite().any()  # so both skip the step
    assert one["agreed"] == other["agreed"] == [0.5, 7.0]
    assert (one["first"], other["first"]) == (True, False)
