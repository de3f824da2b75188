"""Are rates what they are said to be? Duels whose answer is known: ours against the plain loop, and equals."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import msgspec

from loadtune.advice.search import Leg
from loadtune.advice.slicing import find_pace, fit_duel
from loadtune.engine.duel import apart, hold_duel
from loadtune.engine.sides import Arena
from loadtune.recording import make_profile
from loadtune.records.measurement import Duel, SlicePair, TrialResult
from loadtune.records.report import Verdict
from loadtune.records.settings import DeviceChoice, Settings, TrialSpec
from loadtune.records.verification import Check, Figure, Outcome
from loadtune.stats import ABBA_PAIRS_MIN, SAME_RATIO, RatioInterval, duel_interval, verdict
from loadtune.verifying.bench import (
    Bench,
    describe_ratio,
    figure,
    judge_equal,
    make_spec,
    mean_foreign_cores,
    timed,
    watch,
)

TARGET = f"the 95 % interval lies within {100 * SAME_RATIO:g} % of 1"
PLAIN_CLAIM = "The measured loop runs as fast as a plain training loop."
RATE_CLAIM = "The rate that a trial reports is the plain loop's."
SAME_CLAIM = "A setting against itself is not called faster."
SAMPLER_CLAIM = "Watching the processes from outside does not slow them."
REPLAY_CLAIM = "A device recorded here and replayed runs as the device itself does."
REPLAYED_CLAIM = "A replayed step takes the time that its profile says."
PROFILE_MEASURE_S = 4.0
"""Seconds in windows to record the device for a replay."""

Lacks = Literal["nothing", "stamps", "sampler"]


def check_plain_loop(bench: Bench, seconds: float) -> list[Check]:
    """Hold ours against a plain loop; in a whole run, a fresh trial before every start is held against it too."""
    with watch(bench) as found:
        duel, trials = _hold(bench, seconds, "stamps", with_trials=not bench.is_quick)
    interval, words = _interval(bench, duel), "the plain loop"
    outcome, reason = _judge(bench, duel, interval)
    cost = "" if interval.low is None else f"; measuring costs at most {100 * max(0.0, 1 / interval.low - 1):.1f} %"
    checks = [
        Check(
            id="plain-loop",
            claim=PLAIN_CLAIM,
            target=TARGET,
            measured=f"{describe_ratio(interval)} of {words}{cost}",
            outcome=outcome,
            reason=reason,
            figures=(figure("measured loop by plain loop", interval), *_rates(duel)),
            foreign_cores=None if isinstance(duel, str) else mean_foreign_cores(duel),
            duels=() if isinstance(duel, str) else (duel,),
        )
    ]
    if trials and not isinstance(duel, str):
        checks.append(_rate_check(bench, duel, trials))
    return [timed(check, found) for check in checks]


def _rate_check(bench: Bench, duel: Duel, trials: list[TrialResult]) -> Check:
    """Hold the rate of each fresh trial against the plain loop's in the start after it."""
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
                    baseline_first=False,
                    restart=start,
                )
            )
    interval = duel_interval(pairs, pairs_min=ABBA_PAIRS_MIN)
    outcome, reason = judge_equal(interval, is_disturbed=bench.is_disturbed)
    return Check(
        id="reported-rate",
        claim=RATE_CLAIM,
        target=TARGET,
        measured=f"{describe_ratio(interval)}: fresh trials by the plain loop, each beside the other",
        outcome=outcome,
        reason=reason,
        figures=(figure("rate of a fresh trial by plain loop", interval),),
        foreign_cores=mean_foreign_cores(duel),
        trials=tuple(_slim(trial) for trial in trials),
    )


def check_same(bench: Bench, seconds: float) -> list[Check]:
    """Hold the setting against itself, twice where time allows, and judge all pairs together.

    FASTER once is chance (1 in 40); twice is a fault.
    """
    with watch(bench) as found:
        until_s = time.monotonic() + seconds
        held = [_hold(bench, seconds / 2, "nothing")[0]]
        if isinstance(held[0], str):
            held = [_hold(bench, seconds, "nothing")[0]]
        else:
            held.append(_hold(bench, until_s - time.monotonic(), "nothing")[0])
    duels = tuple(duel for duel in held if not isinstance(duel, str))
    intervals = [_interval(bench, duel) for duel in duels]
    whole = _join(duels) if duels else held[0]
    interval = _interval(bench, whole)
    outcome, reason = _judge(bench, whole, interval)
    faster = sum(verdict(each) is Verdict.FASTER for each in intervals)
    if faster > 1 and not bench.is_disturbed:
        outcome, reason = Outcome.FAILS, "called faster in two duels of two: chance does so once in 1600"
    check = Check(
        id="same-against-same",
        claim=SAME_CLAIM,
        target=f"{TARGET}, and FASTER is not said twice",
        measured=f"{describe_ratio(interval)}; FASTER was said in {faster} of {len(duels)} duels",
        outcome=outcome,
        reason=reason,
        figures=(
            figure("the setting by itself", interval),
            *(figure(f"duel {place}", each) for place, each in enumerate(intervals, start=1)),
        ),
        foreign_cores=None if isinstance(whole, str) else mean_foreign_cores(whole),
        duels=duels,
    )
    return [timed(check, found)]


