"""How does throughput grow with the batch on this card, where is the knee, and does a larger batch cure a low GPU?

Trials with a resident batch, long enough for NVML's percentiles. The knee is the smallest batch within KNEE_RATIO of
the best rate. The learning rate is what `loadtune.rescale` gives from the smallest batch to the knee.
"""

import dataclasses
from typing import Any

import msgspec

from benchmarks.gpu_bench import Bench, describe_gpu, resident_spec, why_not
from benchmarks.record import Criterion, Row, at_least
from loadtune.advice.case import Case
from loadtune.advice.rules import find
from loadtune.records.measurement import TrialResult, TrialState
from loadtune.schedule.rescale import rescale_learning_rate

CROPS = (513, 129)
"""DeepLab's crop; and a small one, whose kernels are shorter than their launches until the batch is large."""
CELLS = (
    (513, 2), (129, 2), (513, 64), (129, 128), (513, 16), (129, 16), (513, 32), (513, 8), (129, 512), (513, 128),
    (129, 64), (513, 4), (513, 256), (129, 4), (129, 32), (129, 8), (129, 256),
)  # fmt: skip
"""Crop and batch, in order of worth: the smallest and a large batch show the low GPU and its cure."""
MEASURE_S = 3.0
"""Seconds in windows: 18 of NVML's samples at six a second, and its percentiles need 12."""
CELL_COST_S = 8.0
KNEE_RATIO = 0.95
"""Share of the best rate at which there is little left to win. Higher, and the noise between runs moves the knee."""
BASE_RATE = 0.007
"""DeepLab's rate, taken to be tuned at the smallest batch."""


def run(bench: Bench) -> None:
    """Measure the batches that are missing and fit into the limit."""
    runner = bench.runner()
    plan, _ = bench.plan(bench.options(batch_size="16"), runner)
    plan = bench.on_device(plan)
    for crop_px, batch_size in CELLS:
        keys: Row = {"variant": f"{crop_px} px", "batch_size": batch_size, "device": bench.device}
        tried = [row for row in bench.record["rows"] if row["variant"] == keys["variant"]]
        full = [row["batch_size"] for row in tried if row["state"] == TrialState.OUT_OF_MEMORY]
        if bench.has(**keys) or bench.left_s() < CELL_COST_S or batch_size >= min(full, default=batch_size + 1):
            continue
        workload = msgspec.structs.replace(plan.workload, crop_px=crop_px, base_size_px=crop_px)
        spec, leg = resident_spec(dataclasses.replace(plan, workload=workload), batch_size, MEASURE_S, windows_min=3)
        with bench.noting(**keys) as rows:
            trial = bench.run(runner, spec, leg)
            rows.append({**make_row(trial), **_judge(bench, trial)})
        bench.say(f"{crop_px} px, batch_size={batch_size}: {_told(rows[0])}")
    bench.save(judge(bench.record["rows"]))


def make_row(trial: TrialResult) -> Row:
    """Return what one batch showed."""
    measured = trial.measurement
    row: Row = {"quantity": "rate", "value": trial.rate_per_s, "unit": "samples/s", "state": trial.state}
    row["failure"] = why_not(trial)
    if measured is not None:
        row |= {"step_s": measured.step_s, "launch_cpu_s": measured.launch_cpu_s}
        row |= {"memory_bytes": measured.device_memory_bytes, "stall_ratio": measured.stall_ratio}
    return {**row, **describe_gpu(trial)}


def _judge(bench: Bench, trial: TrialResult) -> Row:
    """Return what loadtune would say of this batch, were it the user's."""
    if trial.measurement is None:
        return {"said": None}
    found = find(Case(chosen=trial, baseline=None, limits=bench.limits, device="cuda"))
    low = next((each for each in found if each.rule == "low-steady-gpu"), None)
    return {"said": None if low is None else f"{low.title}. {low.action}"}


def find_knee(rows: list[Row]) -> Row | None:
    """Return the smallest batch whose rate is within KNEE_RATIO of the best; None without a rate."""
    known = [row for row in rows if row["value"] is not None]
    if not known:
        return None
    best = max(row["value"] for row in known)
    return min((row for row in known if row["value"] >= KNEE_RATIO * best), key=lambda row: row["batch_size"])


def judge(rows: list[Row]) -> list[Criterion]:
    """Return what is promised at each crop: a batch that is too small is seen as such, and a larger one cures it."""
    found = []
    for crop_px in CROPS:
        chosen = [row for row in rows if row["variant"] == f"{crop_px} px"]
        knee, small = find_knee(chosen), min(chosen, key=lambda row: row["batch_size"], default=None)
        if knee is None or small is None or small["value"] is None or knee is small:
            continue
        said = [float(small.get("said") is not None)] if small.get("utilisation_p5_p95") else []
        cured = [float(knee.get("said") is None)] if knee.get("utilisation_p5_p95") else []
        gain = knee["value"] / small["value"]
        found += [
            at_least(f"{crop_px} px: rate at the knee by the smallest batch's", 1.0, "", [gain]),
            at_least(f"{crop_px} px: the smallest batch is called too small", 1.0, "", said),
            at_least(f"{crop_px} px: at the knee nothing is said any more", 1.0, "", cured),
        ]
    return found


def _told(row: Row) -> str:
    if row["value"] is None:
        return str(row["failure"])
    return f"{row['value']:.1f} samples/s, GPU p5 and p95 {row.get('utilisation_p5_p95')}, says {row['said']}"


def tabulate(rows: list[Row]) -> list[str]:
    """Return a line a crop and batch, and each knee with its learning rate."""
    lines = [f"{'':8}{'batch':>6}{'samples/s':>11}{'step, s':>10}{'GiB':>7}{'GPU p5, p95':>14}  loadtune says"]
    for crop_px in CROPS:
        chosen = sorted(
            (row for row in rows if row["variant"] == f"{crop_px} px"), key=lambda each: int(each["batch_size"])
        )
        lines += [_line(row) for row in chosen]
        knee = find_knee(chosen)
        if knee is not None:
            base = chosen[0]["batch_size"]
            rate = rescale_learning_rate("sgd", base, knee["batch_size"], BASE_RATE)
            lines.append(
                f"knee at {crop_px} px: batch_size={knee['batch_size']}; a rate of {BASE_RATE:g} at {base} becomes "
                f"{rate.rate:g} ({rate.factor:g} times, SGD)"
            )
    return lines


def _line(row: Row) -> str:
    head = f"{row['variant']:8}{row['batch_size']:>6}"
    if row["value"] is None:
        return f"{head}  {row['failure']}"
    seen: Any = row.get("utilisation_p5_p95")
    shown = "" if seen is None else f"{100 * seen[0]:.0f}, {100 * seen[1]:.0f} %"
    memory = (row.get("memory_bytes") or 0) / 2**30
    return f"{head}{row['value']:>11.1f}{row['step_s']:>10.4f}{memory:>7.1f}{shown:>14}  {row.get('said') or ''}"
