"""Does loadtune say why, and is it right? Injected faults on a real DataLoader and a replayed device.

    python -m benchmarks.diagnosis [--quick] [--limit SECONDS] [--seeds N ...] [--keep FOLDER] [--anew] [--show]

A unit is one fault of `diagnosis_faults` (or a pair), a seed and a strength. A fresh command line probes it with the
loader's own settings alone, as somebody would who asks what is wrong with them; its findings are kept, and what NVML
would have shown of the same trial. Then its twins are trained: the same without the fault, which tells what the fault
costs; and, where it is material, the same without other causes, the named one first, until it is settled what following
the top finding would have won. Where the probe's own trial of the settings was steady, it stands for the training with
the fault; a server of forks trains the others, in the same loop but for less time.

Seeds 0 to 9 set thresholds; 100 to 109 are scored, and after a change of the rules ten new ones. A unit during
which others kept more than 0.1 cores busy is void and is run again. It is saved after every unit, and goes on where it
stopped. With --anew, units of seeds 0 to 9 that were measured with other rules are measured again: what was scored
stays. With --quick, one seed of a few faults: under ten minutes.

Caveats: costs and gains are of single trials, good to a few per cent; what is marked "by construction" is supplied by
replay itself. A training that two units of a fault and a seed share runs once. A block of ten seeds takes over two
hours.
"""

import argparse
import hashlib
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec

from benchmarks.diagnosis_cures import cures, order
from benchmarks.diagnosis_faults import FAULTS, PAIRS, Strength, base, drawing, make
from benchmarks.diagnosis_names import name_recipe
from benchmarks.diagnosis_readings import (
    cost,
    end_to_end,
    foreign_cores,
    format_baseline,
    gain,
    make_profile,
    make_settings,
    ratio,
    read_findings,
    read_shares,
    read_utilisation,
    worth,
)
from benchmarks.diagnosis_recipe import BATCH, Recipe
from benchmarks.diagnosis_scores import NO_ANSWER, askers, judge, settles
from benchmarks.diagnosis_surroundings import find_obstacle, surrounded
from benchmarks.diagnosis_tables import tabulate
from benchmarks.record import Row, load, now, save
from loadtune.advice.search import Leg
from loadtune.engine.launcher import Launcher
from loadtune.engine.runner import Runner
from loadtune.monitor.host import read_limits
from loadtune.monitor.nvml import Nvml
from loadtune.records.measurement import TrialResult
from loadtune.records.messages import Sources
from loadtune.records.report import Report
from loadtune.records.settings import DeviceChoice, MeasureOptions, TrialSpec, WorkloadSpec
from loadtune.render.saved import read_report

ROOT = Path(__file__).resolve().parent.parent
MODULE = "benchmarks.diagnosis_worlds"
THRESHOLD_SEEDS, SEEDS = tuple(range(10)), tuple(range(120, 130))
"""Those that set thresholds, and those to be scored next: rules that were scored and changed meet new ones."""
OTHER_SEEDS = 3
"""Of each ten seeds, those whose immaterial and absent strengths are run too: 60 controls of each at 20 faults."""
PAIR_SEEDS = 5
QUICK = ("wait_per_read", "cpu_burn", "launch", "copy", "pinned")
QUICK_LIMIT_S = 600.0
UNIT_COST_S = 60.0
"""Seconds that a unit may take, for --limit; with spawn, or void at first, twice as many."""
FOREIGN_MAX_CORES = 0.1
"""Above it a unit is void: on two cores it moves a rate by several per cent, which is what immaterial means."""
STEADY_RATIO = 0.05
"""Spread of a probe's trial up to which a shorter one would say the same: half of what makes a fault material."""
TRIES = 3
"""Runs of a unit before it stays void until the next time."""
PROBE_LIMIT_S = 180.0
BUG_EXIT_CODE = 70
TRIAL_LIMIT_S = 60.0
TWIN = MeasureOptions(window_min_s=0.7, windows_min=2, measure_s=1.4)
"""Of the twins, two windows: their gains are compared at a tenth, which they tell apart. The warm-up is the product's
own: with a shorter one, windows begin while spawned workers still start."""
RULES = tuple(ROOT / "loadtune" / name for name in ("advice", "engine", "measure", "monitor", "records"))
FAULT_FILES = tuple(ROOT / "benchmarks" / f"diagnosis_{name}.py" for name in ("cures", "faults", "recipe", "worlds"))
"""What findings follow from: the rules, what they are given to judge, and the trainings."""


