"""How is a choice confirmed? Against variants of itself where the evidence asks for it, then against the baseline."""

import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from loadtune.advice.budget import DUEL_MAX_S, DUEL_WANTED_S, DuelPlan, divide_budget
from loadtune.advice.case import Case
from loadtune.advice.epochs import Gain, gain_over_epoch
from loadtune.advice.feasibility import Obstacle, shm_size_bytes
from loadtune.advice.search import Leg
from loadtune.advice.selection import interval_of, why_it_fails
from loadtune.advice.slicing import fit_duel
from loadtune.advice.terms import Choice
from loadtune.advice.variants import Variant, find_variants
from loadtune.concluding import is_over_rates, representative
from loadtune.engine.abba import NO_ROOM, fits_together, hold_abba
from loadtune.engine.duel import STRIDE_SAMPLES, DuelInterruptedError, hold_duel
from loadtune.engine.duel import Report as Told
from loadtune.engine.here import STAYS_HERE
from loadtune.engine.sides import FreezeForbiddenError
from loadtune.preparing import Probe
from loadtune.records.measurement import Cause, Duel, TrialResult
from loadtune.records.report import Verdict
from loadtune.records.settings import Settings, TrialSpec
from loadtune.render.words import format_settings
from loadtune.stats import ABBA_PAIRS_MIN, TIE_RATIO, RatioInterval, verdict

VARIANTS_MAX = 2
"""Variants tried in one probe: each costs a trial and a duel, and the first is the most promising."""
VARIANT_S = 6.0
"""Seconds that a variant's trial may take beside its duel."""
CLEAR_RATIO = 1.1
"""A variant whose single trial is so much faster than the choice's is duelled against the baseline at once where there
is no time for two duels: trials of one setting differ by 2 to 8 %. A lower share would credit noise to the variant."""
HOLD_UP_RATIO = 0.97
"""A variant whose single trial is below this share of the choice's is not worth a duel: the tie rule's own share."""


Obstructed = Callable[[Settings], Obstacle | None]


class Won(NamedTuple):
    """Why a variant takes the choice's place."""

    why: str
    gain: Gain | None = None
    """Over a whole epoch, where that is what it won."""


def confirm(run: Probe, choice: Choice, find_obstacle: Obstructed) -> str:
    """Hold the duels of a choice; return why there is none against the baseline, or nothing."""
    run.choice = refine(run, choice, find_obstacle)
    baseline = run.plan.baseline
    if (failure := why_it_fails(run.trials, baseline)) is not None:
        return f"yours does not run here: {failure}"
    already = any(is_over_rates(duel, baseline, run.choice.settings) for duel in run.duels)
    return (
        ""
        if already or run.choice.settings == baseline
        else _hold_duel(run, baseline, run.choice.settings, _left_s(run))
    )


def refine(run: Probe, choice: Choice, find_obstacle: Obstructed) -> Choice:
    """Return the choice, or a variant of it that won a duel against it.

    Args:
        run: The probe.
        choice: What the screening chose.
        find_obstacle: Says what forbids a setting.
    """
    chosen = representative(run.trials, choice.settings)
    if chosen is None or run.options.search != "guided":
        return choice
    count = None if run.plan.is_iterable else run.plan.terms.rank_samples
    case = Case(chosen=chosen, baseline=None, limits=run.plan.limits, device=run.plan.device.kind, sample_count=count)
    tried = 0
    for variant in find_variants(case, _spread_ratio(run.trials)):
        if tried == VARIANTS_MAX:
            break
        # What is left must hold this variant's duel, and the one against the baseline that may follow.
        duels = 1 if choice.settings == run.plan.baseline else 2
        if _left_s(run) < duels * DUEL_WANTED_S + VARIANT_S:
            run.notes = (*run.notes, f"Not tried for want of time: {_name(variant)} ({variant.why}).")
            return choice
        if variant.epoch_batches is not None and (reason := _no_room_for_epochs(run, choice, variant, duels)):
            run.notes = (*run.notes, f"Not tried: {_name(variant)} ({variant.why}): {reason}.")
            continue
        obstacle = find_obstacle(variant.settings)
        is_as_many = variant.settings.num_workers == choice.settings.num_workers
        if obstacle is not None and not (is_as_many and obstacle.cause is Cause.CORES):  # as many run already
            run.notes = (*run.notes, f"Not tried: {_name(variant)} ({variant.why}): {obstacle.arithmetic}.")
            continue
        tried += 1
        won = _try(run, choice, variant, duels)
        if won is not None:
            rate = representative(run.trials, variant.settings)
            return Choice(
                settings=variant.settings,
                rate_per_s=choice.rate_per_s if rate is None or rate.rate_per_s is None else rate.rate_per_s,
                ties=choice.ties,
                reasons=(*choice.reasons, f"{_name(variant)} {won.why}: {variant.why}."),
                epoch_gain=won.gain,
            )
    return choice


