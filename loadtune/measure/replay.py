"""A recorded device: its step times pass on a virtual timeline while this machine's cores stay free for the loader.

Only the CPU time that real training burns on the host (kernel launches, the optimizer's Python) is burned here.
Nothing is trained, so a batch may be any structure.
"""

import random
import time
from typing import Any

from loadtune.records.profile import ReplayProfile


class ReplayOutOfMemoryError(RuntimeError):
    """The profile says that this batch does not fit the device."""


class ReplayAccelerator:
    """Plays a profile at one batch size. A mark is the time at which the device will have got there."""

    uuid: str | None = None

    def __init__(self, profile: ReplayProfile, batch_size: int, seed: int) -> None:
        self.run_ahead_steps: int | None = profile.run_ahead_steps or None
        self._waits_in_step = profile.run_ahead_steps == 0
        self._point = profile.at(batch_size)
        self._memory_bytes = profile.device_memory_bytes
        self._name = profile.name
        self._random = random.Random(seed)  # noqa: S311 - a step's spread, not a secret
        self._free_at_s = 0.0

    def upload(self, batch: Any) -> Any:
        """Occupy the device for the copy.

        Raises:
            ReplayOutOfMemoryError: The batch does not fit: here, where a real device says so, and not when it is made.
        """
        if self._memory_bytes is not None and self._point.memory_bytes > self._memory_bytes:
            raise ReplayOutOfMemoryError(
                f"{self._name}: batch {self._point.batch_size} needs {self._point.memory_bytes} bytes of device "
                f"memory, the profile's device has {self._memory_bytes}"
            )
        self._free_at_s = max(time.monotonic(), self._free_at_s) + self._point.copy_s
        return batch

    def step(self, batch: Any) -> None:
        """Occupy the device for one step; it cannot end before the host has launched all of it."""
        del batch
        started_s = max(time.monotonic(), self._free_at_s)
        _burn_cpu(self._point.host_cpu_s)
        device_s = max(0.0, self._random.gauss(self._point.device_s, self._point.spread_s))
        self._free_at_s = max(started_s + device_s, time.monotonic())
        if self._waits_in_step:
            self.wait(self._free_at_s)

    def record(self) -> float:
        """Return when the device will have done what is queued."""
        return max(time.monotonic(), self._free_at_s)

    def is_reached(self, mark: float) -> bool:
        """Say whether that time has come."""
        return time.monotonic() >= mark

    def wait(self, mark: float) -> None:
        """Sleep until that time."""
        while (left_s := mark - time.monotonic()) > 0:
            time.sleep(left_s)

    def monotonic_s(self, mark: float) -> float:
        """Return the mark."""
        return mark

    def peak_memory_bytes(self) -> int | None:
        """Return the profile's figure, where it has one."""
        return self._point.memory_bytes or None

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Say whether the profile refused the batch."""
        return isinstance(error, ReplayOutOfMemoryError)


def _burn_cpu(seconds: float) -> None:
    """Spend CPU time of this thread; time during which the process is stopped does not count."""
    until_s = time.thread_time() + seconds
    while time.thread_time() < until_s:
        pass
