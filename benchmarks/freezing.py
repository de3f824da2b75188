"""Does freezing do harm? The rate that slices show, against the same live processes running freely.

    python -m benchmarks.freezing [--limit SECONDS]

Two settings of a workload are alive at once, as in a duel. By turns each runs freely for some seconds, then both run
slice by slice, one stopped while the other runs. The ratio of a side's rate in slices to its rate in free running is
paired within one process, so that what differs between processes is not in it. Slice length, dropped head
and the steps of a burst are those that a probe would choose from a trial of each setting.

It takes about a quarter of an hour; it is saved after every workload, and goes on where it stopped.
"""

import argparse
import math
import time
from typing import Any

from benchmarks import record as records
from benchmarks.record import Criterion
from benchmarks.workloads import WORKLOADS
from loadtune.advice.budget import DuelPlan
from loadtune.advice.search import Leg
from loadtune.advice.slicing import fit_duel
from loadtune.engine.duel import apart
from loadtune.engine.launcher import Launcher
from loadtune.engine.limits import MemoryWatch
from loadtune.engine.runner import Runner
from loadtune.engine.sides import Arena, Side, finish_last_burst, run_slice, start_side
from loadtune.engine.slices import Share, share_out
from loadtune.monitor.host import read_limits
from loadtune.monitor.nvml import Nvml
from loadtune.monitor.sampler import Sampler
from loadtune.records.measurement import SlicePair, TrialResult
from loadtune.records.messages import Sources
from loadtune.records.settings import DeviceChoice, MeasureOptions, Settings, TrialSpec, WorkloadSpec
from loadtune.stats import RatioInterval, duel_interval

CELLS = [
    ("waiting", (1, 2)),
    ("scattered waits", (1, 4)),
    ("slow tail", (2, 4)),
    ("long waits", (4, 8)),
    ("16 MB samples", (1, 4)),
    ("full queue", (4, 8)),
    ("device", (1, 4)),
    ("decoding", (1, 2)),
]
"""Workload, and the two worker counts that are alive at once."""
CLOSE = 0.03
"""How near to 1 the ratio has to be."""
STARTS_MIN, STARTS_MAX, ROUNDS = 3, 9, 2
"""Starts of both sides until both intervals decide, and rounds of free running and slices in each."""
DECIDED = 0.03
"""Half width of an interval that decides: 3 per cent off would be seen."""
SLICES = 2
"""Slices of each side in a round."""
FREE_SLICES = 2.5
"""Length of a free stretch, in slices; the first slice of it is dropped as its head."""
MEASURE = MeasureOptions(window_min_s=0.5, measure_s=2.0, warm_up_s=2.0)


def main() -> None:
    """Run what is not there yet, within the time limit, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds after which no workload is begun")
    until_s = time.monotonic() + parser.parse_args().limit
    record = records.load("freezing")
    with Launcher() as launcher:
        launcher.wait_until_ready()
        for name, workers in CELLS:
            if records.has(record, workload=name) or time.monotonic() > until_s:
                continue
            measure_workload(launcher, record, name, workers)
            records.save(record, judge(record))
    records.save(record, judge(record))
    for row in record["rows"]:
        print(describe(row))
    for criterion in judge(record):
        state = {True: "met", False: "NOT MET", None: "not measured"}[criterion.met]
        print(f"{state:13} {criterion.name}: {criterion.value} ({criterion.target})")


def measure_workload(launcher: Launcher, record: dict[str, Any], name: str, workers: tuple[int, int]) -> None:
    """Add a row for each side."""
    limits = read_limits()
    specs = [make_spec(name, number) for number in workers]
    runner = Runner(launcher, Nvml.open(), limits, Sources(), time.monotonic())
    trials = [_trial(runner, spec) for spec in specs]
    plan = fit_duel(120.0, trials[0], trials[1], "cpu", returns_memory=limits.returns_memory)
    assert plan is not None
    arena = Arena(
        launcher=launcher,
        sources=Sources(),
        memory_end_bytes=runner.memory_end_bytes,
        foreign_limit_cores=limits.usable_cores,
    )
    with records.measure(record, workload=name) as measured:
        pairs: list[list[SlicePair]] = [[], []]
        for start in range(STARTS_MAX):
            for side, found in enumerate(run_start(arena, specs, plan, start)):
                pairs[side] += found
            if start + 1 >= STARTS_MIN and all(is_decided(duel_interval(own, pairs_min=2)) for own in pairs):
                break
        for side in range(2):
            measured.add(f"{workers[side]} workers", duel_interval(pairs[side], pairs_min=2).estimate, "ratio")
    for side, row in enumerate(record["rows"][-2:]):
        interval = duel_interval(pairs[side], pairs_min=2)
        row |= {"variant": f"{name}, {workers[side]} workers", "low": interval.low, "high": interval.high}
        row |= {
            "pairs": len(pairs[side]),
            "slice_s": plan.slice_s,
            "head_s": plan.dropped_s,
            "burst_steps": plan.burst_steps[side],
        }
        print(describe(row), flush=True)


def make_spec(name: str, num_workers: int) -> TrialSpec:
    """Return the trial of a workload at a worker count."""
    workload = WORKLOADS[name]
    return TrialSpec(
        settings=Settings(num_workers=num_workers, batch_size=workload.batch_size),
        device=DeviceChoice(kind="cpu"),
        workload=WorkloadSpec(
            dataset_target=f"benchmarks.workloads:{workload.dataset}",
            train_step_target=f"benchmarks.workloads:{workload.step}",
        ),
        measure=MEASURE,
    )


def _trial(runner: Runner, spec: TrialSpec) -> TrialResult:
    result = runner.run(spec, Leg(settings=spec.settings, role="grid"), 1, time.monotonic() + 60.0)
    if result.failure is not None:
        raise RuntimeError(result.failure.message)
    return result


def run_start(arena: Arena, specs: list[TrialSpec], plan: DuelPlan, start: int) -> list[list[SlicePair]]:
    """Start both sides, run the rounds, end both; return each side's pairs of free stretch and slices."""
    sides: list[Side] = []
    kinds: list[list[str]] = [[], []]
    try:
        for place, spec in enumerate(specs):
            shifted = apart(spec, start, place)
            sides.append(start_side(arena, shifted, time.monotonic() + 60.0, sides))
        sampler = Sampler([side.process.pid for side in sides])
        sampler.start()
        memory = MemoryWatch(sampler, arena.memory_end_bytes)
        for number in range(ROUNDS):
            for place in (0, 1) if number % 2 else (1, 0):
                run_slice(arena, sides[place], FREE_SLICES * plan.slice_s, memory)
                kinds[place].append("free")
            for turn in range(2 * SLICES):
                run_slice(arena, sides[turn % 2], plan.slice_s, memory)
                kinds[turn % 2].append("slice")
        for side, burst_steps in zip(sides, plan.burst_steps, strict=True):
            finish_last_burst(arena, side, burst_steps, plan.slice_s)
        sampler.stop()
    finally:
        for side in sides:
            arena.launcher.release(side.process)
    return [pair_up(sides[place], kinds[place], plan, plan.burst_steps[place], start) for place in range(2)]


