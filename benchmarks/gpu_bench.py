"""What do all parts of `benchmarks.gpu` share? Device, runner, time limit, and a record saved after every trial."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import msgspec

from benchmarks import record as records
from benchmarks.gpu_process import KeptProcess
from benchmarks.record import Row
from loadtune.advice.case import utilisation_percentiles
from loadtune.advice.search import Leg
from loadtune.engine.runner import Runner
from loadtune.monitor.host import read_limits
from loadtune.monitor.nvml import Nvml
from loadtune.options import ProbeOptions
from loadtune.planning import Plan, make_plan, wanted_cuda, workload_to_look_at
from loadtune.records.measurement import TrialResult
from loadtune.records.messages import CudaChecked, CudaCheckTask, Inspected, InspectTask, Sources
from loadtune.records.profile import ProfilePoint, ReplayProfile
from loadtune.records.resources import HostLimits
from loadtune.records.settings import DeviceChoice, MeasureOptions, Settings, TrialSpec

REHEARSAL = ReplayProfile(
    name="a rehearsal",
    origin="written by hand",
    points=(
        ProfilePoint(batch_size=2, device_s=0.012, host_cpu_s=0.004, memory_bytes=2 * 10**9),
        ProfilePoint(batch_size=64, device_s=0.16, host_cpu_s=0.004, memory_bytes=40 * 10**9),
    ),
    device_memory_bytes=80 * 10**9,
)
"""What `--device replay` plays: steps and memory that grow with the batch, up to 80 GB."""
CAP_S = 12.0
"""Longest that a trial's loader may take to a result; past it, what there is counts."""
DEADLINE_S = 40.0
"""Longest trial of all: past it, its process is ended, and the next one pays for a context again."""
SAMPLE_BYTES_PER_PIXEL = 20
"""Of a sample as the loader gives it: three float32 channels and an int64 label."""


@dataclass(slots=True)
class Bench:
    """One run of one part."""

    record: dict[str, Any]
    folder: Path
    device: str
    """cuda or replay."""
    ends_s: float
    """time.monotonic() after which nothing new is begun."""
    process: KeptProcess
    nvml: Nvml
    limits: HostLimits
    data: Path | None = None
    """Photographs in images/ and masks/; None: the part needs none, or takes its own."""
    trials: int = 0

    def left_s(self) -> float:
        """Return the seconds left."""
        return self.ends_s - time.monotonic()

    def runner(self, sources: Sources | None = None) -> Runner:
        """Return a runner of trials in the kept process."""
        return Runner(self.process, self.nvml, self.limits, sources or Sources(), time.monotonic())

    def plan(self, options: ProbeOptions, runner: Runner) -> tuple[Plan, Inspected]:
        """Look at the device and settle what is measured, as a probe without data does."""
        task = InspectTask(
            workload=workload_to_look_at(options, None),
            sources=Sources(),
            batch_size=1,
            cuda_index=wanted_cuda(options),
        )
        looked = runner.inspect(task)
        plan = make_plan(options, task.workload, self.limits, looked)
        if looked.cuda is not None:
            self.record["gpu"] = {"name": looked.cuda.name, "memory_bytes": looked.cuda.memory_bytes}
        return plan, looked

    def options(self, **words: Any) -> ProbeOptions:
        """Return what a user would ask for: DeepLabv3+ at 513 px, on this device."""
        words = {"dataset": "", "channels_last": True, **words}
        if self.device == "cuda":
            return ProbeOptions(device="cuda", **words)
        return ProbeOptions(step_time_s=0.06, **words)

    def on_device(self, plan: Plan) -> Plan:
        """Return the plan on this device; a rehearsal plays a profile whose memory ends."""
        if self.device == "cuda":
            return plan
        return dataclasses.replace(plan, device=DeviceChoice(kind="replay", profile=REHEARSAL))

    def run(self, runner: Runner, spec: TrialSpec, leg: Leg) -> TrialResult:
        """Run one trial."""
        self.trials += 1
        return runner.run(spec, leg, self.trials, time.monotonic() + DEADLINE_S)

    def save(self, criteria: Any = ()) -> None:
        """Keep what there is."""
        records.save(self.record, criteria, self.folder)

    def has(self, **keys: object) -> bool:
        """Say whether it was measured already."""
        return records.has(self.record, **keys)

    def say(self, line: str) -> None:
        """Print one line of progress, with the seconds left."""
        print(f"[{self.left_s():5.0f} s left] {line}", flush=True)

    @contextmanager
    def noting(self, **keys: object) -> Iterator[list[Row]]:
        """Add the block's rows to the record with what disturbed them, and save it."""
        rows: list[Row] = []
        with records.measure(self.record, **keys) as measured:
            yield rows
            for row in rows:
                measured.add(row["quantity"], row["value"], row["unit"])
        for kept, row in zip(self.record["rows"][-len(rows) :] if rows else (), rows, strict=True):
            kept.update(row)
        self.save()


