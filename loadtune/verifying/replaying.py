"""Does a replayed device run as the device does? Recorded here and set against it; a replay is held to its profile."""

import time

import msgspec

from loadtune.advice.search import Leg, with_axes
from loadtune.recording import make_profile
from loadtune.records.measurement import Duel
from loadtune.records.profile import ReplayProfile
from loadtune.records.settings import DeviceChoice
from loadtune.records.verification import Check, Figure, Outcome
from loadtune.stats import SAME_RATIO
from loadtune.verifying.bench import DISTURBED, Bench, describe_ratio, make_spec, slim, timed, watch
from loadtune.verifying.comparisons import hold, make_check, read_interval

PROFILE_MEASURE_S = 4.0
"""Seconds in windows to record the device for a replay, or to hold a replay to its profile."""


def check_replay(bench: Bench, seconds: float) -> list[Check]:
    """Record the device and hold its replay against it; a device that is itself a replay is held to its profile."""
    profile = bench.run.plan.device.profile
    if profile is not None:
        return [_check_profile(bench, profile)]
    with watch(bench) as found:
        duel = _hold_against_replay(bench, time.monotonic() + seconds)
    is_cpu = bench.run.plan.device.kind == "cpu"
    note = "On a CPU device and loader share the cores, so the replay burns the step's CPU time as well."
    check = make_check(
        bench,
        duel,
        read_interval(duel),
        id="replay",
        claim="A device recorded here and replayed runs as the device itself does.",
        measured=f"replayed by real: {describe_ratio(read_interval(duel))}",
        sides=("real device", "replay"),
        notes=(note,) if is_cpu else (),
    )
    return [timed(check, found)]


def _hold_against_replay(bench: Bench, until_s: float) -> Duel | str:
    """Record the device as it trains in the setting under test: copies, pinned memory and threads are the same."""
    real = bench.spec()
    alone = Leg(
        settings=with_axes(bench.settings, 0, bench.settings.batch_size),
        role="ceiling",
        feed="cached",
        measure_s=PROFILE_MEASURE_S,
    )
    recorded = bench.run_trial(msgspec.structs.replace(make_spec(bench.run, alone), threads=real.threads))
    if recorded.measurement is None:
        return f"the device could not be recorded: {recorded.failure.message if recorded.failure else recorded.state}"
    profile = make_profile("this device", [recorded])
    replayed = msgspec.structs.replace(real, device=DeviceChoice(kind="replay", profile=profile))
    return hold(bench, until_s - time.monotonic(), "nothing", real, replayed)[0]


def _check_profile(bench: Bench, profile: ReplayProfile) -> Check:
    """Hold the rate of a replayed device on a resident batch, its spread left out, against what its profile says."""
    batch_size = bench.settings.batch_size
    point = msgspec.structs.replace(profile.at(batch_size), spread_s=0.0)
    exact = msgspec.structs.replace(profile, points=(point,))
    leg = Leg(settings=bench.settings, role="ceiling", feed="resident", measure_s=PROFILE_MEASURE_S)
    with watch(bench) as found:
        spec = make_spec(bench.run, leg)
        device = msgspec.structs.replace(spec.device, profile=exact)
        trial = bench.run_trial(msgspec.structs.replace(spec, device=device))
    foreign = None if trial.trace is None else trial.trace.mean_foreign_cores
    outcome, reason, told = Outcome.UNKNOWN, "the resident batch could not be trained", "not measured"
    figures: tuple[Figure, ...] = ()
    if trial.rate_per_s is not None:
        said = batch_size / max(point.device_s, point.host_cpu_s)
        ratio = trial.rate_per_s / said
        told = f"{trial.rate_per_s:.4g} samples/s, {said:.4g} by the profile: {ratio:.3f}x"
        figures = (Figure(quantity="rate by profile", value=ratio, unit="x"),)
        outcome, reason = Outcome.FAILS, "the replay does not keep its time"
        if bench.is_disturbing(foreign):
            outcome, reason = Outcome.UNKNOWN, DISTURBED
        if abs(ratio - 1.0) <= SAME_RATIO:
            outcome, reason = Outcome.HOLDS, ""
    check = Check(
        id="replay",
        claim="A replayed step takes the time that its profile says.",
        target=f"within {100 * SAME_RATIO:g} % of the profile",
        measured=told,
        outcome=outcome,
        reason=reason or None,
        figures=figures,
        foreign_cores=foreign,
        trials=(slim(trial),),
        notes=("No real device is here to hold the replay against.",),
    )
    return timed(check, found)
