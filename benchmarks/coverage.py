"""Would a second probe say the same, and is a duel's verdict true?

    python -m benchmarks.coverage [--part probes|same|faster|all] [--limit SECONDS] [--show]

- probes: twenty fresh probes of each cell of `coverage_cells`, each a command line of its own, half of them beside a
  busy neighbour: a process that spins on one core. An interval holds where it contains the pooled truth: the mean log
  speed-up of the cell's other probes beside the same neighbour, for the same pair of settings. A choice agrees where
  it is the most frequent one of its cell and neighbour, or tied with it by the product's own tie rule.
- same: duels of a setting against itself. FASTER is false.
- faster: duels of two replayed devices of which one is 15 % faster.

Caveats: the pooled truth is what probes say on average, so an error common to all is not in it; `fidelity` looks for
those. Idle and busy probes of all cells take turns, so that a machine that drifts meets all alike.

It is saved after every probe and every duel, and goes on where an earlier run stopped. With --limit it begins nothing
that would not end in time.
"""

import argparse
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.coverage_cells import CELLS
from benchmarks.coverage_scores import TRUE_RATIO, judge, tabulate
from benchmarks.record import Criterion, Row, has, load, measure, save, show
from loadtune.advice.budget import DuelPlan
from loadtune.advice.cautions import FOREIGN_RATIO
from loadtune.advice.screening import Screening
from loadtune.advice.search import Leg
from loadtune.advice.selection import burst_samples
from loadtune.advice.slicing import fit_duel
from loadtune.engine.duel import hold_duel
from loadtune.engine.launcher import Launcher
from loadtune.engine.runner import Runner
from loadtune.engine.sides import Arena
from loadtune.monitor.host import read_limits
from loadtune.monitor.nvml import Nvml
from loadtune.options import profile_from_step_time
from loadtune.records.messages import Sources
from loadtune.records.report import Report
from loadtune.records.settings import DeviceChoice, MeasureOptions, Settings, TrialSpec, WorkloadSpec
from loadtune.render.saved import read_report
from loadtune.stats import duel_interval, verdict

ROOT = Path(__file__).resolve().parent.parent
PROBE_LIMIT_S = 160.0
"""After which a probe counts as failed: several times any budget, so that only one that hangs is ended."""
REPEATS = 10
"""Probes a cell and neighbour; with fewer, one dissenter is a tenth of the cell."""
NEIGHBOURS = ("idle", "busy")
DUEL_REPEATS = 20
"""Duels of each pair; with fewer, one false FASTER is more than the share allowed."""
FAST_STEP_S = 0.040
"""Of the faster device: a slice holds about ten of its steps, and the share of a step that a slice cuts is known."""
BATCH = 8
"""Samples of a batch in the duels alone: as in the cells."""
PAIRS, SLICE_S, RESTARTS = 8, 0.8, 4
"""Of the duels alone: four starts, so that the interval rests on what differs between them."""
PROBE_COST_S, DUEL_COST_S = 44.0, 24.0
"""Seconds that the next may take, for --limit: less, and a run in pieces overruns its pieces."""
FIT_S = 60.0
"""Seconds handed to `fit_duel`, whose heads and bursts alone are kept: with fewer it may find no room."""
DUEL_LIMIT_S = 40.0
"""Of one duel: a busy moment must not cost it a start."""
BUG_EXIT_CODE = 70
"""A probe that ends so is no result: the benchmark stops."""

SPIN = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(100_000))"
"""Ends with its parent, however that ends."""

DUEL_MEASURE = MeasureOptions(measure_s=2.0, warm_up_s=0.5)
"""Of the trials that tell the pace, and of the duels' sides: a longer warm-up is paid 480 times."""


def side(target: str, num_workers: int, step_s: float) -> TrialSpec:
    """Return one side of a duel on a replayed device."""
    return TrialSpec(
        settings=Settings(num_workers=num_workers, batch_size=BATCH),
        device=DeviceChoice(kind="replay", profile=profile_from_step_time(step_s, BATCH)),
        workload=WorkloadSpec(dataset_target=f"benchmarks.coverage_cells:{target}"),
        measure=DUEL_MEASURE,
    )


SIDES = {
    "same": {
        "same, device-bound": (side("instant", 1, 0.02), side("instant", 1, 0.02)),
        "same, waiting": (side("waiting", 2, 0.005), side("waiting", 2, 0.005)),
        "same, decoding": (side("decoding", 1, 0.005), side("decoding", 1, 0.005)),
    },
    "faster": {"15 % faster": (side("instant", 1, TRUE_RATIO * FAST_STEP_S), side("instant", 1, FAST_STEP_S))},
}
"""Baseline and contender of the duels alone, by part."""


