"""A throughput surface in, TrialResults out: search and selection tested exactly and instantly.

The surface is the truth; noise, drift, burst and out-of-memory corners are added here, seeded.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from loadtune.advice.search import Leg, Search
from loadtune.records.measurement import (
    Cause,
    Failure,
    Measurement,
    SlicePair,
    Startup,
    TrialResult,
    TrialState,
    Window,
    WorkerCost,
)
from loadtune.records.resources import ResourceTrace
from loadtune.records.settings import Settings

Surface = Callable[[Settings], float]
STARTUP = Startup(process_s=0.03, build_s=0.5, device_warm_up_s=0.3, first_batch_s=0.1, loader_warm_up_s=0.2)


def complete_result(
    settings: Settings,
    rate: float,
    *,
    number: int = 1,
    windows: int = 3,
    spread: float = 0.0,
    **fields: object,
) -> TrialResult:
    """Return a complete trial of about `rate` samples a second; `spread` alternates its windows."""
    made = tuple(
        Window(
            started_s=float(place),
            duration_s=1_000_000 / rate / (1 + spread * (place % 2 * 2 - 1) * (place < windows // 2 * 2)),
            batches=10,
            samples=1_000_000,
        )
        for place in range(windows)
    )
    measurement = fields.pop("measurement", None) or Measurement(windows=made, startup=STARTUP)
    fields = {
        "role": "grid",
        "spec_key": "0" * 16,
        "spread_ratio": spread or None,
        "seconds_spent": 4.0,
    } | fields
    return TrialResult(
        number=number,
        state=TrialState.COMPLETE,
        settings=settings,
        rate_per_s=measurement.rate_per_s,
        measurement=measurement,
        **fields,
    )


def failed_result(
    settings: Settings,
    state: TrialState = TrialState.OUT_OF_MEMORY,
    cause: Cause = Cause.DEVICE_MEMORY,
    *,
    number: int = 1,
    **fields: object,
) -> TrialResult:
    """Return a trial that ended without a measurement."""
    fields = {"role": "grid", "spec_key": "0" * 16} | fields
    return TrialResult(
        number=number,
        state=state,
        settings=settings,
        failure=Failure(cause=cause, message="made up"),
        **fields,
    )


@dataclass
class FakeRunner:
    """Runs legs on a surface; `seconds` is its clock."""

    surface: Surface
    noise_sd: float = 0.0
    drift_per_s: float = 0.0
    failure_cause: Callable[[Settings], Cause | None] = lambda settings: None
    memory_bytes: Callable[[Settings], int] = lambda settings: 10**8 * (1 + settings.num_workers)
    overhead_s: float = 1.0
    device_rate: Callable[[int], float] | None = None
    """The device alone, by batch size; None: as the surface."""
    worker: WorkerCost | None = None
    """What a trial of the loader alone says that a sample costs."""
    main_cpu_s: float | None = None
    used_cores: Callable[[Settings], tuple[float | None, float | None]] = lambda settings: (None, None)
    """Cores of workers and main process in a trial."""
    seed: int = 0
    seconds: float = 0.0
    legs: list[Leg] = field(default_factory=list)
    results: list[TrialResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def run(self, leg: Leg) -> TrialResult:
        """Play one leg, move the clock, and keep both."""
        fields = {"number": len(self.results) + 1, "role": leg.role, "round": leg.round}
        fields |= {"feed": leg.feed, "consume": leg.consume, "started_s": self.seconds}
        cause = self.failure_cause(leg.settings)
        if leg.obstacle is not None:
            result = failed_result(leg.settings, TrialState.SKIPPED, leg.obstacle.cause, **fields)
        elif cause is not None:
            self.seconds += self.overhead_s
            result = failed_result(leg.settings, TrialState.OUT_OF_MEMORY, cause, **fields)
        else:
            spent_s = self.overhead_s + leg.measure_s
            rate = self.rate(leg.settings)
            if leg.feed == "resident" and self.device_rate is not None:
                rate = self.device_rate(leg.settings.batch_size)
            self.seconds += spent_s
            workers, main = self.used_cores(leg.settings)
            trace = ResourceTrace(
                started_monotonic_s=0.0,
                peak_memory_bytes=self.memory_bytes(leg.settings),
                mean_worker_cores=workers,
                mean_main_cores=main,
            )
            result = complete_result(
                leg.settings, rate, spread=self.noise_sd, seconds_spent=spent_s, trace=trace, **fields
            )
            result = self._with_costs(leg, result)
        self.legs.append(leg)
        self.results.append(result)
        return result

    def _with_costs(self, leg: Leg, result: TrialResult) -> TrialResult:
        """Add what a real trial says besides its rate."""
        worker = self.worker if leg.consume == "nothing" else None
        measured = msgspec.structs.replace(result.measurement, worker=worker, main_cpu_s_per_sample=self.main_cpu_s)
        return msgspec.structs.replace(result, measurement=measured)

    def rate(self, settings: Settings) -> float:
        """One noisy look at the surface, at the clock's time."""
        wobble = self._random.gauss(0.0, self.noise_sd) - self.drift_per_s * self.seconds
        return self.surface(settings) * 2.718281828**wobble

    def duel(self, baseline: Settings, contender: Settings, pairs: int = 16, restarts: int = 4) -> list[SlicePair]:
        """Alternate slices of the two settings."""
        made = []
        for place in range(pairs):
            sides = [self.rate(baseline) * 1.7, self.rate(contender) * 1.7]
            made.append(
                SlicePair(
                    baseline_samples=sides[0],
                    baseline_s=1.7,
                    contender_samples=sides[1],
                    contender_s=1.7,
                    baseline_first=place % 2 == 0,
                    restart=place * restarts // pairs,
                )
            )
            self.seconds += 4.0
        return made


def drive(search: Search, runner: FakeRunner, seconds: float) -> list[TrialResult]:
    """Ask, run and tell until the search stops; `seconds` is the screening's budget."""
    while (leg := search.ask(seconds - runner.seconds)) is not None:
        search.tell(runner.run(leg))
        assert len(runner.legs) < 1000, "the search never stops"
    return runner.results
