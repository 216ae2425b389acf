"""A TCP proxy between client and server whose cable can be pulled."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time


class CutProxy:
    """Forwards connections to ``address``; counts the bytes each way; drops them on demand.

    Args:
        address: ``tcp://127.0.0.1:PORT`` of the server.

    Attributes:
        address: where clients connect.
        to_server, to_client: bytes that went through.
    """

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("tcp://").split(":")
        self._target = (host, int(port))
        self.to_server = self.to_client = 0
        self._cut = threading.Event()
        self._stalled = threading.Event()
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> CutProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def cut(self) -> None:
        """Break every connection, and take none until :meth:`mend`."""
        self._cut.set()

    def stall(self) -> None:
        """Swallow everything until :meth:`mend`, and tell nobody: a cable that was pulled."""
        self._stalled.set()

    def mend(self) -> None:
        self._cut.clear()
        self._stalled.clear()

    def _start(self, target, *args) -> None:
        self._threads.append(threading.Thread(target=target, args=args))
        self._threads[-1].start()

    def _accept(self) -> None:
        while not self._closing:
            if not select.select([self._listener], [], [], 0.02)[0]:
                continue
            client, _ = self._listener.accept()
            if self._cut.is_set() or self._stalled.is_set():
                client.close()
                continue
            self._start(self._forward, client, socket.create_connection(self._target))

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with client, server, contextlib.suppress(OSError):
            while not (self._closing or self._cut.is_set()):
                if self._stalled.is_set():
                    time.sleep(0.02)
                    continue
                for ready in select.select([client, server], [], [], 0.02)[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        return
                    if ready is client:
                        self.to_server += len(data)
                        server.sendall(data)
                    else:
                        self.to_client += len(data)
                        client.sendall(data)
