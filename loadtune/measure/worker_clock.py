"""What does a worker do with its time? Samples, transforms and collate_fn timed where they run, in the worker.

`__getitem__` or `__iter__` of the data set's class, and `__call__` of its transforms' classes, are replaced by methods
that time themselves: in the worker's process alone, and for this data set in this thread only. Where they are no plain
functions nothing is replaced, and the reason is told. Nothing here raises into the user's code. Data whose samples are
cheap are timed in one batch of sixteen; in between their methods are their own.
"""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from traceback import format_exception_only
from typing import Any, NamedTuple

import torch
from torch.utils.data import IterableDataset, Subset

from loadtune.measure.batch_clock import BatchClock, Work
from loadtune.measure.sample_prints import fingerprint
from loadtune.measure.timed_methods import ABSENT, TimedMethods, find_attribute, find_held
from loadtune.workload.segmentation import SegmentationDataset

CHEAP_SAMPLE_S = 0.0001
"""Mean time of a sample below which most batches are left out: timing takes 1 to 3 microseconds, and half of a sample
that is handed out from memory. Higher would see less of data that are worth a look."""
CHEAP_REST_BATCHES = 15
"""Batches left out between two that are timed then. Fewer would slow such data down by more than one per cent."""
PRINTS_MAX = 16
"""Samples of a worker's first batch that are compared with other workers'. More would hash megabytes."""
HOLDERS = ("transform", "target_transform", "transforms")
"""Attributes of torchvision's data sets that hold a Compose, whose own `transforms` are timed one by one."""
STREAM = "worker"
"""What a sample's index counts in where the data set is iterable: this worker's samples since its epoch began."""


class Hello(NamedTuple):
    """What a worker says of itself with its first batch."""

    started_s: float
    """time.monotonic() at the end of worker_init_fn."""
    cpus: tuple[int, ...]
    threads: int
    prints: tuple[int, ...]
    """Fingerprints of its first samples, of iterable data sets only."""
    prints_reason: str | None
    """Why there are none; None: there are."""
    reason: str | None
    """Why single samples are not timed; None: they are."""