def _try(run: Probe, choice: Choice, variant: Variant, duels: int) -> Won | None:
    """Measure a variant, and return why it takes the choice's place; None where it does not.

    It wins a duel against the choice, or, where there is time for one duel only, the baseline's, its trial is so much
    faster that no noise explains it.
    """
    leg = Leg(settings=variant.settings, role="variant")
    spec = run.plan.spec(leg, run.cache, run.first_sample(), run.options.seed)
    run.progress.phase(f"trying {_name(variant)}")
    trial = run.runner.run(spec, leg, len(run.trials) + 1, run.deadline_s(spec))
    run.trials.append(trial)
    run.count_samples(trial)
    # Kept workers are as fast between the ends of epochs: there, noise alone would decide.
    least_ratio = HOLD_UP_RATIO if variant.epoch_batches is None else 0.0
    if trial.rate_per_s is None or trial.rate_per_s < least_ratio * choice.rate_per_s:
        told = "its trial was no faster" if trial.failure is None else f"its trial failed ({trial.failure.message})"
        run.notes = (*run.notes, f"{_name(variant)} was tried, since {variant.why}: {told}.")
        return None
    if variant.epoch_batches is not None:
        return _try_over_epochs(run, choice, variant, _epochs_duel_s(run, duels))
    seconds, ratio = _left_s(run) / duels, trial.rate_per_s / choice.rate_per_s
    if duels > 1 and isinstance(_plan_duel(run, choice.settings, variant.settings, seconds), str):
        is_clear = ratio >= CLEAR_RATIO
        told = "there was no time for a duel against the same without it"
        if not is_clear:
            run.notes = (*run.notes, f"{_name(variant)} was {ratio:.2f} times as fast in one trial, but {told}.")
        return Won(f"was {ratio:.2f} times as fast in its trial ({told})") if is_clear else None
    reason = _hold_duel(run, choice.settings, variant.settings, seconds)
    if reason or run.duels[-1].failure is not None:
        return None
    duel = run.duels[-1]
    interval = interval_of(duel)
    if verdict(interval) is not Verdict.FASTER:
        told = f"the duel did not show it faster{_doubt(interval)}"
        run.notes = (*run.notes, f"{_name(variant)} was tried, since {variant.why}: {told}.")
        return None
    return Won("won a duel against the same without it")


def _doubt(interval: RatioInterval) -> str:
    """Return why an interval is not trusted, in brackets; nothing where it is."""
    return f" ({interval.reason})" if interval.reason else ""


def _try_over_epochs(run: Probe, choice: Choice, variant: Variant, seconds: float) -> Won | None:
    """Hold a duel over short epochs, and return why kept workers win over a real one; None where they do not."""
    count, batches = run.plan.terms.rank_samples or 0, variant.epoch_batches
    reason = _hold_duel(run, choice.settings, variant.settings, seconds, batches)
    if reason or batches is None or run.duels[-1].failure is not None:
        run.notes = (*run.notes, f"{_name(variant)} could not be judged: {reason or 'its duel failed'}.")
        return None
    duel, samples = run.duels[-1], batches * choice.settings.batch_size
    interval = interval_of(duel)
    gain = None
    if verdict(interval) is Verdict.FASTER:
        # T' is the baseline's own, as the duel saw it: what the trial's first batch took holds more than a boundary.
        short_s = sum(p.baseline_s for p in duel.pairs) / sum(p.baseline_samples for p in duel.pairs) * samples
        gain = gain_over_epoch(interval, short_s, short_s + (count - samples) / choice.rate_per_s)
    if gain is None or gain.estimate < 1 / TIE_RATIO:
        told = f"did not show it faster{_doubt(interval)}"
        if gain is not None:
            told = f"makes that {gain.estimate:.3f} times as fast, a tie"
        run.notes = (*run.notes, f"{_name(variant)} was tried, since {variant.why}: the duel {told}.")
        return None
    return Won(
        f"won a duel over epochs of {samples} samples against the same without it; by that an epoch of {count} samples "
        f"becomes {gain.estimate:.3f} times as fast, an estimate ({gain.low:.3f} to {gain.high:.3f})",
        gain,
    )


def _no_room_for_epochs(run: Probe, choice: Choice, variant: Variant, duels: int) -> str:
    """Return why a duel over short epochs cannot be held once the variant's trial has run, or nothing."""
    seconds = _epochs_duel_s(run, duels) - VARIANT_S
    plan = _plan_duel(run, choice.settings, choice.settings, seconds, variant.epoch_batches)
    if not isinstance(plan, str):
        return ""
    return f"three short epochs do not fit into a slice of the {min(DUEL_MAX_S, seconds):.0f} s of a duel"


