"""What do the oracle, everyone's answers and the duels give for one world and seed? Measured live, part by part.

    python -m benchmarks.tuning_unit WORLD SEED [--rival-python PATH] [--fast]

`tuning` starts it, behind the world's own limit where it has one. Every trial of the grid, every answer and every duel
is a row of the record, saved at once: a unit that was cut short goes on with what is missing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.record import Row, has, load, now, save
from benchmarks.tuning_ours import ask_ours
from benchmarks.tuning_rivals import Answer, Look, at_random, doubling, full_grid, rules, tpe
from benchmarks.tuning_rows import Unit, point_of, select
from benchmarks.tuning_settings import (
    SEEDS,
    SIMULATED_SEED,
    TUNING_SEEDS,
    VERSION,
    Point,
    batches,
    device_rate,
    grid,
    place,
    profile,
)
from loadtune.advice.cautions import FOREIGN_RATIO
from loadtune.advice.search import Leg
from loadtune.advice.selection import burst_samples
from loadtune.advice.slicing import fit_duel
from loadtune.engine.abba import hold_abba
from loadtune.engine.duel import hold_duel
from loadtune.engine.launcher import Launcher
from loadtune.engine.runner import Runner
from loadtune.engine.sides import Arena
from loadtune.lifeline import end_with_parent
from loadtune.monitor.host import read_limits
from loadtune.monitor.nvml import Nvml
from loadtune.records.measurement import Duel, TrialResult
from loadtune.records.messages import Sources
from loadtune.records.settings import DeviceChoice, MeasureOptions, Settings, TrialSpec, WorkloadSpec
from loadtune.stats import ABBA_PAIRS_MIN, DUEL_PAIRS_MIN, duel_interval

ROOT = Path(__file__).resolve().parent.parent
NAME = "tuning"
ALL_SEEDS = (*TUNING_SEEDS, *SEEDS, SIMULATED_SEED)
AGAIN_RATIO, AGAIN_MAX = 0.92, 6
"""What the oracle looks at again: settings so near to the best of the first look, the fewest workers first. Looks
differ by 2 to 5 %, so what lies lower is neither the best nor within 3 % of it; of what ties, the cheap end matters."""
FAR_RATIO, HOPELESS_RATIO = 0.85, 0.6
"""Shares of the best, by the grid, below which a short duel tells all that is asked, and below which the grid does: it
is no rival. Ours and the loop's answer are set against the best however low they are, and so is what ours may lie
below."""
UNDUELLED = ("random order",)
"""Whose answers get no duel of their own: it is no rival, and the oracle's table tells enough of it."""
LATE = 1.3
"""How much longer than planned a duel may take, so that a busy moment costs no pair."""
LIMIT_S = 25.0
"""Of one trial: start, warm-up and windows of the slowest take ten on a quiet machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """How long the parts take."""

    grid: MeasureOptions = MeasureOptions(window_min_s=0.8, measure_s=1.6, warm_up_s=1.5, cap_s=12.0)
    """Two windows. Windows are whole bursts of num_workers batches, so they are longer where bursts are."""
    loop: MeasureOptions = MeasureOptions(window_min_s=1.0, measure_s=2.0, warm_up_s=2.0, cap_s=12.0)
    """What the doubling loop measures: two seconds after a warm-up. Shorter, and its 3 per cent are noise."""
    budget_s: float = 60.0
    duel_s: float = 32.0
    """Three or four starts, eight pairs and more."""
    far_duel_s: float = 18.0


FAST = Pacing(
    grid=MeasureOptions(window_min_s=0.4, measure_s=0.8, warm_up_s=0.5, cap_s=6.0),
    loop=MeasureOptions(window_min_s=0.4, measure_s=0.8, warm_up_s=0.5, cap_s=6.0),
    budget_s=30.0,
    duel_s=18.0,
    far_duel_s=14.0,
)
"""To see that everything runs. The figures mean little, and are never written over those of a whole run."""


class Bench:
    """Measures one world and seed; what the record holds already is not measured again."""

    def __init__(self, record: dict[str, Any], world: str, seed: int, pacing: Pacing, rival: str | None) -> None:
        self._record, self._world, self._seed, self._pacing, self._rival = record, world, seed, pacing, rival
        self._keys: Row = {"worlds": VERSION, "world": world, "seed": seed}
        self._trials: dict[Point, TrialResult] = {}
        self._count = 0

    def run(self) -> None:
        """Measure what is missing, part by part."""
        began_s = time.monotonic()
        with ExitStack() as stack:
            nvml = Nvml.open()
            stack.callback(nvml.close)
            asked_s = time.monotonic()
            self._launcher = stack.enter_context(Launcher())
            self._launcher.wait_until_ready()
            self._start_s = time.monotonic() - asked_s
            self._runner = Runner(self._launcher, nvml, read_limits(), Sources(), time.monotonic())
            try:
                self._measure_grid()
                self._take_answers()
                self._hold_duels()
            finally:
                self._add("spent", "unit", time.monotonic() - began_s, "s")
        self._add("done", "unit", 1.0, "")

    # Grid -----------------------------------------------------------------------------------------------------------

    def _measure_grid(self) -> None:
        for point in grid(self._world):
            self._look(point, 0)
        while again := self._worth_another_look():
            for point in again:
                self._look(point, 1)

    def _worth_another_look(self) -> list[Point]:
        """Return what may be the best, or the cheapest near it, by what is known so far, and was seen only once."""
        unit = Unit(select(self._record["rows"], **self._keys))
        least = AGAIN_RATIO * unit.rates[unit.best]
        near = sorted(point for point in unit.looks if unit.rates[point] >= least)
        seen = {point_of(row) for row in unit.rows if row["part"] == "grid" and row["round"] == 1}
        return sorted({*near[:AGAIN_MAX], unit.best} - seen, reverse=True)

    def _look(self, point: Point, number: int, *, is_extra: bool = False) -> None:
        """Measure a setting once; number -1 and beyond the grid: an answer that the oracle does not have."""
        if not has(self._record, **self._keys, part="grid", num_workers=point[0], batch_size=point[1], round=number):
            trial = self._run(point, self._pacing.grid, number)
            self._add("grid", "rate", trial.rate_per_s, "samples/s", round=number, is_extra=is_extra, **_told(trial))

    def _looks(self) -> dict[Point, Look]:
        """Return the first look at every setting of the grid."""
        return Unit(select(self._record["rows"], **self._keys)).looks

    def _run(self, point: Point, options: MeasureOptions, repeat: int = 0) -> TrialResult:
        spec = self._spec(point, options, repeat)
        self._count += 1
        leg = Leg(settings=spec.settings, role="grid", round=repeat)
        trial = self._runner.run(spec, leg, self._count, time.monotonic() + LIMIT_S)
        if trial.rate_per_s:
            self._trials[point] = trial
        return trial

    def _spec(self, point: Point, options: MeasureOptions, repeat: int = 0) -> TrialSpec:
        return TrialSpec(
            settings=Settings(num_workers=point[0], batch_size=point[1]),
            device=DeviceChoice(kind="replay", profile=profile(self._world, self._seed)),
            workload=WorkloadSpec(dataset_target=f"benchmarks.tuning_worlds:{self._world}_{self._seed}"),
            measure=options,
            repeat=repeat,
        )

    # Answers --------------------------------------------------------------------------------------------------------

    def _take_answers(self) -> None:
        own, looks, start_s = batches(self._world), self._looks(), self._start_s
        for name, answer in rules(read_limits().affinity_cores, own, self._device_rate).items():
            self._note(name, answer)
        self._note("full grid", full_grid(looks, start_s))
        self._note("random order", at_random(looks, self._seed, start_s))
        try:
            self._note("Optuna TPE", tpe(looks, self._seed, start_s))
        except ImportError:
            self._lack("Optuna TPE", "Optuna is not installed")
        if self._is_missing("doubling loop"):
            self._note("doubling loop", doubling(self._look_as_loop, self._device_rate, own, start_s))
        if self._is_missing("loadtune"):
            self._note("loadtune", *ask_ours(self._world, self._seed, self._pacing.budget_s))
        if self._rival is None:
            self._lack("loadtune 0.3.0", "no --rival-python was given")
        elif self._is_missing("loadtune 0.3.0"):
            self._ask_rival(self._rival)

    def _look_as_loop(self, point: Point) -> Look:
        trial = self._run(point, self._pacing.loop)
        return trial.rate_per_s or 0.0, trial.seconds_spent

    def _device_rate(self, batch: int) -> float:
        return device_rate(self._world, self._seed, batch)

    def _ask_rival(self, python: str) -> None:
        """Run PyPI's package in its own environment, away from this one's folder, whose package has the same name."""
        script = ROOT / "benchmarks" / "tuning_pypi.py"
        steps = {str(batch): batch / (self._device_rate(batch) or 1e-9) for batch in batches(self._world)}
        command = [python, str(script), f"{self._world}_{self._seed}", json.dumps(steps)]
        alone = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
        began_s = time.monotonic()
        with TemporaryDirectory() as folder:
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=300, cwd=folder, env=alone, check=False
                )
            except subprocess.TimeoutExpired:
                self._lack("loadtune 0.3.0", "no answer within 300 s")
                return
        told = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
        if done.returncode or not told:
            last = done.stderr.strip().splitlines()
            self._lack("loadtune 0.3.0", f"exit code {done.returncode}: {last[-1] if last else 'no word'}")
            return
        workers, batch = json.loads(told[-1].removeprefix("ANSWER "))
        seconds = time.monotonic() - began_s
        self._note("loadtune 0.3.0", Answer((workers, batch), seconds, [(seconds, (workers, batch))]))

    def _is_missing(self, name: str) -> bool:
        return not has(self._record, **self._keys, part="answer", quantity=name)

    def _note(self, name: str, answer: Answer, verdict: str | None = None) -> None:
        if self._is_missing(name):
            fields: Row = {"course": answer.course} if verdict is None else {"course": answer.course, "said": verdict}
            self._add("answer", name, answer.seconds, "s", num_workers=answer.point[0], batch_size=answer.point[1],
                      **fields)  # fmt: skip

    def _lack(self, name: str, reason: str) -> None:
        if not has(self._record, **self._keys, part="lacking", quantity=name):
            self._add("lacking", name, None, "", reason=reason)

    # Duels ----------------------------------------------------------------------------------------------------------

    def _hold_duels(self) -> None:
        """Set every distinct answer against the oracle's best; ours and the loop's first."""
        unit = Unit(select(self._record["rows"], **self._keys))
        ranked = sorted(unit.answers, key=lambda name: name not in {"loadtune", "doubling loop"})
        for point in dict.fromkeys(unit.answers[name].point for name in ranked):
            self._look(point, 0, is_extra=point not in grid(self._world))
        unit = Unit(select(self._record["rows"], **self._keys))
        watched = {unit.answers[name].point for name in ("loadtune", "doubling loop")}
        least = min(HOPELESS_RATIO * unit.rates[unit.best], unit.rates[unit.answers["loadtune"].point])
        for point in dict.fromkeys(unit.answers[name].point for name in ranked if name not in UNDUELLED):
            keys = {**self._keys, "part": "duel", "num_workers": point[0], "batch_size": point[1]}
            is_asked = point in watched or unit.rates[point] >= least
            if is_asked and point != unit.best and unit.rates[point] and not has(self._record, **keys):
                self._hold_duel(point, unit.best, far=unit.rates[point] < FAR_RATIO * unit.rates[unit.best])

    def _hold_duel(self, point: Point, best: Point, *, far: bool) -> None:
        """Set one answer against the oracle's best: alive by turns, or in fresh runs where both would share a limit."""
        specs = self._spec(best, self._pacing.grid), self._spec(point, self._pacing.grid)
        where = place(self._world, self._seed)
        shares_limit = where.memory_bytes is not None or where.shm_bytes is not None
        duel = None if shares_limit else self._alive(specs, self._pacing.far_duel_s if far else self._pacing.duel_s)
        if duel is None or len(duel.pairs) < ABBA_PAIRS_MIN:
            pairs = ABBA_PAIRS_MIN if far else DUEL_PAIRS_MIN
            limit_s = time.monotonic() + 2 * self._pacing.duel_s
            duel = hold_abba(self._runner, specs[0], specs[1], pairs, limit_s, lambda done, planned: None)
        fields: Row = {"num_workers": point[0], "batch_size": point[1], "against": best, "method": duel.method}
        if len(duel.pairs) < 2:
            reason = "no pairs" if duel.failure is None else duel.failure.message
            self._add("duel", "share", None, "of the oracle", **fields, low=None, high=None, reason=reason)
            return
        bursts = burst_samples(duel) if duel.method == "frozen" else None
        least = ABBA_PAIRS_MIN if duel.method == "abba" else DUEL_PAIRS_MIN
        interval = duel_interval(duel.pairs, pairs_min=least, burst_samples=bursts)
        foreign = [pair.foreign_cores for pair in duel.pairs if pair.foreign_cores is not None]
        self._add(
            "duel", "share", interval.estimate, "of the oracle", **fields, low=interval.low, high=interval.high,
            pairs=len(duel.pairs), starts=len({pair.restart for pair in duel.pairs}), reason=interval.reason,
            seconds=duel.seconds_spent, foreign_cores=fmean(foreign) if foreign else None,
        )  # fmt: skip

    def _alive(self, specs: tuple[TrialSpec, TrialSpec], seconds: float) -> Duel | None:
        """Return a duel of live processes; None where their pace is not known, or long bursts leave no room for one."""
        limits = read_limits()
        trials = [self._trial((spec.settings.num_workers, spec.settings.batch_size)) for spec in specs]
        plan = None
        for planned_s in (seconds, 1.4 * seconds, 2 * seconds):
            if plan is None and trials[0] is not None and trials[1] is not None:
                seconds = planned_s
                plan = fit_duel(seconds, trials[0], trials[1], "replay", returns_memory=limits.returns_memory)
        if plan is None:
            return None
        arena = Arena(
            launcher=self._launcher,
            sources=Sources(),
            memory_end_bytes=self._runner.memory_end_bytes,
            foreign_limit_cores=limits.spare_cores + FOREIGN_RATIO * limits.usable_cores,
        )
        deadline_s = time.monotonic() + LATE * seconds
        return hold_duel(arena, specs[0], specs[1], plan, deadline_s, lambda done, planned: None)

    def _trial(self, point: Point) -> TrialResult | None:
        """Return a trial that tells a setting's pace: the oracle's own, or after a new start another."""
        if point not in self._trials:
            self._run(point, self._pacing.grid)
        return self._trials.get(point)

    def _add(self, part: str, quantity: str, value: float | None, unit: str, **fields: Any) -> None:
        row = {**self._keys, "part": part, "quantity": quantity, "value": value, "unit": unit, "started": now()}
        self._record["rows"].append(row | fields)
        save(self._record)


