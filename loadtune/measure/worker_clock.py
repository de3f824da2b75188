"""What does a worker do with its time? Samples, transforms and collate_fn timed where they run, in the worker.

The data set is the worker's own copy, so it may be watched there: its class is replaced by a subclass that times
`__getitem__` or `__iter__`, and its transforms by callables that time themselves. Where that cannot be done without a
risk (built-in types, classes with a metaclass) nothing is replaced, and the reason is told. Two clock readings a sample
and two of the kernel's scheduler statistics a batch, where samples are slow a sample: about 1 and 12 microseconds.
Data whose samples are cheap are timed in one batch of sixteen.
"""

import os
import time
import zlib
from abc import ABCMeta
from collections.abc import Callable, Iterator
from statistics import median
from types import new_class
from typing import Any, NamedTuple

import torch
from torch.utils.data import IterableDataset, Subset

from loadtune.workload.segmentation import SegmentationDataset

SCHEDSTAT = "/proc/self/schedstat"
"""Of the main thread: nanoseconds on a core, nanoseconds ready and waiting for one, and time slices."""
DEAR_SAMPLE_S = 0.001
"""Mean time of a sample from which two more readings of 6 microseconds each are spent on it: a sample that only waited
for a core is not a slow one. Lower would slow down data sets that hand out what they hold in memory."""
CHEAP_SAMPLE_S = 0.0001
"""Mean time of a sample below which most batches are left out: timing takes 1 to 3 microseconds, and half of a sample
that is handed out from memory. Higher would see less of data that are worth a look."""
CHEAP_REST_BATCHES = 15
"""Batches left out between two that are timed then. Fewer would slow such data down by more than one per cent."""
PRINTS_MAX = 16
"""Samples of a worker's first batch that are compared with other workers'. More would hash megabytes."""
PRINT_VALUES = 1024
"""Values of each tensor that go into a fingerprint."""


class Work(NamedTuple):
    """What one batch took. Seconds are elapsed unless said otherwise."""

    busy_s: float
    """From the first sample asked for to the end of collate_fn."""
    cpu_s: float | None
    """Of these on a core; None where the kernel does not tell."""
    delayed_s: float | None
    """Of these ready to run, and waiting for a core."""
    collate_s: float
    median_s: float | None
    """Of its samples; None where they come all at once (`__getitems__`)."""
    slowest_s: float | None
    slowest_index: int | None
    parts: tuple[tuple[str, float], ...]
    minor_faults: int


class Hello(NamedTuple):
    """What a worker says of itself with its first batch."""

    started_s: float
    """time.monotonic() at the end of worker_init_fn."""
    cpus: tuple[int, ...]
    threads: int
    prints: tuple[int, ...]
    """Fingerprints of its first samples, of iterable data sets only."""
    reason: str | None
    """Why single samples are not timed; None: they are."""


