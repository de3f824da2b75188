"""Which readings can be had on this machine, and what does it cost where one cannot?

The answer, with its sentences, stands in reports and in what `loadtune verify` says.
"""

import os
from pathlib import Path

from loadtune.monitor.cgroup import find_groups
from loadtune.monitor.nvml import Nvml
from loadtune.records.resources import HostLimits, Reading, ResourceTrace
from loadtune.records.settings import DeviceKind

COSTS = {
    "GPU utilisation (NVML)": "jitter cannot be shown; how long the device waited comes from its own timeline",
    "GPU clocks, power and throttling (NVML)": "a GPU that slows down for heat or power is not noticed",
    "GPU throttle counters (NVML)": "throttling between two looks, once a second, is not noticed",
    "GPU energy (NVML)": "power is the mean of one look a second, and energy is not known",
    "GPU link and bytes over PCIe (NVML)": "a link that runs slower than it could is not told from a slow copy",
    "other processes on the GPU (NVML)": "a GPU that somebody else uses is not told from a slow setting",
    "GPU performance metrics (GPM)": "whether the GPU's units are busy within a kernel cannot be confirmed",
    "cgroup limits": "a container's CPU quota or memory limit is not seen before it strikes",
    "PSS": "memory is the resident size, which counts shared pages once a process",
    "pressure (PSI)": "waiting for CPU, memory or disk shows only in its effects",
    "foreign load and steal": "a busy neighbour is not told from a slow setting",
    "storage reads": "a cold page cache is not told from slow decoding",
    "kernel's kill counter": "a process killed for memory is not told from one killed by somebody",
    "/dev/shm": "a full /dev/shm is only seen when a worker fails",
}
"""What the diagnosis loses without each reading."""
UNUSED = frozenset({"pressure (PSI)", "GPU performance metrics (GPM)"})
"""Those that no probe makes use of yet."""


def find_readings(
    device: DeviceKind,
    limits: HostLimits,
    nvml: Nvml,
    uuid: str | None,
    trace: ResourceTrace | None,
    *,
    root: Path = Path("/"),
) -> tuple[Reading, ...]:
    """Return every kind of reading: whether it is there, why not, and what that costs.

    Args:
        device: Trained on; only a CUDA device is asked of NVML.
        limits: Of this machine.
        nvml: An open session, or one that says why there is none.
        uuid: Of the GPU trained on; None: none was.
        trace: What the sampler saw of a trial on this device; None: no trial was watched to its end.
        root: Where /proc and /sys hang; another folder in tests.
    """
    missing = _find_missing(device, limits, nvml, uuid, trace, root)
    return tuple(
        Reading(
            name=name,
            is_available=missing[name] is None,
            reason=missing[name],
            cost=None if missing[name] is None else cost,
            is_needed=name not in UNUSED and (device == "cuda" or "GPU" not in name),
        )
        for name, cost in COSTS.items()
    )


def _find_missing(
    device: DeviceKind, limits: HostLimits, nvml: Nvml, uuid: str | None, trace: ResourceTrace | None, root: Path
) -> dict[str, str | None]:
    """Return why each reading is missing; None where it is there."""
    missing = {} if trace is None else {item.reading: item.reason for item in trace.unavailable}
    unwatched = "no trial was watched to its end"

    def of_trace(name: str) -> str | None:
        if trace is None:
            return unwatched
        return None if getattr(trace, name) is not None else missing.get(name, "not read")

    gpu = "the device is no GPU" if device != "cuda" else nvml.reason
    groups = find_groups(root)
    return {
        "GPU utilisation (NVML)": gpu or of_trace("utilisation_mean_ratio"),
        "GPU clocks, power and throttling (NVML)": gpu or _gpu_states_reason(trace, missing, unwatched),
        "GPU throttle counters (NVML)": gpu or _gpu_use_reason(trace, missing, "throttled", unwatched),
        "GPU energy (NVML)": gpu or _gpu_use_reason(trace, missing, "energy_j", unwatched),
        "GPU link and bytes over PCIe (NVML)": gpu
        or _gpu_use_reason(trace, missing, "pcie_generation", unwatched)
        or _gpu_use_reason(trace, missing, "pcie_rx_bytes_per_s", unwatched),
        "other processes on the GPU (NVML)": gpu or _gpu_use_reason(trace, missing, "other_processes", unwatched),
        "GPU performance metrics (GPM)": gpu or _gpm_reason(nvml, uuid),
        "cgroup limits": None if groups.memory or groups.cpu else "/proc/self/cgroup leads to no controller's files",
        "PSS": of_trace("pss_bytes"),
        "pressure (PSI)": _pressure_reason(root),
        "foreign load and steal": of_trace("mean_foreign_cores") or of_trace("mean_steal_cores"),
        "storage reads": _storage_reason(root),
        "kernel's kill counter": of_trace("oom_kills"),
        "/dev/shm": None if limits.shm_total_bytes is not None else "it is not a mount of its own",
    }


def _gpu_states_reason(trace: ResourceTrace | None, missing: dict[str, str], unwatched: str) -> str | None:
    if trace is None:
        return unwatched
    return None if trace.gpu_states else missing.get("gpu", "the driver gave none while a trial ran")


def _gpu_use_reason(trace: ResourceTrace | None, missing: dict[str, str], field: str, unwatched: str) -> str | None:
    if trace is None:
        return unwatched
    if trace.gpu_use is None:
        return missing.get("gpu_use", "no GPU was read while a trial measured")
    return None if getattr(trace.gpu_use, field) is not None else missing.get(f"gpu_use.{field}", "not read")


def _gpm_reason(nvml: Nvml, uuid: str | None) -> str | None:
    reader = None if uuid is None else nvml.device(uuid)
    if reader is None:
        return nvml.refusal or "no trial named its GPU"
    reason = reader.gpm_reason()
    reader.close()
    return reason


def _pressure_reason(root: Path) -> str | None:
    """Return why pressure stall information cannot be read; the file may be there and refuse to be."""
    path = root / "proc/pressure/cpu"
    try:
        return None if path.read_text("ascii").startswith("some") else f"{path} is of another form"
    except (OSError, UnicodeDecodeError) as error:
        return f"{path}: {error.strerror if isinstance(error, OSError) else error}"


def _storage_reason(root: Path) -> str | None:
    path = root / "proc" / ("self" if root != Path("/") else str(os.getpid())) / "io"
    try:
        return None if "read_bytes" in path.read_text("ascii") else f"{path} does not count bytes from storage"
    except (OSError, UnicodeDecodeError) as error:
        return f"{path}: {error.strerror if isinstance(error, OSError) else error}"
