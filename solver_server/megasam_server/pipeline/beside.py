"""Work of the processor beside that of the GPU, in a process of its own.

A thread would share the interpreter with what starts the GPU's kernels: numpy holds it in many functions, and a
GPU that waits for its next kernel costs more than a second interpreter does.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

Result = TypeVar("Result")


class WorkLost(Exception):
    """The process has ended before its work has."""


class Beside:
    """A process that does one thing after the other, for as long as the block runs.

    It ends with the block, or with this process, whatever it is doing then. What it prints goes to
    standard error.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            # -P: a folder that happens to be current is no place to import from.
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._pool = ThreadPoolExecutor(1, "beside")

    def __enter__(self) -> Beside:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._pool.shutdown(cancel_futures=True)
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # half a request may be left in it
                pipe.close()

    def submit(self, function: Callable[..., Result], *args: object) -> Future[Result]:
        """Have ``function`` called there.

        Args:
            function: of a module that can be imported there.
            args: of it, anything that can be pickled; a future of an earlier call stands for its result.

        Returns:
            what ``function`` returns or raises, once it has; :class:`WorkLost` where the process did not live
            to see it.
        """
        return self._pool.submit(self._call, function, args)

    def _call(self, function: Callable[..., Result], args: tuple[object, ...]) -> Result:
        known = [arg.result() if isinstance(arg, Future) else arg for arg in args]
        try:
            pickle.dump(pickle.dumps((function, known)), self._process.stdin)
            self._process.stdin.flush()
            succeeded, answer = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            code = self._process.wait()
            raise WorkLost(f"The process ended with code {code}.") from error
        if not succeeded:
            raise answer
        return answer


def main() -> None:
    """The other process: what is asked for on its input, answered on its output."""
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries may print
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def receive() -> None:
        try:
            while True:
                requests.put(pickle.load(asked))
        finally:
            os._exit(0)  # nobody is there to wait for an answer

    threading.Thread(target=receive, daemon=True).start()
    while True:
        answers.write(_answer(requests.get()))
        answers.flush()


def _answer(request: bytes) -> bytes:
    try:
        function, args = pickle.loads(request)
        return pickle.dumps((True, function(*args)))
    except Exception as error:
        error.add_note(f"In the process beside:\n{traceback.format_exc()}")
        try:
            answer = pickle.dumps((False, error))
            pickle.loads(answer)
        except Exception:
            return pickle.dumps((False, RuntimeError(traceback.format_exc())))
        return answer


if __name__ == "__main__":
    main()