class Unit(NamedTuple):
    """What one row stands for."""

    kinds: tuple[str, ...]
    seed: int
    strength: Strength

    @property
    def name(self) -> str:
        """The attribute of `diagnosis_worlds` that is probed."""
        return "__".join([*self.kinds, self.strength, str(self.seed)])


def main() -> None:
    """Run the units that are missing and fit into the limit, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed of a few faults")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds after which no unit is begun")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="0 to 9 for setting thresholds")
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), help="of single faults, these alone")
    parser.add_argument("--keep", type=Path, help="keep every report in this folder")
    parser.add_argument("--anew", action="store_true", help="measure again what was measured with other rules")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    asked = parser.parse_args()
    if asked.anew and max(asked.seeds) > max(THRESHOLD_SEEDS):
        parser.error("--anew would replace what was scored: score the next ten seeds instead")
    ends_s = time.monotonic() + (min(asked.limit, QUICK_LIMIT_S) if asked.quick else asked.limit)
    record = load("diagnosis")
    digest = digest_rules()
    missing = [] if asked.show else find_missing(record, choose_units(asked), digest, anew=asked.anew)
    if missing:
        from benchmarks.diagnosis_worlds import write_file  # it imports torch, which --show can do without

        write_file()
        with Bench(record, digest, asked.keep) as bench:
            for unit in missing:
                if time.monotonic() + UNIT_COST_S > ends_s:
                    break
                bench.run(unit)
                save(record, judge(record["rows"]))
    for line in tabulate(record["rows"]):
        print(line)
    for criterion in judge(record["rows"]):
        state = {True: "met", False: "NOT MET", None: "not measured"}[criterion.met]
        value = "" if criterion.value is None else f"{criterion.value:.3g}, "
        print(f"{state:13} {criterion.name}: {value}{criterion.target}")


def choose_units(asked: argparse.Namespace) -> list[Unit]:
    """Return what is asked for, seed by seed, so that a run cut short has some of everything."""
    kinds = asked.only or (QUICK if asked.quick else tuple(FAULTS))
    units = []
    for seed in asked.seeds[:1] if asked.quick else asked.seeds:
        for kind in kinds:
            strengths = FAULTS[kind].strengths if asked.quick or seed % 10 < OTHER_SEEDS else ("material",)
            units += [Unit((kind,), seed, strength) for strength in strengths]
        if seed % 10 < PAIR_SEEDS and not asked.only:
            units += [Unit(pair, seed, "material") for pair in (PAIRS[:1] if asked.quick else PAIRS)]
    return units


def find_missing(record: dict[str, Any], units: Sequence[Unit], digest: str, *, anew: bool) -> list[Unit]:
    """Return the units that have no row to be scored; with `anew`, those of other rules too."""
    done = {
        (tuple(row["kinds"]), row["seed"], row["strength"])
        for row in record["rows"]
        if not row["is_void"] and (row["rules"] == digest or not anew)
    }
    return [unit for unit in units if unit not in done]


def digest_rules() -> str:
    """Return a digest of the code that measures and advises, and of the faults: rows say what they judge by it."""
    files = [*FAULT_FILES, *sorted(path for folder in RULES for path in folder.rglob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def stands_for_twin(recipe: Recipe, trial: TrialResult) -> bool:
    """Say whether a probe's own trial may stand for its training: it was steady, or only the probe can have it."""
    is_steady = trial.spread_ratio is not None and trial.spread_ratio < STEADY_RATIO
    return is_steady or recipe.shm_bytes is not None


