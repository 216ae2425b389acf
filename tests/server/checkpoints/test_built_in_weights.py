"""The weights of our own that the package brings: whole, loadable, and better than none.

They are stored in float16. On a CPU the networks compute in float32, on a GPU in float16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest

torch = pytest.importorskip("torch")

from megasam_server.checkpoints.load import load_network  # noqa: E402
from megasam_server.checkpoints.locate import BUILT_IN_VARIABLE, PACKAGED  # noqa: E402
from megasam_server.checkpoints.registry import BUILT_IN, Checkpoint  # noqa: E402
from megasam_server.checkpoints.verify import verify  # noqa: E402
from megasam_server.models.droid_net import DroidNet  # noqa: E402
from megasam_server.models.raft import RaftFlow  # noqa: E402
from megasam_server.training.clips import CELL, film_clips  # noqa: E402
from megasam_server.training.flow_pairs import FlowPairs, generate  # noqa: E402
from megasam_server.training.pieces import HELD_OUT_SEED  # noqa: E402
from megasam_server.training.texture_bank import TextureBank, paint_pictures  # noqa: E402
from megasam_server.training.unrolling import (  # noqa: E402
    ClipGraph,
    Lesson,
    Plan,
    cold_start,
    unroll,
)
from megasam_shared.transfer import HashCache  # noqa: E402
from torch import Tensor, nn  # noqa: E402

HEIGHT, WIDTH = 128, 192
CLIPS, FRAMES = 1, 4
ITERATIONS = 12

every_own = pytest.mark.parametrize(
    "checkpoint",
    [
        pytest.param(checkpoint, id=checkpoint.name)
        for checkpoint in BUILT_IN
        if (PACKAGED / checkpoint.files[0].name).is_file()
    ],
)


@dataclass(frozen=True)
class Exercise:
    """What a network does on held-out data.

    Attributes:
        outputs: network and device -> tensors on the CPU, float32.
        error_px: these -> mean error of the flow, pixels.
        motion_px: mean length of the true flow, the error of a network that sees none.
        tolerance: largest mean difference of each output between CPU and GPU.
    """

    outputs: Callable[[nn.Module, str], dict[str, Tensor]]
    error_px: Callable[[dict[str, Tensor]], float]
    motion_px: Callable[[], float]
    tolerance: dict[str, float]


@cache
def held_out_textures() -> Tensor:
    return paint_pictures(12, HELD_OUT_SEED, size=128)


@cache
def pairs() -> FlowPairs:
    bank = TextureBank(held_out_textures(), "cpu")
    return generate(bank, HELD_OUT_SEED + 10, 1, HEIGHT, WIDTH, largest_step=30.0)


@cache
def lesson() -> Lesson:
    bank = TextureBank(held_out_textures(), "cpu")
    clips = film_clips(
        bank, HELD_OUT_SEED + 3, CLIPS, FRAMES, HEIGHT, WIDTH, static=True, steps_px=(2.0, 12.0)
    )
    return Lesson.of(clips, graph("cpu"))


def graph(device: str) -> ClipGraph:
    return ClipGraph(CLIPS, FRAMES, (HEIGHT // CELL, WIDTH // CELL), torch.device(device))


def flow_of_a_pair(network: RaftFlow, device: str) -> dict[str, Tensor]:
    pictures = torch.stack([pairs().first[0], pairs().second[0]]).to(device)
    features = network.encode(pictures)
    return {"flow": network.flow(features[:1], features[1:], ITERATIONS).full.float().cpu()}


def flow_error(outputs: dict[str, Tensor]) -> float:
    error = (outputs["flow"][0] - pairs().flow[0]).norm(dim=0)
    return error[pairs().valid[0]].mean().item()


@torch.no_grad()
def one_update(network: DroidNet, device: str) -> dict[str, Tensor]:
    """The first call of the update operator, all cameras in one place."""
    here, edges = on(lesson(), device), graph(device)
    (first,) = unroll(network, here, edges, cold_start(here, edges), Plan(1, motion=True))
    return {name: getattr(first.output, name).float().cpu() for name in ("delta", "weight")}


def on(given: Lesson, device: str) -> Lesson:
    """A lesson on another device."""
    truth = type(given.truth)(given.truth.poses.to(device), given.truth.disps.to(device))
    others = (getattr(given, n) for n in ("target", "valid", "rigid", "static"))
    return Lesson(
        given.pictures.to(device),
        given.intrinsics.to(device),
        truth,
        *(tensor.to(device) for tensor in others),
    )


def update_error(outputs: dict[str, Tensor]) -> float:
    """Of where the update moves the cells, which start in their own places."""
    target = graph("cpu").grid + outputs["delta"]
    return CELL * (target - lesson().target).norm(dim=-1)[lesson().valid].mean().item()


EXERCISES = {
    "raft": Exercise(
        flow_of_a_pair,
        flow_error,
        lambda: flow_error({"flow": torch.zeros_like(pairs().flow[:1])}),
        {"flow": 0.05},
    ),
    "droid": Exercise(
        one_update,
        update_error,
        lambda: update_error({"delta": torch.zeros_like(lesson().target)}),
        {"delta": 0.02, "weight": 0.01},
    ),
}
BUILDERS = {"raft": RaftFlow, "droid": DroidNet}


def loaded(checkpoint: Checkpoint) -> nn.Module:
    return load_network(checkpoint, PACKAGED / checkpoint.files[0].name, commercial_only=True)


@every_own
def test_the_file_is_the_one_that_its_card_and_the_table_describe(
    checkpoint, tmp_path, monkeypatch
):
    monkeypatch.delenv(BUILT_IN_VARIABLE)
    (file,) = checkpoint.files
    assert file.sha256 and file.size, "enter size and SHA-256 of the file in the table"
    assert verify(checkpoint, tmp_path, HashCache()).state == "verified"
    card = (PACKAGED / file.name).with_name("MODEL_CARD.md").read_text("utf-8")
    assert "Apache-2.0" in card and (PACKAGED / file.name).name in card


@every_own
def test_every_weight_is_loaded_finite_and_nothing_is_lost_in_half_precision(checkpoint):
    """So float32 on a CPU and float16 on a GPU start from the same numbers."""
    network = loaded(checkpoint)
    assert {name for name, _ in network.named_parameters()} == {
        name for name, _ in BUILDERS[checkpoint.network]().named_parameters()
    }
    for name, tensor in network.state_dict().items():
        assert tensor.device.type == "cpu" and torch.isfinite(tensor).all(), name
        if tensor.is_floating_point():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, tensor.half().float()), name


@every_own
def test_most_of_the_motion_is_seen_and_with_random_weights_it_is_not(checkpoint):
    exercise = EXERCISES[checkpoint.network]
    torch.manual_seed(0)
    random = BUILDERS[checkpoint.network]().eval().requires_grad_(False)
    outputs = exercise.outputs(loaded(checkpoint), "cpu")
    assert all(torch.isfinite(tensor).all() for tensor in outputs.values())
    error = exercise.error_px(outputs)
    assert error < exercise.error_px(exercise.outputs(random, "cpu"))
    assert error < 0.5 * exercise.motion_px()


@every_own
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares with a CUDA GPU")
def test_half_precision_on_a_gpu_says_the_same(checkpoint):
    exercise = EXERCISES[checkpoint.network]
    network = loaded(checkpoint)
    expected = exercise.outputs(network, "cpu")
    found = exercise.outputs(network.to("cuda", torch.float16), "cuda")
    for name, tolerance in exercise.tolerance.items():
        difference = (found[name] - expected[name]).abs().mean().item()
        assert difference < tolerance, (name, difference)
