"""How is the wall-clock budget divided between screening, the duel and the writing of the answer?

Pure: the seconds already spent are handed in. The budget is a promise from Enter to answer, start-up
included.
"""

from dataclasses import dataclass

from loadtune.stats import DUEL_PAIRS_MIN

RESERVE_RATIO = 0.04
"""Kept for ending processes and rendering; without it the promise (within 10 %) is broken by the last
trial."""
DUEL_RATIO = 0.4
"""Share of what is left after start-up that the duel may take. Less leaves too few pairs at 120 s, more
starves the screening that decides whom the duel is about."""
DUEL_WANTED_S, DUEL_SHARE_MAX = 16.0, 0.6
"""What the duel takes of a short budget: two starts of both sides and eight pairs of a second; without a duel a short
run could claim nothing. It takes no more than this share even so."""
DUEL_MAX_S = 80.0
"""20 pairs of 2 s slices: +-3 % on a CPU-bound cell. What a longer duel gains, the screening gains more."""
SLICE_MAX_S = 2.0
"""One slice, head included. Longer ones let drift into a pair; the workload's bursts may ask for more."""
SLICE_MIN_S = 0.5
"""Below this the dropped head of 0.3 s is most of the slice."""
HEAD_MIN_S = 0.3
"""Dropped at the start of each slice at least: what storage delivered meanwhile drains, caches fill again."""
HEAD_SHARE_MAX = 0.6
"""Of a slice at most; a short slice with the whole head dropped would hold nothing."""
SIDE_WARM_UP_S = 2.0
"""Longest warm-up of a side, of device and loader each: the heads of its slices are dropped besides."""
RESTARTS = 4
"""Starts of both sides: with three or more, what differs between processes is in the interval (`stats`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Seconds for each part of what is left of a budget."""

    screening_s: float
    duel_s: float
    reserve_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DuelPlan:
    """How a duel spends its seconds."""

    pairs: int
    slice_s: float
    """Seconds of one slice, its dropped head included."""
    restarts: int
    """Starts of the two process groups, the first included."""
    head_s: float = HEAD_MIN_S
    """Seconds to drop at the start of each slice, if it is long enough."""
    burst_steps: tuple[int, int] = (1, 1)
    """Steps of baseline and contender that end together, in bursts."""
    note: str | None = None
    """What a reader of the duel must know of this plan."""

    @property
    def dropped_s(self) -> float:
        """Seconds dropped at the start of each slice."""
        return min(self.head_s, HEAD_SHARE_MAX * self.slice_s)


def divide_budget(budget_s: float, spent_s: float) -> Division:
    """Divide what is left of the budget; every part is 0 where nothing is left."""
    reserve_s = RESERVE_RATIO * budget_s
    left_s = max(0.0, budget_s - spent_s - reserve_s)
    duel_s = min(DUEL_MAX_S, max(DUEL_RATIO * left_s, min(DUEL_WANTED_S, DUEL_SHARE_MAX * left_s)))
    return Division(screening_s=left_s - duel_s, duel_s=duel_s, reserve_s=reserve_s)


def plan_duel(
    duel_s: float,
    start_s: float,
    slice_max_s: float = SLICE_MAX_S,
    coarse_s: float = 0.0,
    least_s: float = SLICE_MIN_S,
) -> DuelPlan | None:
    """Fit a duel into its seconds, or return None where eight pairs of the shortest slices do not fit.

    A fourth start is given up before slices are shortened below half, a third only where nothing else fits: Student's
    factor for two starts hides all but large differences.

    Args:
        duel_s: Seconds for the whole duel.
        start_s: Seconds that starting and warming both sides takes, once a restart.
        slice_max_s: Longest slice wanted; more than `SLICE_MAX_S` where the workload's bursts ask for it.
        coarse_s: Slice below which the count is coarse; 0: none is.
        least_s: Slice below which it is not to be trusted.
    """
    rough_s = max(coarse_s, least_s)
    fine_s = max(slice_max_s / 2, coarse_s)
    for restarts, slice_min_s in (
        (RESTARTS, fine_s),
        (3, fine_s),
        (3, rough_s),
        (2, rough_s),
        (3, least_s),
        (2, least_s),
    ):
        active_s = duel_s - restarts * start_s
        pairs = max(DUEL_PAIRS_MIN, int(active_s / (2 * slice_max_s)))
        slice_s = min(slice_max_s, active_s / (2 * pairs))
        if slice_s >= slice_min_s:
            return DuelPlan(pairs=pairs, slice_s=slice_s, restarts=restarts)
    return None