def _epochs_duel_s(run: Probe, duels: int) -> float:
    """Return the seconds of a duel over short epochs: its slices are long, so the other gets what it needs at least."""
    return _left_s(run) - (duels - 1) * DUEL_WANTED_S


def _name(variant: Variant) -> str:
    return format_settings(variant.settings)


def _spread_ratio(trials: list[TrialResult]) -> float | None:
    """Return the spread of a worker's batch times, where the loader ran alone."""
    costs = [trial.measurement.worker for trial in trials if trial.role == "loader" and trial.measurement is not None]
    return next((cost.wall_spread_ratio for cost in costs if cost is not None), None)


def _left_s(run: Probe) -> float:
    """Return the seconds that duels may still take."""
    reserve_s = divide_budget(run.options.budget_s, 0.0).reserve_s
    return run.options.budget_s - run.spent_s() - reserve_s


def _plan_duel(
    run: Probe, baseline: Settings, contender: Settings, seconds: float, epoch_batches: int | None = None
) -> DuelPlan | str:
    """Fit a duel into these seconds; text where it cannot be."""
    left_s = min(DUEL_MAX_S, seconds)
    ours, theirs = (representative(run.trials, each) for each in (contender, baseline))
    if theirs is None or ours is None:
        return "the baseline could not be measured"
    plan = fit_duel(
        left_s,
        theirs,
        ours,
        run.plan.device.kind,
        returns_memory=run.plan.limits.returns_memory,
        epoch_batches=epoch_batches,
    )
    return plan or f"{left_s:.0f} s were left, too few for a duel: give it a longer --budget"


def _hold_duel(
    run: Probe, baseline: Settings, contender: Settings, seconds: float, epoch_batches: int | None = None
) -> str:
    """Hold a duel within its seconds, and keep it; return why there is none, or nothing."""
    left_s = min(DUEL_MAX_S, seconds)
    plan = _plan_duel(run, baseline, contender, left_s, epoch_batches)
    if isinstance(plan, str):
        return plan
    legs = [Leg(settings=each, role="grid") for each in (baseline, contender)]
    specs = [
        msgspec.structs.replace(
            run.plan.spec(leg, run.cache, run.first_sample(), run.options.seed), epoch_batches=epoch_batches
        )
        for leg in legs
    ]
    run.progress.phase(f"duel: {format_settings(contender)} against {format_settings(baseline)}")

    def told(done: int, planned: int) -> None:
        run.progress.phase(f"duel: {done} of {planned} slice pairs")

    deadline_s = time.monotonic() + left_s
    trials = [trial for each in (baseline, contender) if (trial := representative(run.trials, each)) is not None]
    reason = None if _fit_together(run, trials) else NO_ROOM
    reason = STAYS_HERE if run.arena is None else reason
    try:
        run.duels.append(_hold(run, specs[0], specs[1], plan, deadline_s, told, reason))
    except DuelInterruptedError as stop:
        run.duels.append(stop.duel)
        raise
    finally:
        run.samples_used += 2 * plan.restarts * STRIDE_SAMPLES  # each start of each side reads from elsewhere
    return ""


def _hold(
    run: Probe,
    baseline: TrialSpec,
    contender: TrialSpec,
    plan: DuelPlan,
    deadline_s: float,
    told: Told,
    reason: str | None,
) -> Duel:
    """Let both sides run by turns; fresh runs alternate where that is ruled out, or turns out to be forbidden."""
    if reason is None and run.arena is not None:
        try:
            return hold_duel(run.arena, baseline, contender, plan, deadline_s, told)
        except FreezeForbiddenError as forbidden:
            reason = str(forbidden)
    return hold_abba(run.runner, baseline, contender, ABBA_PAIRS_MIN, deadline_s, told, reason=reason or NO_ROOM)


def _fit_together(run: Probe, trials: list[TrialResult]) -> bool:
    """Say whether both sides of a duel have room at once: host memory, shared memory, device memory."""
    limits, needs = run.plan.limits, run.plan.needs
    host = [None if trial.trace is None else trial.trace.pss_bytes for trial in trials]
    shared = [None if needs.sample_bytes is None else shm_size_bytes(t.settings, needs.sample_bytes) for t in trials]
    device = [None if trial.measurement is None else trial.measurement.device_memory_bytes for trial in trials]
    return fits_together(
        [
            (host, run.runner.memory_end_bytes),
            (shared, limits.shm_free_bytes),
            (device, needs.device_memory_bytes),
        ]
    )
