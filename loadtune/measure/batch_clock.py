"""What did a batch take in the process that made it? Its samples and their parts, against the clocks of one thread.

Two clock readings a sample, three of CPU times and one of the scheduler's statistics at both ends of a batch, and where
samples are slow two more of the latter a sample: about 1 and 12 microseconds.
"""

import os
import time
from collections.abc import Callable
from statistics import fmean, median
from threading import get_ident
from typing import Any, NamedTuple

SCHEDSTAT = "/proc/self/schedstat"
"""Of the main thread: nanoseconds on a core, nanoseconds ready and waiting for one, and time slices."""
DEAR_SAMPLE_S = 0.001
"""Mean time of a sample from which two more readings of 6 microseconds each are spent on it: a sample that only waited
for a core is not a slow one. Lower would slow down data sets that hand out what they hold in memory."""


class Work(NamedTuple):
    """What one batch took. Seconds are elapsed unless said otherwise."""

    busy_s: float
    """From the first sample asked for to the end of collate_fn."""
    cpu_s: float
    """Of these on a core."""
    process_cpu_s: float
    """CPU seconds of all the worker's threads meanwhile, this one's included."""
    delayed_s: float | None
    """Of the elapsed ready to run, and waiting for a core; None where the kernel does not tell."""
    collate_s: float
    median_s: float | None
    """Of its samples; None where they come all at once (`__getitems__`)."""
    slowest_s: float | None
    slowest_index: int | None
    indexed: str
    """What that index counts in, as `BatchClock` was told."""
    parts: tuple[tuple[str, float], ...]
    minor_faults: int


class _Start(NamedTuple):
    """The clocks when a batch's first sample was asked for."""

    now_s: float
    cpu_s: float
    process_cpu_s: float
    delayed_ns: int | None
    minor_faults: int


class BatchClock:
    """Times batch after batch of the thread that made it.

    Args:
        indexed: What indices of samples count in; it is told with each batch.
    """

    def __init__(self, indexed: str = "dataset") -> None:
        self.mean_sample_s: float | None = None
        """Of the batch taken last; None where no single sample of it was timed."""
        self._indexed = indexed
        self._thread = get_ident()
        self.forget()

    def forget(self) -> None:
        """Drop what was seen of a batch: it has been told, or will never be one."""
        self._start: _Start | None = None
        self._is_inside = False
        self._untimed = 0
        self._walls_s: list[float] = []
        self._slowest: tuple[float, int | None] = (0.0, None)
        self._parts: dict[str, float] = {}

    @property
    def is_own_thread(self) -> bool:
        """Whether the thread that asks is the one whose time is taken."""
        return get_ident() == self._thread

    @property
    def is_inside(self) -> bool:
        """Whether this thread makes a sample that is timed: all that it asks for meanwhile is part of that."""
        return self._is_inside and self.is_own_thread

    def begin(self) -> tuple[float, int | None]:
        """Note that a sample is asked for; return the time and, if a sample is worth it, the wait for a core so far."""
        now_s = time.perf_counter()
        if self._start is None:
            self._start = _Start(now_s, time.thread_time(), time.process_time(), read_delay_ns(), _minor_faults())
        self._is_inside = True
        return now_s, self._sample_delay_ns()

    def end(self, began: tuple[float, int | None], index: Any = None, *, is_single: bool = True) -> None:
        """Note that it is there.

        Args:
            began: As `begin` returned it.
            index: Of the sample; only integers are kept.
            is_single: Whether it was one sample, and not several at once.
        """
        self._is_inside = False
        if not is_single:
            return
        wall_s, delay_ns = time.perf_counter() - began[0], self._sample_delay_ns()
        if began[1] is not None and delay_ns is not None:
            wall_s = max(0.0, wall_s - (delay_ns - began[1]) / 1e9)
        self._walls_s.append(wall_s)
        if wall_s > self._slowest[0]:
            self._slowest = wall_s, index if type(index) is int else None

    def skip(self) -> None:
        """Note that the first sample of a batch is there, and drop what it took: it will count as the others do."""
        self.forget()
        self._untimed = 1

    def part(self, name: str, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call, and add the time that it takes to its part where it belongs to a sample that is timed."""
        if not self.is_inside:
            return call(*args, **kwargs)
        began_s = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            self._parts[name] = self._parts.get(name, 0.0) + time.perf_counter() - began_s

    def take(self, collate_s: float) -> Work | None:
        """Return what the batch took that has just been collated, and begin anew; None where nothing was timed.

        A sample that was skipped is given what the others took in the mean.
        """
        start, walls_s, slowest, parts = self._start, self._walls_s, self._slowest, tuple(self._parts.items())
        untimed = self._untimed
        self.forget()
        if start is None:
            return None
        self.mean_sample_s = fmean(walls_s) if walls_s else None
        seen_s, delay_ns, delayed_s = time.perf_counter() - start.now_s, read_delay_ns(), None
        each = 1.0 + untimed / len(walls_s) if walls_s else 1.0
        busy_s = collate_s + each * max(0.0, seen_s - collate_s)
        whole = busy_s / seen_s if seen_s > 0 else 1.0
        if delay_ns is not None and start.delayed_ns is not None:
            delayed_s = (delay_ns - start.delayed_ns) / 1e9 * whole
        return Work(
            busy_s=busy_s,
            cpu_s=(time.thread_time() - start.cpu_s) * whole,
            process_cpu_s=(time.process_time() - start.process_cpu_s) * whole,
            delayed_s=delayed_s,
            collate_s=collate_s,
            median_s=median(walls_s) if walls_s else None,
            slowest_s=slowest[0] if walls_s else None,
            slowest_index=slowest[1],
            indexed=self._indexed,
            parts=tuple((name, part_s * each) for name, part_s in parts),
            minor_faults=round((_minor_faults() - start.minor_faults) * whole),
        )

    def _sample_delay_ns(self) -> int | None:
        return read_delay_ns() if (self.mean_sample_s or 0.0) >= DEAR_SAMPLE_S else None


def read_delay_ns(path: str = SCHEDSTAT) -> int | None:
    """Return how long this process's main thread was ready and had no core: the second of `258541220 48813738 22`.

    None where it cannot be read, and where the kernel keeps no such statistics: it then shows zeros, which a thread
    that runs cannot have.
    """
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            words = [int(word) for word in os.read(file, 128).split()]
        finally:
            os.close(file)
    except (OSError, ValueError):
        return None
    return words[1] if len(words) == 3 and words[0] and words[2] else None


def _minor_faults() -> int:
    import resource  # not on Windows, which must get as far as being refused

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
