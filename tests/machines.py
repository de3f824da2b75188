"""Machines for the doctor: a healthy one, and what is changed of it. Every part can be replaced by name."""

from dataclasses import replace
from typing import Any

import msgspec

from loadtune.doctor.readings import Cuda, Host, Readings, Requirement, Software, Storage
from loadtune.monitor.environment import Machine
from loadtune.monitor.filesample import FileSample
from loadtune.monitor.gpu_inspection import Driver, GpuState, Link
from loadtune.monitor.installed import Build, ImageExtension, Pillow
from loadtune.monitor.pagecache import Residency
from loadtune.monitor.procfs import Mount
from loadtune.monitor.storage import Disk
from loadtune.records.messages import CopyRates, CudaChecked, CudaDevice
from loadtune.records.resources import GpuInfo, HostLimits
from loadtune.records.verification import Reading

MIB, GIB = 1 << 20, 1 << 30
UUID = "GPU-8c1ae3c2-0000-1111-2222-333344445555"

LIMITS = HostLimits(
    usable_cores=8.0,
    affinity_cores=8,
    memory_limit_bytes=64 * GIB,
    memory_available_bytes=60 * GIB,
    shm_total_bytes=32 * GIB,
    shm_free_bytes=32 * GIB,
    open_files_limit=1024,
)
MACHINE = Machine(
    limits=LIMITS,
    cpu_model="AMD EPYC 7763",
    foreign_cores=0.1,
    memory_total_bytes=64 * GIB,
    swap_total_bytes=0,
    swap_used_bytes=0,
    versions={"torch": "2.14.1", "torchvision": "0.29.1", "pillow": "13.0.0"},
    start_method="fork",
)
HOST = Host(
    machine=MACHINE,
    cpu_count=8,
    throttling=None,
    has_memory_group=True,
    has_shm=True,
    open_files_hard_limit=524288,
    python=(3, 11),
)
STORAGE = Storage(
    path="/data/voc",
    mount=Mount("/", "/data", "ext4", frozenset({"rw"}), "259:1", "/dev/nvme0n1p1"),
    disks=(Disk("nvme0n1", "Samsung SSD 990", is_rotational=False, is_virtual=False),),
    files=FileSample(paths=(b"/data/voc/a.jpg",) * 400, seen=400, is_complete=True),
    residency=Residency(files=400, file_bytes=400 * MIB, told=400, looked_bytes=400 * MIB, resident_bytes=400 * MIB),
)
SOFTWARE = Software(
    versions=MACHINE.versions,
    torch=Build("2.14.1+cu130", cuda="13.0"),
    torchvision=Build("0.29.1+cu130"),
    torchvision_needs=">=2.14.0",
    image_extension=ImageExtension("image_stable.so", has_nvjpeg=True),
    pillow=Pillow("13.0.0", has_turbo=True, turbo_version="3.1.4", has_zlib_ng=True),
    requirements=(Requirement("torch", ">=2.11", "2.14.1"),),
)
GPU = GpuState(
    index=0,
    info=GpuInfo(uuid=UUID, name="NVIDIA H100 80GB HBM3", memory_bytes=80 * GIB, driver="580.95.05"),
    readings=(
        Reading(name="utilisation", is_available=True, is_needed=True),
        Reading(name="energy", is_available=True, is_needed=False),
    ),
    is_mig=False,
    is_mig_pending=False,
    compute_mode=0,
    is_persistent=True,
    processes=0,
    used_bytes=5 * MIB,
    utilisation_ratio=0.0,
    throttle_reasons=("idle",),
    max_link=Link(5, 16),
)
DRIVER = Driver(reason=None, version="580.95.05", cuda_version=(13, 0), gpus=(GPU,), has_node=True, has_pci=True)
NO_DRIVER = Driver(reason="libnvidia-ml.so.1 not found: no NVIDIA driver, or a container without it")
RATES = CopyRates(
    pinned_to_device_bytes_per_s=52e9, pageable_to_device_bytes_per_s=9e9, pinned_to_host_bytes_per_s=50e9
)
CUDA_DEVICE = CudaDevice(index=0, name=GPU.info.name, uuid=UUID, copies=RATES)
CUDA = Cuda(import_s=3.4, checked=CudaChecked(devices=(CUDA_DEVICE,)), links={UUID: Link(5, 16)})
NO_CUDA = Cuda(import_s=3.4, checked=CudaChecked(reason="Found no NVIDIA driver on your system. Please check."))


def healthy(**parts: Any) -> Readings:
    """Return a machine with one GPU on which nothing is wrong, storage and CUDA looked at; whole parts replaced."""
    return replace(Readings(HOST, SOFTWARE, DRIVER, STORAGE, CUDA), **parts)


def host(**changes: Any) -> Readings:
    """Return it with fields of host, machine or limits changed, whichever has them."""
    of_limits = {name: changes.pop(name) for name in list(changes) if name in LIMITS.__struct_fields__}
    limits = msgspec.structs.replace(LIMITS, **of_limits)
    of_machine = {name: changes.pop(name) for name in list(changes) if name in Machine.__slots__}
    return healthy(host=replace(HOST, machine=replace(MACHINE, limits=limits, **of_machine), **changes))


def software(**changes: Any) -> Readings:
    """Return it with fields of the software changed."""
    return healthy(software=replace(SOFTWARE, **changes))


def storage(**changes: Any) -> Readings:
    """Return it with fields of the storage changed."""
    return healthy(storage=replace(STORAGE, **changes))


def driver(**changes: Any) -> Readings:
    """Return it with fields of the driver changed."""
    return healthy(driver=replace(DRIVER, **changes))


def gpu(**changes: Any) -> GpuState:
    """Return its GPU, changed."""
    return replace(GPU, **changes)


def in_small_container() -> Readings:
    """Return what many suffer from: Docker's /dev/shm, a quota, a CPU build of torch beside PyPI's torchvision."""
    limits = msgspec.structs.replace(
        LIMITS,
        usable_cores=3.5,
        affinity_cores=64,
        quota_cores=3.5,
        memory_limit_bytes=16 * GIB,
        memory_available_bytes=15 * GIB,
        memory_oom_group=True,
        shm_total_bytes=64 * MIB,
        shm_free_bytes=64 * MIB,
    )
    return Readings(
        host=replace(HOST, machine=replace(MACHINE, limits=limits), cpu_count=64),
        software=replace(SOFTWARE, torch=Build("2.14.1+cpu")),
        driver=DRIVER,
        storage=replace(
            STORAGE,
            mount=Mount("/", "/data", "nfs4", frozenset(), "0:52", "server:/export"),
            disks=(),
            residency=replace(STORAGE.residency, resident_bytes=40 * MIB) if STORAGE.residency else None,
        ),
    )
