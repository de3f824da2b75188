"""What do processors and memory allow? One function a check, from readings to a line; None where there is nothing."""

import math

from loadtune.doctor.readings import Readings
from loadtune.doctor.subject import Subject
from loadtune.monitor.hazards import (
    GIB,
    QUOTA_SLACK_CORES,
    SHM_MIN_BYTES,
    judge_foreign_load,
    judge_oom_group,
    judge_quota,
    judge_shared_memory,
    judge_swap,
)
from loadtune.records.diagnosis import Line
from loadtune.records.report import Evidence
from loadtune.records.resources import HostLimits
from loadtune.render.words import format_bytes, format_percent

THROTTLED_RATIO = 0.1
"""Share of its periods in which a group was held back, from which it is said. A start-up alone holds one back now and
then; at a tenth, a training loses more than the noise of a comparison. Own choice."""

MEMORY_MIN_BYTES = 2 * GIB
"""Memory still to be had below which it is called short. A process that has imported torch and torchvision holds
0.7 GiB (torch 2.14), a CUDA context some hundred MiB more; a few workers and batches then fill the rest. Own choice."""

SHM_FREE_MIN_BYTES = 64 << 20
"""Free shared memory below which /dev/shm is called nearly full: one batch of 16 crops of 513 px takes 48 MiB in
float32. Where the whole is small, its size is what is said."""

SHM_FULL_BYTES = 1 << 20
"""Free shared memory below which no batch of images fits."""

SHM_SOURCE = "Docker's default is 64 MiB; loadtune.monitor.hazards"

CORES = Subject("cores", "processor", "CPU cores")
THROTTLING = Subject("throttling", "processor", "CPU quota")
FOREIGN = Subject("foreign-load", "processor", "load")
MEMORY = Subject("memory", "memory", "memory")
OOM_GROUP = Subject("oom-group", "memory", "out of memory")
SWAP = Subject("swap", "memory", "swap")
SHM = Subject("shared-memory", "memory", "/dev/shm")
BALLOON = Subject("free-page-reporting", "memory", "virtual machine")


def count_usable_cores(limits: HostLimits) -> int:
    """Return whole cores: a quota of 3.5 is room for three busy processes. At least one."""
    return max(1, math.floor(limits.usable_cores + QUOTA_SLACK_CORES))


def cores(readings: Readings) -> Line:
    """How many cores may be used, against what os.cpu_count() says."""
    limits, told = readings.host.machine.limits, readings.host.cpu_count
    usable = count_usable_cores(limits)
    counted = "os.cpu_count() does not know" if told is None else f"os.cpu_count() says {told}"
    quota = "no quota" if limits.quota_cores is None else f"a quota of {limits.quota_cores:.3g}"
    found = f"{usable} usable: {limits.affinity_cores} in the affinity mask, {quota}; {counted}"
    evidence = Evidence(
        name="usable_cores", value=usable, unit="cores", threshold=told, source="what os.cpu_count() says"
    )
    if (hazard := judge_quota(limits)) is not None:
        fix = f"{hazard.fix}, and count on {usable} instead of os.cpu_count()"
        return CORES.warning(found, hazard.why, fix, evidence)
    if told is not None and limits.affinity_cores == 1 < told:
        why = "the main process and all workers share one core; a library or a scheduler may have pinned them to it"
        fix = "ask the scheduler for more, or call os.sched_setaffinity(0, range(n)) in worker_init_fn"
        return CORES.warning(found, why, fix, evidence)
    if told is not None and limits.affinity_cores < told:
        why = "os.cpu_count() counts CPUs that this process may not use"
        return CORES.note(found, why, "count with len(os.sched_getaffinity(0))", evidence)
    return CORES.ok(found, evidence)


def throttling(readings: Readings) -> Line | None:
    """How often a CPU quota held its group back."""
    if readings.host.machine.limits.quota_cores is None:
        return None
    counted = readings.host.throttling
    if counted is None:
        return THROTTLING.unknown("the control group does not count the periods in which it was held back")
    ratio = counted.throttled_periods / counted.periods if counted.periods else 0.0
    found = f"held back in {format_percent(ratio)} of {counted.periods:,} periods since its group was made"
    evidence = Evidence(name="throttled_ratio", value=ratio, threshold=THROTTLED_RATIO, source="own choice")
    if ratio < THROTTLED_RATIO:
        return THROTTLING.ok(found, evidence)
    return THROTTLING.warning(
        found,
        "more threads are ready than the quota lets run, and all stop until its next period",
        "use fewer workers and threads (OMP_NUM_THREADS), or raise the quota",
        evidence,
    )


