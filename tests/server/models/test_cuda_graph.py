"""Work that is done many times over: plainly on a CPU, as a graph on a GPU, with the same result."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from megasam_server.models.cuda_graph import Replayed, release_graph_memory  # noqa: E402

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.mark.parametrize("device", DEVICES)
def test_every_call_does_the_work_once(device):
    total = torch.zeros(3, device=device)
    step = torch.arange(3.0, device=device)
    replayed = Replayed(lambda: total.add_(step * 2), total.device)
    for count in range(1, 6):
        replayed()
        assert total.tolist() == [0.0, 2.0 * count, 4.0 * count]
    step += 1  # in place: the next call finds it
    replayed()
    assert total.tolist() == [2.0, 14.0, 26.0]
    release_graph_memory()


def test_an_error_of_the_work_is_the_callers():
    def work() -> None:
        raise ValueError("spoilt")

    replayed = Replayed(work, torch.device("cpu"))
    for _ in range(2):
        with pytest.raises(ValueError, match="spoilt"):
            replayed()