class Bench:
    """Runs units one after another, their twins in forks of one server.

    Args:
        record: Takes the rows.
        digest: Of the rules.
        folder: Keeps the reports; None: they are dropped.
    """

    def __init__(self, record: dict[str, Any], digest: str, folder: Path | None) -> None:
        self._record, self._digest, self._folder = record, digest, folder
        self._stack = ExitStack()
        self._trials = 0
        self._twins: dict[Recipe, TrialResult] = {}
        self._twins_of: tuple[tuple[str, ...], int] | None = None

    def __enter__(self) -> "Bench":
        nvml = Nvml.open()
        self._stack.callback(nvml.close)
        self._launcher = self._stack.enter_context(Launcher())
        self._launcher.wait_until_ready()
        self._runner = Runner(self._launcher, nvml, read_limits(), Sources(), time.monotonic())
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run(self, unit: Unit) -> None:
        """Run a unit until it is not void, and put its row in the place of an earlier one."""
        if self._twins_of != (unit.kinds, unit.seed):
            self._twins, self._twins_of = {}, (unit.kinds, unit.seed)
        for _ in range(TRIES):
            row = self._measure(unit)
            if not row["is_void"]:
                break
        key = {"kinds": row["kinds"], "seed": row["seed"], "strength": row["strength"]}
        self._record["rows"] = [each for each in self._record["rows"] if not key.items() <= each.items()]
        self._record["rows"].append(row)
        told = row["not_run"] or f"cost {row['cost']}, said {[rule for rule, _ in row['findings'][:2]]}"
        print(f"{unit.name}: {told}{' VOID' if row['is_void'] else ''}", flush=True)

    def _measure(self, unit: Unit) -> Row:
        recipe, healthy = make(*unit), base(*unit)
        row: Row = {"variant": unit.name, "kinds": list(unit.kinds), "seed": unit.seed, "strength": unit.strength}
        row |= {"quantity": "cost", "value": None, "unit": "ratio", "started": now(), "rules": self._digest}
        row |= {"is_void": False, "not_run": find_obstacle(recipe), "cost": None, "cost_alone": {}, "reached": None}
        row |= {"findings": [], "gains": {}, "left_out": [], "utilisation": [], "foreign_cores": None, "seconds": None}
        row |= {"no_answer": None, "seen": read_shares(None)}
        if row["not_run"] is not None:
            return row
        began_s = time.monotonic()
        with surrounded(recipe, self._launcher._zygote.pid) as prefix:
            report, row["no_answer"] = self._probe(unit, recipe, prefix)
        row["findings"] = [] if report is None else read_findings(report)
        trial = None if report is None else end_to_end(report)
        if trial is None and not row["findings"]:
            row["findings"] = [(NO_ANSWER, "warning")]
        row["utilisation"], row["seen"] = read_utilisation(trial), read_shares(trial)
        foreign = [] if recipe.neighbours or report is None else [foreign_cores(each) for each in report.trials]
        if trial is not None and stands_for_twin(recipe, trial):
            self._keep(recipe, trial)
        self._compare(unit, recipe, healthy, row, foreign)
        row["value"] = row["cost"]
        known = [each for each in foreign if each is not None]
        row["foreign_cores"] = round(max(known), 3) if known else None
        row["is_void"] = bool(known) and max(known) > FOREIGN_MAX_CORES
        row["seconds"] = round(time.monotonic() - began_s, 1)
        return row

    def _compare(
        self,
        unit: Unit,
        recipe: Recipe,
        healthy: Recipe,
        row: Row,
        foreign: list[float | None],
    ) -> None:
        """Train the twins and note what the fault costs and what removing each cause gains."""

        def train(twin: Recipe) -> TrialResult | None:
            known = self._twins.get(twin)
            if known is not None or twin.shm_bytes is not None:  # which only a command of its own can have
                return known
            trial = self._train(twin)
            foreign.append(self._keep(twin, trial))
            return trial

        ours = train(recipe)
        row["reached"] = ratio(worth(recipe, ours), recipe.batch_size / recipe.device_s)
        if unit.strength == "absent":
            return
        best = train(healthy)
        row["cost"] = cost(unit.kinds, (recipe, ours), (healthy, best))
        for kind in unit.kinds if len(unit.kinds) > 1 else ():
            alone = _alone(unit, kind)
            row["cost_alone"][kind] = cost((kind,), (alone, train(alone)), (healthy, best))
        if unit.strength == "material" and len(unit.kinds) == 1 and FAULTS[unit.kinds[0]].loss == "throughput":
            self._cure(unit, recipe, worth(recipe, ours), row, train)

    def _keep(self, twin: Recipe, trial: TrialResult) -> float | None:
        """Keep a trial for units that share it, unless others kept the machine busy; return the cores these used."""
        others = None if twin.neighbours else foreign_cores(trial)
        if (others or 0.0) <= FOREIGN_MAX_CORES:
            self._twins[twin] = trial
        return others

    def _cure(
        self, unit: Unit, recipe: Recipe, own: float | None, row: Row, train: Callable[[Recipe], TrialResult | None]
    ) -> None:
        """Note what removing each cause gains, until it is settled whether removing the named one wins most of it."""
        fastest = max(BATCH / each.device_s for each in cures(unit.kinds, recipe).values())
        most = gain(own, fastest)  # no training here outruns its device
        named = [ask(row) for ask in askers([*self._record["rows"], row]).values()]
        for rule, cured in order(cures(unit.kinds, recipe), [*named, *FAULTS[unit.kinds[0]].right]):
            if rule not in named and most is not None and settles(row["gains"], named[0], most):
                row["left_out"].append(rule)
                continue
            row["gains"][rule] = gain(own, worth(cured, train(cured)))

    def _train(self, recipe: Recipe) -> TrialResult:
        """Run one trial of a recipe in its surroundings."""
        self._trials += 1
        settings = make_settings(recipe)
        spec = TrialSpec(
            settings=settings,
            device=DeviceChoice(kind="replay", profile=make_profile(recipe)),
            workload=WorkloadSpec(dataset_target=f"{MODULE}:{name_recipe(recipe)}"),
            measure=TWIN,
        )
        with surrounded(recipe, self._launcher._zygote.pid):
            leg = Leg(settings=settings, role="grid")
            return self._runner.run(spec, leg, self._trials, time.monotonic() + TRIAL_LIMIT_S)

    def _probe(self, unit: Unit, recipe: Recipe, prefix: list[str]) -> tuple[Report | None, str | None]:
        """Return the report of a fresh command line, or why there is none.

        Raises:
            SystemExit: The probe ended by a bug.
        """
        with TemporaryDirectory() as folder:
            profile, saved = Path(folder) / "profile.json", Path(folder) / "report.json"
            profile.write_bytes(msgspec.json.encode(make_profile(recipe)))
            budget_s = max(FAULTS[kind].budget_s for kind in unit.kinds)
            command = [*prefix, sys.executable, "-m", "loadtune", "probe", "--dataset", f"{MODULE}:{unit.name}"]
            command += ["--device", f"replay:{profile}", "--search", "guided", "--budget", f"{budget_s:g}s"]
            command += ["--num-workers", str(recipe.num_workers), "--batch-size", str(recipe.batch_size)]
            command += ["--baseline", format_baseline(make_settings(recipe)), "--fresh", "--quiet"]
            command += ["--json", str(saved), "--out", f"{folder}/out"]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=PROBE_LIMIT_S, cwd=ROOT, check=False
                )
            except subprocess.TimeoutExpired:
                return None, f"no answer after {PROBE_LIMIT_S:g} s"
            if done.returncode == BUG_EXIT_CODE:
                raise SystemExit(f"the probe of {unit.name} met a bug:\n{done.stderr[-2000:]}")
            if not saved.exists() or not saved.stat().st_size:
                return None, f"exit code {done.returncode}: {done.stderr[-300:].strip()}"
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
                (self._folder / f"{unit.name}.json").write_bytes(saved.read_bytes())
            return read_report(saved), None


def _alone(unit: Unit, kind: str) -> Recipe:
    """Return a pair's training with one of its faults alone."""
    return FAULTS[kind].inject(base(*unit), drawing(unit.seed, kind), unit.strength)


if __name__ == "__main__":
    main()
