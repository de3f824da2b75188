"""What does the driver say of the GPUs: are they there, free, whole, and can they be watched? One function a check."""

from loadtune.doctor.readings import Readings
from loadtune.doctor.subject import Subject
from loadtune.monitor.gpu_inspection import GpuState
from loadtune.monitor.visible_devices import find_visible
from loadtune.records.diagnosis import Line
from loadtune.records.report import Evidence
from loadtune.render.words import format_bytes, format_percent

IDLE_UTILISATION_RATIO = 0.05
"""Utilisation before anything is measured from which somebody else is said to use the GPU. Drawing a desktop stays
below it. Own choice."""

IDLE_MEMORY_BYTES = 1 << 30
"""Memory in use, the driver's reserve apart, from which the same is said: a desktop holds some hundred MiB."""

EXCLUSIVE_PROCESS, PROHIBITED = 3, 2
"""Of nvmlComputeMode_t, in nvml.h."""

HARMFUL_THROTTLING = frozenset({"hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake"})
"""Clock event reasons that make a GPU slower than itself. A power cap is left out: loaded GPUs sit at it."""

DRIVER = Subject("driver", "gpu", "NVIDIA driver")
VISIBLE = Subject("visible-devices", "gpu", "CUDA_VISIBLE_DEVICES")
LAUNCH = Subject("launch-blocking", "gpu", "CUDA_LAUNCH_BLOCKING")
ORDER = Subject("order-setting", "gpu", "CUDA_DEVICE_ORDER")
DEVICE = Subject("gpu", "gpu", "device")
USERS = Subject("gpu-users", "gpu", "other users")
MIG = Subject("mig", "gpu", "MIG")
COMPUTE_MODE = Subject("compute-mode", "gpu", "compute mode")
PERSISTENCE = Subject("persistence", "gpu", "persistence mode")
CLOCKS = Subject("gpu-throttling", "gpu", "clocks")
NVML = Subject("gpu-readings", "gpu", "readings")


def driver(readings: Readings) -> Line:
    """Whether there is a driver that can be asked, and a GPU."""
    found = readings.driver
    if found.reason is None and found.gpus:
        cuda = "" if found.cuda_version is None else f", CUDA up to {'.'.join(map(str, found.cuda_version))}"
        count = "1 GPU" if len(found.gpus) == 1 else f"{len(found.gpus)} GPUs"
        return DRIVER.ok(f"{found.version or 'of unknown version'}{cuda}; {count}")
    refused = "; ".join(f"{each.reading}: {each.reason}" for each in found.left_out)
    reason = found.reason or refused or "NVML finds no GPU"
    if found.has_node:
        return DRIVER.error(
            f"there is a /dev/nvidiactl, but {reason}",
            "no program reaches a GPU, or none can watch it",
            "in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility and --gpus all; else install the driver again",
        )
    if found.has_pci:
        return DRIVER.warning(
            f"an NVIDIA GPU is on the PCI bus, but there is no /dev/nvidiactl ({reason})",
            "a training would run on the CPU",
            "in a container: docker run --gpus all; on the machine itself: install the driver, or load it (nvidia-smi)",
        )
    return DRIVER.note(
        f"no NVIDIA GPU here ({reason})",
        "a training runs on the CPU; loaders for a GPU elsewhere can be tuned here all the same",
        "loadtune probe --step-time SECONDS plays a GPU of that speed",
    )


def left_out(readings: Readings) -> Line | None:
    """Whether there are GPUs that this process may not ask about."""
    refused = readings.driver.left_out
    if readings.driver.reason is not None or not refused or not readings.driver.gpus:
        return None
    listed = "; ".join(f"{each.reading}: {each.reason}" for each in refused)
    return Subject("left-out-gpus", "gpu", "other GPUs").unknown(listed)


def visible_devices(readings: Readings) -> Line | None:
    """Whether CUDA sees the GPUs that are there."""
    chosen = readings.host.settings.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or not readings.driver.gpus:
        return None
    first = chosen.split(",")[0].strip()
    why = "CUDA sees no GPU, so a training runs on the CPU"
    if first in {"", "-1", "NoDevFiles"}:
        return VISIBLE.warning(
            f"{chosen!r} hides every GPU", why, "unset CUDA_VISIBLE_DEVICES, or export the index of one"
        )
    gpus = [gpu.info for gpu in readings.driver.gpus]
    shown = find_visible(chosen, readings.host.settings.get("CUDA_DEVICE_ORDER"), gpus)
    # GPUs that this process may not ask about count in CUDA's numbers all the same, and MIG instances may be hidden.
    if shown.reason is None and not shown.uuids and not readings.driver.left_out and not first.startswith("MIG-"):
        fix = "unset CUDA_VISIBLE_DEVICES, or export indices or UUIDs that nvidia-smi -L lists, each once"
        return VISIBLE.warning(f"{chosen!r} shows no GPU: the first name is none of a GPU here, or repeated", why, fix)
    return VISIBLE.ok(chosen)


def launch_blocking(readings: Readings) -> Line | None:
    """Whether every kernel is waited for."""
    chosen = readings.host.settings.get("CUDA_LAUNCH_BLOCKING", "").strip()
    if chosen in {"", "0"}:
        return None
    why = "the host waits for every kernel, so that loading and training no longer overlap"
    return LAUNCH.warning(chosen, why, "unset CUDA_LAUNCH_BLOCKING: it is for finding errors")


def order_setting(readings: Readings) -> Line | None:
    """Whether CUDA may count GPUs of several kinds in another order than nvidia-smi."""
    kinds = {gpu.info.name for gpu in readings.driver.gpus}
    if len(kinds) < 2 or readings.host.settings.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return None
    return ORDER.note(
        f"not PCI_BUS_ID, with GPUs of {len(kinds)} kinds",
        "CUDA counts the fastest first, so cuda:0 may be another GPU than nvidia-smi's 0",
        "export CUDA_DEVICE_ORDER=PCI_BUS_ID",
    )


