"""Numbers for Prometheus over HTTP, on loopback only: they are nobody's business elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from megasam_shared import __version__
from megasam_shared.errors import MegasamError
from megasam_shared.server_keys import is_loopback
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

from megasam_server.service import counters as names
from megasam_server.service.status_requests import Numbers

# A server that does not answer its own thread is not well, and the scrape fails.
_ANSWER_TIMEOUT = 5.0

COUNTERS = {
    names.CONNECTIONS: ("TCP connections", ""),
    names.ADMITTED: ("Connections that got past the handshake", ""),
    names.DISCONNECTIONS: ("TCP connections that ended", ""),
    names.REFUSED_KEYS: ("Handshakes with a key that is not on the allow-list", ""),
    names.REFUSED_HANDSHAKES: ("Handshakes that failed otherwise", ""),
    names.MESSAGES: ("Messages that came", ""),
    names.REFUSED_MESSAGES: ("Messages answered with an error", "code"),
    names.UPLOADED_BYTES: ("Bytes of files that came", ""),
    names.FETCHED_BYTES: ("Bytes of results that went out", ""),
    names.ENDED_JOBS: ("Jobs that are over", "state"),
    names.RETRIED_JOBS: ("Jobs begun again after their worker died", ""),
}


class MetricsPort:
    """An HTTP server in threads of its own.

    Args:
        address: ``HOST:PORT``; port 0 takes a free one.
        numbers: called in the server's thread.
        call_soon: runs a function in that thread.

    Attributes:
        address: where it listens.

    Raises:
        MegasamError: ``metrics_not_loopback`` or ``metrics_bind_failed``.
    """

    def __init__(
        self,
        address: str,
        numbers: Callable[[], Numbers],
        call_soon: Callable[[Callable[[], None]], Any],
    ) -> None:
        host, _, port = address.rpartition(":")
        if not port.isdecimal() or int(port) > 65535 or not is_loopback(f"tcp://{address}"):
            raise MegasamError(
                "metrics_not_loopback",
                f"Numbers are not served on {address!r}: it is no HOST:PORT on loopback, and there"
                " is nothing to keep others from reading them.",
                "Write 127.0.0.1:9599; let Prometheus, or a proxy that asks who it is, run on this"
                " machine.",
            )
        self._numbers = numbers
        self._call_soon = call_soon
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(
                int(port), host.strip("[]"), registry=registry
            )
        except OSError as error:
            raise MegasamError(
                "metrics_bind_failed",
                f"Numbers cannot be served on {address}: {error.strerror}.",
                "Choose another port.",
            ) from None
        self.address = f"{host}:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def describe(self) -> list:
        """Tells the registry that there is nothing to be asked before the first scrape."""
        return []

    def collect(self) -> Iterator[Any]:
        """The numbers of this moment; called by the registry."""
        answer: Future[Numbers] = Future()
        self._call_soon(lambda: _answer(answer, self._numbers))
        yield from _families(answer.result(_ANSWER_TIMEOUT))


def _answer(future: Future, numbers: Callable[[], Numbers]) -> None:
    try:
        future.set_result(numbers())
    except Exception as error:
        future.set_exception(error)


def _families(now: Numbers) -> Iterator[Any]:
    yield InfoMetricFamily("megasam_server", "The software", {"version": __version__})
    jobs = GaugeMetricFamily("megasam_jobs", "Jobs that the server keeps", labels=["state"])
    for state, count in now.jobs.items():
        jobs.add_metric([state], count)
    yield jobs
    yield GaugeMetricFamily("megasam_clients", "Clients that are connected", now.clients)
    yield GaugeMetricFamily(
        "megasam_state_free_bytes", "Free room on the disk of the state folder", now.free_bytes
    )
    yield GaugeMetricFamily("megasam_uptime_seconds", "Since the server started", now.uptime)
    yield GaugeMetricFamily(
        "megasam_draining", "1 when the server takes no jobs because it stops", int(now.draining)
    )
    for name, (about, label) in COUNTERS.items():
        counted = {key[1]: count for key, count in now.counts.items() if key[0] == name}
        if label:
            family = CounterMetricFamily(f"megasam_{name}", about, labels=[label])
            for value, count in counted.items():
                family.add_metric([value], count)
        else:
            family = CounterMetricFamily(f"megasam_{name}", about, sum(counted.values()))
        yield family
