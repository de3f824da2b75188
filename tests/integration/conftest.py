"""One trial server for all integration tests, and what they ask of it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from loadtune.advice.search import Leg
from loadtune.engine.launcher import Launcher
from loadtune.engine.runner import Runner
from loadtune.monitor.host import read_limits
from loadtune.monitor.nvml import Nvml
from loadtune.records.measurement import TrialResult
from loadtune.records.messages import Sources
from loadtune.records.profile import ProfilePoint, ReplayProfile
from loadtune.records.settings import DeviceChoice, MeasureOptions, Settings, TrialSpec, WorkloadSpec

QUICK = MeasureOptions(window_min_s=0.2, windows_min=2, measure_s=0.5, warm_up_s=1.0, cap_s=20.0, silence_s=30.0)


def replay(device_s: float = 0.001, **changes) -> DeviceChoice:
    """A device of one step time at every batch size."""
    points = tuple(ProfilePoint(batch_size=size, device_s=device_s) for size in (1, 64))
    return DeviceChoice(
        kind="replay", profile=ReplayProfile(name="test", origin="written by hand", points=points, **changes)
    )


def make_spec(
    target: str = "tests.targets.truth:instant", num_workers: int = 0, batch_size: int = 4, **changes
) -> TrialSpec:
    """A quick trial on a replayed device that waits for nothing."""
    settings = {
        name: changes.pop(name)
        for name in ("prefetch_factor", "persistent_workers", "in_order", "pin_memory", "accumulation_steps")
        if name in changes
    }
    workload = {
        name: changes.pop(name)
        for name in ("model_target", "train_step_target", "crop_px", "backbone", "optimizer")
        if name in changes
    }
    values = {"device": replay(), "measure": QUICK, **changes}
    return TrialSpec(
        settings=Settings(num_workers=num_workers, batch_size=batch_size, **settings),
        workload=WorkloadSpec(dataset_target=target or None, **workload),
        **values,
    )


def quick(**changes) -> MeasureOptions:
    """The quick stopping rule with changes."""
    return msgspec.structs.replace(QUICK, **changes)


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """A running trial server."""
    with Launcher() as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def runner(launcher: Launcher) -> Runner:
    """A runner without sources."""
    return make_runner(launcher)


def make_runner(launcher: Launcher, sources: Sources | None = None) -> Runner:
    """A runner on this machine's limits."""
    return Runner(launcher, Nvml.open(), read_limits(), sources or Sources(), time.monotonic())


@pytest.fixture
def run(runner: Runner) -> Callable[..., TrialResult]:
    """Runs one spec to its result."""

    def run_one(spec: TrialSpec, deadline_s: float = 60.0) -> TrialResult:
        leg = Leg(settings=spec.settings, role="grid", feed=spec.feed, consume=spec.consume)
        return runner.run(spec, leg, 1, time.monotonic() + deadline_s)

    return run_one


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that only waits to be reaped does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in {"Z", "X"}


def descendants(pid: int) -> set[int]:
    """The living processes below one."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text("utf-8", "replace")
            except OSError:
                continue
            state, parent = text.rpartition(")")[2].split()[:2]
            if state not in {"Z", "X"}:
                parents[int(entry.name)] = int(parent)
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found and child not in found}:
        found |= more
    return found - {pid}


def shared_files(pids: set[int]) -> list[str]:
    """The shared-memory files that these processes made."""
    names = [entry.name for entry in Path("/dev/shm").iterdir() if entry.name.startswith("torch_")]
    return [name for name in names if int(name.split("_")[1]) in pids]


def wait_until(is_true: Callable[[], bool], limit_s: float = 20.0) -> bool:
    """Wait for something to come true, and say whether it did."""
    deadline_s = time.monotonic() + limit_s
    while not is_true():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True


def group_members(group: int) -> set[int]:
    """The living processes of a process group."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text("utf-8", "replace")
            except OSError:
                continue
            state, _, own = text.rpartition(")")[2].split()[:3]
            if state not in {"Z", "X"} and int(own) == group:
                found.add(int(entry.name))
    return found


def orphaned_files() -> set[str]:
    """The shared-memory files of tensors whose maker is dead."""
    names = [entry.name for entry in Path("/dev/shm").iterdir() if entry.name.startswith("torch_")]
    return {name for name in names if not is_alive(int(name.split("_")[1]))}
