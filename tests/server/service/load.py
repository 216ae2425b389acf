"""Load on a server from many clients, in processes of their own; used by a test and a benchmark."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.server.service.serving import Serving

REPOSITORY = Path(__file__).parents[3]
_PIECE = 1 << 20


@dataclass(frozen=True)
class JobLoad:
    """What a load of jobs did.

    Attributes:
        states: how many jobs ended how, as their clients were told.
        runs: how many jobs workers ran, and how many of them more than once.
        seconds: from the first submission to the last result at its client.
        p50, p99, worst: of the time from a worker's word to the client that hears it, seconds.
        early_mib, late_mib: resident memory of the server after a fifth of the jobs and at the end.
    """

    states: dict[str, int]
    runs: int
    repeated: int
    seconds: float
    reports: int
    p50: float
    p99: float
    worst: float
    early_mib: float
    late_mib: float


def load_with_jobs(
    folder: Path, clients: int, jobs_each: int, seconds_each: float, processes: int = 5
) -> JobLoad:
    """Let ``clients`` clients submit ``jobs_each`` small plates each to one server, all at once."""
    folder.mkdir(parents=True, exist_ok=True)
    counted = folder / "counted"
    counted.touch()
    count = clients * jobs_each
    with Serving(folder / "state", "--gpus", "cpu", "--queue-limit", str(count)) as server:
        arguments = [
            [*("jobs", server.address, str(clients // processes), str(jobs_each))]
            + [str(seconds_each), str(counted), str(folder / f"clients{number}")]
            for number in range(processes)
        ]
        memory: list[tuple[int, float]] = []
        over = threading.Event()

        def watch_memory() -> None:
            process = psutil.Process(server.pid)
            while not over.wait(0.2):
                done = counted.read_bytes().count(b"\n")
                memory.append((done, process.memory_info().rss / 2**20))

        watcher = threading.Thread(target=watch_memory)
        watcher.start()
        began = time.monotonic()
        try:
            seen = run_together(arguments)
        finally:
            seconds = time.monotonic() - began
            over.set()
            watcher.join()
    latencies = sorted(latency for each in seen for latency in each["latencies"])
    runs = Counter(counted.read_text().split())
    return JobLoad(
        states=dict(Counter(state for each in seen for state in each["states"])),
        runs=len(runs),
        repeated=sum(times > 1 for times in runs.values()),
        seconds=seconds,
        reports=len(latencies),
        p50=latencies[len(latencies) // 2],
        p99=latencies[int(len(latencies) * 0.99)],
        worst=latencies[-1],
        early_mib=max(mib for done, mib in memory if done <= count / 5),
        late_mib=memory[-1][1],
    )


def load_with_uploads(address: str, files_of_each: Sequence[Sequence[Path]]) -> float:
    """Bring files to a server with one client process for each list; returns seconds from the first
    byte to the last answer."""
    arguments = [["upload", address, *map(str, files)] for files in files_of_each]
    seen = run_together(arguments)
    return max(each["ended"] for each in seen) - min(each["began"] for each in seen)


def run_together(arguments: Sequence[Sequence[str]]) -> list[dict]:
    """Start a process of :mod:`load_client` for each list of arguments, let all begin at the same
    time, and return what each printed."""
    command = [sys.executable, "-m", "tests.server.service.load_client"]
    processes = [
        subprocess.Popen(
            [*command, *each],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        for each in arguments
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        seen = [json.loads(process.stdout.readline()) for process in processes]
        assert all(process.wait(30) == 0 for process in processes)
        return seen
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def random_files(folder: Path, clients: int, files_each: int, bytes_each: int) -> list[list[Path]]:
    """Files of noise, no two alike."""
    folder.mkdir(parents=True)
    noise = os.urandom(min(bytes_each, 64 << 20))
    made = []
    for client in range(clients):
        made.append([])
        for number in range(files_each):
            path = folder / f"{client}_{number}.mov"
            with path.open("wb") as file:
                left = bytes_each
                while left:
                    block = f"{client} {number} {left}".encode() + noise[64:]
                    left -= file.write(block[:left])
            made[-1].append(path)
    return made


SENDER = """
import hashlib, socket, sys, time
sys.stdin.readline()
began = time.monotonic()
hashed, paths = sys.argv[2] == "hashed", sys.argv[3:]
for path in paths if hashed else []:
    with open(path, "rb") as file:
        hashlib.file_digest(file, "sha256")
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    for path in paths:
        with open(path, "rb") as file:
            while data := file.read(1 << 20):
                connection.sendall(data)
print(began, time.monotonic())
"""


def bare_copy(
    files_of_each: Sequence[Sequence[Path]], target: Path | None, hashed: bool = False
) -> float:
    """Seconds of the same files through plain sockets: processes that read and send, a thread each
    that receives and writes to ``target``, or throws away when that is None. With ``hashed`` both
    sides do as an upload must: the sender hashes its files first, the receiver what comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        senders = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    SENDER,
                    str(port),
                    "hashed" if hashed else "",
                    *map(str, files),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for files in files_of_each
        ]
        threads = []
        for sender in senders:
            sender.stdin.write("go\n")
            sender.stdin.flush()
        for number in range(len(senders)):
            connection, _ = listener.accept()
            path = None if target is None else target / f"copy{number}"
            threads.append(threading.Thread(target=_receive, args=(connection, path, hashed)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        ended = time.monotonic()
        began = min(float(sender.stdout.readline().split()[0]) for sender in senders)
        for sender in senders:
            sender.wait()
            sender.stdin.close()
            sender.stdout.close()
    return ended - began


def _receive(connection: socket.socket, path: Path | None, hashed: bool) -> None:
    piece = memoryview(bytearray(_PIECE))
    digest = hashlib.sha256()
    with connection, open(path or os.devnull, "wb", buffering=0) as file:
        while count := connection.recv_into(piece):
            if hashed:
                digest.update(piece[:count])
            file.write(piece[:count])


def hash_speed() -> float:
    """Bytes of SHA-256 per second of one core."""
    data = os.urandom(_PIECE)
    began = time.perf_counter()
    for _ in range(200):
        hashlib.sha256(data).digest()
    return 200 * _PIECE / (time.perf_counter() - began)