def foreign_load(readings: Readings) -> Line:
    """What others take of the processors."""
    machine = readings.host.machine
    if machine.foreign_cores is None:
        return FOREIGN.unknown("/proc/stat cannot be read")
    evidence = Evidence(name="foreign_cores", value=machine.foreign_cores, unit="cores")
    if (hazard := judge_foreign_load(machine.limits, machine.foreign_cores)) is not None:
        return FOREIGN.hazard(hazard, evidence)
    return FOREIGN.ok(
        f"other programs keep {machine.foreign_cores:.1f} of {machine.limits.affinity_cores} cores busy", evidence
    )


def memory(readings: Readings) -> Line:
    """How much memory there is, and whether a control group allows less than the machine has."""
    machine = readings.host.machine
    limits, total = machine.limits, machine.memory_total_bytes
    available = limits.memory_available_bytes
    found = f"{format_bytes(available)} of {format_bytes(limits.memory_limit_bytes)} available"
    is_limited = total is not None and limits.memory_limit_bytes < total
    if is_limited and total is not None:
        found += f"; a control group sets that limit, the machine has {format_bytes(total)}"
    evidence = Evidence(
        name="memory_available_bytes", value=available, unit="bytes", threshold=MEMORY_MIN_BYTES, source="own choice"
    )
    if available < MEMORY_MIN_BYTES:
        why = "a training with a few workers takes more, and the kernel would kill one of its processes"
        fix = "end what holds the memory" if limits.memory_limit_bytes > MEMORY_MIN_BYTES else "raise the limit"
        return MEMORY.warning(found, why, fix, evidence)
    if is_limited:
        why = "free, top and psutil show the machine's memory, not the group's"
        return MEMORY.note(found, why, "choose batch_size and prefetch_factor by the group's limit", evidence)
    return MEMORY.ok(found, evidence)


def oom_group(readings: Readings) -> Line:
    """Whether one out-of-memory kill takes the whole group."""
    if not readings.host.has_memory_group:
        return OOM_GROUP.unknown("no memory control group can be seen from here")
    hazard = judge_oom_group(readings.host.machine.limits)
    return (
        OOM_GROUP.ok("memory.oom.group is not set: the kernel ends one process, not all")
        if hazard is None
        else OOM_GROUP.hazard(hazard)
    )


def swap(readings: Readings) -> Line:
    """Whether memory was short."""
    total, used = readings.host.machine.swap_total_bytes, readings.host.machine.swap_used_bytes
    if total is None or used is None:
        return SWAP.unknown("/proc/meminfo does not tell")
    if not total:
        return SWAP.ok("none")
    evidence = Evidence(name="swap_used_bytes", value=used, unit="bytes")
    if (hazard := judge_swap(used)) is not None:
        return SWAP.hazard(hazard, evidence)
    return SWAP.ok(f"{format_bytes(used)} of {format_bytes(total)} in use", evidence)


def shared_memory(readings: Readings) -> Line:
    """Whether what workers hand over fits into /dev/shm."""
    limits = readings.host.machine.limits
    total, free = limits.shm_total_bytes, limits.shm_free_bytes
    mount_it = "mount a tmpfs there: --shm-size=8g in Docker, an emptyDir of medium Memory in Kubernetes"
    if total is None or free is None:
        if not readings.host.has_shm:
            return SHM.error("not there", "workers hand batches over in it: num_workers above 0 fails", mount_it)
        return SHM.warning("not a mount of its own", "batches go through the file system below it", mount_it)
    found = f"{format_bytes(free)} of {format_bytes(total)} free"
    evidence = Evidence(
        name="shm_free_bytes", value=free, unit="bytes", threshold=SHM_FREE_MIN_BYTES, source="one batch of crops"
    )
    clean = "end what fills it, and remove torch_* and sem.mp-* of programs that have ended (ls -l /dev/shm)"
    if free < SHM_FULL_BYTES:
        return SHM.error(found, "workers hand batches over in it, and none fits", clean, evidence)
    if (hazard := judge_shared_memory(limits)) is not None:
        size = Evidence(name="shm_total_bytes", value=total, unit="bytes", threshold=SHM_MIN_BYTES, source=SHM_SOURCE)
        why = f"{hazard.why}, and a worker then dies with a bus error"
        return SHM.warning(f"{format_bytes(total)} in all, {format_bytes(free)} free", why, hazard.fix, size)
    if free < SHM_FREE_MIN_BYTES:
        return SHM.warning(found, "programs fill it, or ended ones left something behind", clean, evidence)
    return SHM.ok(found, evidence)


def free_page_reporting(readings: Readings) -> Line | None:
    """Whether a virtual machine hands freed memory back to its host."""
    if not readings.host.machine.limits.returns_memory:
        return None
    return BALLOON.note(
        "hands freed memory back to its host (free page reporting)",
        "a batch of many megabytes waits for its memory again after each pause",
        "nothing from inside; on the host, switch the balloon's free page reporting off",
    )


HOST_CHECKS = (
    cores,
    throttling,
    foreign_load,
    memory,
    oom_group,
    swap,
    shared_memory,
    free_page_reporting,
)
"""In the order in which they are shown."""