def check_sampler(bench: Bench, seconds: float) -> list[Check]:
    """Hold watched slices against slices in which nobody looks."""
    with watch(bench) as found:
        duel, _ = _hold(bench, seconds, "sampler")
    interval = _interval(bench, duel)
    outcome, reason = _judge(bench, duel, interval)
    cost = "" if interval.low is None else f"; watching costs at most {100 * max(0.0, 1 / interval.low - 1):.1f} %"
    cores = None if bench.trial.trace is None else bench.trial.trace.sampler_cores
    own = "" if cores is None else f"; it takes {cores:.3f} of {bench.run.plan.limits.usable_cores:g} cores"
    check = Check(
        id="sampler",
        claim=SAMPLER_CLAIM,
        target=TARGET,
        measured=f"{describe_ratio(interval)} of the unwatched{cost}{own}",
        outcome=outcome,
        reason=reason,
        figures=(
            figure("watched by unwatched", interval),
            Figure(quantity="processor time of watching", value=cores, unit="cores", reason=_not_read(cores)),
            *_rates(duel),
        ),
        foreign_cores=None if isinstance(duel, str) else mean_foreign_cores(duel),
        duels=() if isinstance(duel, str) else (duel,),
    )
    return [timed(check, found)]


def check_replay(bench: Bench, seconds: float) -> list[Check]:
    """Record the device and hold its replay against it; a device that is itself a replay is held to its profile."""
    if bench.run.plan.device.kind == "replay":
        return [_check_profile(bench)]
    with watch(bench) as found:
        until_s = time.monotonic() + seconds
        alone = Leg(
            settings=Settings(num_workers=0, batch_size=bench.settings.batch_size),
            role="ceiling",
            feed="resident",
            measure_s=PROFILE_MEASURE_S,
        )
        recorded = bench.run_trial(make_spec(bench.run, alone))
        duel: Duel | str = f"the device could not be recorded: {recorded.failure and recorded.failure.message}"
        if recorded.measurement is not None:
            profile = make_profile("this device", [recorded])
            real = bench.spec()
            replayed = msgspec.structs.replace(real, device=DeviceChoice(kind="replay", profile=profile))
            duel, _ = _hold(bench, until_s - time.monotonic(), "nothing", real, replayed)
    interval = _interval(bench, duel)
    outcome, reason = _judge(bench, duel, interval)
    notes: tuple[str, ...] = ()
    if bench.run.plan.device.kind == "cpu":
        notes = ("On a CPU device and loader share the cores, so the replay burns the step's CPU time as well.",)
    check = Check(
        id="replay",
        claim=REPLAY_CLAIM,
        target=TARGET,
        measured=f"replayed by real: {describe_ratio(interval)}",
        outcome=outcome,
        reason=reason,
        figures=(figure("replayed by real", interval), *_rates(duel)),
        foreign_cores=None if isinstance(duel, str) else mean_foreign_cores(duel),
        duels=() if isinstance(duel, str) else (duel,),
        notes=notes,
    )
    return [timed(check, found)]


