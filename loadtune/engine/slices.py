"""How many samples belong to a slice? Steps and slices in, samples a slice out, the cut steps counted in part.

Pure. Time is counted while the side was running: a step that was frozen half way is no slower for it.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slice:
    """One turn of one side, in time.monotonic() seconds."""

    started_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Share:
    """What one side did in one slice, its head left out."""

    samples: float
    active_s: float


def share_out(
    finished_s: Sequence[float], samples: Sequence[int], slices: Sequence[Slice], head_s: float
) -> list[Share | None]:
    """Return each slice's samples: None where a slice is no longer than its head, or no step shows how fast it was.

    Samples count evenly between the ends of two neighbouring steps, in active time.

    Args:
        finished_s: End of each step, rising; ends while frozen count as the next slice's start.
        samples: Of each step.
        slices: The side's turns, in order.
        head_s: Seconds at the start of each slice that do not count.
    """
    starts = [0.0]
    for each in slices:
        starts.append(starts[-1] + each.ended_s - each.started_s)
    times = [_active_s(at_s, slices, starts) for at_s in finished_s]
    total = [0.0]
    for count in samples[1:]:
        total.append(total[-1] + count)
    shares: list[Share | None] = []
    for place, each in enumerate(slices):
        begin, end = starts[place] + head_s, starts[place] + each.ended_s - each.started_s
        if end <= begin or len(times) < 2 or times[-1] <= begin:
            shares.append(None)
            continue
        done = _interpolate(end, times, total) - _interpolate(begin, times, total)
        shares.append(Share(samples=max(0.0, done), active_s=end - begin))
    return shares


def _active_s(at_s: float, slices: Sequence[Slice], starts: Sequence[float]) -> float:
    """Return the seconds that the side had been running for at a moment."""
    place = bisect_right([each.started_s for each in slices], at_s) - 1
    if place < 0:
        return at_s - slices[0].started_s  # before the first slice: negative, still in order
    each = slices[place]
    return starts[place] + min(at_s, each.ended_s) - each.started_s


def _interpolate(at_s: float, times: Sequence[float], total: Sequence[float]) -> float:
    """Return the samples done at an active time. Beyond the ends nothing is added: the last pace may be a burst's."""
    if at_s <= times[0] or at_s >= times[-1]:
        return total[0] if at_s <= times[0] else total[-1]
    right = min(max(bisect_right(times, at_s), 1), len(times) - 1)
    left = right - 1
    while left > 0 and times[left] >= times[right]:
        left -= 1
    width_s = times[right] - times[left]
    if width_s <= 0:
        return total[right]
    return total[left] + (total[right] - total[left]) * (at_s - times[left]) / width_s
