"""Are failures named, and is nothing left behind? A killed worker and an exhausted memory, on purpose."""

import time

import msgspec

from loadtune.advice.search import Leg
from loadtune.engine.leftovers import find_leftovers
from loadtune.engine.runner import Runner
from loadtune.records.measurement import Cause, TrialResult, TrialState
from loadtune.records.messages import Sources
from loadtune.records.profile import ProfilePoint, ReplayProfile
from loadtune.records.settings import DeviceChoice, MeasureOptions, Settings, TrialSpec, WorkloadSpec
from loadtune.records.verification import Check, Outcome
from loadtune.verifying.bench import Bench, timed, watch

MISHAPS = "loadtune.workload.mishaps:"
ROOM_BYTES = 1 << 30
"""Memory beyond that of an ordinary trial that the growing data set may take before it must be ended."""
LIMIT_S = 40.0
"""Longest wait for a mishap; it takes two seconds."""
MEASURE = MeasureOptions(warm_up_s=1.0, cap_s=20.0, silence_s=20.0, measure_s=15.0)
"""Long enough for the mishap to come first."""


def check_killed_worker(bench: Bench) -> Check:
    """Let a worker be killed in the middle of a trial."""
    return _check(
        bench,
        _spec(bench, "DyingWorker", num_workers=2),
        id="killed-worker",
        claim="A worker that is killed is named, and nothing of its trial is left.",
        expected=(Cause.WORKER,),
    )


def check_host_memory(bench: Bench) -> Check:
    """Let a data set grow past the limit at which a trial is to be ended before the kernel picks a victim."""
    available = bench.run.plan.limits.memory_available_bytes
    told = "too little memory is free beside an ordinary trial: it would be a real shortage"
    if available < 2 * ROOM_BYTES:
        return _not_tried("host-memory", HOST_CLAIM, told)
    ordinary = 0 if bench.trial.trace is None else bench.trial.trace.peak_memory_bytes or 0
    if available < ordinary + 2 * ROOM_BYTES:
        return _not_tried("host-memory", HOST_CLAIM, told)
    check = _check(
        bench,
        _spec(bench, "Growing", num_workers=0),
        id="host-memory",
        claim=HOST_CLAIM,
        expected=(Cause.HOST_MEMORY,),
        memory_end_bytes=ordinary + ROOM_BYTES,
    )
    limit_gib = (ordinary + ROOM_BYTES) / 2**30
    return msgspec.structs.replace(check, notes=(f"The limit was lowered to {limit_gib:.1f} GiB for this check.",))


HOST_CLAIM = "A trial that takes too much memory is ended before the kernel ends something else."
DEVICE_CLAIM = "A batch that does not fit the device is told as that, and the next trial runs."


def check_device_memory(bench: Bench) -> Check | None:
    """Ask the device for more memory than it has; None where it has none of its own."""
    kind = bench.run.plan.device.kind
    if kind == "cpu":
        return None
    spec = _spec(bench, "Plain", num_workers=0)
    if kind == "replay":
        spec = msgspec.structs.replace(spec, device=_replay(device_memory_bytes=1))
    else:
        workload = msgspec.structs.replace(spec.workload, train_step_target=f"{MISHAPS}outgrow_device")
        spec = msgspec.structs.replace(spec, workload=workload)
    return _check(bench, spec, id="device-memory", claim=DEVICE_CLAIM, expected=(Cause.DEVICE_MEMORY,))


def _replay(device_memory_bytes: int | None = None) -> DeviceChoice:
    """Return a quick replayed device; a batch takes 2 bytes of its memory."""
    point = ProfilePoint(batch_size=2, device_s=0.01, memory_bytes=2)
    profile = ReplayProfile(
        name="for a mishap", origin="estimated", points=(point,), device_memory_bytes=device_memory_bytes
    )
    return DeviceChoice(kind="replay", profile=profile)


def _spec(bench: Bench, dataset: str, num_workers: int) -> TrialSpec:
    """Return a trial that is over in seconds: a replayed device takes short steps, whatever the user's profile says."""
    device = bench.run.plan.device
    return TrialSpec(
        settings=Settings(num_workers=num_workers, batch_size=2),
        device=_replay() if device.kind == "replay" else device,
        workload=WorkloadSpec(dataset_target=f"{MISHAPS}{dataset}", train_step_target=f"{MISHAPS}do_nothing"),
        threads=1,
        measure=MEASURE,
    )


def _check(
    bench: Bench,
    spec: TrialSpec,
    *,
    id: str,  # noqa: A002 - the record's own name for it
    claim: str,
    expected: tuple[Cause, ...],
    memory_end_bytes: int | None = None,
) -> Check:
    """Run a trial that must fail, then one that must not, and look for what they left."""
    began_s = time.time()
    with watch(bench) as found:
        runner = Runner(bench.launcher, bench.nvml, bench.run.plan.limits, Sources(), bench.run.began_s)
        if memory_end_bytes is not None:
            runner.memory_end_bytes = min(runner.memory_end_bytes, memory_end_bytes)
        failed = _run(runner, spec)
        good = msgspec.structs.replace(
            _spec(bench, "Plain", num_workers=2), measure=MeasureOptions(measure_s=0.5, window_min_s=0.2, cap_s=10.0)
        )
        left = find_leftovers(bench.launcher.groups, began_s)
        after = _run(Runner(bench.launcher, bench.nvml, bench.run.plan.limits, Sources(), bench.run.began_s), good)
        left = list(dict.fromkeys(left + find_leftovers(bench.launcher.groups, began_s)))
    cause = None if failed.failure is None else failed.failure.cause
    told = "it completed" if failed.failure is None else f"{cause}: {failed.failure.message}"
    problems = []
    if cause not in expected:
        problems.append(f"it was told as {cause or 'complete'}, not as {expected[0]}")
    if left:
        problems.append(f"left behind: {', '.join(left)}")
    if after.state is not TrialState.COMPLETE and after.failure is not None:
        problems.append(f"the next trial failed: {after.failure.message}")
    check = Check(
        id=id,
        claim=claim,
        target=f"told as {expected[0]}; no process and no shared memory left; the next trial completes",
        measured=f"{told}; {'nothing' if not left else len(left)} left behind; the next trial: {after.state}",
        outcome=Outcome.FAILS if problems else Outcome.HOLDS,
        reason="; ".join(problems) or None,
        trials=tuple(msgspec.structs.replace(each, trace=None) for each in (failed, after)),
    )
    return timed(check, found)


def _run(runner: Runner, spec: TrialSpec) -> TrialResult:
    return runner.run(spec, Leg(settings=spec.settings, role="grid"), 1, time.monotonic() + LIMIT_S)


def _not_tried(id: str, claim: str, reason: str) -> Check:  # noqa: A002
    return Check(id=id, claim=claim, target="not tried", measured="not tried", outcome=Outcome.UNKNOWN, reason=reason)