class WorkerClock:
    """Times what a worker process does. There is one in each process; it does nothing until told to watch."""

    def __init__(self) -> None:
        self.reason: str | None = "it is watched in workers only"
        self._started_s: float | None = None
        self._is_iterable = False
        self._depth = 0
        self._began: tuple[float, tuple[int, int] | None, int] | None = None
        self._walls_s: list[float] = []
        self._slowest: tuple[float, int | None] = (0.0, None)
        self._parts: dict[str, float] = {}
        self._is_dear = False
        self._resting = 0
        self._switch: Callable[[bool], None] = lambda is_on: None

    @property
    def is_resting(self) -> bool:
        """Whether this batch is left out: samples are so cheap that timing each would slow them down."""
        return self._resting > 0

    def watch(self, dataset: Any) -> None:
        """Begin to time this process's copy of the data set."""
        self._started_s = time.monotonic()
        self._is_iterable = isinstance(dataset, IterableDataset)
        while isinstance(dataset, Subset) and type(dataset) is Subset:
            dataset = dataset.dataset
        self.reason, self._switch = _replace_class(dataset, self)
        if self.reason is None:
            _time_transforms(dataset, self)

    def begin(self) -> float:
        """Note that a sample is asked for, and return the time, less what was spent waiting for a core."""
        now_s = time.perf_counter()
        if self._began is None:
            self._began = now_s, read_schedstat(), _minor_faults()
        self._depth += 1
        return now_s - self._delayed_s()

    def end(self, began_s: float, index: Any, count: int | None = 1) -> None:
        """Note that it is there. A sample asked for inside another is part of that one.

        Args:
            began_s: As `begin` returned it.
            index: Of the sample; only integers are kept.
            count: 1; None where several came at once.
        """
        self._depth -= 1
        if self._depth or count is None:
            return
        wall_s = time.perf_counter() - self._delayed_s() - began_s
        self._walls_s.append(wall_s)
        if wall_s > self._slowest[0]:
            self._slowest = wall_s, int(index) if isinstance(index, int) else None

    def _delayed_s(self) -> float:
        """Return how long this thread has waited for a core so far, where a sample is worth that reading; else 0."""
        stat = read_schedstat() if self._is_dear else None
        return 0.0 if stat is None else stat[1] / 1e9

    def timed(self, name: str, call: Callable[..., Any]) -> "TimedCall":
        """Return a callable that does the same and is timed as a part."""
        return TimedCall(name, call, self._parts)

    def take(self, collate_s: float) -> Work | None:
        """Return what the batch took that has just been collated, and begin anew; None where nothing was timed."""
        began, self._began, self._depth = self._began, None, 0
        if self._resting:
            self._resting -= 1
            self._switch(not self._resting)
        if began is None:
            return None
        walls_s, self._walls_s = self._walls_s, []
        if walls_s and sum(walls_s) / len(walls_s) < CHEAP_SAMPLE_S:
            self._resting = CHEAP_REST_BATCHES
            self._switch(False)
        slowest, self._slowest = self._slowest, (0.0, None)
        busy_s, after = time.perf_counter() - began[0], read_schedstat()
        self._is_dear = bool(walls_s) and sum(walls_s) / len(walls_s) >= DEAR_SAMPLE_S
        parts = tuple(self._parts.items())
        self._parts.clear()
        cpu_s = delayed_s = None
        if began[1] is not None and after is not None:
            cpu_s, delayed_s = ((right - left) / 1e9 for left, right in zip(began[1], after, strict=True))
        return Work(
            busy_s=busy_s,
            cpu_s=cpu_s,
            delayed_s=delayed_s,
            collate_s=collate_s,
            median_s=median(walls_s) if walls_s else None,
            slowest_s=slowest[0] if walls_s else None,
            slowest_index=slowest[1],
            parts=parts,
            minor_faults=_minor_faults() - began[2],
        )

    def hello(self, samples: Any) -> Hello | None:
        """Return what this worker is, once; None later, and in a process that is no worker."""
        started_s, self._started_s = self._started_s, None
        if started_s is None:
            return None
        first = samples[:PRINTS_MAX] if self._is_iterable and isinstance(samples, list) else []
        return Hello(
            started_s=started_s,
            cpus=tuple(sorted(os.sched_getaffinity(0))),
            threads=torch.get_num_threads(),
            prints=tuple(fingerprint(sample) for sample in first),
            reason=self.reason,
        )


class TimedCall:
    """A transform that adds the time it takes to its part. All else of the transform is seen through it."""

    def __init__(self, name: str, call: Callable[..., Any], parts: dict[str, float]) -> None:
        self._loadtune = name, call, parts

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do what the transform does."""
        name, call, parts = self._loadtune
        began_s = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            parts[name] = parts.get(name, 0.0) + time.perf_counter() - began_s

    def __getattr__(self, name: str) -> Any:
        """Return the transform's own attribute."""
        if name == "_loadtune":
            raise AttributeError(name)
        return getattr(self._loadtune[1], name)


