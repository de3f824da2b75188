"""Is what we report the rate of the loop that everyone writes? Against a plain PyTorch loop that uses none of our code.

    python -m benchmarks.fidelity [--limit SECONDS]

The estimator: the rate from the first seconds of a plain run's own stamps, by our rules of warm-up and windows, against
the rest of the same run. The instrumentation: a plain loop and a measured one as live process groups, run by turns in
slices of 2 s, until the interval of their ratio is within 2 per cent or 60 pairs are spent.

It takes about an hour; it is saved after every cell, and goes on where it stopped. An interval at which one stops
because it is narrow is a little narrower than it should be.
"""

import argparse
import math
import signal
import sys
import time
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any

import msgspec

from benchmarks import record as records
from benchmarks.plain_side import LOOK_S, MixedLauncher, PlainProcess
from benchmarks.record import Criterion
from benchmarks.workloads import WORKLOADS
from loadtune.advice.budget import DuelPlan
from loadtune.engine.duel import apart, hold_duel
from loadtune.engine.launcher import Launcher
from loadtune.engine.sides import Arena
from loadtune.measure import loop
from loadtune.measure.accelerator import Step
from loadtune.monitor.host import read_limits
from loadtune.records.measurement import SlicePair
from loadtune.records.messages import Sources
from loadtune.records.settings import DeviceChoice, MeasureOptions, Settings, TrialSpec, WorkloadSpec
from loadtune.stats import RatioInterval, duel_interval, student_t_quantile

CELLS = [(name, workers) for name in ("waiting", "balanced", "device", "decoding") for workers in (0, 1, 2, 4, 8)]
DECIDED = 0.02
"""Half width of an interval that decides."""
CLOSE = 0.02
"""How near to 1 a decided ratio has to be."""
PAIRS_MAX, PAIRS_A_START = 60, 4
STARTS_MIN = 3
"""Starts of both loops: with two, Student's factor is 12.7 and nothing would be decided."""
FREE_RUNS, FREE_S = 2, 12.0
"""Plain runs for the estimator, and how long each is watched once its loader delivers."""
MEASURE = MeasureOptions()


def main() -> None:
    """Run what is not there yet, within the time limit, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds after which no cell is begun")
    until_s = time.monotonic() + parser.parse_args().limit
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a plain loop that stands still is ended too
    record = records.load("fidelity")
    with Launcher() as launcher:
        launcher.wait_until_ready()
        for name, workers in CELLS:
            variant = f"{name}, {workers} workers"
            for quantity, run in (("estimator", estimate), ("instrumentation", compare)):
                if records.has(record, variant=variant, quantity=quantity) or time.monotonic() > until_s:
                    continue
                with records.measure(record, variant=variant, workload=name, num_workers=workers) as measured:
                    interval = run(launcher, name, workers)
                    measured.add(quantity, interval.estimate, "ratio")
                record["rows"][-1] |= {"low": interval.low, "high": interval.high, "pairs": interval.pairs}
                records.save(record, judge(record))
                print(f"{variant:24}{quantity:18}{describe(record['rows'][-1])}", flush=True)
    records.save(record, judge(record))
    show(record)


def estimate(launcher: Launcher, name: str, workers: int) -> RatioInterval:
    """Return the rate of the first seconds by the rest's, over several plain runs."""
    del launcher
    firsts, rests = [], []
    for _ in range(FREE_RUNS):
        process = PlainProcess(name, workers)
        try:
            while not process.finished_s or process.finished_s[-1] - process.finished_s[0] < FREE_S:
                process.read()
                process.inbox.clear()
                if process.exit is not None:
                    raise RuntimeError(f"{name}, {workers} workers: the plain loop ended")
                time.sleep(LOOK_S)
        finally:
            process.close()
        first, rest = split(process, WORKLOADS[name].batch_size, workers)
        firsts.append(first)
        rests.append(rest)
    logs = [math.log(fmean(first) / fmean(rest)) for first, rest in zip(firsts, rests, strict=True)]
    within = [value / fmean(group) for group in (*firsts, *rests) for value in group]
    errors = [1 / len(first) + 1 / len(rest) for first, rest in zip(firsts, rests, strict=True)]
    freedom = len(within) - 2 * FREE_RUNS
    half = student_t_quantile(0.975, freedom) * stdev(within) * math.sqrt(fmean(errors) / FREE_RUNS)
    centre = fmean(logs)
    return RatioInterval(
        estimate=math.exp(centre), low=math.exp(centre - half), high=math.exp(centre + half), pairs=FREE_RUNS
    )


def split(process: PlainProcess, batch_size: int, workers: int) -> tuple[list[float], list[float]]:
    """Return the rates of the windows that a trial would have taken, and of those after them."""
    began_s = process.taken_s[0]
    settings = Settings(num_workers=workers, batch_size=batch_size)
    spec = SimpleNamespace(settings=settings, measure=MEASURE)
    run: Any = SimpleNamespace(steps=[], leg=SimpleNamespace(spec=spec, loader=object()))
    begin: int | None = None
    first: list[float] = []
    rest: list[float] = []
    total_s = 0.0
    previous_s = began_s
    for number, (taken_s, done_s) in enumerate(zip(process.taken_s, process.finished_s, strict=True)):
        run.steps.append(_step(batch_size, previous_s, taken_s, done_s))
        previous_s = done_s
        if begin is None:
            if loop.is_loader_warm(settings, number + 1, done_s - began_s, MEASURE):
                begin = number
            continue
        end = loop._window_end(run, begin, MEASURE.window_min_s)
        if end is None:
            continue
        window = loop.make_window(run.steps, begin, end)
        is_first = total_s < MEASURE.measure_s or len(first) < MEASURE.windows_min
        (first if is_first else rest).append(window.samples / window.duration_s)
        begin, total_s = end, total_s + window.duration_s
    return first, rest


