"""Which setting is recommended, and what may be claimed for it?

The choice comes from the screening: the best, everything tied with it, then the fewest workers, then the
least memory. The claim comes from the duel alone, which the choice has not seen: a winner picked by its
estimate is overstated by that estimate.
"""

from collections.abc import Callable, Sequence
from statistics import fmean

import msgspec

from loadtune.advice.alternatives import find_alternatives, state_learning_rate
from loadtune.advice.screening import CUT_SHORT, Screening
from loadtune.advice.search import is_end_to_end
from loadtune.advice.terms import Choice, Terms
from loadtune.errors import NothingMeasuredError
from loadtune.records.measurement import Duel, TrialResult
from loadtune.records.report import (
    Baseline,
    Cost,
    Recommendation,
    Speedup,
    Verdict,
)
from loadtune.records.settings import Settings
from loadtune.stats import (
    ABBA_PAIRS_MIN,
    DUEL_PAIRS_MIN,
    RatioInterval,
    duel_interval,
    verdict,
)

COST_NAMES = {"memory_bytes": "RAM", "cores": "CPU", "device_memory_bytes": "VRAM"}
"""What the costs are called where people read them."""


def choose(trials: Sequence[TrialResult], baseline: Settings) -> Choice:
    """Return the cheapest setting tied with the best, at the baseline's batch size.

    Raises:
        NothingMeasuredError: No trial at that batch size was completed.
    """
    screening = Screening(trials)
    candidates = [each for each in screening.rates if each.batch_size == baseline.batch_size]
    if not candidates:
        raise NothingMeasuredError(
            f"no trial at batch_size={baseline.batch_size} was completed",
            "See how each trial ended; try a smaller --batch-size or a longer --budget.",
        )
    best = screening.best(candidates, baseline)
    tied = sorted(screening.tied(candidates, best), key=screening.cost_order)
    chosen = tied[0]
    return Choice(
        settings=chosen,
        rate_per_s=screening.rate_per_s(chosen),
        ties=tuple(tied[1:]),
        reasons=(*_reasons(screening, chosen, best), *_unreliable(screening, baseline.batch_size)),
    )


def recommend(
    choice: Choice,
    duel: Duel | None,
    trials: Sequence[TrialResult],
    terms: Terms,
    *,
    no_duel_reason: str = "",
) -> Recommendation:
    """Return the answer: what to use, what the duel lets us claim, what it costs, what else there is.

    Args:
        choice: What `choose` returned.
        duel: The choice against the baseline; None where none was held or needed.
        trials: All trials of the screening.
        terms: What the answer is stated in.
        no_duel_reason: Why there is no duel, where there is none.
    """
    screening = Screening(trials)
    failure = why_it_fails(trials, terms.baseline)
    if failure is not None:
        no_duel_reason = "yours does not run here"
    settings, decided, speedup, reason = _judge(choice, duel, screening, terms, no_duel_reason, failure)
    rate = screening.rate_per_s(settings) if settings in screening.rates else choice.rate_per_s
    alternatives, refused = find_alternatives(screening, choice, terms)
    hours_saved = _hours_saved(decided, speedup, screening, settings, rate, terms)
    return Recommendation(
        verdict=decided,
        settings=settings,
        rate_per_s=rate,
        baseline=Baseline(
            settings=terms.baseline,
            rate_per_s=screening.rate_per_s(terms.baseline) if terms.baseline in screening.rates else None,
            origin=terms.baseline_origin,
            failure=failure,
        ),
        speedup=speedup,
        learning_rate=state_learning_rate(settings, terms),
        cost=_cost(screening, settings, terms.baseline),
        ties=tuple(each for each in choice.ties if each != settings),
        alternatives=alternatives,
        reasons=tuple(dict.fromkeys((*choice.reasons, *reason, *refused))),
        hours_saved=hours_saved,
        hours_saved_basis=None if hours_saved is None else f"{terms.epochs} epochs of {terms.epoch_samples} samples",
        epoch_rate_per_s=_epoch_rate_per_s(screening, settings, rate, terms.rank_samples),
    )


