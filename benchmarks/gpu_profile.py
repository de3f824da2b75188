"""What does a step of DeepLabv3+ take on this card, and how much memory? By backbone, precision, layout and batch.

The trials are those of `loadtune profile` with a resident batch. The profiles are written after every trial, one a
family, ready for `--device replay:FILE`; copies are pinned ones, by the bytes of a batch and the measured rate.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from benchmarks.gpu_bench import SAMPLE_BYTES_PER_PIXEL, Bench, check_copies, describe_gpu, resident_spec, why_not
from benchmarks.record import Row
from loadtune.options import DEFAULT_CROP_PX
from loadtune.planning import Plan
from loadtune.records.cards import estimate_profile, find_card
from loadtune.records.measurement import Measurement, TrialState
from loadtune.records.profile import ProfilePoint, ReplayProfile
from loadtune.records.settings import Backbone, Precision, WorkloadSpec
from loadtune.render.saved import replace_file
from loadtune.shipped import describe_training

BATCHES = (16, 64, 2, 32, 8, 4, 128, 256, 512)
"""In order of worth: a profile of 16 and 64 alone can be played between them. It ends where the memory does."""
MEASURE_S = 1.2
"""Seconds in windows: 1 % of spread over dozens of steps. Longer ones leave families unmeasured in a lent minute."""
CELL_COST_S = 6.0
"""Seconds that a cell may take, for --limit."""
SLOW_STEP_S = 2.5
"""A step expected to take longer is left out: no DataLoader is too slow for it."""


@dataclass(frozen=True, slots=True)
class Family:
    """One way to train."""

    backbone: Backbone
    precision: Precision
    channels_last: bool = True

    @property
    def name(self) -> str:
        """As people call it."""
        layout = "channels-last" if self.channels_last else "contiguous"
        return f"{self.backbone} {self.precision} {layout}"


FAMILIES = (
    Family("resnet50", "bf16"),
    Family("resnet50", "fp32"),
    Family("resnet101", "bf16"),
    Family("resnet50", "bf16", channels_last=False),
    Family("resnet50", "fp32", channels_last=False),
    Family("resnet101", "fp32"),
    Family("resnet101", "bf16", channels_last=False),
    Family("resnet101", "fp32", channels_last=False),
)
"""The most used first. fp32 is torch's default: TF32 in convolutions, not in matrix products."""


def run(bench: Bench) -> None:
    """Measure the cells that are missing and fit into the limit."""
    runner = bench.runner()
    plan, looked = bench.plan(bench.options(batch_size="16"), runner)
    plan = bench.on_device(plan)
    if bench.device == "cuda" and bench.record.get("copy_bytes_per_s") is None:
        bench.record["copy_bytes_per_s"] = check_copies(bench.process)
    for family in FAMILIES:
        for batch_size in BATCHES:
            keys: Row = {"variant": family.name, "batch_size": batch_size, "device": bench.device}
            known = [row for row in bench.record["rows"] if row["variant"] == family.name]
            if bench.has(**keys) or not is_worth(known, batch_size) or bench.left_s() < CELL_COST_S:
                continue
            with bench.noting(**keys) as rows:
                rows.append(_measure(bench, runner, _on(plan, family), batch_size))
            bench.say(f"{family.name} batch_size={batch_size}: {_told(rows[0])}")
            memory = None if looked.cuda is None else looked.cuda.memory_bytes
            write_profile(bench, family, memory)


def is_worth(known: list[Row], batch_size: int) -> bool:
    """Say whether a batch may fit and be quick enough, by the smaller ones of its family."""
    for row in known:
        if row["value"] is None:
            if row.get("state") == TrialState.OUT_OF_MEMORY and batch_size >= row["batch_size"]:
                return False
        elif batch_size > row["batch_size"] and row["value"] * batch_size / row["batch_size"] > SLOW_STEP_S:
            return False
    return True


def write_profile(bench: Bench, family: Family, memory_bytes: int | None) -> None:
    """Write the family's profile, ready for `--device replay:FILE`."""
    gpu = bench.record.get("gpu", {}).get("name", "rehearsal")
    profile = make_profile(gpu, family, bench.record["rows"], memory_bytes)
    if profile is not None:
        slug = re.sub(r"[^a-z0-9]+", "-", f"{gpu} {family.name}".lower()).strip("-")
        folder = bench.folder / "gpu_profiles"
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / f"{slug}.json", msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n")


