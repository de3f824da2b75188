"""Can it be seen in nvidia-smi? How often utilisation alone names the remedy, and how often the steps do.

    python -m benchmarks.jitter [--show]

The worlds of `jitter_worlds` are trainings whose ill is known: a loader that stalls every step, in bursts, or at
random; kernels too short for their launches; or nothing. Each is seen through an NVML of each known kind, and three
rules name the remedy:

- article: "utilisation jitters: more workers; it is steadily low: a larger batch", by its standard deviation and mean.
  Its thresholds are the best there are: for each kind of NVML those that are most often right on worlds of other seeds.
- SageMaker: LowGPUUtilization's own thresholds, p95 below 70 % for low, else p5 below 10 % for fluctuating. Its
  BatchSize rule also asks for a low CPU and little GPU memory, which is taken to hold.
- loadtune: its rules as they stand, with the stall ratio of the same steps and the same utilisation.

Caveats: the worlds have one ill each. How much of each there is, is drawn evenly; a remedy that would win less than a
tenth is left out, since no rule should be asked to see it. The steps are seen without error, as CUDA's events see them
to some microseconds. The simulation is seeded and takes about a minute.
"""

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks import record as records
from benchmarks.jitter_picture import draw
from benchmarks.jitter_worlds import (
    BATCH,
    LEAVE,
    PATTERNS,
    SIGHTS,
    STEPS_S,
    WORKERS,
    Sight,
    Times,
    World,
    look,
    make_world,
)
from benchmarks.record import Criterion, Row
from loadtune.advice.case import Case
from loadtune.advice.rules import BUSY_P95_RATIO, IDLE_P5_RATIO, find
from loadtune.measure.accelerator import Step, stall_ratio
from loadtune.records.measurement import Measurement, Startup, TrialResult, TrialState, Window
from loadtune.records.report import Finding
from loadtune.records.resources import GpuSample, HostLimits, ResourceTrace
from loadtune.records.settings import Settings

FIT_SEED, SCORE_SEED = 1, 2
"""Of the worlds that the article's thresholds are chosen on, and of those that all rules are scored on."""
RUNS = 25
"""Worlds of each pattern and step length; with 25 a cell is told to a tenth, a pattern to 4 %."""
RULES = ("article", "SageMaker", "loadtune")
JITTER_CHOICES = np.arange(0.01, 0.50, 0.01)
LOW_CHOICES = np.arange(0.30, 1.00, 0.02)
"""Thresholds that the article's rule may choose from, finer than its samples' rounding shows."""
LIMITS = HostLimits(usable_cores=8.0, affinity_cores=8, memory_limit_bytes=10**11, memory_available_bytes=10**11)
IDLE_CORES = 0.5
"""Used of those eight by workers and main process each, so that more workers could run and neither is the limit."""
OURS_MIN, STALLED_MIN, BLAMED_MAX = 0.9, 0.95, 0.05
"""Share that loadtune is to name rightly, of all and of those that stall every step, and may blame wrongly."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Of the article's rule."""

    jitter: float
    low: float


@dataclass(frozen=True, slots=True)
class View:
    """One world as one kind of NVML shows it."""

    world: World
    utilisation: Times


def main() -> None:
    """Simulate and save, or show what was saved."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--show", action="store_true", help="simulate nothing")
    if parser.parse_args().show:
        record = records.load("jitter", seeds=(FIT_SEED, SCORE_SEED))
    else:
        record = records.load("jitter", seeds=(FIT_SEED, SCORE_SEED))
        record |= {"started": records.now(), "rows": simulate()}
        records.save(record, judge(record["rows"]))
        draw(record["rows"], records.REPORTS / "jitter.png")
    for line in tabulate(record["rows"]):
        print(line)
    for criterion in judge(record["rows"]):
        state = {True: "met", False: "NOT MET", None: "not measured"}[criterion.met]
        value = "" if criterion.value is None else f"{criterion.value:.3g}, "
        print(f"{state:13} {criterion.name}: {value}{criterion.target}")


def simulate() -> list[Row]:
    """Return a row for each kind of NVML, pattern, step length and rule, and one for each threshold."""
    fitting, scoring = (make_worlds(seed) for seed in (FIT_SEED, SCORE_SEED))
    stalls = {id(world): find_stall(world) for world in scoring}
    rows: list[Row] = []
    for sight in SIGHTS:
        chosen = fit(see(fitting, sight, FIT_SEED))
        for name, value in (("jitter", chosen.jitter), ("low", chosen.low)):
            rows.append({"variant": f"article, {sight.name}", "sight": sight.name, "quantity": f"threshold: {name}"})
            rows[-1] |= {"value": round(float(value), 4), "unit": "ratio"}
        views = see(scoring, sight, SCORE_SEED)
        said = {
            "article": [ask_article(view.utilisation, chosen) for view in views],
            "SageMaker": [ask_sagemaker(view.utilisation) for view in views],
            "loadtune": [ask_loadtune(view.utilisation, stalls[id(view.world)], sight) for view in views],
        }
        for rule in RULES:
            rows += score(views, said[rule], sight, rule)
    return rows


def make_worlds(seed: int) -> list[World]:
    """Return the worlds of one seed, RUNS for each pattern and step length, in that order."""
    rng = np.random.default_rng(seed)
    return [make_world(pattern, step_s, rng) for pattern in PATTERNS for step_s in STEPS_S for _ in range(RUNS)]


def see(worlds: Sequence[World], sight: Sight, seed: int) -> list[View]:
    """Return what one kind of NVML shows of each."""
    rng = np.random.default_rng((seed, SIGHTS.index(sight)))
    return [View(world, look(world, sight, rng)) for world in worlds]


def fit(views: Sequence[View]) -> Thresholds:
    """Return the thresholds with which the article's rule is most often right on these."""
    deviations = np.array([np.std(view.utilisation) for view in views])
    means = np.array([np.mean(view.utilisation) for view in views])
    is_loader, is_batch = (np.array([view.world.remedy == each for view in views]) for each in (WORKERS, BATCH))
    best, chosen = -1.0, Thresholds(0.0, 0.0)
    for jitter in JITTER_CHOICES:
        jitters = deviations > jitter
        for low in LOW_CHOICES:
            is_low = ~jitters & (means < low)
            right = np.where(is_loader, jitters, np.where(is_batch, is_low, ~jitters & ~is_low))
            # Each remedy counts the same, whatever the number of its patterns: else "more workers" always would win.
            share = fmean(float(np.mean(right[kind])) for kind in (is_loader, is_batch, ~is_loader & ~is_batch))
            if share > best:
                best, chosen = share, Thresholds(float(jitter), float(low))
    return chosen