def pair_up(side: Side, kinds: list[str], plan: DuelPlan, burst_steps: int, start: int) -> list[SlicePair]:
    """Return a pair a round: the free stretch as baseline, the slices together as contender."""
    assert side.warm_up is not None
    turns = [side.warm_up, *side.slices, *side.rest]
    by_head = {
        kind: share_out(side.finished_s, side.samples, turns, head_s, burst_steps)[1:]
        for kind, head_s in (("free", plan.slice_s), ("slice", plan.dropped_s))
    }
    pairs = []
    a_round = 1 + SLICES
    for first in range(0, len(kinds), a_round):
        shares = [by_head[kinds[place]][place] for place in range(first, first + a_round)]
        free = [share for share, kind in zip(shares, kinds[first:], strict=False) if kind == "free" and share]
        cut = [share for share, kind in zip(shares, kinds[first:], strict=False) if kind == "slice" and share]
        pairs.append(_pair(free, cut, start))
    return pairs


def _pair(free: list[Share], cut: list[Share], start: int) -> SlicePair:
    return SlicePair(
        baseline_samples=sum(share.samples for share in free),
        baseline_s=sum(share.active_s for share in free),
        contender_samples=sum(share.samples for share in cut),
        contender_s=sum(share.active_s for share in cut),
        baseline_first=True,
        restart=start,
    )


def is_decided(interval: RatioInterval) -> bool:
    """Say whether an interval is narrow enough to judge its centre by."""
    if interval.low is None or interval.high is None:
        return False
    return math.log(interval.high / interval.low) / 2 <= DECIDED


def judge(record: dict[str, Any]) -> list[Criterion]:
    """Return the promise that slices show the free-running rate."""
    rows = record["rows"]
    if len(rows) < 2 * len(CELLS):
        return [Criterion("sides measured", f"{2 * len(CELLS)}", float(len(rows)), None, None, None)]
    decided = [row for row in rows if is_decided(_interval(row))]
    off = [abs(row["value"] - 1.0) for row in decided]
    return [
        records.at_most("slices by free running, distance from 1, decided sides", CLOSE, "", off),
        records.at_least("share of sides decided", 0.8, "", [len(decided) / len(rows)]),
        records.at_most("intervals wholly beyond 3 per cent", 0, "sides", [len(_beyond(rows))]),
    ]


def _beyond(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["low"] > 1 + CLOSE or row["high"] < 1 - CLOSE]


def _interval(row: dict[str, Any]) -> RatioInterval:
    return RatioInterval(estimate=row["value"], low=row["low"], high=row["high"], pairs=row["pairs"])


def describe(row: dict[str, Any]) -> str:
    """Return a row in words."""
    return (
        f"{row['variant']:30}{row['value']:.3f} [{row['low']:.3f} {row['high']:.3f}] {row['pairs']} pairs"
        f"  slices of {row['slice_s']:.2f} s, head {row['head_s']:.2f} s, {row['burst_steps']} steps a burst"
    )


if __name__ == "__main__":
    main()
