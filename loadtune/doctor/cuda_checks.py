"""Does CUDA itself work, and is the bus as fast as it should be? What `--gpu` adds; one function a check.

Where there is no CUDA, each says so, with the reason.
"""

from loadtune.doctor.readings import Cuda, Readings
from loadtune.doctor.subject import Subject
from loadtune.monitor.gpu_inspection import GpuState, Link
from loadtune.records.diagnosis import Line
from loadtune.records.messages import CudaDevice
from loadtune.records.report import Evidence

LANE_BYTES_PER_S = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
"""What one lane carries in one direction, by generation of PCIe: transfer rate times the share that its line code
leaves, 8b/10b up to generation 2, 128b/130b up to 5, and 242 of 256 bytes in 6."""

COPY_MIN_RATIO = 0.6
"""Share of the link's own rate below which a copy from pinned memory is called slow. Packet headers alone cost a tenth
to a fifth; a copy from the memory of the other processor socket costs more. Own choice."""

CUDA = Subject("cuda", "gpu", "CUDA")
DEVICE_ORDER = Subject("device-order", "gpu", "device order")
COMPUTES = Subject("cuda-computes", "gpu", "a computation")
LINK = Subject("pcie", "gpu", "PCIe link under load")
COPIES = Subject("copy-rates", "gpu", "copy rates")


def cuda(readings: Readings) -> Line | None:
    """Whether torch finds CUDA, and can be imported at all."""
    found = readings.cuda
    if found is None:
        return None
    if found.failure is not None:
        fix = "run `python -c 'import torch, torchvision'` and read its last line"
        return CUDA.error(f"the process that was to try it failed: {found.failure}", "no training starts here", fix)
    imported = "" if found.import_s is None else f"; torch and torchvision took {found.import_s:.1f} s to import"
    reason = explain_absence(found)
    if reason is None:
        count = 0 if found.checked is None else len(found.checked.devices)
        return CUDA.ok(f"works, with {count} {'device' if count == 1 else 'devices'}{imported}")
    if readings.driver.gpus:
        why = f"the driver finds {readings.driver.gpus[0].info.name}, and a training would run on the CPU"
        fix = "see what is said of torch's CUDA, of CUDA_VISIBLE_DEVICES and of the driver"
        return CUDA.error(f"torch finds {reason}", why, fix)
    return CUDA.unknown(reason)


def device_order(readings: Readings) -> Line | None:
    """Which of nvidia-smi's GPUs is cuda:0, and so on."""
    found = readings.cuda
    if found is None or found.failure is not None:
        return None
    if (reason := explain_absence(found)) is not None or found.checked is None:
        return DEVICE_ORDER.unknown(reason or "nothing was told")
    index_by_uuid = {gpu.info.uuid: gpu.index for gpu in readings.driver.gpus}
    pairs = [(device.index, index_by_uuid.get(device.uuid)) for device in found.checked.devices]
    if all(index is None for _, index in pairs):
        return DEVICE_ORDER.unknown("the driver does not list the devices that CUDA finds, as under MIG")
    listed = ", ".join(f"cuda:{mine} is GPU {'?' if index is None else index}" for mine, index in pairs)
    if all(mine == index for mine, index in pairs):
        return DEVICE_ORDER.ok(f"{listed} of nvidia-smi")
    return DEVICE_ORDER.note(
        f"{listed} of nvidia-smi",
        "whoever looks for a training's GPU by its index looks at another one",
        "export CUDA_DEVICE_ORDER=PCI_BUS_ID; what CUDA_VISIBLE_DEVICES leaves out shifts the count as well",
    )


def computes(readings: Readings, device: CudaDevice) -> Line | None:
    """Whether a small computation runs."""
    if device.failure is None:
        return None
    subject = COMPUTES.on(_index_of(readings, device))
    fix = "install a torch that was built for this GPU; free its memory where that is what is missing"
    return subject.error(f"failed on {device.name}: {device.failure}", "no training runs on it", fix)


