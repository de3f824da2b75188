"""Can it be seen in nvidia-smi, on a real card? Three rules, on trainings whose ill is known, seen by the real NVML.

The worlds are `gpu_worlds`: as in `benchmarks.jitter`, whose rules they are judged by. The article's rule has the
thresholds that are best on the simulated worlds. What NVML is, is told first: how often it samples, on which clock it
stamps, and how far back its buffer reaches.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any

import numpy as np

from benchmarks import gpu_worlds
from benchmarks.gpu_bench import Bench, describe_gpu, why_not
from benchmarks.gpu_worlds import BATCH_SIZE, PATTERNS
from benchmarks.jitter import RULES, Thresholds, ask_article, ask_sagemaker, name_remedy
from benchmarks.jitter_worlds import SIGHTS, Times
from benchmarks.record import REPORTS, Row
from loadtune.advice.case import UTILISATION_SAMPLES_MIN, Case
from loadtune.advice.rules import find
from loadtune.advice.search import Leg
from loadtune.engine.runner import Runner
from loadtune.monitor.driver_clock import DriverClock
from loadtune.monitor.gpu_reader import GPU_UTILIZATION_SAMPLES
from loadtune.monitor.nvml_answer import ask
from loadtune.options import profile_from_step_time
from loadtune.planning import Plan
from loadtune.records.measurement import TrialResult
from loadtune.records.settings import DeviceChoice, MeasureOptions, Settings, TrialSpec, WorkloadSpec

CELLS = (
    ("stalled", 0.1), ("launch", 0.1), ("healthy", 0.1), ("burst4", 0.1), ("finelaunch", 0.1),
    ("stalled", 0.03), ("burst8", 0.03), ("stalled", 0.3), ("finelaunch", 0.03), ("stalled", 0.01),
    ("burst4", 0.03), ("healthy", 0.03), ("launch", 0.3), ("burst8", 0.1), ("healthy", 0.3), ("burst4", 0.3),
)  # fmt: skip
"""Pattern and step in seconds, in order of worth."""
MEASURE_S = 5.0
"""Seconds in windows: 30 of NVML's samples at six a second."""
MEASURE_MAX_S = 20.0
CELL_OVERHEAD_S, BATCHES_BESIDE = 4.0, 6
"""Seconds of a cell beside its windows, for --limit, and the batches of one worker that warm-up and end take."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """What the driver's buffer of utilisation holds."""

    period_s: float
    """Median time between two samples."""
    least_s: float
    largest_s: float
    depth: int
    """Samples."""
    clock: str
    """Which clock the stamps are on: epoch, boot, monotonic, or arrival (none that is known)."""


def run(bench: Bench) -> None:
    """Measure the cells that are missing and fit into the limit."""
    runner = bench.runner()
    plan, looked = bench.plan(bench.options(batch_size=str(BATCH_SIZE)), runner)
    uuid = None if looked.cuda is None else looked.cuda.uuid
    sampling, reason = (None, "the device is replayed") if uuid is None else read_sampling(bench, uuid)
    _note_sampling(bench, sampling, reason)
    period_s = SIGHTS[0].window_s if sampling is None else sampling.period_s
    measure_s = min(MEASURE_MAX_S, max(MEASURE_S, (UTILISATION_SAMPLES_MIN + 2) * period_s))
    thresholds = read_thresholds(period_s)
    for name, step_s in CELLS:
        keys: Row = {"variant": f"{name}, {step_s:g} s", "device": bench.device}
        if bench.has(**keys) or bench.left_s() < cost_s(name, step_s, measure_s):
            continue
        with bench.noting(**keys) as rows:
            trial = _measure(bench, runner, plan, name, step_s, measure_s)
            rows.extend(judge_trial(bench, trial, name, step_s, thresholds))
        bench.say(f"{name}, {step_s:g} s: {_told(rows)}")
    if uuid is not None:  # again: the buffer of an idle card may have been empty
        _note_sampling(bench, *read_sampling(bench, uuid))
    bench.save()


