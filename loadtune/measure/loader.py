"""Which DataLoader is measured? The one asked for, with the user's own parts, and a stamp in every batch.

The stamp is made where the batch is made, at the end of collate_fn, so that what a worker did, and how many batches
lay ready at any moment, is known without touching DataLoader's private fields.
"""

import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_start_method
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler, default_collate, get_worker_info
from torch.utils.data._utils.pin_memory import pin_memory

from loadtune.errors import TargetError
from loadtune.lifeline import end_with_parent
from loadtune.measure.batch_clock import Work
from loadtune.measure.worker_clock import CLOCK, Hello
from loadtune.records.settings import Settings
from loadtune.workload.segmentation import Faults
from loadtune.workload.target import DataSource


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the maker of a batch knew when it was done."""

    worker: int | None
    """Number of the worker; None: the main process."""
    finished_s: float
    """time.monotonic(), which all processes of a machine share."""
    wall_s: float | None
    """Elapsed since this worker's batch before, time without work to do included; None for its first."""
    cpu_s: float | None
    """CPU seconds of this worker since its batch before, all its threads; None for its first."""
    faults: Faults
    samples: int | None = None
    """Samples collated, whatever they became; None where no list of them is: batch_size=None, or `__getitems__` that
    makes something else."""
    work: Work | None = None
    """What it took; None where samples are not timed."""
    hello: Hello | None = None
    """What the worker is, with its first batch only."""


class StampedBatch:
    """A batch and its stamp, one object on the way from worker to loop."""

    def __init__(self, batch: Any, stamp: Stamp) -> None:
        self.batch = batch
        self.stamp = stamp

    def pin_memory(self) -> "StampedBatch":
        """Pin the batch as DataLoader would have; it asks any object with this method to do so itself."""
        return StampedBatch(pin_memory(self.batch), self.stamp)


class StampingCollate:
    """Calls the loader's own collate_fn, then stamps. Each worker has a copy of its own.

    Args:
        collate: The function that would have been called.
        dataset: Asked for what went wrong, if its class can say (`take_faults`).
        is_batched: Whether it is given a list of samples, not one.
    """

    def __init__(self, collate: Callable[[Any], Any], dataset: Any, *, is_batched: bool = True) -> None:
        self._collate = collate
        self._is_batched = is_batched
        # Of its class: a data set that forwards every name to another one is not asked for names of ours.
        can_say = hasattr(type(dataset), "take_faults")
        self._take_faults: Callable[[], Faults] = dataset.take_faults if can_say else Faults
        self._last: tuple[float, float] | None = None

    def __call__(self, samples: Any) -> StampedBatch:
        """Return the collated batch with its stamp."""
        hello = CLOCK.hello(samples if self._is_batched else None)
        began_s = time.perf_counter()
        batch = self._collate(samples)
        work = CLOCK.take(time.perf_counter() - began_s)
        info = get_worker_info()
        now = time.monotonic(), time.process_time()
        wall_s, cpu_s = (None, None) if self._last is None else (now[0] - self._last[0], now[1] - self._last[1])
        self._last = now
        worker = None if info is None else info.id
        count = len(samples) if self._is_batched and isinstance(samples, list | tuple) else None
        return StampedBatch(batch, Stamp(worker, now[0], wall_s, cpu_s, self._take_faults(), count, work, hello))


class WorkerInit:
    """Ties a worker's life to its trial, does what the user's worker_init_fn does, then watches its data set.

    Args:
        own: The user's worker_init_fn.
        is_plain: Watch nothing.
    """

    def __init__(self, own: Callable[[int], None] | None, *, is_plain: bool = False) -> None:
        self._own = own
        self._is_plain = is_plain

    def __call__(self, worker: int) -> None:
        """Initialise worker number `worker`."""
        end_with_parent()
        if self._own is not None:
            self._own(worker)
        info = get_worker_info()
        if info is not None and not self._is_plain:
            CLOCK.watch(info.dataset)


class EndlessOrder(Sampler[int]):
    """The same shuffled order in every trial, one epoch after the other without an end.

    Args:
        length: Samples in an epoch.
        seed: Of the shuffle; epochs differ.
        first: Position to start from; it may lie beyond the first epoch.
    """

    def __init__(self, length: int, seed: int, first: int = 0) -> None:
        self._length = length
        self._seed = seed
        self._first = first

    def __iter__(self) -> Iterator[int]:
        epoch, skip = divmod(self._first, self._length)
        while True:
            for number in shuffled(self._length, self._seed, epoch)[skip:]:
                yield int(number)
            epoch, skip = epoch + 1, 0


def shuffled(length: int, seed: int, epoch: int = 0) -> Any:
    """Return the numbers below `length` in the order of this epoch, as an array of int64."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed + epoch)).numpy()


class Endless(Sampler[Any]):
    """A user's own sampler or batch_sampler, begun again whenever it ends."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def __iter__(self) -> Iterator[Any]:
        while True:
            is_empty = True
            for item in self._own:
                is_empty = False
                yield item
            if is_empty:
                raise TargetError(
                    f"your {type(self._own).__qualname__} yields no samples", "give a sampler with at least one batch"
                )


