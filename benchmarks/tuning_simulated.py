"""How do search and rivals do on made-up surfaces of the same worlds? Many seeds in seconds, and the truth is known.

Each world has a law: samples a second of its loader alone, by num_workers and batch size, with what forbids a setting.
The laws are simple bounds that bend into each other, not the product's own model of a loader, which the search would
then find true. Trials are noisy looks at it (`tests/fake_runner`); shares of the oracle are exact. Whether the laws are
those of real loaders cannot be seen here: that is what the live seeds are for.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from benchmarks.record import Row
from benchmarks.tuning_ours import point_of, read_course
from benchmarks.tuning_rivals import Answer, Look, at_random, doubling, full_grid, rules, tpe
from benchmarks.tuning_settings import SIMULATED_SEED, VERSION, Point, batches, device_rate, grid, place
from benchmarks.tuning_worlds import (
    MIB,
    SHARD_LENGTH,
    SHARDS,
    SHORT_BATCH,
    SHORT_LENGTH,
    Draw,
    drawing,
    small_shm_sample,
)
from loadtune.advice.axes import worker_ladder
from loadtune.advice.budget import divide_budget
from loadtune.advice.guided import GuidedSearch
from loadtune.advice.search import Leg
from loadtune.records.measurement import Cause, TrialResult, WorkerCost
from loadtune.records.settings import Settings
from tests.fake_runner import FakeRunner, drive

CORES = 2
NOISE_SD = 0.02
"""Of a look, as trials of the same setting differ on a quiet machine; beside neighbours it is twice that."""
START_S, LOOK_S, BUDGET_S = 5.0, 3.3, 60.0
"""Until the first trial; of a trial of the grid or the loop; as measured live."""
BEND = 6.0
"""How sharply one bound takes over from another. Lower rounds the knee: at 6 it lies 11 % below where they meet."""
BATCH_S, SAMPLE_S = 0.0003, 0.00002
"""Seconds of the main process a batch and a sample, to fetch and hand it on."""
COPY_BYTES_PER_S, FETCH_BYTES_PER_S, STACK_BYTES_PER_S = 1.5e9, 1e10, 4e9
"""A worker's batch into fresh shared memory; the main process's part of that; a batch stacked without workers."""
WORKER_START_S = 0.06, 0.012
"""Of all workers, and of each: what an epoch begins with."""
DECODE_S_PER_PX = 5.5e-9
Law = Callable[[int, int], float]


@dataclass(frozen=True, slots=True)
class Sample:
    """What a sample of a world takes."""

    wait_s: float = 0.0
    burn_s: float = 0.0
    main_s: float = 0.0
    size_bytes: float = 4096
    held_bytes: float = 0.0
    hold_up: float = 1.0
    """Share of the workers' rate that is left where an occasional slow sample holds up the order."""


