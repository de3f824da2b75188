"""Are rates what they are said to be? Duels whose answer is known: ours against the plain loop, and equals."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import msgspec

from loadtune.advice.budget import DuelPlan
from loadtune.advice.selection import burst_samples
from loadtune.advice.slicing import fit_duel
from loadtune.engine.duel import STRIDE_SAMPLES, apart, hold_duel
from loadtune.engine.sides import Arena, FreezeForbiddenError
from loadtune.records.measurement import Duel, SlicePair, TrialResult
from loadtune.records.report import Verdict
from loadtune.records.settings import TrialSpec
from loadtune.records.verification import Check, Figure, Outcome
from loadtune.stats import ABBA_PAIRS_MIN, SAME_RATIO, STARTS_MIN, RatioInterval, duel_interval, verdict
from loadtune.verifying.bench import Bench, describe_ratio, figure, judge_equal, mean_foreign_cores, slim, timed, watch

CUDA_LIMITS = {"plain-loop": 0.01, "same-against-same": 0.02, "sampler": 0.005}
"""How far from 1 is equal on a CUDA device, whose steps take the same time again and again; `SAME_RATIO` elsewhere.
Own choice: a third of what the tool calls a tie, and for watching what no training would notice."""
Lacks = Literal["nothing", "stamps", "sampler"]


def limit_ratio(bench: Bench, check: str) -> float:
    """Return how far from 1 two rates may lie in a check on this device."""
    return CUDA_LIMITS.get(check, SAME_RATIO) if bench.is_on_cuda else SAME_RATIO


def _target(limit: float) -> str:
    return f"the 95 % interval lies within {100 * limit:g} % of 1"


def check_plain_loop(bench: Bench, seconds: float) -> list[Check]:
    """Hold ours against a plain loop; in a whole run, a fresh trial in every start is held against it too."""
    with watch(bench) as found:
        duel, trials = hold(bench, seconds, "stamps", with_trials=not bench.is_quick)
        if isinstance(duel, str) and not bench.is_quick and not trials:  # too few seconds for both
            duel, trials = hold(bench, seconds, "stamps")
    interval = read_interval(duel)
    check = make_check(
        bench,
        duel,
        interval,
        id="plain-loop",
        claim="The measured loop runs as fast as a plain training loop.",
        measured=f"{describe_ratio(interval)} of the plain loop{_cost('measuring', interval)}",
        sides=("plain loop", "measured loop"),
    )
    checks = [check, _check_rate(bench, duel, trials)] if trials and not isinstance(duel, str) else [check]
    return [timed(each, found) for each in checks]


def _check_rate(bench: Bench, duel: Duel, trials: list[TrialResult]) -> Check:
    """Hold the rate of each fresh trial against the plain loop's in the start beside it."""
    pairs = []
    for start, trial in enumerate(trials):
        own = [pair for pair in duel.pairs if pair.restart == start]
        if own and trial.measurement is not None:
            pairs.append(
                SlicePair(
                    baseline_samples=sum(pair.baseline_samples for pair in own),
                    baseline_s=sum(pair.baseline_s for pair in own),
                    contender_samples=sum(window.samples for window in trial.measurement.windows),
                    contender_s=trial.measurement.duration_s,
                    baseline_first=start % 2 == 1,
                    restart=start,
                )
            )
    interval = duel_interval(pairs, pairs_min=ABBA_PAIRS_MIN)
    loads = [trial.trace.mean_foreign_cores for trial in trials if trial.trace is not None]
    foreign = max((load for load in loads if load is not None), default=None)
    outcome, reason = judge_equal(interval, is_disturbed=bench.is_disturbing(foreign))
    return Check(
        id="reported-rate",
        claim="The rate that a trial reports is the plain loop's.",
        target=_target(SAME_RATIO),
        measured=f"{describe_ratio(interval)}: fresh trials by the plain loop, each beside the other",
        outcome=outcome,
        reason=reason,
        figures=(figure("rate of a fresh trial by plain loop", interval),),
        foreign_cores=foreign,
        trials=tuple(slim(trial) for trial in trials),
    )


