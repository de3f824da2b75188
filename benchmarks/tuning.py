"""Does the guided search find what the full grid finds, sooner than others, and with fewer workers?

    python -m benchmarks.tuning [--quick] [--limit SECONDS] [--show]

A unit is a world of `tuning_worlds` and a seed. It measures every setting of the grid twice (the oracle), takes
everyone's answer (`tuning_rivals`, and ours from a fresh command line), and then sets every distinct answer against the
oracle's best in a duel of live processes. The share of an answer is its rate by the oracle's, from that duel.

Seeds 0 and 1 set thresholds; seeds 100 and 101 are scored. It is saved after every unit, and goes on where it stopped.
With --quick, three worlds with one seed: about ten minutes.
"""

import argparse
import math
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.record import Row, load, measure, save
from benchmarks.tuning_rivals import Answer, doubling, full_grid, rules, tpe
from benchmarks.tuning_scores import judge, tabulate
from benchmarks.tuning_worlds import BATCH, WORLDS, step_s
from loadtune.advice.cautions import FOREIGN_RATIO
from loadtune.advice.search import Leg, is_end_to_end
from loadtune.advice.selection import burst_samples, choose
from loadtune.advice.slicing import fit_duel
from loadtune.engine.duel import hold_duel
from loadtune.engine.launcher import Launcher
from loadtune.engine.runner import Runner
from loadtune.engine.sides import Arena
from loadtune.errors import NothingMeasuredError
from loadtune.monitor.host import read_limits
from loadtune.monitor.nvml import Nvml
from loadtune.options import profile_from_step_time
from loadtune.records.measurement import TrialResult
from loadtune.records.messages import Sources
from loadtune.records.report import Report
from loadtune.records.settings import DeviceChoice, MeasureOptions, Settings, TrialSpec, WorkloadSpec
from loadtune.render.saved import read_report
from loadtune.stats import duel_interval

ROOT = Path(__file__).resolve().parent.parent
GRID = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""The oracle's settings: the steps of the product's own ladder, up to what people try."""
ROUNDS = 2
SEEDS = (100, 101)
"""Scored. Seeds 0 and 1 are for setting thresholds, and never scored."""
QUICK = ("network", "photographs", "held_memory")
BUDGET_S = 60.0
DUEL_S = 40.0
"""Of each answer against the oracle: three starts, eight pairs."""
UNIT_COST_S = 480.0
"""Seconds that a unit may take, for --limit."""
LOOP_MEASURE = MeasureOptions(window_min_s=1.0, windows_min=2, measure_s=2.0, warm_up_s=2.0)
"""What the ten-line loop measures: two seconds after a warm-up. Shorter, and its 3 per cent are noise."""
GRID_MEASURE = MeasureOptions(measure_s=2.5, warm_up_s=3.0)


def main() -> None:
    """Run the units that are missing and fit into the limit, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three worlds, one seed")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds after which no unit is begun")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="0 and 1 for setting thresholds")
    asked = parser.parse_args()
    ends_s = time.monotonic() + asked.limit
    record = load("tuning")
    units = [(world, seed) for seed in asked.seeds for world in WORLDS]
    if asked.quick:
        units = [(world, asked.seeds[0]) for world in QUICK]
    done = {(row["world"], row["seed"]) for row in record["rows"]}
    for world, seed in units:
        if asked.show or (world, seed) in done or time.monotonic() + UNIT_COST_S > ends_s:
            continue
        Unit(record, world, seed).run()
        save(record, judge(record["rows"]))
    for line in tabulate(record["rows"]):
        print(line)
    for criterion in judge(record["rows"]):
        state = {True: "met", False: "NOT MET", None: "not measured"}[criterion.met]
        print(f"{state:13} {criterion.name}: {criterion.value}, {criterion.target}")