def ask_article(utilisation: Times, thresholds: Thresholds) -> str:
    """Return what the article's rule would do."""
    if np.std(utilisation) > thresholds.jitter:
        return WORKERS
    return BATCH if np.mean(utilisation) < thresholds.low else LEAVE


def ask_sagemaker(utilisation: Times) -> str:
    """Return what SageMaker's rule would do."""
    low, high = np.percentile(utilisation, (5, 95))
    if high < BUSY_P95_RATIO:
        return BATCH
    return WORKERS if low < IDLE_P5_RATIO else LEAVE


def find_stall(world: World) -> float | None:
    """Return the stall ratio as a trial measures it: of its steps, beyond the idle of a resident batch."""
    steps = []
    last_s = None
    for start_s, end_s in zip(world.step_starts.tolist(), world.step_ends.tolist(), strict=True):
        idle_s = 0.0 if last_s is None else max(0.0, start_s - last_s)
        steps.append(Step(1, 0.0, idle_s, 0.0, end_s - start_s, start_s, end_s))
        last_s = end_s
    return stall_ratio(steps, world.idle_reference_s)


def ask_loadtune(utilisation: Times, stall: float | None, sight: Sight) -> str:
    """Return what loadtune's own rules would do, its findings read as a user would."""
    gap_s = sight.window_s if sight.poll_s is None else sight.poll_s
    samples = tuple(
        GpuSample(at_s=place * gap_s, utilisation_ratio=ratio) for place, ratio in enumerate(utilisation.tolist())
    )
    trace = ResourceTrace(
        started_monotonic_s=0.0, gpu=samples, mean_worker_cores=IDLE_CORES, mean_main_cores=IDLE_CORES
    )
    window = Window(started_s=0.0, duration_s=60.0, batches=10, samples=160)
    startup = Startup(process_s=0.0, build_s=0.0, device_warm_up_s=0.0, first_batch_s=0.0, loader_warm_up_s=0.0)
    trial = TrialResult(
        number=1,
        role="grid",
        spec_key="0" * 16,
        state=TrialState.COMPLETE,
        settings=Settings(num_workers=2, batch_size=16),
        seconds_spent=60.0,
        rate_per_s=window.samples / window.duration_s,
        measurement=Measurement(windows=(window,), startup=startup, stall_ratio=stall),
        trace=trace,
    )
    return name_remedy(find(Case(chosen=trial, baseline=None, limits=LIMITS, device="cuda")))


def name_remedy(found: Sequence[Finding]) -> str:
    """Return what a user would do who reads these findings."""
    findings = {each.rule: each for each in found}
    if findings.keys() & {"loader-bound", "cpu-saturated", "storage-bound"}:
        return WORKERS
    low = findings.get("low-steady-gpu")
    return BATCH if low is not None and (low.action or "").startswith("Try batch_size") else LEAVE


