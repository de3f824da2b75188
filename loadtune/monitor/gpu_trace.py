"""What follows from the readings of one GPU? Points in, what it did while the trial measured out: pure.

Counters give exact means; what is no counter is weighted by the time since the reading before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from loadtune.monitor.gpu import PCIE_BYTES, THROTTLED, GpuReadings
from loadtune.monitor.gpu_processes import Others
from loadtune.monitor.trace import Interval, clamp_interval, compute_growth, compute_mean_rate
from loadtune.records.resources import GpuUse, Throttled

FASTER_THAN_TIME = 1.1
"""A cause that held the clocks down for more than this share of the time is no count of nanoseconds: some drivers keep
another number under the same field. The tenth is for readings that are not taken at one moment."""

WRAPPED = "the driver's counter started again from the beginning"
NO_TIME_COUNTER = "the driver's counters grow faster than time"


@dataclass(frozen=True, slots=True)
class GpuPoint:
    """The readings of one GPU at one moment."""

    at_monotonic_s: float
    readings: GpuReadings
    others: Others = Others()


def compute_gpu_use(points: Sequence[GpuPoint], measuring: Interval | None) -> tuple[GpuUse | None, dict[str, str]]:
    """Return what the GPU did within the measuring interval, and why what the driver gave is not used.

    Args:
        points: Oldest first.
        measuring: Start and end on time.monotonic(); None: all that was watched.

    Returns:
        None where no two readings lie within; readings by name, with the reason.
    """
    interval = clamp_interval(measuring, points)
    if interval is None:
        return None, {}
    reasons: dict[str, str] = {}
    throttled = _throttled(points, interval, reasons)
    received, sent = (_bytes_per_s(points, counter, interval, reasons) for counter in (_received, _sent))
    inside = [point for point in points if interval[0] <= point.at_monotonic_s <= interval[1]]
    for point in inside:
        for reading, reason in point.others.reasons:
            reasons.setdefault(reading, reason)
    links = [_link(point) for point in inside if point.readings.pcie_generation and point.readings.pcie_width]
    others = [point.others.processes for point in inside if point.others.processes is not None]
    generation, width = max(links, default=(None, None))
    energy_j = compute_growth(points, lambda point: point.readings.energy_j, interval)
    use = GpuUse(
        energy_j=energy_j,
        mean_power_w=_mean_power_w(points, interval, energy_j),
        throttled=throttled,
        pcie_rx_bytes_per_s=received,
        pcie_tx_bytes_per_s=sent,
        pcie_generation=generation,
        pcie_width=width,
        sm_active_ratio=_metric(points, "sm_active_ratio", interval),
        sm_occupancy_ratio=_metric(points, "sm_occupancy_ratio", interval),
        tensor_active_ratio=_metric(points, "tensor_active_ratio", interval),
        dram_active_ratio=_metric(points, "dram_active_ratio", interval),
        other_processes=max(others, default=None),
        other_sm_ratio=_mean(points, lambda point: point.others.sm_ratio, interval),
    )
    return use, reasons


def _received(point: GpuPoint) -> float | None:
    return point.readings.pcie_rx_bytes


def _sent(point: GpuPoint) -> float | None:
    return point.readings.pcie_tx_bytes


def _link(point: GpuPoint) -> tuple[int, int]:
    """Return generation and width; an idle link falls back in either, so the highest is the one under load."""
    return point.readings.pcie_generation or 0, point.readings.pcie_width or 0


def _throttled(points: Sequence[GpuPoint], interval: Interval, reasons: dict[str, str]) -> tuple[Throttled, ...] | None:
    """Return the causes that held the clocks down; None where nothing counts them."""
    names = {name: None for point in points for name in point.readings.throttled_s or {}}
    found = []
    for name in names:
        ratio = compute_mean_rate(points, _held_down_by(name), interval)
        if ratio is not None and ratio > FASTER_THAN_TIME:
            reasons[THROTTLED] = NO_TIME_COUNTER
            return None
        if ratio is not None:
            found.append(Throttled(cause=name, ratio=min(1.0, ratio)))
    return tuple(each for each in found if each.ratio > 0) if found else None


def _held_down_by(cause: str) -> Callable[[GpuPoint], float | None]:
    return lambda point: (point.readings.throttled_s or {}).get(cause)


def _bytes_per_s(
    points: Sequence[GpuPoint],
    counter: Callable[[GpuPoint], float | None],
    interval: Interval,
    reasons: dict[str, str],
) -> float | None:
    """Return a counter's growth a second; None where it wrapped, since its size is not known."""
    counts = [count for point in points if (count := counter(point)) is not None]
    if any(later < earlier for earlier, later in pairwise(counts)):
        reasons[PCIE_BYTES] = WRAPPED
        return None
    return compute_mean_rate(points, counter, interval)


def _mean_power_w(points: Sequence[GpuPoint], interval: Interval, energy_j: float | None) -> float | None:
    if energy_j is not None:
        return energy_j / (interval[1] - interval[0])
    return _mean(points, lambda point: point.readings.power_w, interval)


def _metric(points: Sequence[GpuPoint], name: str, interval: Interval) -> float | None:
    def value(point: GpuPoint) -> float | None:
        gpm = point.readings.gpm
        return None if gpm is None else getattr(gpm, name)

    return _mean(points, value, interval)


def _mean(points: Sequence[GpuPoint], value: Callable[[GpuPoint], float | None], interval: Interval) -> float | None:
    """Return the mean of a value that stands for the time since the point before; None where there is none inside."""
    weighted = [
        (found, later.at_monotonic_s - earlier.at_monotonic_s)
        for earlier, later in pairwise(points)
        if interval[0] < later.at_monotonic_s <= interval[1] and (found := value(later)) is not None
    ]
    total_s = sum(seconds for _, seconds in weighted)
    return sum(found * seconds for found, seconds in weighted) / total_s if total_s > 0 else None