def link(readings: Readings, device: CudaDevice) -> Line:
    """Whether the link to the GPU is as wide and as fast under load as it can be."""
    subject = LINK.on(_index_of(readings, device))
    state = _state_of(readings, device)
    now = None if readings.cuda is None else readings.cuda.links.get(device.uuid)
    if device.copies is None:
        return subject.unknown(device.copies_reason or "no copy was made")
    if now is None or state is None or state.max_link is None:
        return subject.unknown("the driver does not tell the link of this GPU")
    best = state.max_link
    found = _describe_link(now)
    evidence = Evidence(name="lanes", value=now.width, unit="lanes", threshold=best.width, source="what the GPU can do")
    if now.width >= best.width and now.generation >= best.generation:
        return subject.ok(found, evidence)
    why = "batches reach the GPU at that much less, whatever the loader does"
    fix = "look which slot it sits in, and whether it sits firmly; a virtual machine may hide its true link"
    return subject.warning(f"{found}, and {_describe_link(best)} is possible", why, fix, evidence)


def copy_rates(readings: Readings, device: CudaDevice) -> Line:
    """Whether copies go at the rate of the link."""
    subject = COPIES.on(_index_of(readings, device))
    if device.copies is None:
        return subject.unknown(device.copies_reason or "no copy was made")
    pinned, pageable = device.copies.pinned_to_device_bytes_per_s, device.copies.pageable_to_device_bytes_per_s
    found = (
        f"{_rate(pinned)} from pinned memory, {_rate(pageable)} from ordinary, "
        f"{_rate(device.copies.pinned_to_host_bytes_per_s)} back"
    )
    now = None if readings.cuda is None else readings.cuda.links.get(device.uuid)
    ceiling = None if now is None else LANE_BYTES_PER_S.get(now.generation, 0.0) * now.width or None
    if ceiling is None:
        return subject.ok(found)
    evidence = Evidence(
        name="pinned_to_device_bytes_per_s",
        value=pinned,
        unit="bytes/s",
        threshold=COPY_MIN_RATIO * ceiling,
        source="60 % of what the link carries",
    )
    if pinned >= COPY_MIN_RATIO * ceiling:
        return subject.ok(found, evidence)
    why = f"its link carries {_rate(ceiling)}"
    fix = "keep the training on the GPU's own processor socket (nvidia-smi topo -m, numactl); end what else copies"
    return subject.warning(found, why, fix, evidence)


def without_cuda(readings: Readings) -> tuple[Line, ...]:
    """Say of what each device would have been asked that there is none."""
    found = readings.cuda
    if found is None or found.failure is not None or (reason := explain_absence(found)) is None:
        return ()
    return (LINK.unknown(reason), COPIES.unknown(reason))


def explain_absence(found: Cuda) -> str | None:
    """Return why torch finds no CUDA device; None: it finds one."""
    if found.checked is None:
        return found.failure or "nothing was told"
    if found.checked.devices:
        return None
    sentence = (found.checked.reason or "nothing was told").partition(". ")[0].rstrip(".")  # links for Windows follow
    return f"no CUDA: {sentence}"


def _state_of(readings: Readings, device: CudaDevice) -> GpuState | None:
    return next((gpu for gpu in readings.driver.gpus if gpu.info.uuid == device.uuid), None)


def _index_of(readings: Readings, device: CudaDevice) -> int:
    """Return NVML's index of the device, as all other lines have it; CUDA's where NVML does not list it."""
    state = _state_of(readings, device)
    return device.index if state is None else state.index


def _describe_link(link_: Link) -> str:
    return f"generation {link_.generation}, {link_.width} lanes"


def _rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:.3g} GB/s"


CUDA_CHECKS = (cuda, device_order)
"""In the order in which they are shown."""

DEVICE_CHECKS = (computes, link, copy_rates)
"""Those of each CUDA device."""
