"""The CPU as a device: every call is done when it returns, so a mark is the clock."""

import time
from collections.abc import Callable
from typing import Any


class CpuAccelerator:
    """Trains on this machine's cores, in the calling thread and torch's intra-op threads."""

    run_ahead_steps: int | None = None
    uuid: str | None = None

    def __init__(self, train_step: Callable[[Any], None]) -> None:
        self._train_step = train_step

    def upload(self, batch: Any) -> Any:
        """Return the batch: it is where it has to be."""
        return batch

    def step(self, batch: Any) -> None:
        """Train one step and return when it is done."""
        self._train_step(batch)

    def record(self) -> float:
        """Return the time."""
        return time.monotonic()

    def is_reached(self, mark: float) -> bool:
        """Return True: what was recorded has happened."""
        del mark
        return True

    def wait(self, mark: float) -> None:
        """Return at once."""

    def monotonic_s(self, mark: float) -> float:
        """Return the mark."""
        return mark

    def peak_memory_bytes(self) -> int | None:
        """Return None: host memory is watched from outside this process."""
        return None

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return False: host memory is told apart by the runner."""
        del error
        return False