def cost_s(name: str, step_s: float, measure_s: float) -> float:
    """Return the seconds that a cell may take."""
    batch_s = gpu_worlds.sample_s(PATTERNS[name], step_s) * BATCH_SIZE
    return measure_s + CELL_OVERHEAD_S + BATCHES_BESIDE * max(step_s, batch_s)


def read_sampling(bench: Bench, uuid: str) -> tuple[Sampling | None, str | None]:
    """Ask the driver for all that its buffer holds."""
    if bench.nvml.reason is not None:
        return None, bench.nvml.reason
    import pynvml

    handle = ask(pynvml, "nvmlDeviceGetHandleByUUID", uuid)
    answer = handle if handle.is_refused else ask(
        pynvml, "nvmlDeviceGetSamples", handle.value, GPU_UTILIZATION_SAMPLES, 0
    )  # fmt: skip
    if answer.is_refused:
        return None, answer.words
    return describe_stamps([int(sample.timeStamp) for sample in answer.value[1]])


def describe_stamps(stamps_us: Sequence[int]) -> tuple[Sampling | None, str | None]:
    """Return what a buffer of stamps in microseconds says; None with a reason where it holds under three."""
    ordered = sorted({stamp for stamp in stamps_us if stamp > 0})
    if len(ordered) < 3:
        return None, f"the buffer holds {len(ordered)} samples"
    gaps_s = [(later - earlier) / 1e6 for earlier, later in pairwise(ordered)]
    clock = DriverClock()
    clock.offset_s(ordered[-1] / 1e6)
    return Sampling(median(gaps_s), min(gaps_s), max(gaps_s), len(ordered), clock.domain or "arrival"), None


def read_thresholds(period_s: float) -> Thresholds:
    """Return those of the article's rule that are best on simulated worlds, seen through the nearest kind of NVML.

    Raises:
        SystemExit: benchmarks.jitter has not been run.
    """
    path = REPORTS / "jitter.json"
    if not path.exists():
        raise SystemExit(f"{path} is missing: run python -m benchmarks.jitter first")
    sight = min((each for each in SIGHTS if each.poll_s is None), key=lambda each: abs(each.window_s - period_s))
    values = {
        row["quantity"]: row["value"]
        for row in json.loads(path.read_text())["rows"]
        if row["sight"] == sight.name and row["quantity"].startswith("threshold")
    }
    return Thresholds(values["threshold: jitter"], values["threshold: low"])


def judge_trial(bench: Bench, trial: TrialResult, name: str, step_s: float, thresholds: Thresholds) -> list[Row]:
    """Return a row for each rule: 1 where it names the remedy, 0 where not, None without a reading."""
    pattern, seen = PATTERNS[name], utilisation(trial)
    common: Row = {"pattern": name, "step_s": step_s, "remedy": pattern.remedy, "known_busy": pattern.busy_share}
    common |= {"failure": why_not(trial), "utilisation": [round(each, 2) for each in seen.tolist()]}
    if trial.measurement is not None and trial.measurement.step_s is not None and trial.rate_per_s:
        period_s = BATCH_SIZE / trial.rate_per_s
        stepped = trial.measurement.step_s if pattern.kernel_period_s is None else pattern.busy_share * step_s
        common |= {"stall_ratio": trial.measurement.stall_ratio, "busy_by_events": round(stepped / period_s, 4)}
        common |= {"period_s": period_s, "measured_step_s": trial.measurement.step_s}
    common |= describe_gpu(trial)
    said: dict[str, str | None] = dict.fromkeys(RULES)
    if len(seen) >= UTILISATION_SAMPLES_MIN and trial.measurement is not None:
        found = find(Case(chosen=trial, baseline=None, limits=bench.limits, device="cuda"))
        said = {
            "article": ask_article(seen, thresholds),
            "SageMaker": ask_sagemaker(seen),
            "loadtune": name_remedy(found),
        }
    is_played_whole = bench.device == "replay" and pattern.kernel_period_s is not None
    return [
        {
            "quantity": rule,
            # A replayed step is one span, so that no launches can be seen in it.
            "value": None if answer is None or is_played_whole else float(answer == pattern.remedy),
            "unit": "ratio",
            "said": answer,
            **common,
        }
        for rule, answer in said.items()
    ]