def check_same(bench: Bench, seconds: float) -> list[Check]:
    """Hold the setting against itself, twice where time allows, and judge all pairs together.

    FASTER once is chance (1 in 40); twice is a fault.
    """
    with watch(bench) as found:
        until_s = time.monotonic() + seconds
        held = [hold(bench, seconds / 2, "nothing")[0]]
        if isinstance(held[0], str):
            held = [hold(bench, seconds, "nothing")[0]]
        else:
            held.append(hold(bench, until_s - time.monotonic(), "nothing")[0])
    duels = tuple(duel for duel in held if not isinstance(duel, str))
    intervals = [read_interval(duel) for duel in duels]
    whole = _join(duels) if duels else held[0]
    faster = sum(verdict(each) is Verdict.FASTER for each in intervals)
    check = make_check(
        bench,
        whole,
        read_interval(whole),
        id="same-against-same",
        claim="A setting against itself is not called faster.",
        target=f"{_target(limit_ratio(bench, 'same-against-same'))}, and FASTER is not said twice",
        measured=f"{describe_ratio(read_interval(whole))}; FASTER was said in {faster} of {len(duels)} duels",
        sides=("the setting", "itself"),
        figures=tuple(figure(f"duel {place}", each) for place, each in enumerate(intervals, start=1)),
    )
    if faster > 1 and not bench.is_disturbing(check.foreign_cores):
        told = "called faster in two duels of two: chance does so once in 1600"
        check = msgspec.structs.replace(check, outcome=Outcome.FAILS, reason=told)
    return [timed(msgspec.structs.replace(check, duels=duels), found)]


def check_sampler(bench: Bench, seconds: float) -> list[Check]:
    """Hold watched slices against slices in which nobody looks.

    On a GPU both train on a resident batch: the device is the limit there, so that the least hold-up of a step shows.
    """
    spec = bench.resident_spec() if bench.is_on_cuda else bench.spec()
    with watch(bench) as found:
        duel, _ = hold(bench, seconds, "sampler", spec, spec)
    interval = read_interval(duel)
    cores = None if bench.trial.trace is None else bench.trial.trace.sampler_cores
    own = "" if cores is None else f"; it takes {cores:.3f} of {bench.run.plan.limits.usable_cores:g} cores"
    not_read = None if cores is not None else "not read"
    check = make_check(
        bench,
        duel,
        interval,
        id="sampler",
        claim="Watching the processes from outside does not slow them.",
        target=f"the 95 % interval lies above {1 - limit_ratio(bench, 'sampler'):g}",
        measured=f"{describe_ratio(interval)} of the unwatched{_cost('watching', interval)}{own}",
        sides=("unwatched", "watched"),
        figures=(Figure(quantity="processor time of watching", value=cores, unit="cores", reason=not_read),),
        may_be_faster=True,
    )
    return [timed(check, found)]


def make_check(
    bench: Bench,
    duel: Duel | str,
    interval: RatioInterval,
    *,
    id: str,  # noqa: A002 - the record's own name for it
    claim: str,
    measured: str,
    sides: tuple[str, str],
    target: str | None = None,
    figures: tuple[Figure, ...] = (),
    notes: tuple[str, ...] = (),
    may_be_faster: bool = False,
) -> Check:
    """Return what a duel says of a claim that two rates are equal; `duel` is text where none was held."""
    foreign = mean_foreign_cores(duel)
    is_disturbed = bench.is_disturbing(foreign)
    limit = limit_ratio(bench, id)
    outcome, reason = judge_equal(interval, is_disturbed=is_disturbed, may_be_faster=may_be_faster, limit_ratio=limit)
    has_pairs = not isinstance(duel, str) and duel.pairs
    return Check(
        id=id,
        claim=claim,
        target=target or _target(limit),
        measured=measured,
        outcome=outcome,
        reason=reason,
        figures=(
            figure(f"{sides[1]} by {sides[0]}", interval),
            *(_rates(duel, sides) if has_pairs and not isinstance(duel, str) else ()),
            *figures,
        ),
        foreign_cores=foreign,
        duels=() if isinstance(duel, str) else (duel,),
        notes=notes if isinstance(duel, str) else (*notes, *duel.notes),
    )


def _cost(what: str, interval: RatioInterval) -> str:
    if interval.low is None or not interval.trusted:
        return ""
    return f"; {what} costs at most {100 * max(0.0, 1 / interval.low - 1):.1f} %"


