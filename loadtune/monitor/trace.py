"""What follows from the readings of one trial? Counters in, samples and means of the measuring interval out: pure.

Counters only grow, so a mean is the difference at both ends of the interval over its length: exact, time-weighted, and
the same however few samples are kept. It reads nothing itself.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar

from loadtune.monitor.host import MachineReading
from loadtune.monitor.tree import TreeReading
from loadtune.records.resources import GpuSample, HostSample
from loadtune.stats import jitter

POINTS_MAX = 600
"""Most host points kept, and GPU states. A minute at ten a second; twice as many double the report's largest part."""

GPU_SAMPLES_MAX = 1200
"""Most GPU samples kept: 200 s at the driver's usual six a second. Means are taken before the rest is left out."""

GPU_GAP_MAX_S = 2.5
"""One utilisation sample stands for at most this long before it; a hole in the readings is not filled by its edge."""

READ_BYTES_MIN = 1 << 17
"""Bytes read below which their share from storage says nothing: a stray file of Python's own would make it a half."""
NOTHING_IN_INTERVAL = "no two readings lie within the measuring interval"

Interval = tuple[float, float]
"""Start and end, time.monotonic() seconds."""

_Item = TypeVar("_Item")


class Point(Protocol):
    """Readings of one moment."""

    @property
    def at_monotonic_s(self) -> float:
        """When they were taken."""


_Point = TypeVar("_Point", bound=Point)


@dataclass(frozen=True, slots=True)
class HostPoint:
    """All host readings of one moment. Several trees, as in a duel, are summed."""

    at_monotonic_s: float
    tree: TreeReading | None
    machine: MachineReading | None

    @property
    def foreign_s(self) -> float | None:
        """CPU seconds of everyone but the trial. Two clocks of the kernel meet here, so it may shrink by a tick."""
        if self.tree is None or self.machine is None or self.machine.busy_s is None:
            return None
        return self.machine.busy_s - self.tree.main_cpu_s - self.tree.worker_cpu_s


def main_s(point: HostPoint) -> float | None:
    """Return the CPU seconds of the main process."""
    return None if point.tree is None else point.tree.main_cpu_s


def worker_s(point: HostPoint) -> float | None:
    """Return the CPU seconds of the workers."""
    return None if point.tree is None else point.tree.worker_cpu_s


def foreign_s(point: HostPoint) -> float | None:
    """Return the CPU seconds of everyone else."""
    return point.foreign_s


def steal_s(point: HostPoint) -> float | None:
    """Return the CPU seconds taken by the hypervisor."""
    return None if point.machine is None else point.machine.steal_s


def read_bytes(point: HostPoint) -> float | None:
    """Return the bytes that the tree took from storage."""
    return None if point.tree is None else point.tree.read_bytes


def read_chars(point: HostPoint) -> float | None:
    """Return the bytes that the tree read."""
    return None if point.tree is None else point.tree.read_chars


class HostSeries:
    """Keeps at most POINTS_MAX points, evenly thinned: full, it forgets every second one and takes every second."""

    def __init__(self) -> None:
        self._points: list[HostPoint] = []
        self._newest: HostPoint | None = None
        self._stride = 1
        self._offered = 0

    def add(self, point: HostPoint) -> None:
        """Take a point, newest last."""
        if self._offered % self._stride == 0:
            self._points.append(point)
        self._offered += 1
        self._newest = point
        if len(self._points) >= POINTS_MAX:
            self._points = self._points[::2]
            self._stride *= 2

    def points(self) -> list[HostPoint]:
        """Return what is kept, and the newest point always."""
        is_kept = self._newest is None or (bool(self._points) and self._points[-1] is self._newest)
        return self._points if is_kept or self._newest is None else [*self._points, self._newest]


def sum_trees(readings: Sequence[TreeReading]) -> TreeReading | None:
    """Add the readings of several trees; None for none. What one tree does not tell, the sum does not."""
    if not readings:
        return None
    disk = [each.read_bytes for each in readings if each.read_bytes is not None]
    chars = [each.read_chars for each in readings if each.read_chars is not None]
    return TreeReading(
        main_cpu_s=sum(each.main_cpu_s for each in readings),
        worker_cpu_s=sum(each.worker_cpu_s for each in readings),
        memory_bytes=sum(each.memory_bytes for each in readings),
        process_count=sum(each.process_count for each in readings),
        read_bytes=sum(disk) if len(disk) == len(readings) else None,
        read_chars=sum(chars) if len(chars) == len(readings) else None,
    )


def compute_host_samples(points: Sequence[HostPoint], started_monotonic_s: float) -> tuple[HostSample, ...]:
    """Return the points as samples. Rates cover the time since the point before; the first has none."""
    before = [None, *points[:-1]]
    return tuple(_sample(left, right, started_monotonic_s) for left, right in zip(before, points, strict=True))


def compute_growth(
    points: Sequence[_Point], counter: Callable[[_Point], float | None], interval: Interval
) -> float | None:
    """Return how much a counter grew within an interval, interpolated at its ends; None where it was not read."""
    ends = [_interpolate(points, counter, at_s) for at_s in interval]
    return None if ends[0] is None or ends[1] is None else max(0.0, ends[1] - ends[0])