class InEpochs(Sampler[Any]):
    """An order without an end, cut into epochs: each goes on where the one before ended.

    Args:
        endless: The order.
        length: Items in an epoch.
    """

    def __init__(self, endless: Sampler[Any], length: int) -> None:
        self._endless = iter(endless)
        self._length = length

    def __iter__(self) -> Iterator[Any]:
        yield from islice(self._endless, self._length)


def build_loader(
    source: DataSource,
    settings: Settings,
    order_seed: int,
    first_sample: int = 0,
    *,
    epoch_batches: int | None = None,
    is_plain: bool = False,
) -> DataLoader[Any]:
    """Return the DataLoader of these settings over this data, without an epoch's end where that can be had.

    Args:
        source: The data, and the user's own loader if there is one.
        settings: What is asked for.
        order_seed: Of the sample order.
        first_sample: Where in that order to begin.
        epoch_batches: Batches after which an epoch ends; None: none does. An iterable's own end is where it is.
        is_plain: Leave the stamps out, so that what they cost can be measured.
    """
    given = source.loader
    collate = default_collate if given is None else given.collate_fn
    kwargs = settings.dataloader_kwargs()
    context = _choose_context(source, given) if settings.num_workers else None
    if given is not None:
        kwargs["generator"] = given.generator  # its timeout is left out: a side of a duel that is stopped would miss it
    if settings.num_workers:
        kwargs["multiprocessing_context"] = context
    has_own_batches = given is not None and given.batch_sampler is not None and given.batch_size is None
    if has_own_batches and given is not None:
        kwargs.pop("batch_size")
        kwargs["batch_sampler"] = Endless(given.batch_sampler)
    elif given is not None and given.batch_size is None:
        kwargs["batch_size"] = None
    else:
        kwargs["drop_last"] = True  # a short last batch is another setting
    if not source.is_iterable and not has_own_batches:
        is_own = any(axis.startswith("sample order") for axis in source.fixed_axes)
        kwargs["sampler"] = (
            Endless(given.sampler)
            if given is not None and is_own
            else EndlessOrder(source.sample_count or 1, order_seed, first_sample)
        )
    if epoch_batches is not None and not source.is_iterable:
        drawn = "batch_sampler" if has_own_batches else "sampler"
        items = epoch_batches * (1 if has_own_batches else kwargs["batch_size"] or 1)
        kwargs[drawn] = InEpochs(kwargs[drawn], items)
    is_batched = kwargs.get("batch_size", 0) is not None
    return DataLoader(
        source.dataset,
        collate_fn=collate if is_plain else StampingCollate(collate, source.dataset, is_batched=is_batched),
        worker_init_fn=WorkerInit(None if given is None else given.worker_init_fn, is_plain=is_plain),
        **kwargs,
    )


def _choose_context(source: DataSource, given: DataLoader[Any] | None) -> Any:
    """Return how workers are started: as the loader says, unless what was handed over cannot follow them.

    Classes of a script travelled here by value: a new interpreter could not import them.
    """
    context = None if given is None else given.multiprocessing_context
    method = get_start_method() if context is None else context.get_start_method()
    if not source.was_handed_over or method == "fork":
        return context
    parts = (source.dataset, *(() if given is None else (given.collate_fn, given.worker_init_fn)))
    return context if context is not None and _can_be_found(parts) else "fork"


class _Trial(pickle.Pickler):
    """Pickles to nowhere, tensors left out: only whether each class is found by its name is asked."""

    def __init__(self) -> None:
        super().__init__(self)

    def write(self, content: Any) -> int:
        """Drop what was pickled."""
        return len(content)

    def reducer_override(self, item: Any) -> Any:
        """Spare tensors the copying."""
        return (int, ()) if isinstance(item, torch.Tensor) else NotImplemented


def _can_be_found(parts: Any) -> bool:
    """Say whether a new interpreter could import the classes and functions of these."""
    try:
        _Trial().dump(parts)
    except (pickle.PicklingError, AttributeError):
        return False
    except Exception:  # noqa: BLE001 - a lock, say, which travels where a process is started, and not here
        return True
    return True


@dataclass(frozen=True, slots=True)
class Taken:
    """A batch as the loop got it."""

    batch: Any
    stamp: Stamp | None
    """None where the batch came from no loader."""
    wait_s: float
    """Host time blocked in next()."""
    taken_s: float
    """time.monotonic() when it was in hand."""
    samples: int | None = None
    """Samples in it; None: to be seen from its tensors."""
    begins_epoch: bool = False
    """It is the first since the data set ended an epoch."""


class Batches:
    """Takes batches from a loader, begins it again where the data set itself ends, and times each wait."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader
        self._iterator: Iterator[Any] | None = None
        self.epochs_ended = 0

    def take(self) -> Taken:
        """Return the next batch.

        Raises:
            TargetError: The data set yields nothing at all.
        """
        asked_s = time.monotonic()
        if self._iterator is None:
            self._iterator = iter(self._loader)
        item = next(self._iterator, None)
        has_ended = item is None
        if has_ended:
            self.epochs_ended += 1
            self._iterator = iter(self._loader)
            item = next(self._iterator, None)
        if item is None:
            raise TargetError(
                "the data set yields no batch", "its samples must fill one batch: try a smaller batch size"
            )
        taken_s = time.monotonic()
        return Taken(item.batch, item.stamp, taken_s - asked_s, taken_s, item.stamp.samples, begins_epoch=has_ended)
