"""How many samples belong to a slice? Steps and slices in, samples a slice out, the cut steps counted in part.

Pure. Time is counted while the side was running: a step that was frozen half way is no slower for it.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


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
    finished_s: Sequence[float], samples: Sequence[int], slices: Sequence[Slice], head_s: float, burst_steps: int = 1
) -> list[Share | None]:
    """Return each slice's samples: None where a slice is no longer than its head, or no step shows how fast it was.

    Samples count evenly between the ends of two neighbouring steps, in the time in which the step could go on. A step
    that ends while the side is stopped ran on a device that does not stop with its process (a GPU, a replayed one):
    the pause up to its end counts for it.

    Where workers deliver in bursts, the steps of a burst end together and then none for a while; a slice that begins
    and ends at the same phase of the burst, time after time, would count one burst too many or too few each time. So
    samples count evenly over whole bursts there: between the ends of every `burst_steps`-th step.

    Args:
        finished_s: End of each step, rising.
        samples: Of each step.
        slices: The side's turns, in order.
        head_s: Seconds at the start of each slice that do not count.
        burst_steps: Steps that end together: num_workers where the loop waits for the loader, 1 where steps are even.
    """
    knots = range(0, len(finished_s), burst_steps)
    whole = list(accumulate(samples[1:], initial=0))
    finished_s, total = [finished_s[knot] for knot in knots], [whole[knot] for knot in knots]
    shares: list[Share | None] = []
    for each in slices:
        begin_s = each.started_s + head_s
        if each.ended_s <= begin_s or len(finished_s) < 2 or finished_s[-1] <= begin_s:
            shares.append(None)
            continue
        done = _done(each.ended_s, finished_s, total, slices) - _done(begin_s, finished_s, total, slices)
        shares.append(Share(samples=max(0.0, done), active_s=each.ended_s - begin_s))
    return shares


def _done(at_s: float, finished_s: Sequence[float], total: Sequence[float], slices: Sequence[Slice]) -> float:
    """Return the samples done at a moment of a slice; none are added beyond the ends, whose pace may be a burst's."""
    place = bisect_right(finished_s, at_s)
    if place == 0 or place == len(finished_s):
        return total[0] if place == 0 else total[-1]
    before_s, after_s = finished_s[place - 1], finished_s[place]
    whole_s = _running_s(before_s, after_s, slices)
    part_s = min(_running_s(before_s, at_s, slices), whole_s)
    return total[place - 1] + (total[place] - total[place - 1]) * (part_s / whole_s if whole_s > 0 else 1.0)


def _running_s(from_s: float, to_s: float, slices: Sequence[Slice]) -> float:
    """Return the time between two moments in which a step could go on: the slices', and a pause that `to_s` lies in."""
    running = sum(max(0.0, min(to_s, each.ended_s) - max(from_s, each.started_s)) for each in slices)
    pauses = zip([each.ended_s for each in slices], [*(each.started_s for each in slices[1:]), math.inf], strict=True)
    own_pause = sum(to_s - max(from_s, begin) for begin, end in pauses if begin < to_s < end)
    before_all = max(0.0, min(to_s, slices[0].started_s) - from_s)
    return running + own_pause + before_all
