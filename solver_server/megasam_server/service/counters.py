"""What a server counts: plain numbers, for the log, the status and the metrics."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

# TCP connections, those among them that got past the handshake, and those that ended. All that did
# not get past it were refused; why, is known of most: a key that is not on the allow-list; not
# encrypted, or encrypted for another server. Peers that do not speak ZeroMQ are in the difference
# only. A message over the size that libzmq takes ends its connection and shows as its end.
CONNECTIONS = "connections"
ADMITTED = "admitted"
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
