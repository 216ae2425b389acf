"""Networks that wait: where they do, which one gives way, and that nothing stays of those that go."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from megasam_server.pipeline.network_shelf import (  # noqa: E402
    HOST_SPARE,
    NetworkKey,
    NetworkShelf,
    bytes_of,
)

GPU = torch.device("cuda")
CPU = torch.device("cpu")
DEVICE_BYTES, HOST_BYTES = 100, 1000 + HOST_SPARE


class Machine:
    """Memory of a device of 100 bytes and a host, less what the networks hold there."""

    def __init__(self) -> None:
        self.networks: list[PretendedNetwork] = []
        self.taken = 0
        self.taken_on_host = 0
        self.refuses_host = False

    def free_on(self, device: torch.device) -> int:
        assert device == GPU
        return DEVICE_BYTES - self.taken - self.held("cuda")

    def free_on_host(self) -> int:
        return HOST_BYTES - self.taken_on_host - self.held("cpu")

    def held(self, place: str) -> int:
        return sum(network.size for network in self.networks if network.place == place)


class PretendedNetwork:
    """A network whose weights are nowhere, for a device that is not there."""

    def __init__(self, machine: Machine, size: int) -> None:
        self.size, self.place = size, "cpu"
        self.recorded: list[str] = []
        self._machine = machine
        machine.networks.append(self)

    def parameters(self):
        return [SimpleNamespace(nbytes=self.size - 1)]

    def buffers(self):
        return [SimpleNamespace(nbytes=1)]

    def to(self, device, dtype=None):
        device = torch.device(device)
        self.recorded.clear()
        if device == GPU and self.place == "cpu" and self._machine.free_on(GPU) < self.size:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if device == CPU and self.place == "cuda" and self._machine.refuses_host:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        self.place = device.type
        return self


class Stock:
    """A shelf and its networks, each of as many bytes as asked for."""

    def __init__(self, host_budget: int = 100) -> None:
        self.machine = Machine()
        self.shelf = NetworkShelf(self.machine, host_budget)
        self.loads: list[str] = []

    def key(self, name: str, device: torch.device = GPU) -> NetworkKey:
        return NetworkKey(name, "version 1", device, torch.float16)

    def take(self, name: str, size: int = 10, **changes) -> PretendedNetwork:
        def load() -> PretendedNetwork:
            self.loads.append(name)
            return PretendedNetwork(self.machine, size)

        return self.shelf.take(replace(self.key(name), **changes), load)

    def use(self, name: str, size: int = 10, needed: int | None = 0, **changes) -> PretendedNetwork:
        network = self.take(name, size, **changes)
        self.shelf.put_back(replace(self.key(name), **changes), network, needed)
        return network


@pytest.fixture
def stock() -> Stock:
    return Stock()


def test_a_network_stays_on_the_device_while_the_next_stage_has_room(stock):
    mono = stock.use("mono", size=30, needed=70)
    assert mono.place == "cuda" and stock.shelf.device_bytes == 30
    assert stock.take("mono") is mono
    assert stock.loads == ["mono"] and len(stock.shelf) == 0


def test_what_waits_on_the_device_holds_its_weights_only(stock):
    flow = stock.take("flow")
    flow.recorded.append("a graph and its tensors")
    stock.shelf.put_back(stock.key("flow"), flow, 0)
    assert flow.place == "cuda" and not flow.recorded


def test_it_waits_in_host_memory_when_the_next_stage_has_not(stock):
    mono = stock.use("mono", size=30, needed=71)
    assert mono.place == "cpu"
    assert (stock.shelf.device_bytes, stock.shelf.host_bytes) == (0, 30)
    assert stock.take("mono") is mono and mono.place == "cuda"
    assert stock.loads == ["mono"]


def test_nothing_stays_on_the_device_when_nobody_knows_what_comes_next(stock):
    assert stock.use("mono", needed=None).place == "cpu"


def test_the_least_recently_used_gives_way_first(stock):
    mono, metric, flow = (stock.use(name, size=20) for name in ("mono", "metric", "flow"))
    stock.use("mono")
    stock.shelf.make_room(GPU, 60)
    assert [n.place for n in (mono, metric, flow)] == ["cuda", "cpu", "cuda"]
    stock.shelf.make_room(GPU, 100)
    assert {n.place for n in (mono, metric, flow)} == {"cpu"}
    # The device is empty, whatever else was asked for.
    stock.shelf.make_room(GPU, 1000)
    assert stock.loads == ["mono", "metric", "flow"]


def test_room_counts_what_others_took(stock):
    mono, flow = stock.use("mono", size=20), stock.use("flow", size=20)
    stock.machine.taken = 50
    stock.shelf.make_room(GPU, 30)
    assert [mono.place, flow.place] == ["cpu", "cuda"]


def test_the_network_of_the_stage_that_needs_the_room_stays(stock):
    mono, flow = stock.use("mono", size=20), stock.use("flow", size=20)
    # 80 with its own 20, which are there.
    stock.shelf.make_room(GPU, 80, stock.key("mono"))
    assert [mono.place, flow.place] == ["cuda", "cuda"]
    stock.shelf.make_room(GPU, 81, stock.key("mono"))
    assert [mono.place, flow.place] == ["cuda", "cpu"]


def test_the_next_network_is_not_put_away_for_the_one_that_was_used(stock):
    metric = stock.use("metric", size=20)
    mono = stock.take("mono", size=20)
    stock.shelf.put_back(stock.key("mono"), mono, 100, stock.key("metric"))
    assert [metric.place, mono.place] == ["cuda", "cpu"]


def test_host_memory_is_bounded_and_the_oldest_goes(stock):
    names = ("mono", "metric", "tracking")
    mono, metric, tracking = (stock.use(name, size=40, needed=None) for name in names)
    assert [n.place for n in (mono, metric, tracking)] == ["meta", "cpu", "cpu"]
    assert stock.shelf.host_bytes == 80
    large = stock.use("large", size=99, needed=None)
    assert large.place == "cpu" and len(stock.shelf) == 1
    # What would never fit drives nobody out.
    stock.machine.networks.clear()
    assert Stock(50).use("large", size=51, needed=None).place == "meta"


def test_host_memory_that_others_need_is_theirs(stock):
    mono = stock.use("mono", size=40, needed=None)
    flow = stock.use("flow", size=40)
    stock.machine.taken_on_host = 990
    assert stock.shelf.empty_device()
    assert (mono.place, flow.place) == ("meta", "meta")
    assert len(stock.shelf) == 0 and not stock.shelf.empty_device()


def test_a_host_that_gives_no_memory_costs_the_network_and_no_more(stock):
    stock.machine.refuses_host = True
    assert stock.use("mono", needed=None).place == "meta"
    assert len(stock.shelf) == 0


def test_a_device_without_room_keeps_nothing_of_the_attempt(stock):
    stock.machine.taken = 95
    with pytest.raises(torch.OutOfMemoryError):
        stock.take("mono")
    assert stock.machine.networks[0].place == "meta" and len(stock.shelf) == 0


def test_a_file_that_changed_is_read_again_and_its_old_weights_are_gone(stock):
    old = stock.use("mono")
    new = stock.use("mono", version="version 2")
    assert new is not old and stock.loads == ["mono", "mono"]
    assert old.place == "meta" and len(stock.shelf) == 1


def test_another_precision_is_another_network(stock):
    half, full = stock.use("mono"), stock.use("mono", dtype=torch.float32)
    assert half is not full and len(stock.shelf) == 2


def test_two_of_the_same_do_not_stay(stock):
    first, second = stock.take("mono"), stock.take("mono")
    stock.shelf.put_back(stock.key("mono"), first, 0)
    stock.shelf.put_back(stock.key("mono"), second, 0)
    assert [first.place, second.place] == ["meta", "cuda"]


def test_on_a_processor_the_host_budget_counts():
    size = bytes_of(torch.nn.Linear(3, 2))
    assert size == 4 * (3 * 2 + 2)
    shelf = NetworkShelf(host_budget=size)
    key = NetworkKey("small", "1", CPU, torch.float32)
    with torch.no_grad():
        network = shelf.take(key, lambda: torch.nn.Linear(3, 2))
        expected = network(torch.ones(3)).tolist()
    shelf.put_back(key, network)
    shelf.make_room(CPU, 1 << 60)
    assert shelf.host_bytes == size
    assert shelf.take(key, pytest.fail)(torch.ones(3)).tolist() == expected
    shelf.put_back(key, network)
    other = shelf.take(replace(key, checkpoint="other"), lambda: torch.nn.Linear(3, 2))
    shelf.put_back(replace(key, checkpoint="other"), other)
    assert network.weight.is_meta and not other.weight.is_meta
    shelf.put_back(key, torch.nn.Linear(4, 2))
    assert len(shelf) == 1, "it is larger than the budget, and nobody gave way for it"