def _replace_class(dataset: Any, clock: WorkerClock) -> tuple[str | None, Callable[[bool], None]]:
    """Make this data set time itself; return why it cannot, or None, and what switches that off and on."""
    kind = type(dataset)

    def leave(is_on: bool) -> None:
        del is_on

    if type(kind) not in {type, ABCMeta}:
        return f"{kind.__qualname__} has a metaclass", leave
    names = ("__iter__",) if isinstance(dataset, IterableDataset) else ("__getitem__", "__getitems__")
    members: dict[str, Any] = {"__slots__": (), "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    members |= {name: _TIMED[name](getattr(kind, name), clock) for name in names if hasattr(kind, name)}
    try:
        dataset.__class__ = new_class(kind.__name__, (kind,), exec_body=lambda names: names.update(members))
    except Exception as error:  # noqa: BLE001 - a class may refuse a subclass in any way; then it stays as it is
        return f"{kind.__qualname__} cannot be watched: {error}", leave
    watching = type(dataset)

    def switch(is_on: bool) -> None:
        dataset.__class__ = watching if is_on else kind

    return None, switch


def _timed_getitem(own: Callable[..., Any], clock: WorkerClock) -> Callable[..., Any]:
    def getitem(self: Any, index: Any) -> Any:
        began_s = clock.begin()
        try:
            return own(self, index)
        finally:
            clock.end(began_s, index)

    return getitem


def _timed_getitems(own: Callable[..., Any], clock: WorkerClock) -> Callable[..., Any]:
    def getitems(self: Any, indices: Any) -> Any:
        began_s = clock.begin()
        try:
            return own(self, indices)
        finally:
            clock.end(began_s, None, None)

    return getitems


def _timed_iter(own: Callable[..., Any], clock: WorkerClock) -> Callable[..., Any]:
    def iterate(self: Any) -> Iterator[Any]:
        return _TimedIterator(own(self), clock)

    return iterate


_TIMED = {"__getitem__": _timed_getitem, "__getitems__": _timed_getitems, "__iter__": _timed_iter}


class _TimedIterator:
    """An iterator that times each step."""

    def __init__(self, own: Iterator[Any], clock: WorkerClock) -> None:
        self._own, self._clock, self._place = own, clock, 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._clock.is_resting:
            return next(self._own)
        began_s = self._clock.begin()
        try:
            return next(self._own)
        finally:
            self._clock.end(began_s, self._place)
            self._place += 1


def _time_transforms(dataset: Any, clock: WorkerClock) -> None:
    """Time the parts of loadtune's own data set, or the members of its Compose-like transforms."""
    if isinstance(dataset, SegmentationDataset):
        dataset.time_parts(clock.timed)
        return
    for name in ("transform", "target_transform", "transforms"):
        held: Any = getattr(dataset, "__dict__", {}).get(name)
        members = getattr(held, "transforms", None)
        if isinstance(members, list) and not any(isinstance(each, TimedCall) for each in members):
            held.transforms = [clock.timed(_name(each), each) for each in members]


def _name(call: Any) -> str:
    return getattr(call, "__qualname__", None) or type(call).__qualname__


def read_schedstat() -> tuple[int, int] | None:
    """Return nanoseconds on a core, and ready without one, of this process's main thread: `258541220 48813738 22`."""
    try:
        file = os.open(SCHEDSTAT, os.O_RDONLY)
    except OSError:
        return None
    try:
        words = os.read(file, 128).split()
    finally:
        os.close(file)
    return (int(words[0]), int(words[1])) if len(words) == 3 else None


def _minor_faults() -> int:
    import resource  # not on Windows, which must get as far as being refused

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def fingerprint(sample: Any) -> int:
    """Return a number that equal samples share: of tensors some values, of anything else its repr's beginning."""
    if isinstance(sample, dict):
        sample = tuple(sample.values())
    if isinstance(sample, (list, tuple)):
        return zlib.crc32(repr([fingerprint(each) for each in sample[:PRINTS_MAX]]).encode())
    if isinstance(sample, torch.Tensor):
        flat = sample.detach().reshape(-1)
        step = max(1, flat.numel() // PRINT_VALUES)
        return zlib.crc32(repr((tuple(sample.shape), flat[::step][:PRINT_VALUES].tolist())).encode())
    return zlib.crc32(repr(sample)[: 4 * PRINT_VALUES].encode())


CLOCK = WorkerClock()
"""This process's."""