def why_it_fails(trials: Sequence[TrialResult], settings: Settings) -> str | None:
    """Return why a setting cannot run here, by its last trial; None where it ran, or was merely cut short."""
    if settings in Screening(trials).rates:
        return None
    own = [each for each in trials if each.settings == settings and is_end_to_end(each)]
    failure = max(own, key=lambda each: each.number).failure if own else None
    return None if failure is None or failure.cause in CUT_SHORT else failure.message


def _judge(
    choice: Choice, duel: Duel | None, screening: Screening, terms: Terms, no_duel_reason: str, failure: str | None
) -> tuple[Settings, Verdict, Speedup, tuple[str, ...]]:
    """Return settings, verdict, speed-up and why, from the duel alone; a baseline that fails is never kept."""
    if choice.settings == terms.baseline:
        if sum(each.batch_size == terms.baseline.batch_size for each in screening.rates) < 2:
            reason = "no other setting at this batch size was measured"
            return choice.settings, Verdict.INCONCLUSIVE, Speedup(estimate=None, reason=reason), ()
        return _keep_baseline(terms, "no setting measured was faster by more than a tie")
    gain = choice.epoch_gain
    if gain is not None and choice.settings == msgspec.structs.replace(terms.baseline, persistent_workers=True):
        won = Speedup(basis="epoch", estimate=gain.estimate, low=gain.low, high=gain.high, pairs=gain.pairs)
        return choice.settings, Verdict.FASTER, won, ()
    if duel is None or duel.failure is not None:
        reason = no_duel_reason or "no duel was held"
        if duel is not None and duel.failure is not None:
            reason = f"the duel failed: {duel.failure.message}"
        return choice.settings, Verdict.INCONCLUSIVE, Speedup(estimate=None, reason=reason), ()
    interval = interval_of(duel)
    decided = verdict(interval)
    if failure is not None:
        return choice.settings, decided, _speedup(interval), ()
    if interval.trusted and interval.high is not None and interval.high < 1.0:
        return _keep_baseline(terms, f"the duel showed the choice slower: {_describe(interval)}")
    is_dearer = screening.cost_order(choice.settings)[:2] > screening.cost_order(terms.baseline)[:2]
    if decided is Verdict.SAME and is_dearer and gain is None:  # what kept workers win lies beside the steady rates
        return _keep_baseline(terms, f"the choice is no faster and costs more: {_describe(interval)}")
    return choice.settings, decided, _speedup(interval), ()


def interval_of(duel: Duel) -> RatioInterval:
    """Return what a duel shows, by the pairs that its method must have and the bursts that its sides deliver in."""
    pairs_min = ABBA_PAIRS_MIN if duel.method == "abba" else DUEL_PAIRS_MIN
    return duel_interval(duel.pairs, pairs_min=pairs_min, burst_samples=burst_samples(duel))


def burst_samples(duel: Duel) -> tuple[float, float]:
    """Return the samples that arrive at once on each side of a duel; 0 where they come evenly."""
    sides = zip(duel.burst_steps, (duel.baseline, duel.contender), strict=True)
    first, second = (float(steps * side.batch_size) if steps > 1 else 0.0 for steps, side in sides)
    return first, second


def _keep_baseline(terms: Terms, reason: str) -> tuple[Settings, Verdict, Speedup, tuple[str, ...]]:
    same = Speedup(estimate=None, reason=reason)  # nothing changes, so there is no ratio to state
    return terms.baseline, Verdict.SAME, same, (f"Keep what you have: {reason}.",)


def _speedup(interval: RatioInterval) -> Speedup:
    return Speedup(
        estimate=interval.estimate,
        low=interval.low,
        high=interval.high,
        smallest_detectable_ratio=interval.smallest_detectable_ratio,
        pairs=interval.pairs,
        reason=interval.reason,
    )


def _describe(interval: RatioInterval) -> str:
    return f"{interval.estimate:.3f} times the baseline's rate ({interval.low:.3f} to {interval.high:.3f})"