def device(readings: Readings, gpu: GpuState) -> Line:
    """What the GPU is, and what was found to be in order."""
    parts = [gpu.info.name]
    if gpu.info.memory_bytes is not None:
        parts.append(format_bytes(gpu.info.memory_bytes))
    parts.append({None: "no MIG", False: "MIG off", True: "MIG on"}[gpu.is_mig])
    if gpu.processes == 0 and users(readings, gpu) is None:
        parts.append("nobody else on it")
    return DEVICE.on(gpu.index).ok(", ".join(parts))


def users(_: Readings, gpu: GpuState) -> Line | None:
    """Whether somebody else uses the GPU. By number: a container cannot tell whose process an id is."""
    subject = USERS.on(gpu.index)
    memory = "" if gpu.used_bytes is None else f", {format_bytes(gpu.used_bytes)} in use"
    why = "they take memory and time from a training, and what is measured is what they leave"
    fix = "end them, or choose another GPU with CUDA_VISIBLE_DEVICES (nvidia-smi lists them)"
    if gpu.processes:
        count = "1 other process" if gpu.processes == 1 else f"{gpu.processes} other processes"
        return subject.warning(f"{count}{memory}", why, fix, Evidence(name="processes", value=gpu.processes))
    if gpu.used_bytes is not None and gpu.used_bytes > IDLE_MEMORY_BYTES:
        evidence = Evidence(
            name="used_bytes", value=gpu.used_bytes, unit="bytes", threshold=IDLE_MEMORY_BYTES, source="own choice"
        )
        return subject.warning(f"{format_bytes(gpu.used_bytes)} in use by programs not seen here", why, fix, evidence)
    if gpu.utilisation_ratio is not None and gpu.utilisation_ratio > IDLE_UTILISATION_RATIO:
        evidence = Evidence(
            name="utilisation_ratio",
            value=gpu.utilisation_ratio,
            threshold=IDLE_UTILISATION_RATIO,
            source="own choice",
        )
        return subject.warning(f"busy {format_percent(gpu.utilisation_ratio)} of the time already", why, fix, evidence)
    return subject.unknown("the driver does not list processes") if gpu.processes is None else None


def mig(_: Readings, gpu: GpuState) -> Line | None:
    """Whether the GPU is cut into instances."""
    subject = MIG.on(gpu.index)
    if gpu.is_mig:
        return subject.note(
            "on: the GPU is cut into instances",
            "a process gets one instance, and the driver tells no utilisation of it",
            "name it with CUDA_VISIBLE_DEVICES=MIG-..., as nvidia-smi -L lists them",
        )
    if gpu.is_mig_pending:
        why = "the next reset of the GPU cuts it into instances"
        return subject.note("off, and will be on", why, "sudo nvidia-smi -mig 0, if that is not meant")
    return None


def compute_mode(_: Readings, gpu: GpuState) -> Line | None:
    """Whether more than one process may use the GPU."""
    subject = COMPUTE_MODE.on(gpu.index)
    fix = f"sudo nvidia-smi -i {gpu.index} -c DEFAULT"
    if gpu.compute_mode == PROHIBITED:
        return subject.error("prohibited", "no process may use CUDA on it", fix)
    if gpu.compute_mode == EXCLUSIVE_PROCESS:
        why = "only one process may use it: the two sides of loadtune's duel cannot be alive together"
        return subject.warning("exclusive process", why, fix)
    return None


def persistence(_: Readings, gpu: GpuState) -> Line | None:
    """Whether the driver unloads while nobody uses the GPU."""
    if gpu.is_persistent is not False:
        return None
    why = "the driver forgets the GPU whenever nobody uses it, and the next start waits for it"
    return PERSISTENCE.on(gpu.index).note("off", why, "sudo nvidia-smi -pm 1")


def clocks(_: Readings, gpu: GpuState) -> Line | None:
    """Whether the GPU is held back already, idle as it is."""
    subject = CLOCKS.on(gpu.index)
    if gpu.throttle_reasons is None:
        return subject.unknown("the driver does not tell why clocks are low")
    harmful = [reason for reason in gpu.throttle_reasons if reason in HARMFUL_THROTTLING]
    if not harmful:
        return None
    why = "it is slower than it could be, for heat or for power"
    return subject.warning(
        f"held back: {', '.join(harmful)}", why, "look after cooling and power supply (nvidia-smi -q)"
    )


def gpu_readings(_: Readings, gpu: GpuState) -> Line:
    """Which readings the driver gives, one by one."""
    subject = NVML.on(gpu.index)
    there = ", ".join(reading.name for reading in gpu.readings if reading.is_available) or "none"
    missing = [reading for reading in gpu.readings if not reading.is_available]
    reasons = dict.fromkeys(reading.reason for reading in missing)
    lacking = {why: ", ".join(each.name for each in missing if each.reason == why) for why in reasons}
    found = there + "".join(f"; no {names} ({why})" for why, names in lacking.items())
    needed = [reading for reading in missing if reading.is_needed]
    if not needed:
        return subject.ok(found)
    costs = dict.fromkeys(reading.cost for reading in needed if reading.cost)
    return subject.note(found, "; ".join(costs), "a newer driver may tell more; under MIG and in a vGPU none does")


DRIVER_CHECKS = (driver, left_out, visible_devices, launch_blocking, order_setting)
"""In the order in which they are shown."""

GPU_CHECKS = (device, users, mig, compute_mode, persistence, clocks, gpu_readings)
"""Those of each GPU."""
