"""Does a replayed device run as the device does? Recorded here and set against it; a replay is held to its profile."""

import math
import time
from collections.abc import Sequence

import msgspec

from loadtune.advice.search import Leg, with_axes
from loadtune.recording import make_profile
from loadtune.records.measurement import Duel, TrialResult
from loadtune.records.profile import ReplayProfile
from loadtune.records.settings import DeviceChoice, Settings
from loadtune.records.verification import Check, Figure, Outcome
from loadtune.stats import SAME_RATIO
from loadtune.verifying.bench import DISTURBED, Bench, describe_ratio, make_spec, slim, timed, watch
from loadtune.verifying.comparisons import hold, make_check, read_interval

PROFILE_MEASURE_S = 4.0
"""Seconds in windows to record the device for a replay, or to hold a replay to its profile."""
CELL_RATIO = 0.05
"""How far the rate of a replay may lie from the device's in any cell. Own choice: the recording's spread, that of two
trials, and little more."""
CELL_MEASURE_S = 4.0
"""Seconds in windows of each trial of a cell. With 1.5 s, on other samples, three of six cells on an H100 agreed to
0.5 % and two where the loader was the limit differed by 15 to 21 %: too few batches."""


def check_replay(bench: Bench, seconds: float) -> list[Check]:
    """Record the device and hold its replay against it; a device that is itself a replay is held to its profile."""
    if bench.is_on_cuda:
        return [_check_cells(bench, seconds)]
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


def _check_cells(bench: Bench, seconds: float) -> Check:
    """Record the device at two batch sizes, and hold its replay against it with three worker counts at each.

    What a profile cannot know, such as copies that compete with the loader for memory, would show in some cells only.
    """
    cells, until_s = find_cells(bench.settings), time.monotonic() + seconds
    figures, trials = list[Figure](), list[TrialResult]()
    with watch(bench) as found:
        profile: ReplayProfile | str = f"{max(0.0, seconds):.0f} s are too few"
        if seconds > 2 * bench.trial.seconds_spent:
            profile = _record(bench, sorted({each.batch_size for each in cells}), trials)
        if isinstance(profile, str):
            problem = f"the device could not be recorded: {profile}"
        else:
            problem = _measure_cells(bench, cells, profile, until_s, figures, trials)
    worst = max((each.value for each in figures if each.value), key=lambda ratio: abs(ratio - 1.0), default=None)
    loads = [trial.trace.mean_foreign_cores for trial in trials if trial.trace is not None]
    foreign = max((load for load in loads if load is not None), default=None)
    outcome, reason = judge_cells(figures, problem, is_disturbed=bench.is_disturbing(foreign))
    check = Check(
        id="replay",
        claim="A device recorded here and replayed runs as the device itself does.",
        target=f"within {100 * CELL_RATIO:g} % in each of {len(cells)} cells",
        measured="not measured" if worst is None else f"{worst:.3f}x in the worst of {len(figures)} cells",
        outcome=outcome,
        reason=reason,
        figures=tuple(figures),
        foreign_cores=foreign,
        trials=tuple(slim(trial) for trial in trials),
    )
    return timed(check, found)


def judge_cells(figures: Sequence[Figure], problem: str, *, is_disturbed: bool) -> tuple[Outcome, str | None]:
    """Say whether a replay runs as its device: a cell that is off in both of two looks speaks against it.

    Args:
        figures: Replay by device, one a cell, with the bounds of both looks where there were two.
        problem: Why cells are missing; empty: none is.
        is_disturbed: Whether others used the processors meanwhile.
    """
    off = [each for each in figures if each.value is not None and abs(each.value - 1.0) > CELL_RATIO]
    twice = [
        each
        for each in off
        if each.low is not None
        and each.high is not None
        and (each.low > 1.0 + CELL_RATIO or each.high < 1.0 - CELL_RATIO)
    ]
    if twice and not is_disturbed:
        told = f"off by more than {CELL_RATIO:.0%} in both looks at {len(twice)} of {len(figures)} cells"
        return Outcome.FAILS, "; ".join(filter(None, (told, problem)))
    if off:
        why = DISTURBED if is_disturbed else "but not in two looks"
        told = f"off by more than {CELL_RATIO:.0%} at {len(off)} of {len(figures)} cells, {why}"
        return Outcome.UNKNOWN, "; ".join(filter(None, (told, problem)))
    return (Outcome.UNKNOWN, problem) if problem else (Outcome.HOLDS, None)