def _check_profile(bench: Bench) -> Check:
    """Hold the rate of a replayed device on a resident batch against what its profile says."""
    batch_size = bench.settings.batch_size
    with watch(bench) as found:
        leg = Leg(settings=bench.settings, role="ceiling", feed="resident", measure_s=PROFILE_MEASURE_S)
        trial = bench.run_trial(make_spec(bench.run, leg))
    profile = bench.run.plan.device.profile
    point = None if profile is None else profile.at(batch_size)
    outcome: Outcome = Outcome.UNKNOWN
    reason: str | None = "the resident batch could not be trained"
    figures: tuple[Figure, ...] = ()
    told = "not measured"
    if point is not None and trial.rate_per_s is not None:
        said = batch_size / (max(point.device_s, point.host_cpu_s) + point.copy_s)
        ratio = trial.rate_per_s / said
        told = f"{trial.rate_per_s:.4g} samples/s, {said:.4g} by the profile: {ratio:.3f}x"
        figures = (Figure(quantity="rate by profile", value=ratio, unit="x"),)
        is_near = abs(ratio - 1.0) <= SAME_RATIO
        outcome, reason = (Outcome.HOLDS, None) if is_near else (Outcome.FAILS, "the replay does not keep its time")
        if not is_near and bench.is_disturbed:
            outcome, reason = Outcome.UNKNOWN, "others used the processors meanwhile, so the difference may be theirs"
    check = Check(
        id="replay",
        claim=REPLAYED_CLAIM,
        target=f"within {100 * SAME_RATIO:g} % of the profile",
        measured=told,
        outcome=outcome,
        reason=reason,
        figures=figures,
        trials=(_slim(trial),),
        notes=("No real device is here to hold the replay against.",),
    )
    return timed(check, found)


def _hold(
    bench: Bench,
    seconds: float,
    lacks: Lacks,
    baseline: TrialSpec | None = None,
    contender: TrialSpec | None = None,
    *,
    with_trials: bool = False,
) -> tuple[Duel | str, list[TrialResult]]:
    """Hold a duel within its seconds, or say why there is none; with a fresh trial before every start if asked to."""
    run, trials = bench.run, list[TrialResult]()
    trial_s = bench.trial.seconds_spent if with_trials else 0.0
    plan = fit_duel(seconds - ABBA_PAIRS_MIN * trial_s, bench.trial, bench.trial, run.plan.device.kind)
    if plan is None:
        return f"{max(0.0, seconds):.0f} s are too few for a duel with these data", trials
    arena = _arena(bench, lacks)
    deadline_s = time.monotonic() + seconds
    specs = (baseline or bench.spec(), contender or bench.spec())
    if not with_trials:
        duel = hold_duel(arena, *specs, plan, deadline_s, _quietly)
        return (duel if duel.failure is None else duel.failure.message), trials
    duels = []
    share = replace(plan, pairs=max(2, plan.pairs // plan.restarts), restarts=1)
    for start in range(plan.restarts):
        trials.append(bench.run_trial(apart(bench.spec(), start, 0)))
        ours = [apart(spec, start, side) for side, spec in enumerate(specs)]
        duels.append(hold_duel(arena, ours[0], ours[1], share, deadline_s, _quietly))
        failure = trials[-1].failure or duels[-1].failure
        if failure is not None:
            return failure.message, trials
    return _join(duels), trials


def _quietly(done: int, planned: int) -> None:
    """Tell nothing of a duel's progress: the check's name stands there."""


def _arena(bench: Bench, lacks: Lacks) -> Arena:
    return replace(bench.run.arena, baseline_lacks=lacks, nvml=bench.nvml if lacks == "sampler" else None)


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


def _interval(bench: Bench, duel: Duel | str) -> RatioInterval:
    """Return a duel's interval, judged as that of a probe is."""
    if isinstance(duel, str):
        return RatioInterval(pairs=0, reason=duel)
    foreign = mean_foreign_cores(duel)
    if foreign is not None:
        bench.foreign_cores.append(foreign)
    pace = find_pace(bench.trial, bench.run.plan.device.kind)
    burst = pace.burst_steps * bench.settings.batch_size if pace.burst_steps > 1 else 0
    return duel_interval(duel.pairs, burst_samples=(burst, burst))


def _judge(bench: Bench, duel: Duel | str, interval: RatioInterval) -> tuple[Outcome, str | None]:
    if isinstance(duel, str):
        return Outcome.UNKNOWN, duel
    return judge_equal(interval, is_disturbed=bench.is_disturbed)


def _rates(duel: Duel | str) -> tuple[Figure, ...]:
    """Return both sides' rates as rows."""
    if isinstance(duel, str) or not duel.pairs:
        return ()
    baseline = sum(p.baseline_samples for p in duel.pairs) / sum(p.baseline_s for p in duel.pairs)
    contender = sum(p.contender_samples for p in duel.pairs) / sum(p.contender_s for p in duel.pairs)
    return (
        Figure(quantity="rate of the first side", value=baseline, unit="samples/s"),
        Figure(quantity="rate of the second side", value=contender, unit="samples/s"),
    )


def _not_read(value: float | None) -> str | None:
    return None if value is not None else "not read"


def _slim(trial: TrialResult) -> TrialResult:
    """Return a trial without its trace: the file is for sending."""
    return msgspec.structs.replace(trial, trace=None)
