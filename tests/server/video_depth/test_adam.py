"""Adam is Adam."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from megasam_server.video_depth.adam import Adam, Variable  # noqa: E402


def test_the_same_steps_as_the_published_one():
    start, *gradients = torch.randn(8, 20, generator=torch.Generator().manual_seed(0))
    gradients[2][3:] = 0
    ours, theirs = start.clone(), start.clone()
    mine, published = Adam([Variable(ours)], 0.1), torch.optim.Adam([theirs], 0.1)
    for gradient in gradients:
        mine.step([gradient])
        theirs.grad = gradient
        published.step()
    torch.testing.assert_close(ours, theirs)
    assert (ours - start).abs().min() > 0.01


def test_variables_stay_within_their_bounds():
    values = torch.tensor([0.0, 1.0, 2.0])
    descent = Adam([Variable(values, 0.0, 1.95)], 0.1)
    for _ in range(3):
        descent.step([torch.tensor([1.0, 1.0, -1.0])])
    assert values.tolist() == pytest.approx([0.0, 0.7, 1.95])
