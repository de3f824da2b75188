"""How long may a look take? A dead file server, or a GPU that hangs, must not hang the program that asks after it."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Look(Generic[T]):
    """A call that runs in a thread of its own, from now on. The thread ends with the program, finished or not.

    Args:
        call: What to do.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._began_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self, limit_s: float) -> T:
        """Return what the call returned.

        Args:
            limit_s: Seconds from the start of the call until it is given up.

        Raises:
            TimeoutError: It has not returned by then; its thread is left to itself.
            Exception: Whatever the call raised.
        """
        self._thread.join(max(0.0, self._began_s + limit_s - time.monotonic()))
        if self._error is not None:
            raise self._error
        if not self._results:
            raise TimeoutError(f"no answer in {limit_s:g} s")
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            self._error = error
