"""What a server counts: plain numbers, for the log, the status and the metrics."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

# TCP connections, and the peers that did not get past the handshake: with a key that is not on the
# allow-list; not encrypted, encrypted for another server, or no ZeroMQ at all. A message over the
# size that libzmq takes ends its connection and shows as a disconnection only.
CONNECTIONS = "connections"
DISCONNECTIONS = "disconnections"
REFUSED_KEYS = "refused_keys"
REFUSED_HANDSHAKES = "refused_handshakes"
# Messages that came, and those answered with an error; refusals are also counted by error code.
MESSAGES = "messages"
REFUSED_MESSAGES = "refused_messages"
# Bytes of files.
UPLOADED_BYTES = "uploaded_bytes"
FETCHED_BYTES = "fetched_bytes"
# Jobs that are over, by how they ended, and those that were begun again after their worker died.
ENDED_JOBS = "ended_jobs"
RETRIED_JOBS = "retried_jobs"


class Counters:
    """Numbers that only grow. Safe to use from any thread.

    A counter has a name and may have a label, such as the code of the error that was answered.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def add(self, name: str, count: int = 1, label: str = "") -> None:
        with self._lock:
            self._counts[name, label] += count

    def total(self, name: str) -> int:
        """Over all labels."""
        with self._lock:
            return sum(count for (known, _), count in self._counts.items() if known == name)

    def snapshot(self) -> Mapping[tuple[str, str], int]:
        """(name, label) -> count, as it is now."""
        with self._lock:
            return dict(self._counts)