def _told(trial: TrialResult) -> Row:
    """Return what of a trial is kept besides its rate."""
    trace = trial.trace
    return {
        "num_workers": trial.settings.num_workers,
        "batch_size": trial.settings.batch_size,
        "seconds": trial.seconds_spent,
        "spread_ratio": trial.spread_ratio,
        "pss_bytes": None if trace is None else trace.pss_bytes,
        "foreign_cores": None if trace is None else trace.mean_foreign_cores,
        "failure": None if trial.failure is None else trial.failure.message,
    }


def open_record(name: str) -> dict[str, Any]:
    """Return the saved record with the rows of these worlds, or a fresh one; all seeds are published with it."""
    return load(name, ALL_SEEDS, worlds=VERSION)


def main() -> None:
    """Run one unit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("world")
    parser.add_argument("seed", type=int)
    parser.add_argument("--rival-python", help="a Python that has PyPI's loadtune 0.3.0")
    parser.add_argument("--fast", action="store_true", help="short everything, to see that it runs")
    asked = parser.parse_args()
    end_with_parent()
    record = open_record(f"{NAME}_fast" if asked.fast else NAME)
    Bench(record, asked.world, asked.seed, FAST if asked.fast else Pacing(), asked.rival_python).run()


if __name__ == "__main__":
    main()
    sys.exit(0)