def compute_mean_rate(
    points: Sequence[_Point], counter: Callable[[_Point], float | None], interval: Interval
) -> float | None:
    """Return a counter's growth per second over an interval; None where it was not read."""
    growth = compute_growth(points, counter, interval)
    return None if growth is None or interval[1] <= interval[0] else growth / (interval[1] - interval[0])


def compute_miss_ratio(points: Sequence[HostPoint], interval: Interval) -> tuple[float | None, str | None]:
    """Return the share of bytes read that came from storage, or None and the reason."""
    disk, chars = (compute_growth(points, counter, interval) for counter in (read_bytes, read_chars))
    if disk is None or chars is None:
        return None, NOTHING_IN_INTERVAL
    if chars < READ_BYTES_MIN <= disk:  # what a map finds in the page cache is counted nowhere
        return None, f"{disk:.0f} bytes came from storage by memory maps: how much they found in the cache is not told"
    if chars == 0:
        return None, "the trial read no bytes while measuring"
    if chars < READ_BYTES_MIN:
        return None, f"the trial read only {chars:.0f} bytes while measuring"
    # Readahead and memory maps fetch bytes that no read() returns.
    return min(1.0, disk / chars), None


def clamp_interval(measuring: Interval | None, points: Sequence[Point]) -> Interval | None:
    """Return the part of the measuring interval that was watched; all that was, if unmarked; None: nothing."""
    if not points:
        return None
    first_s, last_s = points[0].at_monotonic_s, points[-1].at_monotonic_s
    start_s, end_s = measuring or (first_s, last_s)
    start_s, end_s = max(start_s, first_s), min(end_s, last_s)
    return (start_s, end_s) if end_s > start_s else None


def summarise_utilisation(
    samples: Sequence[GpuSample], start_s: float, end_s: float
) -> tuple[float | None, float | None]:
    """Return mean and standard deviation of the samples in (start_s, end_s], in seconds since the trace began.

    In the mean each sample counts for the time since the one before, so that two sources of different pace mix.
    """
    gaps_s = [min(GPU_GAP_MAX_S, right.at_s - left.at_s) for left, right in pairwise(samples)]
    gaps_s = [gaps_s[0] if gaps_s else 1.0, *gaps_s]
    inside = [
        (sample.utilisation_ratio, gap_s)
        for sample, gap_s in zip(samples, gaps_s, strict=False)
        if start_s < sample.at_s <= end_s
    ]
    total_s = sum(gap_s for _, gap_s in inside)
    mean = sum(ratio * gap_s for ratio, gap_s in inside) / total_s if total_s > 0 else None
    return mean, jitter([ratio for ratio, _ in inside])


def thin(items: Sequence[_Item], most: int) -> tuple[_Item, ...]:
    """Return every k-th item, k as small as keeps at most `most`."""
    return tuple(items[:: max(1, -(-len(items) // most))])


def _sample(left: HostPoint | None, right: HostPoint, started_monotonic_s: float) -> HostSample:
    def rate(counter: Callable[[HostPoint], float | None]) -> float | None:
        if left is None:
            return None
        return compute_mean_rate((left, right), counter, (left.at_monotonic_s, right.at_monotonic_s))

    return HostSample(
        at_s=right.at_monotonic_s - started_monotonic_s,
        worker_cores=rate(worker_s),
        main_cores=rate(main_s),
        foreign_cores=rate(foreign_s),
        steal_cores=rate(steal_s),
        memory_bytes=None if right.tree is None else right.tree.memory_bytes,
        shm_bytes=None if right.machine is None else right.machine.shm_bytes,
        read_bytes_per_s=rate(read_bytes),
        read_chars_per_s=rate(read_chars),
        throttled_ratio=None if left is None else _throttled_ratio(left.machine, right.machine),
    )


def _throttled_ratio(left: MachineReading | None, right: MachineReading | None) -> float | None:
    """Return the share of quota periods in which the group had to wait; an idle group has none, and waits for none."""
    counts = [
        (reading.periods, reading.throttled_periods)
        for reading in (left, right)
        if reading is not None and reading.periods is not None and reading.throttled_periods is not None
    ]
    if len(counts) < 2:
        return None
    periods, throttled = (after - before for before, after in zip(*counts, strict=True))
    return min(1.0, throttled / periods) if periods > 0 else 0.0


def _interpolate(points: Sequence[_Point], counter: Callable[[_Point], float | None], at_s: float) -> float | None:
    """Return a counter between two points; None where either did not read it."""
    place = bisect_right(points, at_s, key=lambda point: point.at_monotonic_s)
    right = points[min(place, len(points) - 1)]
    left = points[max(0, place - 1)]
    before, after = counter(left), counter(right)
    if before is None or after is None:
        return None
    span_s = right.at_monotonic_s - left.at_monotonic_s
    return before if span_s <= 0 else before + (after - before) * (at_s - left.at_monotonic_s) / span_s
