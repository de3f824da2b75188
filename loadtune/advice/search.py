"""What is a search, and what do all searches share? The question and answer, and the book of what was measured.

Ask and tell: `probing` asks for a leg, has it run, and tells the result. A search runs nothing and knows no clock: the
seconds left are handed in, so that the same results in the same order always lead to the same legs.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import msgspec

from loadtune.advice.feasibility import Obstacle
from loadtune.records.measurement import Cause, Role, TrialResult, TrialState
from loadtune.records.report import SearchSummary
from loadtune.records.settings import Consume, Feed, Settings

MEASURE_MIN_S = 1.0
"""Shorter than one window of a second there is nothing to average."""
MEASURE_MAX_S = 3.0
"""Longer legs narrow the spread within one run only; another round sees what differs between runs."""
LEG_OVERHEAD_S = 1.5
"""Assumed seconds of a leg beside its windows (start, warm-up, end) until the first result tells."""
DISTURBED_CORES = 0.25
"""Cores taken by others from which a slow trial proves nothing: it is measured again, and not called hopeless."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One setting to measure once."""

    settings: Settings
    role: Role
    feed: Feed = "loader"
    consume: Consume = "device"
    round: int = 0
    measure_s: float = MEASURE_MAX_S
    """Seconds to spend in windows."""
    obstacle: Obstacle | None = None
    """What forbids it: the caller does not run it, and tells a SKIPPED result with this."""


class Search(Protocol):
    """What every search answers, whatever it does inside."""

    def ask(self, seconds_left: float) -> Leg | None:
        """Return the next leg, or None when nothing more is worth the seconds left."""

    def tell(self, result: TrialResult) -> None:
        """Take in the result of the leg that was asked for last."""

    def notes(self) -> tuple[str, ...]:
        """Return what the search did, left out, and why it stopped, one sentence each."""

    def planned(self) -> int:
        """Return the number of legs, told ones included, as far as can be foreseen."""

    def summary(self) -> SearchSummary:
        """Return what was expected, left out, and what a full grid would have cost."""


def with_axes(settings: Settings, num_workers: int, batch_size: int) -> Settings:
    """Return `settings` at another point of the two main axes, valid for DataLoader at 0 workers too."""
    has_workers = num_workers > 0
    return msgspec.structs.replace(
        settings,
        num_workers=num_workers,
        batch_size=batch_size,
        prefetch_factor=settings.prefetch_factor if has_workers else None,
        persistent_workers=settings.persistent_workers and has_workers,
    )


class Ledger:
    """What a search was told: results, what legs cost beside their windows, what must not run, and what was said.

    Args:
        obstacle: What forbids a setting (memory, file descriptors, cores), or None.
        spare_cores: Cores that others may take without disturbing a trial, which may not use them.
    """

    def __init__(self, obstacle: Callable[[Settings], Obstacle | None], spare_cores: float = 0.0) -> None:
        self._obstacle = obstacle
        self._disturbing_cores = spare_cores + DISTURBED_CORES
        self._overheads_s: list[float] = []
        self.results: list[TrialResult] = []
        self.notes: list[str] = []

    def enter(self, result: TrialResult, leg: Leg | None) -> None:
        """Take in the result of a leg."""
        self.results.append(result)
        if result.state is TrialState.COMPLETE and leg is not None:
            self._overheads_s.append(max(0.0, result.seconds_spent - leg.measure_s))

    def note(self, sentence: str) -> None:
        """Say something, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def overhead_s(self) -> float:
        """Return the seconds of a leg beside its windows, as they were so far."""
        if not self._overheads_s:
            return LEG_OVERHEAD_S
        return sum(self._overheads_s) / len(self._overheads_s)

    def rates(self, number: int = 0) -> dict[Settings, float]:
        """Return the end-to-end rates of a round, in the order they were measured."""
        return {
            result.settings: result.rate_per_s
            for result in self.results
            if result.rate_per_s is not None and result.round == number and is_end_to_end(result)
        }

    def tried(self) -> set[Settings]:
        """Return the settings that were asked for end to end, whatever came of it."""
        return {result.settings for result in self.results if is_end_to_end(result)}

    def grid_s(self, settings_count: int) -> float | None:
        """Return what one round over so many settings would take, by the end-to-end trials so far; None without any."""
        spent = [each.seconds_spent for each in self.results if each.rate_per_s and is_end_to_end(each)]
        return settings_count * sum(spent) / len(spent) if spent else None

    def is_disturbed(self, result: TrialResult) -> bool:
        """Say whether others took so much of the processors that a slow trial proves nothing."""
        trace = result.trace
        if trace is None or not is_end_to_end(result):
            return False
        return (trace.mean_foreign_cores or 0.0) + (trace.mean_steal_cores or 0.0) > self._disturbing_cores

    def forbidden(self, leg: Leg) -> Obstacle | None:
        """Return why a leg must not run: the caller's arithmetic, or a smaller one that ran out of memory."""
        for result in self.results:
            if result.failure is None or result.state is TrialState.SKIPPED:
                continue
            cause = result.failure.cause
            smaller = result.settings
            is_larger = leg.settings.batch_size >= smaller.batch_size
            named = f"num_workers={smaller.num_workers}, batch_size={smaller.batch_size}"
            if cause is Cause.DEVICE_MEMORY and leg.consume == "device" and is_larger:
                return Obstacle(cause, f"{named} already ran out of device memory")
            is_larger = is_larger and leg.settings.num_workers >= smaller.num_workers
            if cause in {Cause.HOST_MEMORY, Cause.SHARED_MEMORY} and leg.feed == "loader" and is_larger:
                return Obstacle(cause, f"{named} already ran out of {cause}")
        found = self._obstacle(leg.settings) if leg.feed == "loader" else None
        trains_nothing = leg.consume == "nothing" and found is not None and found.cause is Cause.CORES
        return None if trains_nothing else found


def is_end_to_end(result: TrialResult) -> bool:
    """Say whether a trial is of the user's own loader feeding the device."""
    return result.feed == "loader" and result.consume == "device"


def describe(leg: Leg) -> str:
    """Name a leg in a note."""
    point = f"num_workers={leg.settings.num_workers} batch_size={leg.settings.batch_size}"
    return point if leg.role in {"grid", "baseline"} else f"{point} ({leg.role})"
