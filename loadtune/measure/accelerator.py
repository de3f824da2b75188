"""What must a device be able to do, and what follows from it: run-ahead, idle gaps, busy spans, out of memory.

Everything that decides something stands in this file. The adapters (`cuda.py`, `cpu.py`, `replay.py`) hold direct
calls only, so that what no machine at hand can run is short enough to be read beside PyTorch's documentation.
"""

import copy
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch

SPAN_MERGE_GAP_S = 0.001
"""Busy spans closer than this are one. NVML samples 1/6 s; a larger gap would hide stalls that it can see."""


class Accelerator(Protocol):
    """A device that trains. Marks are points on its timeline; reading one never waits."""

    run_ahead_steps: int | None
    """Steps the host may queue before it must wait; None where the device's own queue sets the bound."""

    uuid: str | None
    """The device as its driver names it, for the watcher outside this process."""

    def upload(self, batch: Any) -> Any:
        """Queue the copy of a batch to the device, without waiting where its memory is pinned."""

    def step(self, batch: Any) -> None:
        """Queue one training step on an uploaded batch."""

    def record(self) -> Any:
        """Return a mark that is reached when everything queued so far is done."""

    def is_reached(self, mark: Any) -> bool:
        """Say, without waiting, whether a mark lies in the past."""

    def wait(self, mark: Any) -> None:
        """Block the host until a mark is reached."""

    def monotonic_s(self, mark: Any) -> float:
        """Return when a reached mark was passed, on time.monotonic()."""

    def peak_memory_bytes(self) -> int | None:
        """Return the largest device memory this process has held; None where that is not known."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Say whether an exception means that the device's memory did not suffice."""


@dataclass(frozen=True, slots=True)
class Step:
    """One training step on the device's timeline, all times in seconds."""

    samples: int
    data_wait_s: float
    """Host time blocked in next(iterator) before this step."""
    idle_s: float
    """Device time with nothing queued before this step: end of the last step to the start of this one's copy."""
    copy_s: float
    compute_s: float
    started_s: float
    """time.monotonic() at which the device began the copy."""
    finished_s: float
    """time.monotonic() at which the device finished."""
    host_cpu_s: float = 0.0
    """CPU seconds that this thread spent on queueing the step; a full launch queue adds its spinning."""


@dataclass(slots=True)
class _Queued:
    samples: int
    data_wait_s: float
    host_cpu_s: float
    before: Any
    copied: Any
    after: Any


class Timeline:
    """Queues steps and hands them back once the device has finished them: events are read late, never waited for.

    The decomposition follows the marks E0 (before the copy), E1 (after it), E2 (after the optimizer):
    idle = E2 of the last step to E0, copy = E0 to E1, compute = E1 to E2.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._queued: deque[_Queued] = deque()
        self._last_finished_s: float | None = None

    def queue(self, batch: Any, samples: int, data_wait_s: float, *, is_resident: bool = False) -> None:
        """Queue one step; waits only where the accelerator bounds how far the host may run ahead."""
        device = self._accelerator
        if device.run_ahead_steps is not None and len(self._queued) >= device.run_ahead_steps:
            device.wait(self._queued[-device.run_ahead_steps].after)
        before = device.record()
        cpu_s = time.thread_time()
        uploaded = batch if is_resident else device.upload(batch)
        copied = device.record()
        device.step(uploaded)
        host_cpu_s = time.thread_time() - cpu_s
        self._queued.append(_Queued(samples, data_wait_s, host_cpu_s, before, copied, device.record()))

    def finished(self) -> Iterator[Step]:
        """Yield the steps that the device has finished since the last call, oldest first."""
        while self._queued and self._accelerator.is_reached(self._queued[0].after):
            yield self._read(self._queued.popleft())

    def drain(self, left_max: int = 0) -> Iterator[Step]:
        """Wait until at most `left_max` steps are queued, and yield the others. For warm-up and a leg's very end."""
        if len(self._queued) > left_max:
            self._accelerator.wait(self._queued[-1 - left_max].after)
        yield from self.finished()

    def _read(self, queued: _Queued) -> Step:
        at_s = self._accelerator.monotonic_s
        started_s, copied_s, finished_s = at_s(queued.before), at_s(queued.copied), at_s(queued.after)
        idle_s = 0.0 if self._last_finished_s is None else max(0.0, started_s - self._last_finished_s)
        self._last_finished_s = finished_s
        return Step(
            samples=queued.samples,
            data_wait_s=queued.data_wait_s,
            idle_s=idle_s,
            copy_s=copied_s - started_s,
            compute_s=finished_s - copied_s,
            host_cpu_s=queued.host_cpu_s,
            started_s=started_s,
            finished_s=finished_s,
        )


