"""How is a real device turned into a profile that can be replayed? By ordinary trials without a data set."""

import time
from pathlib import Path

import msgspec

from loadtune.advice.search import Leg
from loadtune.engine.launcher import Launcher
from loadtune.engine.runner import Runner
from loadtune.errors import NothingMeasuredError
from loadtune.monitor.environment import refuse_other_distribution, refuse_other_platforms
from loadtune.monitor.host import read_limits
from loadtune.monitor.nvml import Nvml
from loadtune.options import ProbeOptions, check, parse_batches
from loadtune.planning import make_plan, wanted_cuda, workload_to_look_at
from loadtune.records.measurement import TrialResult
from loadtune.records.messages import InspectTask, Sources
from loadtune.records.profile import ProfilePoint, ReplayProfile
from loadtune.records.settings import Settings
from loadtune.render.progress import Progress
from loadtune.render.saved import replace_file

MEASURE_S = 5.0
"""Seconds in windows for each batch size: a few steps even of a slow device."""


def record_profile(options: ProbeOptions, out: Path, progress: Progress) -> ReplayProfile:
    """Measure this machine's device at each batch size and write the profile; a size that does not fit is left out.

    Raises:
        NothingMeasuredError: No batch size could be trained.
        LoadtuneError: As for a probe.
    """
    refuse_other_platforms()
    refuse_other_distribution()
    check(options)
    limits, began_s = read_limits(), time.monotonic()
    nvml = Nvml.open()
    try:
        with Launcher() as launcher:
            progress.start("starting: importing torch")
            runner = Runner(launcher, nvml, limits, Sources(), began_s)
            workload = workload_to_look_at(options, None)
            looked = runner.inspect(
                InspectTask(workload=workload, sources=Sources(), batch_size=1, cuda_index=wanted_cuda(options))
            )
            plan = make_plan(options, workload, limits, looked)
            results: list[TrialResult] = []
            sizes = parse_batches(options) or (plan.baseline.batch_size,)
            for number, batch_size in enumerate(sizes, start=1):
                leg = Leg(
                    settings=Settings(num_workers=0, batch_size=batch_size),
                    role="ceiling",
                    feed="cached",
                    measure_s=MEASURE_S,
                )
                progress.trial_started(number, len(sizes), f"batch_size={batch_size}", None)
                spec = plan.spec(leg, "warm", 0, options.seed)
                spec = msgspec.structs.replace(spec, measure=msgspec.structs.replace(spec.measure, cap_s=60.0))
                results.append(runner.run(spec, leg, number, time.monotonic() + 120.0))
                progress.trial_finished(results[-1], None)
            name = looked.cuda.name if looked.cuda is not None and plan.device.kind == "cuda" else "CPU"
            model = options.model or f"DeepLabv3+ {plan.workload.backbone}"
            profile = make_profile(f"{name}, {model}, {plan.workload.crop_px} px, {plan.workload.precision}", results)
            if looked.cuda is not None and plan.device.kind == "cuda":
                profile = msgspec.structs.replace(profile, device_memory_bytes=looked.cuda.memory_bytes)
    finally:
        progress.stop()
        nvml.close()
    replace_file(out, msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n")
    return profile


def make_profile(name: str, results: list[TrialResult]) -> ReplayProfile:
    """Return what trials without a data set showed of their device.

    Raises:
        NothingMeasuredError: None of them completed.
    """
    points = [point for result in results if (point := _point(result)) is not None]
    if not points:
        failure = results[-1].failure if results else None
        raise NothingMeasuredError(
            f"no batch size could be trained: {failure.message if failure else 'none was given'}",
            "try a smaller --batch-size or --crop",
        )
    return ReplayProfile(name=name, origin="measured", points=tuple(points))


def _point(result: TrialResult) -> ProfilePoint | None:
    measured = result.measurement
    if measured is None or measured.step_s is None:
        return None
    batch_size = result.settings.batch_size
    return ProfilePoint(
        batch_size=batch_size,
        device_s=measured.step_s,
        spread_s=measured.step_spread_s or 0.0,
        host_cpu_s=measured.launch_cpu_s or 0.0,
        copy_s=measured.copy_s or 0.0,
        memory_bytes=measured.device_memory_bytes or 0,
    )