def utilisation(trial: TrialResult) -> Times:
    """Return NVML's samples while a trial measured, oldest first."""
    trace = trial.trace
    if trace is None:
        return np.zeros(0)
    begin_s, end_s = trace.measuring_s or (0.0, float("inf"))
    return np.array([each.utilisation_ratio for each in trace.gpu if begin_s <= each.at_s <= end_s])


def _measure(bench: Bench, runner: Runner, plan: Plan, name: str, step_s: float, measure_s: float) -> TrialResult:
    world = f"{name}_{round(1e6 * step_s)}"
    device = plan.device
    if bench.device == "replay":
        device = DeviceChoice(kind="replay", profile=profile_from_step_time(step_s, BATCH_SIZE))
    settings = Settings(num_workers=PATTERNS[name].workers, batch_size=BATCH_SIZE)
    spec = TrialSpec(
        settings=settings,
        device=device,
        workload=WorkloadSpec(
            dataset_target=f"benchmarks.gpu_worlds:data_{world}",
            train_step_target=f"benchmarks.gpu_worlds:step_{world}",
        ),
        measure=MeasureOptions(measure_s=measure_s, warm_up_s=2.0, cap_s=measure_s + 8.0),
    )
    return bench.run(runner, spec, Leg(settings=settings, role="grid", measure_s=measure_s))


def _note_sampling(bench: Bench, sampling: Sampling | None, reason: str | None) -> None:
    """Put what NVML's sampling is beside the rows."""
    if sampling is None:
        bench.record.setdefault("sampling", {"not_read": reason})
        bench.say(f"NVML's sampling is not known: {reason}")
        return
    bench.record["sampling"] = {
        "period_s": sampling.period_s,
        "least_s": sampling.least_s,
        "largest_s": sampling.largest_s,
        "depth": sampling.depth,
        "clock": sampling.clock,
    }
    bench.say(f"NVML samples every {sampling.period_s:.4f} s, keeps {sampling.depth}, on the clock: {sampling.clock}")


def _told(rows: Sequence[Row]) -> str:
    first = rows[0]
    if first["failure"] is not None:
        return str(first["failure"])
    said = ", ".join(f"{row['quantity']} {_mark(row['value'])} ({row['said']})" for row in rows)
    seen = {"NVML": first.get("utilisation_mean"), "events": first.get("busy_by_events")}
    seen["stall"] = first.get("stall_ratio")
    shown = ", ".join(f"{name} {'?' if value is None else round(value, 3)}" for name, value in seen.items())
    return f"{shown}; {said}"


def _mark(value: float | None) -> str:
    return "not told" if value is None else "right" if value else "WRONG"


def tabulate(rows: Sequence[Row]) -> list[str]:
    """Return a line a world, and how often each rule was right."""
    heads = "".join(f"{rule:>12}" for rule in RULES)
    lines = [f"{'':18}{'remedy':>14}{'busy, %':>9}{'NVML, %':>9}{'p5, p95':>10}{'stall, %':>10}{heads}"]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        chosen = {row["quantity"]: row for row in rows if row["variant"] == variant}
        first: Any = next(iter(chosen.values()))
        marks = "".join(f"{_mark(chosen[rule]['value']):>12}" for rule in RULES)
        cells = [first.get("busy_by_events"), first.get("utilisation_mean")]
        shown = "".join(f"{'' if cell is None else round(100 * cell):>9}" for cell in cells)
        ends, stall = first.get("utilisation_p5_p95"), first.get("stall_ratio")
        ends_shown = "" if ends is None else f"{100 * ends[0]:.0f}, {100 * ends[1]:.0f}"
        stall_shown = "" if stall is None else f"{100 * stall:.0f}"
        lines.append(f"{variant:18}{first['remedy']:>14}{shown}{ends_shown:>10}{stall_shown:>10}{marks}")
    totals = []
    for rule in RULES:
        values = [row["value"] for row in rows if row["quantity"] == rule and row["value"] is not None]
        totals.append(f"{rule} {100 * fmean(values):.0f} % of {len(values)}" if values else f"{rule}: not told")
    return [*lines, "right: " + "; ".join(totals)]
