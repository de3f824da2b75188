"""What does the start of a trial cost, forked from the zygote and as a fresh interpreter?

    python -m benchmarks.trial_start [--repeats 10]

Quantities, each in seconds:

- fork: from the request until the trial's own code runs, in a process forked from the zygote, which has imported
  torch and torchvision (`Startup.process_s` of an ordinary trial).
- fork, whole trial: from the request until its result is in and nothing of it is left, without the time in windows;
  once with nothing to build and once with DeepLabv3+ on a CPU.
- fresh: a new interpreter that imports torch and what a trial needs of torchvision, and ends.
- zygote: from starting it until it is ready. It is paid once a probe, while the data set is listed.

Caveats: the files of torch lie in the page cache; the first start after boot takes longer, for both. Forked and fresh
starts alternate, so that a busy neighbour meets both.

It goes on where an earlier run stopped if machine and versions are the same.
"""

import argparse
import subprocess
import sys
import time
from contextlib import ExitStack

from benchmarks.record import Criterion, at_least, at_most, has, load, measure, save, show, values
from loadtune.advice.search import Leg
from loadtune.engine.launcher import Launcher
from loadtune.engine.runner import Runner
from loadtune.monitor.host import read_limits
from loadtune.monitor.nvml import Nvml
from loadtune.options import profile_from_step_time
from loadtune.records.messages import Sources
from loadtune.records.settings import DeviceChoice, MeasureOptions, Settings, TrialSpec, WorkloadSpec

FRESH = "import torch, torchvision.io, torchvision.models, torchvision.transforms.v2"
SPEED_UP_LIMIT = 10.0
"""How many times quicker than a fresh interpreter a fork has to be, or the zygote is not worth its code."""
FORK_LIMIT_S = 0.5
"""A probe of 120 s runs about 20 trials: more would take a tenth of it for starting."""
MEASURE = MeasureOptions(window_min_s=0.1, windows_min=1, measure_s=0.2)

WORKLOAD = WorkloadSpec(crop_px=65)
SPECS = {
    "nothing built": TrialSpec(
        settings=Settings(num_workers=0, batch_size=2),
        device=DeviceChoice(kind="replay", profile=profile_from_step_time(0.02, 2)),
        workload=WORKLOAD,
        feed="resident",
        measure=MEASURE,
    ),
    "DeepLabv3+ on a CPU": TrialSpec(
        settings=Settings(num_workers=0, batch_size=2),
        device=DeviceChoice(kind="cpu"),
        workload=WORKLOAD,
        feed="resident",
        threads=1,
        measure=MEASURE,
    ),
}


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    record = load("trial_start")
    with ExitStack() as stack:
        nvml = Nvml.open()
        stack.callback(nvml.close)
        launcher = stack.enter_context(Launcher())
        began_s = time.monotonic()
        launcher.wait_until_ready()
        if not has(record, variant="zygote"):
            with measure(record, variant="zygote", repeat=0) as measured:
                measured.add("start", time.monotonic() - began_s, "s")
        runner = Runner(launcher, nvml, read_limits(), Sources(), began_s)
        for repeat in range(repeats):
            for variant, spec in SPECS.items():
                if not has(record, variant=f"fork, {variant}", repeat=repeat):
                    time_fork(record, runner, variant, spec, repeat)
            if not has(record, variant="fresh interpreter", repeat=repeat):
                with measure(record, variant="fresh interpreter", repeat=repeat) as measured:
                    began_s = time.monotonic()
                    subprocess.run([sys.executable, "-c", FRESH], check=True)
                    measured.add("start", time.monotonic() - began_s, "s")
            save(record, judge(record))
    show(record, judge(record))


def time_fork(record: dict[str, object], runner: Runner, variant: str, spec: TrialSpec, repeat: int) -> None:
    """Run one trial and note its start, and all of it but the windows."""
    with measure(record, variant=f"fork, {variant}", repeat=repeat) as measured:
        result = runner.run(spec, Leg(settings=spec.settings, role="ceiling"), 1, time.monotonic() + 60.0)
        if result.measurement is None:
            raise SystemExit(f"the trial failed: {result.failure}")
        measured.add("start", result.measurement.startup.process_s, "s")
        measured.add("whole trial", result.seconds_spent - result.measurement.duration_s, "s")


def judge(record: dict[str, object]) -> list[Criterion]:
    """Return what the rows show of the promises."""
    forks = [found for variant in SPECS for found in values(record, variant=f"fork, {variant}", quantity="start")]
    fresh = values(record, variant="fresh interpreter", quantity="start")
    ratios = [slow / max(forks) for slow in fresh] if forks else []
    return [
        at_most("start of a forked trial", FORK_LIMIT_S, "s", forks),
        at_least("fresh interpreter by the slowest fork", SPEED_UP_LIMIT, "x", ratios),
    ]


if __name__ == "__main__":
    main()