def _measure_cells(
    bench: Bench,
    cells: Sequence[Settings],
    profile: ReplayProfile,
    until_s: float,
    figures: list[Figure],
    trials: list[TrialResult],
) -> str:
    """Add a figure a cell, and return why some are missing."""
    longest_s = 0.0
    for place, settings in enumerate(cells):
        began_s = time.monotonic()
        if began_s + longest_s > until_s:
            return f"there was time for {place} of {len(cells)} cells"
        looks = list[float]()
        for is_first in (place % 2 == 0, place % 2 == 1):  # a second look where the first is off, in the other order
            if looks and (abs(looks[0] - 1.0) <= CELL_RATIO or time.monotonic() + longest_s > until_s):
                break
            rates = _rates_of_cell(bench, settings, profile, trials, is_first=is_first)
            if isinstance(rates, str):
                return f"a trial failed: {rates}"
            looks.append(rates[1] / rates[0])
            longest_s = max(longest_s, (time.monotonic() - began_s) / len(looks))
        figures.append(
            Figure(
                quantity=f"replay by device, {_name(settings)}",
                value=math.sqrt(looks[0] * looks[-1]),
                unit="x",
                low=min(looks) if len(looks) > 1 else None,
                high=max(looks) if len(looks) > 1 else None,
            )
        )
    return ""


def find_cells(settings: Settings) -> tuple[Settings, ...]:
    """Return six settings around the one under test: a quarter, half and all of its workers, whole and half batch."""
    workers = settings.num_workers
    counts = sorted({max(1, workers // 4), max(1, workers // 2), max(1, workers)})
    counts += [max(counts) + more for more in range(1, 4 - len(counts))]
    sizes = sorted({max(2, settings.batch_size // 2), settings.batch_size})
    if len(sizes) == 1:
        sizes.append(2 * sizes[0])
    return tuple(with_axes(settings, count, size) for size in sizes for count in counts)


def _name(settings: Settings) -> str:
    return f"num_workers={settings.num_workers}, batch_size={settings.batch_size}"


def _record(bench: Bench, sizes: list[int], trials: list[TrialResult]) -> ReplayProfile | str:
    """Record the device at these batch sizes, as `loadtune profile` does; text where it cannot be."""
    recorded = []
    for size in sizes:
        settings = with_axes(bench.settings, 0, size)
        leg = Leg(settings=settings, role="ceiling", feed="cached", measure_s=CELL_MEASURE_S)
        spec = msgspec.structs.replace(make_spec(bench.run, leg), threads=bench.spec().threads)
        recorded.append(bench.run_trial(spec))
    trials += recorded
    lost = next((each for each in recorded if each.measurement is None), None)
    if lost is not None:
        return lost.failure.message if lost.failure else str(lost.state)
    return make_profile("this device", recorded)


def _rates_of_cell(
    bench: Bench, settings: Settings, profile: ReplayProfile, trials: list[TrialResult], *, is_first: bool
) -> tuple[float, float] | str:
    """Return the rates of device and replay, the replay's measured first by turns; text where a trial fails."""
    leg = Leg(settings=settings, role="grid", measure_s=CELL_MEASURE_S)
    both = make_spec(bench.run, leg)
    rates: dict[str, float] = {}
    for side in ("device", "replay") if is_first else ("replay", "device"):
        # The same samples on both sides, unless the first would warm the page cache for the second.
        spec = both if bench.run.cache == "warm" else make_spec(bench.run, leg)
        if side == "replay":
            spec = msgspec.structs.replace(spec, device=DeviceChoice(kind="replay", profile=profile))
        trial = bench.run_trial(spec)
        trials.append(trial)
        if trial.rate_per_s is None:
            return trial.failure.message if trial.failure else str(trial.state)
        rates[side] = trial.rate_per_s
    return rates["device"], rates["replay"]


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
