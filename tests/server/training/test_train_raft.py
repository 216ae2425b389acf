"""Training runs in pieces, as its own process, and goes on where it stopped."""

from __future__ import annotations

import csv
import subprocess
import sys

import pytest
import torch
from megasam_server.training.checkpoint_files import FINISHED, load_run, load_tensors, save_run


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