def main() -> None:
    """Measure what is missing and fits into the limit, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=("probes", "same", "faster", "all"), default="all")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds after which nothing more is begun")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    asked = parser.parse_args()
    ends_s = time.monotonic() + asked.limit
    record = load("coverage")
    if not asked.show:
        for part, run in (("same", run_duels), ("faster", run_duels), ("probes", run_probes)):
            if asked.part in {part, "all"}:
                run(record, part, ends_s)
    tell(record)


def run_probes(record: dict[str, Any], part: str, ends_s: float) -> None:
    """Run the probes that are missing, all cells once idle, once busy, and again."""
    for repeat in range(REPEATS):
        for neighbour in NEIGHBOURS:
            for cell in CELLS:
                keys = {"variant": f"{cell}, {neighbour}", "part": part, "repeat": repeat}
                if has(record, **keys):
                    continue
                if time.monotonic() + PROBE_COST_S > ends_s:
                    return
                with beside(neighbour):
                    note_probe(record, cell, neighbour, keys)
                save(record, criteria(record))


@contextmanager
def beside(neighbour: str) -> Iterator[None]:
    """Keep one core busy within the block, or none. It is waited for after the block, so it counts as foreign."""
    if neighbour == "idle":
        yield
        return
    spinning = subprocess.Popen([sys.executable, "-c", SPIN, str(os.getpid())])
    try:
        yield
    finally:
        spinning.kill()
        spinning.wait()


def note_probe(record: dict[str, Any], cell: str, neighbour: str, keys: Row) -> None:
    """Run one fresh probe and add its rows; a probe that fails is a row without figures."""
    count = len(record["rows"])
    began_s = time.monotonic()
    with TemporaryDirectory() as folder, measure(record, **keys) as measured:
        report, failure = run_probe(cell, Path(folder))
        measured.add("wall", time.monotonic() - began_s, "s")
        extra: dict[str, Row] = {"speed-up": {"cell": cell, "neighbour": neighbour, "verdict": "FAILED"}}
        if report is None:
            measured.add("speed-up", None, "x")
            extra["speed-up"]["reason"] = failure
        else:
            measured.add("seconds spent", report.seconds_spent, "s")
            extra["speed-up"] |= describe(report)
            measured.add("speed-up", extra["speed-up"].pop("estimate"), "x")
            for workers, number, rate in screening_rates(report):
                name = f"rate, num_workers={workers}, round {number}"
                measured.add(name, rate, "samples/s")
                extra[name] = {"num_workers": workers, "round": number}
    for row in record["rows"][count:]:
        row.update(extra.get(row["quantity"], {}))
    said = extra["speed-up"]
    print(
        f"{keys['variant']} {keys['repeat']}: {said['verdict']} {said.get('workers')} {said['reason'] or ''}",
        flush=True,
    )


def run_probe(cell: str, folder: Path) -> tuple[Report | None, str | None]:
    """Return the report of a fresh command line, or why there is none.

    Raises:
        SystemExit: The probe ended by a bug.
    """
    saved = folder / "copy.json"
    command = [sys.executable, "-m", "loadtune", "probe", *shlex.split(CELLS[cell])]
    command += ["--json", str(saved), "--out", str(folder / "report"), "--quiet", "--fresh", "--search", "grid"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_LIMIT_S, cwd=ROOT, check=False)
    except subprocess.TimeoutExpired:
        return None, f"no answer after {PROBE_LIMIT_S:g} s"
    if done.returncode == BUG_EXIT_CODE:
        raise SystemExit(f"the probe of {cell!r} met a bug:\n{done.stderr[-2000:]}")
    if done.returncode != 0 or not saved.exists():
        return None, f"exit code {done.returncode}: {done.stderr[-300:].strip()}"
    return read_report(saved), None


def describe(report: Report) -> Row:
    """Return what a report recommends and claims, with the duel behind it."""
    told = report.recommendation
    if told is None:
        return {"estimate": None, "reason": "no recommendation"}
    duel = report.duels[-1] if report.duels else None
    return {
        "estimate": told.speedup.estimate,
        "low": told.speedup.low,
        "high": told.speedup.high,
        "reason": told.speedup.reason,
        "verdict": str(told.verdict),
        "workers": told.settings.num_workers,
        "over": told.baseline.settings.num_workers,
        "pairs": len(duel.pairs) if duel is not None else 0,
        "starts": len({pair.restart for pair in duel.pairs}) if duel is not None else 0,
    }


def screening_rates(report: Report) -> Iterator[tuple[int, int, float]]:
    """Yield num_workers, round and rate of the settings at the baseline's batch size."""
    for settings, rates in Screening(report.trials).rates.items():
        if settings.batch_size == report.request.baseline.batch_size:
            yield from ((settings.num_workers, number, rate) for number, rate in rates.items())