def busy_spans(steps: list[Step]) -> tuple[tuple[float, float], ...]:
    """Return (start_s, end_s) on time.monotonic() of the device's work, with gaps under a millisecond closed."""
    spans: list[tuple[float, float]] = []
    for step in steps:
        if spans and step.started_s - spans[-1][1] <= SPAN_MERGE_GAP_S:
            spans[-1] = (spans[-1][0], max(spans[-1][1], step.finished_s))
        else:
            spans.append((step.started_s, step.finished_s))
    return tuple(spans)


def stall_ratio(steps: list[Step], idle_reference_s: float) -> float | None:
    """Return the share of time that the device waited beyond its own launch gaps; None with under two steps.

    S = sum max(0, idle - idle_reference) / sum(time), MLPerf Storage's accelerator utilisation being 1 - S.
    """
    if len(steps) < 2:  # the first step has no gap before it
        return None
    total_s = steps[-1].finished_s - steps[0].finished_s
    waited_s = sum(max(0.0, step.idle_s - idle_reference_s) for step in steps[1:])
    return min(1.0, waited_s / total_s) if total_s > 0 else None


def intervals_s(steps: list[Step]) -> list[float]:
    """Return the times between the ends of neighbouring steps."""
    return [right.finished_s - left.finished_s for left, right in pairwise(steps)]


def map_tensors(batch: Any, move: Any) -> Any:
    """Apply `move` to every tensor of a nested batch and keep the structure.

    Mappings, lists, tuples and named tuples are walked, as DataLoader's own pin_memory does; an object with a `.to`
    method of its own is moved whole; anything else passes through.
    """
    if isinstance(batch, torch.Tensor) or hasattr(batch, "to"):
        return move(batch)
    if isinstance(batch, Mapping):
        moved = {key: map_tensors(value, move) for key, value in batch.items()}
        return moved if type(batch) is dict else _like(batch, moved)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(value, move) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(map_tensors(value, move) for value in batch)
    return batch


def _like(batch: Mapping[Any, Any], moved: dict[Any, Any]) -> Any:
    """Return a mapping of the batch's own class, as pin_memory does; a plain dict where that class cannot be copied."""
    try:
        clone: Any = copy.copy(batch)
        clone.update(moved)
    except (TypeError, AttributeError):
        return moved
    return clone


def find_tensors(batch: Any, within: frozenset[int] = frozenset()) -> Iterator[torch.Tensor]:
    """Yield the tensors of a nested batch, those of objects that are moved whole included.

    Such objects (`BatchEncoding`, PyTorch Geometric's `Batch`) are mappings, or hold one among their attributes.

    Args:
        batch: What a loader gave.
        within: id() of such objects that it was found in: they are not walked again.
    """
    if isinstance(batch, torch.Tensor):
        yield batch
        return
    parts: Iterable[Any] = ()
    if isinstance(batch, Mapping):
        parts = batch.values()
    elif isinstance(batch, (list, tuple)):
        parts = batch
    elif hasattr(batch, "to") and hasattr(batch, "__dict__") and id(batch) not in within:
        parts, within = vars(batch).values(), within | {id(batch)}
    for part in parts:
        yield from find_tensors(part, within)


def count_bytes(batch: Any) -> int:
    """Return the bytes of all tensors in a nested batch."""
    return sum(tensor.numel() * tensor.element_size() for tensor in find_tensors(batch))


def count_tensors(batch: Any) -> int:
    """Return the number of tensors in a nested batch: each is a file in shared memory on its way from a worker."""
    return sum(1 for _ in find_tensors(batch))


def count_samples(batch: Any, asked_for: int) -> int:
    """Return the samples of a batch that says no more: the first dimension of its first tensor, or what was asked for.

    A batch whose images could not be stacked is a sequence of them: where any of its sequences, or any tensor's first
    dimension, has the length asked for, that is it.
    """
    sizes: list[int] = []
    if isinstance(batch, (list, tuple)) and asked_for in {len(batch), *map(_length, batch)}:
        return asked_for

    def note(item: Any) -> Any:
        if isinstance(item, torch.Tensor) and item.dim() > 0:
            sizes.append(int(item.shape[0]))
        return item

    map_tensors(batch, note)
    return sizes[0] if sizes else asked_for


def _length(item: Any) -> int | None:
    return len(item) if isinstance(item, (list, tuple)) else None