def score(views: Sequence[View], said: Sequence[str], sight: Sight, rule: str) -> list[Row]:
    """Return how often a rule was right on each pattern and step length, and what it said."""
    rows = []
    cells = [(pattern, step_s) for pattern in PATTERNS for step_s in STEPS_S]
    for place, (pattern, step_s) in enumerate(cells):
        inside = slice(place * RUNS, (place + 1) * RUNS)
        worlds, answers = [view.world for view in views[inside]], Counter(said[inside])
        assert all(world.pattern == pattern for world in worlds)
        gains = [math.log(world.gain_ratio) for world in worlds]
        kept = [gain for gain, answer in zip(gains, said[inside], strict=True) if answer == PATTERNS[pattern]]
        rows.append(
            {
                "variant": f"{pattern}, {step_s:g} s",
                "sight": sight.name,
                "pattern": pattern,
                "step_s": step_s,
                "quantity": rule,
                "value": answers[PATTERNS[pattern]] / RUNS,
                "unit": "ratio",
                "said": {answer: answers[answer] for answer in (WORKERS, BATCH, LEAVE)},
                "log_gain": round(sum(gains), 4),
                "log_gain_kept": round(sum(kept), 4),
            }
        )
    return rows


def share_right(rows: Sequence[Row], rule: str, **keys: object) -> float | None:
    """Return how often a rule is right, each of the three remedies counting the same; None where nothing was scored."""
    chosen = [row for row in rows if row["quantity"] == rule and keys.items() <= row.items()]
    by_remedy: dict[str, list[float]] = {}
    for row in chosen:
        by_remedy.setdefault(PATTERNS[row["pattern"]], []).append(row["value"])
    return fmean(map(fmean, by_remedy.values())) if by_remedy else None


def share_kept(rows: Sequence[Row], rule: str, **keys: object) -> float | None:
    """Return the part of the possible speed-up, on a log scale, that following a rule gives; None without any."""
    chosen = [row for row in rows if row["quantity"] == rule and keys.items() <= row.items()]
    possible = sum(row["log_gain"] for row in chosen)
    return sum(row["log_gain_kept"] for row in chosen) / possible if possible else None


def share_blamed(rows: Sequence[Row], rule: str, **keys: object) -> float:
    """Return how often a rule asks for workers where the loader keeps up."""
    chosen = [row for row in rows if row["quantity"] == rule and keys.items() <= row.items()]
    fed = [row["said"] for row in chosen if PATTERNS[row["pattern"]] != WORKERS]
    return sum(said[WORKERS] for said in fed) / sum(sum(said.values()) for said in fed) if fed else 0.0


def judge(rows: Sequence[Row]) -> list[Criterion]:
    """Return what loadtune promises of its own rules."""
    names = [sight.name for sight in SIGHTS if any(row.get("sight") == sight.name for row in rows)]
    ours, article = ([share_right(rows, rule, sight=name) or 0.0 for name in names] for rule in ("loadtune", "article"))
    kept, other_kept = (
        [share_kept(rows, rule, sight=name) or 0.0 for name in names] for rule in ("loadtune", "article")
    )
    stalled = [
        share_right(rows, "loadtune", sight=name, pattern="stalled every step", step_s=step_s) or 0.0
        for name in names
        for step_s in STEPS_S
    ]
    blamed = [share_blamed(rows, "loadtune", sight=name) for name in names]
    return [
        records.at_least("a loader that stalls every step is named, by step length", STALLED_MIN, "", stalled),
        records.at_most("a loader that keeps up is blamed", BLAMED_MAX, "", blamed),
        records.at_least("the right remedy, by kind of NVML", OURS_MIN, "", ours),
        records.at_least("ahead of the article's rule at its best thresholds", 0.0, "", _minus(ours, article)),
        records.at_least("speed-up kept, by kind of NVML", OURS_MIN, "", kept),
        records.at_least("ahead of the article's rule in that", 0.0, "", _minus(kept, other_kept)),
    ]


def _minus(own: Sequence[float], other: Sequence[float]) -> list[float]:
    return [mine - theirs for mine, theirs in zip(own, other, strict=True)]


def tabulate(rows: Sequence[Row]) -> list[str]:
    """Return the table: a line a kind of NVML and rule, the share right by pattern and in all."""
    widths = [max(len(pattern), 8) + 2 for pattern in PATTERNS]
    heads = "".join(f"{pattern:>{width}}" for pattern, width in zip(PATTERNS, widths, strict=True))
    lines = [f"{'right, %':28}{heads}{'all':>6}{'speed-up kept':>16}"]
    for sight in SIGHTS:
        for rule in RULES:
            shares: list[Any] = [share_right(rows, rule, sight=sight.name, pattern=pattern) for pattern in PATTERNS]
            whole, kept = (ask(rows, rule, sight=sight.name) for ask in (share_right, share_kept))
            if whole is None or kept is None:
                continue
            cells = "".join(f"{100 * share:>{width}.0f}" for share, width in zip(shares, widths, strict=True))
            lines.append(f"{sight.name + ', ' + rule:28}{cells}{100 * whole:>6.0f}{100 * kept:>16.0f}")
    thresholds = [row for row in rows if row["quantity"].startswith("threshold")]
    return [*lines, *(f"{row['variant']}: {row['quantity']} {row['value']:.2f}" for row in thresholds)]


if __name__ == "__main__":
    main()
