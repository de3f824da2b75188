"""What do the checks share? The prepared probe, a trial of the setting under test, and a stopwatch for each check."""

import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import msgspec

from loadtune.advice.search import Leg
from loadtune.engine.launcher import Launcher
from loadtune.engine.sides import Arena
from loadtune.monitor.host import MachineReader
from loadtune.monitor.nvml import Nvml
from loadtune.monitor.sampler import EXPECTED_ERRORS
from loadtune.preparing import BUILD_LIMIT_S, Probe
from loadtune.records.measurement import Duel, TrialResult
from loadtune.records.settings import Settings, TrialSpec
from loadtune.records.verification import Check, Figure, Outcome
from loadtune.stats import SAME_RATIO, RatioInterval

STEAL_MAX_RATIO = 0.02
"""Share of CPU time that the hypervisor may take; with more, a core is not the core it seems."""
DISTURBED = "others used the processors meanwhile, so the difference may be theirs"
MEASURE_S = 3.0
"""Seconds in windows of one trial of a check."""


@dataclass(slots=True, kw_only=True)
class Bench:
    """Everything a check works with."""

    run: Probe
    launcher: Launcher
    nvml: Nvml
    trial: TrialResult
    """Of the setting under test, as it runs for the user."""
    is_quick: bool
    steal_ratios: list[float] = field(default_factory=list)
    foreign_cores: list[float] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        """The setting under test."""
        return self.run.plan.baseline

    @property
    def is_on_cuda(self) -> bool:
        """Whether the device is a CUDA device, of which more can be asked, and more exactly."""
        return self.run.plan.device.kind == "cuda"

    @property
    def arena(self) -> Arena:
        """Where duels are held: verifying runs no trial in its own process."""
        assert self.run.arena is not None  # noqa: S101 - a launcher was handed to `prepare`
        return self.run.arena

    def spec(self, measure_s: float = MEASURE_S) -> TrialSpec:
        """Return a trial of the setting under test, on fresh samples where the cache must not be warm for it."""
        return make_spec(self.run, Leg(settings=self.settings, role="baseline", measure_s=measure_s))

    def resident_spec(self) -> TrialSpec:
        """Return a trial of the device alone at the setting's batch size: no loader, one batch that stays there."""
        leg = Leg(settings=self.settings, role="ceiling", feed="resident", measure_s=MEASURE_S)
        return make_spec(self.run, leg)

    def run_trial(self, spec: TrialSpec) -> TrialResult:
        """Run one trial to its result."""
        leg = Leg(settings=spec.settings, role="baseline", feed=spec.feed)
        number, deadline_s = len(self.run.trials) + 1, time.monotonic() + deadline_after_s(spec)
        trial = self.run.runner.run(spec, leg, number, deadline_s)
        self.run.trials.append(trial)
        self.run.count_samples(trial)
        return trial

    def is_disturbing(self, foreign_cores: float | None) -> bool:
        """Say whether others took more of the processors than measuring forgives; noted for the last check of all."""
        if foreign_cores is None:
            return False
        self.foreign_cores.append(foreign_cores)
        return foreign_cores > self.arena.foreign_limit_cores


def make_spec(run: Probe, leg: Leg) -> TrialSpec:
    """Return the trial of a leg."""
    return run.plan.spec(leg, run.cache, run.first_sample(), run.options.seed)


def deadline_after_s(spec: TrialSpec) -> float:
    """Return how long a trial may take, data and model included."""
    return spec.measure.cap_s + BUILD_LIMIT_S


@dataclass(slots=True)
class Watch:
    """What a check took, and what was taken from it."""

    seconds: float = 0.0
    steal_ratio: float | None = None


@contextmanager
def watch(bench: Bench) -> Iterator[Watch]:
    """Time a check, and see what the hypervisor takes meanwhile; filled in when the block ends."""
    found, began_s = Watch(), time.monotonic()
    with closing(MachineReader()) as machine:
        before_s = _read_steal_s(machine)
        try:
            yield found
        finally:
            found.seconds, after_s = time.monotonic() - began_s, _read_steal_s(machine)
    if before_s is not None and after_s is not None and found.seconds > 0:
        cores = bench.run.plan.limits.affinity_cores
        found.steal_ratio = max(0.0, after_s - before_s) / found.seconds / cores
        bench.steal_ratios.append(found.steal_ratio)


def _read_steal_s(machine: MachineReader) -> float | None:
    try:
        return machine.read().steal_s
    except EXPECTED_ERRORS:
        return None


def timed(check: Check, found: Watch) -> Check:
    """Return a check with what its watch saw."""
    return msgspec.structs.replace(check, seconds_spent=found.seconds, steal_ratio=found.steal_ratio)


def mean_foreign_cores(duel: Duel | str) -> float | None:
    """Return the cores that others used during the slices of a duel; None where there is none, or nothing was read."""
    pairs = () if isinstance(duel, str) else duel.pairs
    known = [pair.foreign_cores for pair in pairs if pair.foreign_cores is not None]
    return sum(known) / len(known) if known else None


def judge_equal(
    interval: RatioInterval, *, is_disturbed: bool, may_be_faster: bool = False, limit_ratio: float = SAME_RATIO
) -> tuple[Outcome, str | None]:
    """Say whether two rates are equal: the whole interval within a limit of 1, wholly outside, or neither.

    An interval that is narrow beside a busy neighbour is as good as any: both sides met it by turns. A difference seen
    there is not held against the tool.

    Args:
        interval: Of one rate by the other.
        is_disturbed: Whether others used the processors meanwhile.
        may_be_faster: Whether only a ratio below 1 speaks against the claim.
        limit_ratio: How far from 1 is equal.
    """
    if interval.low is None or interval.high is None or not interval.trusted:
        return Outcome.UNKNOWN, interval.reason or "there is no interval"
    low, high = 1.0 - limit_ratio, math.inf if may_be_faster else 1.0 + limit_ratio
    if low <= interval.low and interval.high <= high:
        return Outcome.HOLDS, None
    if interval.high < low or interval.low > high:
        if is_disturbed:
            return Outcome.UNKNOWN, DISTURBED
        return Outcome.FAILS, f"the whole interval lies more than {100 * limit_ratio:g} % from 1"
    half = 100 * (math.sqrt(interval.high / interval.low) - 1)
    others = ", while others used the processors" if is_disturbed else ""
    told = f"the smallest difference that this run could have told is {half:.1f} %{others}"
    return Outcome.UNKNOWN, f"the interval lies on both sides of a limit: {told}"


def describe_ratio(interval: RatioInterval) -> str:
    """Return an interval in figures."""
    if interval.estimate is None or interval.low is None or interval.high is None:
        return "not measured"
    return f"{interval.estimate:.3f}x [{interval.low:.3f} {interval.high:.3f}], {interval.pairs} pairs"


def figure(quantity: str, interval: RatioInterval) -> Figure:
    """Return an interval as a row."""
    reason = None if interval.estimate is not None else interval.reason or "not measured"
    return Figure(
        quantity=quantity, value=interval.estimate, unit="x", low=interval.low, high=interval.high, reason=reason
    )


def slim(trial: TrialResult) -> TrialResult:
    """Return a trial without its trace: the file is for sending."""
    return msgspec.structs.replace(trial, trace=None)