def make_profile(gpu: str, family: Family, rows: list[Row], memory_bytes: int | None) -> ReplayProfile | None:
    """Return the profile of the rows measured so far; None without any."""
    chosen = [row["point"] for row in rows if row["variant"] == family.name and row["value"] is not None]
    if not chosen:
        return None
    points = sorted(msgspec.convert(chosen, list[ProfilePoint]), key=lambda point: point.batch_size)
    training = describe_training(family.backbone, DEFAULT_CROP_PX, family.precision, channels_last=family.channels_last)
    return ReplayProfile(
        name=f"{gpu}, {training}",
        origin="measured",
        points=tuple(points),
        device_memory_bytes=memory_bytes,
    )


def make_point(
    measured: Measurement, batch_size: int, crop_px: int, copy_bytes_per_s: float | None
) -> dict[str, Any] | None:
    """Return a profile's point; the copy is by arithmetic. None where no step was timed."""
    if measured.step_s is None:
        return None
    batch_bytes = SAMPLE_BYTES_PER_PIXEL * crop_px**2 * batch_size
    point = ProfilePoint(
        batch_size=batch_size,
        device_s=measured.step_s,
        spread_s=measured.step_spread_s or 0.0,
        host_cpu_s=measured.launch_cpu_s or 0.0,
        copy_s=batch_bytes / copy_bytes_per_s if copy_bytes_per_s else 0.0,
        memory_bytes=measured.device_memory_bytes or 0,
    )
    converted: dict[str, Any] = msgspec.to_builtins(point)
    return converted


def _on(plan: Plan, family: Family) -> Plan:
    workload = msgspec.structs.replace(
        plan.workload, backbone=family.backbone, precision=family.precision, channels_last=family.channels_last
    )
    return dataclasses.replace(plan, workload=workload)


def _measure(bench: Bench, runner: Any, plan: Plan, batch_size: int) -> Row:
    spec, leg = resident_spec(plan, batch_size, MEASURE_S)
    trial = bench.run(runner, spec, leg)
    row: Row = {"quantity": "step", "value": None, "unit": "s", "state": trial.state, "seconds": trial.seconds_spent}
    row["failure"] = why_not(trial)
    if trial.measurement is not None:
        copies = bench.record.get("copy_bytes_per_s")
        row["point"] = make_point(trial.measurement, batch_size, plan.workload.crop_px, copies)
        row["value"], row["rate_per_s"] = trial.measurement.step_s, trial.rate_per_s
        row["estimated_s"] = estimate(bench.record.get("gpu", {}).get("name", ""), plan.workload, batch_size)
    return {**row, **describe_gpu(trial)}


def estimate(gpu: str, workload: WorkloadSpec, batch_size: int) -> float | None:
    """Return the seconds of a step that loadtune's arithmetic expects of this card; None: it knows no such card."""
    card = find_card(gpu)
    if card is None:
        return None
    words = workload.backbone, workload.output_stride, workload.precision, workload.crop_px
    point = estimate_profile(card, *words).at(batch_size)
    return max(point.device_s, point.host_cpu_s)


def _told(row: Row) -> str:
    if row["value"] is None:
        return str(row["failure"])
    memory = row["point"]["memory_bytes"] / 2**30
    return f"{row['value']:.4f} s a step, {row['rate_per_s']:.1f} samples/s, {memory:.1f} GiB ({row['seconds']:.1f} s)"


def tabulate(rows: list[Row]) -> list[str]:
    """Return a line a family and batch."""
    heads = f"{'batch':>6}{'step, s':>10}{'samples/s':>11}{'GiB':>7}{'GPU':>7}{'host, s':>9}{'by estimate':>13}"
    lines = [f"{'':34}{heads}"]
    for row in sorted(rows, key=lambda each: (each["variant"], each["batch_size"])):
        if row["value"] is None:
            lines.append(f"{row['variant']:34}{row['batch_size']:>6}  {row['failure']}")
            continue
        memory, mean = row["point"]["memory_bytes"] / 2**30, row.get("utilisation_mean")
        seen = "" if mean is None else f"{100 * mean:.0f} %"
        lines.append(
            f"{row['variant']:34}{row['batch_size']:>6}{row['value']:>10.4f}{row['rate_per_s']:>11.1f}{memory:>7.1f}"
            f"{seen:>7}{row['point']['host_cpu_s']:>9.4f}{_by_estimate(row):>13}"
        )
    return lines


def _by_estimate(row: Row) -> str:
    expected = row.get("estimated_s")
    return "" if expected is None else f"{row['value'] / expected:.2f}"