def hold(
    bench: Bench,
    seconds: float,
    lacks: Lacks,
    baseline: TrialSpec | None = None,
    contender: TrialSpec | None = None,
    *,
    with_trials: bool = False,
) -> tuple[Duel | str, list[TrialResult]]:
    """Hold a duel within its seconds, or say why there is none; with a fresh trial in every start if asked to."""
    run, kind = bench.run, bench.run.plan.device.kind
    own_s = ABBA_PAIRS_MIN * bench.trial.seconds_spent if with_trials else 0.0
    returns = run.plan.limits.returns_memory
    plan = fit_duel(seconds - own_s, bench.trial, bench.trial, kind, returns_memory=returns)
    if plan is None:
        return f"{max(0.0, seconds):.0f} s are too few for a duel with these data", []
    arena = replace(bench.arena, baseline_lacks=lacks, nvml=bench.nvml if lacks == "sampler" else None)
    deadline_s = time.monotonic() + seconds
    try:
        if with_trials:
            one_start = replace(plan, pairs=max(2, plan.pairs // plan.restarts), restarts=1)
            return _hold_with_trials(bench, arena, one_start, plan.restarts, deadline_s)
        duel = hold_duel(arena, baseline or bench.spec(), contender or bench.spec(), plan, deadline_s, _quietly)
    except FreezeForbiddenError as error:
        return f"two sides cannot run by turns: {error}", []
    run.samples_used += 2 * plan.restarts * STRIDE_SAMPLES
    return (duel if duel.failure is None else duel.failure.message), []


def _hold_with_trials(
    bench: Bench, arena: Arena, one_start: DuelPlan, starts: int, deadline_s: float
) -> tuple[Duel | str, list[TrialResult]]:
    """Hold a duel start by start, each beside a fresh trial: before it and after it by turns, so that drift cancels."""
    duels, trials = list[Duel](), list[TrialResult]()
    for start in range(starts):
        if start >= STARTS_MIN and time.monotonic() > deadline_s:
            break
        failure = None
        for is_trial in (True, False) if start % 2 == 0 else (False, True):
            spec = apart(bench.spec(), start, 0) if bench.run.cache == "warm" else bench.spec()
            if is_trial:
                trials.append(bench.run_trial(spec))
                failure = failure or trials[-1].failure
            else:
                duels.append(hold_duel(arena, spec, spec, one_start, deadline_s, _quietly))
                bench.run.samples_used += 2 * STRIDE_SAMPLES
                failure = failure or duels[-1].failure
        if failure is not None and start < STARTS_MIN:
            return failure.message, trials
        if failure is not None:
            break
    return _join(duels), trials


def _quietly(done: int, planned: int) -> None:
    """Tell nothing of a duel's progress: the check's name stands there."""


def _join(duels: Sequence[Duel]) -> Duel:
    """Return several duels of the same sides as one, each start of each a start of its own."""
    starts = {key: place for place, key in enumerate(dict.fromkeys(_starts(duels)))}
    pairs = [
        msgspec.structs.replace(pair, restart=starts[key])
        for key, pair in zip(_starts(duels), (pair for duel in duels for pair in duel.pairs), strict=True)
    ]
    return msgspec.structs.replace(
        duels[0],
        pairs=tuple(pairs),
        seconds_spent=sum(duel.seconds_spent for duel in duels),
        notes=tuple(dict.fromkeys(note for duel in duels for note in duel.notes)),
    )


def _starts(duels: Sequence[Duel]) -> list[tuple[int, int]]:
    """Return duel and start of every pair."""
    return [(number, pair.restart) for number, duel in enumerate(duels) for pair in duel.pairs]


def read_interval(duel: Duel | str) -> RatioInterval:
    """Return a duel's interval, judged as that of a probe is; `duel` is text where none was held."""
    if isinstance(duel, str):
        return RatioInterval(pairs=0, reason=duel)
    return duel_interval(duel.pairs, burst_samples=burst_samples(duel))


def _rates(duel: Duel, sides: tuple[str, str]) -> tuple[Figure, ...]:
    """Return both sides' rates as rows."""
    baseline = sum(p.baseline_samples for p in duel.pairs) / sum(p.baseline_s for p in duel.pairs)
    contender = sum(p.contender_samples for p in duel.pairs) / sum(p.contender_s for p in duel.pairs)
    return (
        Figure(quantity=f"rate, {sides[0]}", value=baseline, unit="samples/s"),
        Figure(quantity=f"rate, {sides[1]}", value=contender, unit="samples/s"),
    )