class Unit:
    """One world with one seed, from the oracle to the duels."""

    def __init__(self, record: dict[str, Any], world: str, seed: int) -> None:
        self._record, self._world, self._seed = record, world, seed
        self._target = f"benchmarks.tuning_worlds:{world}_{seed}"
        self._step_s = step_s(world, seed)
        self._trials = 0

    def run(self) -> None:
        """Measure, ask, duel; add the rows."""
        with ExitStack() as stack:
            nvml = Nvml.open()
            stack.callback(nvml.close)
            self._launcher = stack.enter_context(Launcher())
            self._launcher.wait_until_ready()
            self._runner = Runner(self._launcher, nvml, read_limits(), Sources(), time.monotonic())
            grid = self._measure_grid()
            rates = {workers: max(t.rate_per_s or 0.0 for t in trials) for workers, trials in grid.items()}
            seconds = {workers: trials[0].seconds_spent for workers, trials in grid.items()}
            device = BATCH / self._step_s
            answers = {"doubling loop": doubling(self._measure_loop, device)}
            answers |= rules(read_limits().affinity_cores)
            answers["full grid"] = full_grid(rates, seconds)
            try:
                answers["Optuna TPE"] = tpe(rates, seconds, self._seed)
            except ImportError:
                print("Optuna is not installed: left out", flush=True)
            answers["loadtune"], report = self._ask_ours()
            best = max(rates, key=lambda each: rates[each])
            looked = {each.at(after) for each in answers.values() for after in (10, 20, 40, 90)} - {None}
            shares = self._hold_duels({each.num_workers for each in answers.values()} | looked, best, grid)
        self._add_rows(answers, rates, shares, best, grid, report)

    def _spec(self, workers: int, options: MeasureOptions, repeat: int = 0) -> TrialSpec:
        return TrialSpec(
            settings=Settings(num_workers=workers, batch_size=BATCH),
            device=DeviceChoice(kind="replay", profile=profile_from_step_time(self._step_s, BATCH)),
            workload=WorkloadSpec(dataset_target=self._target),
            measure=options,
            repeat=repeat,
        )

    def _run(self, workers: int, options: MeasureOptions, repeat: int = 0) -> TrialResult:
        spec = self._spec(workers, options, repeat)
        self._trials += 1
        leg = Leg(settings=spec.settings, role="grid", round=repeat)
        return self._runner.run(spec, leg, self._trials, time.monotonic() + 60.0)

    def _measure_grid(self) -> dict[int, list[TrialResult]]:
        found: dict[int, list[TrialResult]] = {workers: [] for workers in GRID}
        for repeat in range(ROUNDS):
            for workers in GRID if repeat % 2 == 0 else reversed(GRID):
                found[workers].append(self._run(workers, GRID_MEASURE, repeat))
        return found

    def _measure_loop(self, workers: int) -> tuple[float, float]:
        trial = self._run(workers, LOOP_MEASURE)
        return trial.rate_per_s or 0.0, trial.seconds_spent

    def _ask_ours(self) -> tuple[Answer, Report | None]:
        """Return the answer of a fresh command line, with what stood when."""
        command = [sys.executable, "-m", "loadtune", "probe", "--dataset", self._target, "--search", "guided"]
        command += ["--step-time", f"{self._step_s:.6f}", "--batch-size", str(BATCH), "--budget", f"{BUDGET_S:g}s"]
        with TemporaryDirectory() as folder:
            saved = Path(folder) / "copy.json"
            command += ["--json", str(saved), "--out", f"{folder}/report", "--quiet", "--fresh"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, check=False)
            if not saved.exists():
                raise SystemExit(f"{self._target}: {done.stderr[-1000:]}")
            report = read_report(saved)
        told = report.recommendation
        workers = report.request.baseline.num_workers if told is None else told.settings.num_workers
        return Answer(workers, _answered_s(report), list(_course(report))), report

    def _hold_duels(
        self, answers: set[int | None], best: int, grid: dict[int, list[TrialResult]]
    ) -> dict[int, tuple[float | None, float | None, float | None]]:
        """Return each answer's rate by the oracle's best, with its interval; failed settings have none."""
        limits = read_limits()
        arena = Arena(
            launcher=self._launcher,
            sources=Sources(),
            memory_end_bytes=self._runner.memory_end_bytes,
            foreign_limit_cores=limits.spare_cores + FOREIGN_RATIO * limits.usable_cores,
        )
        shares: dict[int, tuple[float | None, float | None, float | None]] = {best: (1.0, 1.0, 1.0)}
        theirs = next(trial for trial in grid[best] if trial.rate_per_s)
        for workers in sorted(each for each in answers if each is not None and each != best):
            trials = grid.get(workers) or [self._run(workers, GRID_MEASURE)]
            ours = next((trial for trial in trials if trial.rate_per_s), None)
            shares[workers] = (0.0, 0.0, 0.0)
            if ours is None:
                continue
            plan = fit_duel(DUEL_S, theirs, ours, "replay", returns_memory=limits.returns_memory)
            if plan is None:
                shares[workers] = (None, None, None)
                continue
            specs = [self._spec(each, GRID_MEASURE) for each in (best, workers)]
            duel = hold_duel(arena, specs[0], specs[1], plan, time.monotonic() + DUEL_S, lambda done, planned: None)
            interval = duel_interval(duel.pairs, burst_samples=burst_samples(duel)) if duel.pairs else None
            if interval is None:
                shares[workers] = (None, None, None)
            else:
                shares[workers] = (interval.estimate, interval.low, interval.high)
        return shares

    def _add_rows(
        self,
        answers: dict[str, Answer],
        rates: dict[int, float],
        shares: dict[int, tuple[float | None, float | None, float | None]],
        best: int,
        grid: dict[int, list[TrialResult]],
        report: Report | None,
    ) -> None:
        keys: Row = {"world": self._world, "seed": self._seed}
        cheapest = min(workers for workers, rate in rates.items() if rate >= 0.97 * rates[best])
        count = len(self._record["rows"])
        with measure(self._record, variant=f"{self._world} {self._seed}", **keys) as measured:
            for workers, rate in rates.items():
                measured.add(f"rate, num_workers={workers}", rate, "samples/s")
            for name, answer in answers.items():
                measured.add(name, shares[answer.num_workers][0], "of the oracle")
        for row in self._record["rows"][count:]:
            answer = answers.get(row["quantity"])
            row.update(best=best, cheapest=cheapest, step_s=self._step_s)
            if answer is not None:
                low, high = shares[answer.num_workers][1:]
                memory = next(
                    (t.trace.pss_bytes for t in grid.get(answer.num_workers, []) if t.trace is not None), None
                )
                row.update(workers=answer.num_workers, seconds=answer.seconds, low=low, high=high, pss_bytes=memory)
                row["course"] = {str(after): _share_at(answer, after, shares) for after in (10, 20, 40, 90)}
        told = None if report is None or report.recommendation is None else report.recommendation.verdict.value
        print(f"{self._world} {self._seed}: best {best}, ours {answers['loadtune'].num_workers} ({told})", flush=True)


def _share_at(answer: Answer, after: float, shares: dict[int, tuple[float | None, float | None, float | None]]) -> Any:
    stood = answer.at(after)
    return None if stood is None else shares[stood][0]


def _answered_s(report: Report) -> float:
    """Return when the screening had its answer: the duel after it confirms and does not search."""
    return max((t.started_s + t.seconds_spent for t in report.trials if t.role in {"grid", "baseline"}), default=0.0)


def _course(report: Report) -> Any:
    """Yield what `choose` would have said after each end-to-end trial."""
    seen: list[TrialResult] = []
    for trial in report.trials:
        seen.append(trial)
        if not is_end_to_end(trial):
            continue
        try:
            chosen = choose(seen, report.request.baseline)
        except NothingMeasuredError:
            continue
        yield trial.started_s + trial.seconds_spent, chosen.settings.num_workers


if __name__ == "__main__":
    main()