def _reasons(screening: Screening, chosen: Settings, best: Settings) -> tuple[str, ...]:
    rounds = len({number for rates in screening.rates.values() for number in rates})
    reasons = []
    if chosen == best:
        reasons.append(f"num_workers={chosen.num_workers} was the fastest at batch_size={chosen.batch_size}.")
    else:
        ratio, low = screening.compare(chosen, best)
        reasons.append(
            f"num_workers={chosen.num_workers} reached {ratio:.3f} of the fastest "
            f"(num_workers={best.num_workers}), surely {low:.3f}, and is the cheapest that does."
        )
    if rounds == 1:
        reasons.append("Each setting was looked at once: ties were judged by the windows' spread, not an interval.")
    return tuple(reasons)


def _unreliable(screening: Screening, batch_size: int) -> tuple[str, ...]:
    """Say which settings ran and are left out since they failed after that."""
    failed = [(each, trial.failure) for each, trial in screening.unreliable.items() if each.batch_size == batch_size]
    return tuple(
        f"num_workers={each.num_workers} is left out: it ran, and failed when it ran again ({failure.message})."
        for each, failure in failed
        if failure is not None
    )


def _cost(screening: Screening, settings: Settings, baseline: Settings) -> Cost:
    """Return what the recommendation takes beyond the baseline, with a word for what was not measured."""
    readings: dict[str, Callable[[Settings], float | None]] = {
        "memory_bytes": screening.memory_bytes,
        "cores": lambda each: _largest(screening, each, _cores),
        "device_memory_bytes": lambda each: _largest(screening, each, _device_memory_bytes),
    }
    figures: dict[str, float] = {}
    for name, read in readings.items():
        ours, theirs = read(settings), read(baseline)
        if ours is not None and theirs is not None:
            figures[name] = ours - theirs
    memory, device = figures.get("memory_bytes"), figures.get("device_memory_bytes")
    return Cost(
        memory_bytes=None if memory is None else int(memory),
        cores=figures.get("cores"),
        device_memory_bytes=None if device is None else int(device),
        unavailable=tuple(
            f"{COST_NAMES[name]}: not measured for both settings" for name in readings if name not in figures
        ),
    )


def _largest(screening: Screening, settings: Settings, read: Callable[[TrialResult], float | None]) -> float | None:
    known = [read(trial) for trial in screening.trials.get(settings, ())]
    return max((each for each in known if each is not None), default=None)


def _cores(trial: TrialResult) -> float | None:
    trace = trial.trace
    if trace is None or trace.mean_worker_cores is None or trace.mean_main_cores is None:
        return None
    return trace.mean_worker_cores + trace.mean_main_cores


def _device_memory_bytes(trial: TrialResult) -> float | None:
    return None if trial.measurement is None else trial.measurement.device_memory_bytes


def _hours_saved(
    decided: Verdict, speedup: Speedup, screening: Screening, settings: Settings, rate: float, terms: Terms
) -> float | None:
    """Return the hours by which the duel's estimate shortens the run, the epochs' ends included where both are known.

    None unless the duel showed FASTER, and where the ends of short epochs take more than is won.
    """
    if decided is not Verdict.FASTER or speedup.estimate is None or terms.rank_samples is None:
        return None
    won_s = terms.rank_samples / rate * (speedup.estimate - 1.0)
    ours_s, theirs_s = (_boundary_s(screening, each) for each in (settings, terms.baseline))
    if ours_s is not None and theirs_s is not None:
        won_s -= ours_s - theirs_s
    return terms.epochs * won_s / 3600 if won_s > 0 else None


def _boundary_s(screening: Screening, settings: Settings) -> float | None:
    """Return the mean of what an epoch's end adds to the rate; None where it was not measured.

    That is nothing where the data set itself ended epochs in the trial: their ends are in its rate.
    """
    boundaries = [
        trial.measurement.epoch_boundary_s if trial.measurement.epoch_samples is None else 0.0
        for trial in screening.trials.get(settings, ())
        if trial.measurement is not None and trial.measurement.epoch_boundary_s is not None
    ]
    return max(0.0, fmean(boundaries)) if boundaries else None


def _epoch_rate_per_s(screening: Screening, settings: Settings, rate: float, sample_count: int | None) -> float | None:
    """Return N / (N / X + c0): the rate of a whole epoch, its boundary included."""
    boundary_s = _boundary_s(screening, settings)
    return None if boundary_s is None or not sample_count else sample_count / (sample_count / rate + boundary_s)
