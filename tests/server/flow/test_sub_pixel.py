"""Flow that is nearly right becomes right to a part of a pixel, and nothing worse happens to it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from megasam_server.flow.sub_pixel import grey, refine_flow  # noqa: E402

HEIGHT, WIDTH = 120, 160


def painted(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Soft texture of all sizes, float32 [H,W], 30-220."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width), np.float32)
    for cell in (3, 6, 12, 24):
        small = random.normal(size=(height // cell + 2, width // cell + 2)).astype(np.float32)
        total += cell**0.5 * cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(125 + 25 * total / total.std(), 30, 220)


def looks(*pictures: np.ndarray) -> list[torch.Tensor]:
    """As an 8-bit plate has them."""
    rgb = [np.repeat(p.round().clip(0, 255).astype(np.uint8)[None], 3, 0) for p in pictures]
    return list(grey(torch.from_numpy(np.stack(rgb))).split(1))


def pair(turn_deg: float = 2.0, grow: float = 1.03, light: float = 1.0, blind: bool = False):
    """Source, target, and the true flow [1,2,H,W] of a plane that turns and comes closer."""
    source = painted(1)
    motion = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), turn_deg, grow)
    motion[:, 2] += (3.4, -2.7)
    target = cv2.warpAffine(
        source, motion, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    flow = np.stack([motion[k, 0] * x + motion[k, 1] * y + motion[k, 2] for k in (0, 1)])
    flow -= np.stack([x, y])
    if blind:
        source, target = (np.full_like(picture, 90) for picture in (source, target))
    return *looks(source, target * light), torch.from_numpy(flow[None]).float()


def errors(flow: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return (flow - truth).norm(dim=1)[:, 12:-12, 12:-12]


def as_networks_err(truth: torch.Tensor, size: float = 0.3) -> torch.Tensor:
    """``truth`` with soft errors and some from cell to cell."""
    random = torch.Generator().manual_seed(2)

    def soft(cell: int) -> torch.Tensor:
        small = torch.randn(1, 2, HEIGHT // cell, WIDTH // cell, generator=random)
        return torch.nn.functional.interpolate(small, (HEIGHT, WIDTH), mode="bicubic")

    return truth + size * soft(20) + 0.3 * size * soft(8)


@pytest.mark.parametrize(("case", "share"), [({}, 0.35), ({"light": 0.9}, 0.4)])
def test_errors_below_a_pixel_become_smaller(case, share):
    source, target, truth = pair(**case)
    start = as_networks_err(truth)
    refined = refine_flow(start, source, target)
    before, after = errors(start, truth), errors(refined, truth)
    assert before.median() > 0.25
    assert after.median() < share * before.median()
    assert (after > before + 0.2).float().mean() < 0.01


def test_truth_stays_true():
    source, target, truth = pair()
    assert errors(refine_flow(truth, source, target), truth).median() < 0.06


def test_what_shows_nothing_keeps_the_flow_of_the_network():
    source, target, truth = pair(blind=True)
    start = as_networks_err(truth, size=0.1)
    assert (refine_flow(start, source, target) - start).abs().max() < 0.1


def test_a_thing_in_front_keeps_its_edge_and_what_it_hides_does_not_run_away():
    """A square moves ten pixels over a wall that stands still."""
    wall, thing = painted(3), painted(4)
    source, target = wall.copy(), wall.copy()
    source[40:80, 40:80] = thing[40:80, 40:80]
    target[40:80, 50:90] = thing[40:80, 40:80]
    truth = torch.zeros(1, 2, HEIGHT, WIDTH)
    truth[:, 0, 40:80, 40:80] = 10.0
    refined = refine_flow(truth, *looks(source, target))
    off = (refined - truth).norm(dim=1)
    assert off.max() < 3.1  # an iteration moves by a pixel at most
    assert (off > 0.5).float().mean() < 0.04
    assert (off < 0.1).float().mean() > 0.85


def test_pairs_of_a_batch_do_not_know_of_each_other():
    one, other = pair(), pair(turn_deg=-3.0, grow=0.97)
    both = [torch.cat(parts) for parts in zip(one, other, strict=True)]
    start = both[2] + 0.3
    refined = refine_flow(start, both[0], both[1])
    for row, (source, target, truth) in enumerate((one, other)):
        alone = refine_flow(truth + 0.3, source, target)
        assert torch.allclose(refined[row], alone[0], atol=1e-4)