SAMPLES: dict[str, Callable[[Draw], Sample]] = {
    "network": lambda draw: Sample(wait_s=draw("wait", 0.008, 0.03)),
    "mixed": lambda draw: Sample(wait_s=draw("wait", 0.006, 0.016), burn_s=draw("burn", 0.001, 0.003)),
    "photographs": lambda draw: Sample(burn_s=DECODE_S_PER_PX * draw("side", 700, 1400) ** 2),
    "served_photographs": lambda draw: Sample(
        wait_s=draw("wait", 0.01, 0.03), burn_s=DECODE_S_PER_PX * draw("side", 400, 700) ** 2
    ),
    "png_pairs": lambda draw: Sample(burn_s=0.0001 + 1.5e-8 * draw("side", 96, 192) ** 2),
    "heavy_tail": lambda draw: Sample(
        wait_s=draw("wait", 0.002, 0.005) * (0.95 + 0.05 * draw("tail", 8, 14)), hold_up=0.85
    ),
    "device_bound": lambda draw: Sample(burn_s=draw("burn", 0.0002, 0.0006)),
    "held_memory": lambda draw: Sample(wait_s=draw("wait", 0.01, 0.02), held_bytes=draw("held", 350, 550) * MIB),
    "small_shm": lambda draw: Sample(wait_s=small_shm_sample(draw)[0], size_bytes=small_shm_sample(draw)[1]),
    "quota": lambda draw: Sample(
        wait_s=draw("wait", 0.002, 0.006), burn_s=DECODE_S_PER_PX * draw("side", 500, 900) ** 2
    ),
    "main_process": lambda draw: Sample(burn_s=0.0002, main_s=2.4e-5 * draw("parts", 40, 90)),
    "large_tensors": lambda draw: Sample(burn_s=draw("burn", 0.001, 0.002), size_bytes=draw("size", 1.5, 4) * MIB),
    "in_memory": lambda draw: Sample(burn_s=0.00002, main_s=0.0002, size_bytes=draw("size", 1e4, 5e4)),
    "network_both": lambda draw: Sample(wait_s=draw("wait", 0.003, 0.007)),
    "photographs_both": lambda draw: Sample(burn_s=DECODE_S_PER_PX * draw("side", 600, 1000) ** 2),
    "in_memory_both": lambda draw: Sample(burn_s=0.00002, main_s=0.0001, size_bytes=draw("size", 1e4, 3e4)),
}
EPOCHS: dict[str, Callable[[Draw], tuple[int, int, float]]] = {
    "short_epoch": lambda draw: (SHORT_LENGTH // SHORT_BATCH, SHORT_BATCH, draw("wait", 0.004, 0.01)),
    "shards": lambda draw: (SHARDS, SHARD_LENGTH, draw("wait", 0.003, 0.006)),
}
"""Worlds whose epochs end: parts that are handed out whole, samples in each, seconds of one."""


class Simulated:
    """One world and seed: the truth, and what its trials show."""

    def __init__(self, world: str, seed: int) -> None:
        self.world, self.seed = world, seed
        self._draw = drawing(seed)
        self._sample = SAMPLES[world](self._draw) if world in SAMPLES else Sample()
        self._place = place(world, seed)
        self._cores = self._place.cores or CORES

    def rate(self, point: Point) -> float:
        """Return the true samples a second; 0 where the setting cannot run."""
        if self.failure(point) is not None:
            return 0.0
        return min(self.loader_rate(point), device_rate(self.world, self.seed, point[1]))

    def loader_rate(self, point: Point) -> float:
        """Return what the loader delivers where nothing holds it up."""
        if self.world in EPOCHS:
            return self._epoch_rate(point[0])
        each, (workers, batch) = self._sample, point
        if not workers:
            return 1.0 / (each.wait_s + each.burn_s + SAMPLE_S + each.size_bytes / STACK_BYTES_PER_S)
        busy_s = each.burn_s + each.size_bytes / COPY_BYTES_PER_S
        main_s = each.main_s + self._fetch_s(batch)
        crowd = 1 + 0.004 * max(0.0, workers - self._cores) * (busy_s > 0.0005)
        bounds_s = (
            (each.wait_s + busy_s) / workers / each.hold_up,
            crowd * (busy_s + main_s) / self._cores,
            main_s,
        )
        return 1.0 / math.fsum(bound**BEND for bound in bounds_s) ** (1 / BEND)

    def _fetch_s(self, batch: int) -> float:
        """Return the main process's seconds a sample to take it from a worker, whatever it is made of."""
        return SAMPLE_S + BATCH_S / batch + self._sample.size_bytes / FETCH_BYTES_PER_S

    def _epoch_rate(self, workers: int) -> float:
        parts, samples, wait_s = EPOCHS[self.world](self._draw)
        turns = math.ceil(parts / workers) if workers else parts
        start_s = WORKER_START_S[0] + WORKER_START_S[1] * workers if workers else 0.0
        return parts * samples / (turns * samples * wait_s + start_s)

    def failure(self, point: Point) -> Cause | None:
        """Return why a setting cannot run."""
        (workers, batch), each = point, self._sample
        if not device_rate(self.world, self.seed, batch):
            return Cause.DEVICE_MEMORY
        in_flight_bytes = (2 * workers + 1) * batch * each.size_bytes if workers else 0.0
        if self._place.shm_bytes is not None and in_flight_bytes > self._place.shm_bytes:
            return Cause.SHARED_MEMORY
        limit_bytes = self._place.memory_bytes or 20e9
        return Cause.HOST_MEMORY if self.memory_bytes(point) > 0.9 * limit_bytes else None

    def memory_bytes(self, point: Point) -> int:
        """Return the memory of a trial."""
        workers, batch = point
        in_flight_bytes = 2 * workers * batch * self._sample.size_bytes
        return int(1e9 + workers * (3e7 + self._sample.held_bytes) + in_flight_bytes)

    def runner(self, salt: int) -> "LoaderRunner":
        """Return what plays trials; each salt has noise of its own."""
        each = self._sample
        wait_s = EPOCHS[self.world](self._draw)[2] if self.world in EPOCHS else each.wait_s
        busy_s = each.burn_s + each.size_bytes / COPY_BYTES_PER_S

        def used(settings: Settings) -> tuple[float, float]:
            rate = self.rate(point_of(settings))
            main_s = each.main_s + self._fetch_s(settings.batch_size)
            return min(self._cores, rate * busy_s), min(1.0, rate * main_s)

        return LoaderRunner(
            lambda settings: self.rate(point_of(settings)),
            noise_sd=NOISE_SD,
            failure_cause=lambda settings: self.failure(point_of(settings)),
            memory_bytes=lambda settings: self.memory_bytes(point_of(settings)),
            device_rate=lambda batch: device_rate(self.world, self.seed, batch),
            worker=WorkerCost(cpu_s_per_sample=busy_s, wall_s_per_sample=wait_s + busy_s),
            main_cpu_s=each.main_s + self._fetch_s(16),
            used_cores=used,
            seed=1000 * self.seed + salt,
            seconds=START_S,
            loader=self,
        )


@dataclass
class LoaderRunner(FakeRunner):
    """A runner whose loader is not held up by the device where nothing consumes."""

    loader: Simulated | None = None

    def run(self, leg: Leg) -> TrialResult:
        """Play one leg."""
        surface, loader = self.surface, self.loader
        if leg.consume == "nothing" and loader is not None:
            self.surface = lambda settings: loader.loader_rate(point_of(settings))
        try:
            return super().run(leg)
        finally:
            self.surface = surface

    def look(self, point: Point) -> Look:
        """Return a noisy look at a setting and its seconds."""
        settings = Settings(num_workers=point[0], batch_size=point[1])
        return (0.0 if self.failure_cause(settings) else self.rate(settings)), LOOK_S


def simulate(count: int, worlds: Sequence[str]) -> list[Row]:
    """Return the rows of so many seeds, the scored one first, in the form that `tuning_unit` writes them."""
    return [
        row
        for seed in range(SIMULATED_SEED, SIMULATED_SEED + count)
        for world in worlds
        for row in _rows(Simulated(world, seed))
    ]


def ask_ours(world: Simulated) -> Answer:
    """Return what the guided search points to, with its course."""
    own = batches(world.world)
    baseline = Settings(num_workers=CORES, batch_size=own[0])
    largest = 64 if world.world != "short_epoch" else SHORT_LENGTH // own[0]
    search = GuidedSearch(
        baseline, worker_ladder(largest), own, cores=place(world.world, world.seed).cores or CORES, seed=world.seed
    )
    runner = world.runner(0)
    left = divide_budget(BUDGET_S, START_S)
    drive(search, runner, START_S + left.screening_s)
    course = list(read_course(tuple(runner.results), baseline))
    if not course or course[-1][1] == point_of(baseline):  # no duel to hold: its seconds go to the search
        drive(search, runner, START_S + left.screening_s + left.duel_s)
        course = list(read_course(tuple(runner.results), baseline))
    final = course[-1][1] if course else point_of(baseline)
    return Answer(final, runner.seconds, course)


def _answers(world: Simulated) -> dict[str, Answer]:
    own = batches(world.world)

    def device(batch: int) -> float:
        return device_rate(world.world, world.seed, batch)

    runner = world.runner(1)
    looks = {point: runner.look(point) for point in grid(world.world)}
    found = {
        "loadtune": ask_ours(world),
        "doubling loop": doubling(world.runner(2).look, device, own, START_S),
        "random order": at_random(looks, Random(world.seed).randrange(10**6), START_S),
        "full grid": full_grid(looks, START_S),
        **rules(CORES, own, device),
    }
    try:
        found["Optuna TPE"] = tpe(looks, world.seed, START_S)
    except ImportError:
        return found
    return found


def _rows(world: Simulated) -> list[Row]:
    keys: Row = {"worlds": VERSION, "world": world.world, "seed": world.seed}
    answers = _answers(world)
    oracle = grid(world.world)
    best = max(sorted(oracle), key=world.rate)
    seen = {answer.point for answer in answers.values()} | {p for answer in answers.values() for _, p in answer.course}
    rows: list[Row] = []
    for point in [*oracle, *sorted(seen - set(oracle))]:
        told = {"num_workers": point[0], "batch_size": point[1], "is_extra": point not in oracle, "round": 0}
        rate, memory_bytes = world.rate(point), world.memory_bytes(point)
        rows.append({**keys, "part": "grid", "value": rate, "seconds": LOOK_S, "pss_bytes": memory_bytes, **told})
    for name, answer in answers.items():
        told = {"num_workers": answer.point[0], "batch_size": answer.point[1], "course": answer.course}
        rows.append({**keys, "part": "answer", "quantity": name, "value": answer.seconds, **told})
    for point in seen - {best}:
        share = world.rate(point) / world.rate(best)
        told = {"num_workers": point[0], "batch_size": point[1], "low": share, "high": share}
        rows.append({**keys, "part": "duel", "value": share, **told})
    return [*rows, {**keys, "part": "done"}]