def resident_spec(plan: Plan, batch_size: int, measure_s: float, windows_min: int = 2) -> tuple[TrialSpec, Leg]:
    """Return the trial that shows what the device does alone with a batch that lies on it."""
    leg = Leg(
        settings=Settings(num_workers=0, batch_size=batch_size), role="ceiling", feed="resident", measure_s=measure_s
    )
    options = MeasureOptions(
        window_min_s=measure_s / windows_min, windows_min=windows_min, measure_s=measure_s, cap_s=CAP_S
    )
    return msgspec.structs.replace(plan.spec(leg, "warm", 0, 0), measure=options), leg


def check_copies(process: KeptProcess, limit_s: float = 30.0) -> float | None:
    """Return the bytes a second from pinned memory to the device; None without one."""
    task = process.start(CudaCheckTask())
    until_s = time.monotonic() + limit_s
    try:
        while time.monotonic() < until_s and task.exit is None:
            process.poll(0.1)
            for event in task.inbox:
                if isinstance(event, CudaChecked):
                    copies = event.devices[0].copies if event.devices else None
                    return None if copies is None else copies.pinned_to_device_bytes_per_s
    finally:
        process.release(task)
    return None


def describe_gpu(trial: TrialResult) -> Row:
    """Return what the GPU showed while a trial measured; None: not read, or too few samples."""
    trace = trial.trace
    if trace is None:
        return {}
    begin_s, end_s = trace.measuring_s or (0.0, float("inf"))
    ratios = [each.utilisation_ratio for each in trace.gpu if begin_s <= each.at_s <= end_s]
    states = [each for each in trace.gpu_states if begin_s <= each.at_s <= end_s]
    clocks = [each.sm_clock_mhz for each in states if each.sm_clock_mhz is not None]
    percentiles = utilisation_percentiles([trial])
    use = trace.gpu_use
    return {
        "utilisation_mean": round(fmean(ratios), 4) if ratios else None,
        "utilisation_p5_p95": None if percentiles is None else [round(each, 4) for each in percentiles],
        "utilisation_samples": len(ratios),
        "sm_clock_mhz": median(clocks) if clocks else None,
        "power_w": None if use is None else use.mean_power_w,
        "sm_active_ratio": None if use is None else use.sm_active_ratio,
        "dram_active_ratio": None if use is None else use.dram_active_ratio,
        "throttled": None
        if use is None or use.throttled is None
        else {each.cause: round(each.ratio, 4) for each in use.throttled},
        "other_processes": None if use is None else use.other_processes,
    }


def why_not(trial: TrialResult) -> str | None:
    """Return why a trial has no measurement, in one line; None: it has one."""
    return None if trial.failure is None else f"{trial.failure.cause}: {trial.failure.message}"[:300]


def open_bench(
    part: str, device: str, folder: Path, ends_s: float, process: KeptProcess, nvml: Nvml, data: Path | None
) -> Bench:
    """Return the bench of a part, with what an earlier run of it measured on the same machine."""
    record = records.load(f"gpu_{part}", folder=folder, device=device)
    return Bench(record, folder, device, ends_s, process, nvml, read_limits(), data)