class WorkerClock:
    """Times what a worker process does. There is one in each process; it does nothing until told to watch."""

    def __init__(self) -> None:
        self.reason: str | None = "it is watched in workers only"
        self._started_s: float | None = None
        self._dataset: Any = None
        self._is_iterable = False
        self._batch = BatchClock()
        self._methods, self._entry = TimedMethods(), TimedMethods()
        self._resting = 0

    def watch(self, dataset: Any) -> None:
        """Begin to time this process's copy of the data set. It never raises: what is in the way becomes `reason`."""
        self._started_s = time.monotonic()
        try:
            self.reason = self._watch(dataset)
        except Exception as error:  # noqa: BLE001 - a trial must not end because it is watched
            self.reason = f"it cannot be watched: {_told(error)}"
        if self.reason is not None:
            self.leave()

    def leave(self) -> None:
        """Put back every method that was replaced."""
        self._methods.switch(is_on=False)
        self._entry.switch(is_on=False)

    def take(self, collate_s: float) -> Work | None:
        """Return what the batch took that has just been collated, and begin anew; None where nothing was timed."""
        if self._resting:
            self._resting -= 1
            self._methods.switch(is_on=not self._resting)
        work, mean_s = self._batch.take(collate_s), self._batch.mean_sample_s
        if work is not None and mean_s is not None and mean_s < CHEAP_SAMPLE_S:
            self._resting = CHEAP_REST_BATCHES
            self._methods.switch(is_on=False)
        return work

    def hello(self, samples: Any) -> Hello | None:
        """Return what this worker is, once; None later, and in a process that is no worker.

        Args:
            samples: Of its first batch; None where what the data set yields is a batch.
        """
        started_s, self._started_s = self._started_s, None
        if started_s is None:
            return None
        try:
            prints, why = self._prints(samples)
        except Exception as error:  # noqa: BLE001 - nor because its samples are compared
            prints, why = (), f"its samples cannot be compared: {_told(error)}"
        return Hello(
            started_s=started_s,
            cpus=tuple(sorted(os.sched_getaffinity(0))),
            threads=torch.get_num_threads(),
            prints=prints,
            prints_reason=why,
            reason=self.reason,
        )

    def _prints(self, samples: Any) -> tuple[tuple[int, ...], str | None]:
        """Return the fingerprints of the first samples, or none and the reason."""
        if not self._is_iterable:
            return (), "the data set is not iterable: the sampler deals its samples out"
        if type(samples) is not list:
            return (), "the data set makes its batches itself"
        found = [fingerprint(sample) for sample in samples[:PRINTS_MAX]]
        known = tuple(each for each in found if each is not None)
        if len(known) < len(found):
            return (), "its samples hold more than tensors, arrays, numbers and text, and are not compared"
        return known, None

    def _watch(self, dataset: Any) -> str | None:
        """Have the data set's methods timed; return why that cannot be, or None."""
        self._is_iterable = issubclass(type(dataset), IterableDataset)
        indexed = STREAM if self._is_iterable else "dataset"
        while type(dataset) is Subset:
            dataset, indexed = dataset.dataset, f"{indexed}.dataset"
        self._dataset, self._batch, kind = dataset, BatchClock(indexed), type(dataset)
        methods, wanted = self._methods, {"__getitem__": self._timed_sample}
        if self._is_iterable:
            methods, wanted = self._entry, {"__iter__": self._timed_iter}
        elif not any(find_attribute(kind, "__getitems__") is none for none in (ABSENT, None)):
            wanted["__getitems__"] = self._timed_samples
        for name, timed in wanted.items():
            if not methods.add(kind, name, timed):
                return f"{name} of {kind.__qualname__} is no plain function that can be replaced"
        self._time_transforms(dataset)
        self._entry.switch(is_on=True)
        self._methods.switch(is_on=True)
        return None

    def _time_transforms(self, dataset: Any) -> None:
        """Have the parts of loadtune's own data set timed, or the members of Compose-like transforms."""
        if issubclass(type(dataset), SegmentationDataset):
            dataset.time_parts(lambda name, call: partial(self._batch.part, name, call))
            return
        kinds: dict[type, dict[int, Any]] = {}
        for name in HOLDERS:
            members = find_held(find_held(dataset, name), "transforms")
            for each in members if type(members) in {list, tuple} else ():
                kinds.setdefault(type(each), {})[id(each)] = each
        for kind, known in kinds.items():
            self._methods.add(kind, "__call__", partial(self._timed_call, kind, known))

    def _is_own(self, dataset: Any) -> bool:
        """Say whether a sample asked for now is one of the loader's: of this data set, by it, and in no other one."""
        return dataset is self._dataset and self._batch.is_own_thread and not self._batch.is_inside

    def _timed_sample(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def getitem(dataset: Any, /, *args: Any, **kwargs: Any) -> Any:
            if self._resting or not self._is_own(dataset):
                return own(dataset, *args, **kwargs)
            began = self._batch.begin()
            try:
                return own(dataset, *args, **kwargs)
            finally:
                self._batch.end(began, args[0] if args else None)

        return getitem

    def _timed_samples(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def getitems(dataset: Any, /, *args: Any, **kwargs: Any) -> Any:
            if self._resting or not self._is_own(dataset):
                return own(dataset, *args, **kwargs)
            began = self._batch.begin()
            try:
                return own(dataset, *args, **kwargs)
            finally:
                self._batch.end(began, is_single=False)

        return getitems

    def _timed_iter(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def iterate(dataset: Any, /, *args: Any, **kwargs: Any) -> Any:
            steps = own(dataset, *args, **kwargs)
            if not self._is_own(dataset) or not issubclass(type(steps), Iterator):
                return steps
            self._batch.forget()  # of the epoch before: a batch that was never full
            return _TimedSteps(steps, self._time_step)

        return iterate

    def _time_step(self, steps: Iterator[Any], place: int) -> Any:
        """Take the next sample of an epoch, and note what it took unless the clock rests.

        The first comes after all that the data set does before it, such as opening files: that is an epoch's start.
        """
        if self._resting or not self._is_own(self._dataset):
            return next(steps)
        began = self._batch.begin()
        try:
            sample = next(steps)
        except BaseException:
            self._batch.forget()  # the end of an epoch, or an error: no batch comes of it that could be told
            raise
        if place == 0:
            self._batch.skip()
        else:
            self._batch.end(began, place)
        return sample

    def _timed_call(self, kind: type, known: dict[int, Any], own: Callable[..., Any]) -> Callable[..., Any]:
        def call(transform: Any, /, *args: Any, **kwargs: Any) -> Any:
            if id(transform) not in known:
                return own(transform, *args, **kwargs)
            return self._batch.part(kind.__qualname__, own, transform, *args, **kwargs)

        return call


class _TimedSteps(Iterator[Any]):
    """An iterator each of whose steps is timed, with its place in the epoch."""

    def __init__(self, steps: Iterator[Any], step: Callable[[Iterator[Any], int], Any]) -> None:
        self._steps, self._step, self._place = steps, step, -1

    def __next__(self) -> Any:
        self._place += 1
        return self._step(self._steps, self._place)


def _told(error: Exception) -> str:
    """Return an error's class and message in one line; a message that cannot be had is left out."""
    return format_exception_only(error)[0].strip()


CLOCK = WorkerClock()
"""This process's."""
