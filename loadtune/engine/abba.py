"""Which of two settings is faster, where both cannot live at once? Fresh runs, one after the other, in ABBA order."""

import time
from collections.abc import Sequence

from loadtune.advice.search import Leg
from loadtune.engine.duel import DuelInterruptedError, Report, apart
from loadtune.engine.runner import Runner
from loadtune.records.measurement import Duel, Failure, SlicePair, TrialResult
from loadtune.records.settings import TrialSpec

NO_ROOM = "two sides did not fit into memory together"


def hold_abba(
    runner: Runner,
    baseline: TrialSpec,
    contender: TrialSpec,
    pairs: int,
    deadline_s: float,
    report: Report,
    *,
    reason: str = NO_ROOM,
) -> Duel:
    """Alternate fresh runs and return a pair for every two; what was done before a failure is kept.

    Args:
        runner: Runs them as ordinary trials.
        baseline: The side that ratios are over.
        contender: The other side.
        pairs: How many are wanted.
        deadline_s: time.monotonic() at which no pair may still run, by the time that the one before took.
        report: Told of progress.
        reason: Why the sides do not run by turns, alive at once.

    Raises:
        DuelInterruptedError: Ctrl-C; it holds the pairs that were done.
    """
    began_s, made = time.monotonic(), list[SlicePair]()
    failure: Failure | None = None
    is_interrupted = False
    try:
        for number in range(pairs):
            started_s = time.monotonic()
            specs = (apart(baseline, number, 0), apart(contender, number, 1))
            pair = _run_pair(runner, specs, number, deadline_s)
            if isinstance(pair, Failure):
                failure = pair
                break
            made.append(pair)
            report(len(made), pairs)
            now_s = time.monotonic()
            if now_s + (now_s - started_s) > deadline_s:
                break
    except KeyboardInterrupt:
        is_interrupted = True
    duel = Duel(
        baseline=baseline.settings,
        contender=contender.settings,
        epoch_batches=baseline.epoch_batches,
        method="abba",
        pairs=tuple(made),
        slice_s=baseline.measure.measure_s,
        head_s=0.0,
        seconds_spent=time.monotonic() - began_s,
        notes=(f"{reason[:1].upper()}{reason[1:]}, so fresh runs alternated (ABBA).",),
        failure=failure,
    )
    if is_interrupted:
        raise DuelInterruptedError(duel)
    return duel


def fits_together(needs: Sequence[tuple[Sequence[int | None], int | None]]) -> bool:
    """Say whether both sides can live at once.

    Args:
        needs: What each side takes of a resource, and how much of it there is; host memory, shared memory, device
            memory. Unknown sizes are taken to fit, since a duel watches its memory.
    """
    return all(limit is None or sum(each or 0 for each in sides) <= limit for sides, limit in needs)


def _run_pair(
    runner: Runner, specs: tuple[TrialSpec, TrialSpec], number: int, deadline_s: float
) -> SlicePair | Failure:
    """Run both sides once, the baseline first in every other pair."""
    baseline_first = number % 2 == 0
    results: dict[int, TrialResult] = {}
    for side in (0, 1) if baseline_first else (1, 0):
        spec = specs[side]
        leg = Leg(settings=spec.settings, role="grid")
        results[side] = runner.run(spec, leg, 1, deadline_s + spec.measure.cap_s)
        if results[side].failure is not None:
            break
    failure = next((each.failure for each in results.values() if each.failure is not None), None)
    baseline, contender = (results[side].measurement if side in results else None for side in (0, 1))
    if failure is not None or baseline is None or contender is None:
        assert failure is not None  # noqa: S101 - a result without a measurement has a failure
        return failure
    return SlicePair(
        baseline_samples=sum(window.samples for window in baseline.windows),
        baseline_s=baseline.duration_s,
        contender_samples=sum(window.samples for window in contender.windows),
        contender_s=contender.duration_s,
        baseline_first=baseline_first,
        restart=number,
    )