def _step(samples: int, previous_s: float, taken_s: float, done_s: float) -> Step:
    return Step(
        samples=samples,
        data_wait_s=taken_s - previous_s,
        idle_s=taken_s - previous_s,
        copy_s=0.0,
        compute_s=done_s - taken_s,
        started_s=taken_s,
        finished_s=done_s,
    )


def compare(launcher: Launcher, name: str, workers: int) -> RatioInterval:
    """Return the measured loop's rate by the plain loop's."""
    workload = WORKLOADS[name]
    spec = TrialSpec(
        settings=Settings(num_workers=workers, batch_size=workload.batch_size),
        device=DeviceChoice(kind="cpu"),
        workload=WorkloadSpec(
            dataset_target=f"benchmarks.workloads:{workload.dataset}",
            train_step_target=f"benchmarks.workloads:{workload.step}",
        ),
        measure=MeasureOptions(warm_up_s=1.0),
    )
    mixed: Any = MixedLauncher(launcher, name)
    limit_cores = 0.1 * read_limits().usable_cores
    arena = Arena(
        launcher=mixed,
        sources=Sources(),
        memory_end_bytes=1 << 40,
        foreign_limit_cores=limit_cores,
        baseline_lacks="stamps",
    )
    waits = workload.limit in {"waiting", "cpu"} or (workload.limit == "balanced" and workers <= 2)
    bursts = max(1, workers) if waits else 1
    plan = DuelPlan(pairs=PAIRS_A_START, slice_s=2.0, restarts=1, burst_steps=(bursts, bursts))
    pairs: list[SlicePair] = []
    start = 0
    while True:
        fresh = apart(spec, start, 0)
        duel = hold_duel(arena, fresh, fresh, plan, time.monotonic() + 120.0, lambda done, planned: None)
        if duel.failure is not None:
            raise RuntimeError(f"{name}, {workers} workers: {duel.failure.message}")
        pairs += [_in_start(pair, start) for pair in duel.pairs]
        start += 1
        interval = duel_interval(pairs)
        if start >= STARTS_MIN and (is_decided(interval) or len(pairs) >= PAIRS_MAX):
            return interval


def _in_start(pair: SlicePair, start: int) -> SlicePair:
    return msgspec.structs.replace(pair, restart=start)


def is_decided(interval: RatioInterval) -> bool:
    """Say whether the interval is narrow enough to judge its centre by."""
    if interval.low is None or interval.high is None:
        return False
    return math.log(interval.high / interval.low) / 2 <= DECIDED


def judge(record: dict[str, Any]) -> list[Criterion]:
    """Return what was promised: decided ratios within 2 per cent of 1, and most of them decided."""
    criteria = []
    for quantity in ("estimator", "instrumentation"):
        rows = [row for row in record["rows"] if row["quantity"] == quantity]
        if len(rows) < len(CELLS):
            criteria.append(
                Criterion(f"{quantity}: cells measured", f"{len(CELLS)}", float(len(rows)), None, None, None)
            )
            continue
        decided = [row for row in rows if is_decided(_interval(row))]
        off = [abs(row["value"] - 1.0) for row in decided]
        criteria.append(records.at_most(f"{quantity}: distance from 1, decided cells", CLOSE, "", off))
        criteria.append(records.at_least(f"{quantity}: share decided", 0.8, "", [len(decided) / len(rows)]))
        beyond = [row for row in rows if row["low"] > 1 + CLOSE or row["high"] < 1 - CLOSE]
        criteria.append(records.at_most(f"{quantity}: intervals wholly beyond 2 per cent", 0, "cells", [len(beyond)]))
        steady = [row for row in rows if row["workload"] in {"waiting", "device"}]
        share = sum(row in decided for row in steady) / len(steady)
        criteria.append(records.at_least(f"{quantity}: share decided, waiting and device-bound", 1.0, "", [share]))
    return criteria


def _interval(row: dict[str, Any]) -> RatioInterval:
    return RatioInterval(estimate=row["value"], low=row["low"], high=row["high"], pairs=row["pairs"])


def describe(row: dict[str, Any]) -> str:
    """Return a row in words."""
    interval = _interval(row)
    state = "decided" if is_decided(interval) else "undecided"
    return f"{interval.estimate:.3f} [{interval.low:.3f} {interval.high:.3f}] {interval.pairs} pairs, {state}"


def show(record: dict[str, Any]) -> None:
    """Print every cell and the criteria."""
    for row in record["rows"]:
        print(f"{row['variant']:24}{row['quantity']:18}{describe(row)}, {row['foreign_cpu_cores']} foreign cores")
    for criterion in judge(record):
        state = {True: "met", False: "NOT MET", None: "not measured"}[criterion.met]
        print(f"{state:13} {criterion.name}: {criterion.value} ({criterion.target})")


if __name__ == "__main__":
    main()