def run_duels(record: dict[str, Any], part: str, ends_s: float) -> None:
    """Hold the duels that are missing, all pairs by turns."""
    missing = [
        {"variant": variant, "part": part, "repeat": repeat}
        for repeat in range(DUEL_REPEATS)
        for variant in SIDES[part]
        if not has(record, variant=variant, part=part, repeat=repeat)
    ]
    if not missing or time.monotonic() + DUEL_COST_S > ends_s:
        return
    with ExitStack() as stack:
        nvml = Nvml.open()
        stack.callback(nvml.close)
        launcher = stack.enter_context(Launcher())
        launcher.wait_until_ready()
        runner = Runner(launcher, nvml, read_limits(), Sources(), time.monotonic())
        paces = {variant: find_plan(runner, *SIDES[part][variant]) for variant in {keys["variant"] for keys in missing}}
        for keys in missing:
            if time.monotonic() + DUEL_COST_S > ends_s:
                return
            note_duel(record, launcher, runner, paces[keys["variant"]], keys)
            save(record, criteria(record))


def find_plan(runner: Runner, *sides: TrialSpec) -> DuelPlan:
    """Return a plan with the heads and bursts that the product would give it."""
    trials = []
    for number, spec in enumerate(sides, start=1):
        result = runner.run(spec, Leg(settings=spec.settings, role="grid"), number, time.monotonic() + FIT_S)
        if result.measurement is None:
            raise SystemExit(f"the trial failed: {result.failure}")
        trials.append(result)
    plan = fit_duel(FIT_S, trials[0], trials[1], "replay")
    assert plan is not None
    return replace(plan, pairs=PAIRS, slice_s=SLICE_S, restarts=RESTARTS)


def note_duel(record: dict[str, Any], launcher: Launcher, runner: Runner, plan: DuelPlan, keys: Row) -> None:
    """Hold one duel and add its rows."""
    limits = read_limits()
    arena = Arena(
        launcher=launcher,
        sources=Sources(),
        memory_end_bytes=runner.memory_end_bytes,
        foreign_limit_cores=limits.spare_cores + FOREIGN_RATIO * limits.usable_cores,
    )
    count = len(record["rows"])
    with measure(record, **keys) as measured:
        baseline, contender = SIDES[keys["part"]][keys["variant"]]
        duel = hold_duel(arena, baseline, contender, plan, time.monotonic() + DUEL_LIMIT_S, lambda done, planned: None)
        if duel.failure is not None:
            raise SystemExit(f"a side failed: {duel.failure}")
        interval = duel_interval(duel.pairs, burst_samples=burst_samples(duel))
        measured.add("ratio", interval.estimate, "x")
        measured.add("seconds spent", duel.seconds_spent, "s")
    said = {
        "low": interval.low,
        "high": interval.high,
        "verdict": str(verdict(interval)),
        "reason": interval.reason,
        "pairs": len(duel.pairs),
        "starts": len({pair.restart for pair in duel.pairs}),
    }
    record["rows"][count].update(said)
    foreign = [pair.foreign_cores for pair in duel.pairs if pair.foreign_cores is not None]
    if foreign:
        # `measure` takes the sides for strangers: the server that started them is waited for at the very end.
        for row in record["rows"][count:]:
            row["foreign_cpu_cores"] = round(fmean(foreign), 3)
    print(
        f"{keys['variant']} {keys['repeat']}: {said['verdict']} {interval.estimate} {said['reason'] or ''}", flush=True
    )


def criteria(record: dict[str, Any]) -> list[Criterion]:
    """Return what the rows show of the promises, as many as are asked for here."""
    duels = {part: DUEL_REPEATS * len(sides) for part, sides in SIDES.items()}
    return judge(record, REPEATS * len(NEIGHBOURS) * len(CELLS), duels["same"], duels["faster"])


def tell(record: dict[str, Any]) -> None:
    """Print a line a cell and kind of duel, what each took, and the criteria."""
    for line in tabulate(record):
        print(line)
    took = [row for row in record["rows"] if row["quantity"] in {"seconds spent", "wall"}]
    show({"rows": took}, criteria(record))


if __name__ == "__main__":
    main()
