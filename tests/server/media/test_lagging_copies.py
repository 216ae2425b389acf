"""Results that are handed over one step late, in order, each once."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from megasam_server.media.lagging_copies import LaggingCopies  # noqa: E402

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.mark.parametrize("device", DEVICES)
def test_each_comes_when_the_next_is_under_way_and_the_last_at_the_end(device):
    taken = []
    copies = LaggingCopies(lambda a, b: taken.append((a.tolist(), b.tolist())))
    for number in range(3):
        copies.put(torch.full((2,), float(number), device=device), torch.ones(1, device=device))
        assert [first for first, _ in taken] == [[float(k)] * 2 for k in range(number)]
    copies.finish()
    copies.finish()
    assert taken == [([float(k)] * 2, [1.0]) for k in range(3)]


def test_nothing_is_handed_over_twice_when_the_taker_fails():
    def take(tensor) -> None:
        raise OSError("disk full")

    copies = LaggingCopies(take)
    copies.put(torch.zeros(1))
    with pytest.raises(OSError):
        copies.put(torch.zeros(1))
    copies.finish()
