"""What was read before anything is judged? Every check takes these, and reads nothing itself."""

from dataclasses import dataclass, field

from loadtune.monitor.cgroup import Throttling
from loadtune.monitor.environment import Machine
from loadtune.monitor.filesample import FileSample
from loadtune.monitor.gpu_inspection import Driver, Link
from loadtune.monitor.installed import Build, ImageExtension, Pillow
from loadtune.monitor.pagecache import Residency
from loadtune.monitor.procfs import Mount
from loadtune.monitor.storage import Disk
from loadtune.records.messages import CudaChecked

THREAD_SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)
"""Environment variables that bound the threads of one process."""

CUDA_SETTINGS = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING")
"""Environment variables that say which GPUs a training sees, in which order, and whether it waits for each kernel."""


@dataclass(frozen=True, slots=True)
class Host:
    """The machine without its GPUs and data."""

    machine: Machine
    cpu_count: int | None
    """What os.cpu_count() says; None: it does not know."""
    throttling: Throttling | None
    """Of the group with the tightest CPU quota; None: there is no quota, or its group counts nothing."""
    has_memory_group: bool
    """Whether the memory control group can be seen."""
    has_shm: bool
    """Whether /dev/shm is there, a mount or not."""
    open_files_hard_limit: int | None
    """To which the limit may be raised without root; None: to any."""
    settings: dict[str, str] = field(default_factory=dict)
    """Those of THREAD_SETTINGS and CUDA_SETTINGS that are set."""
    python: tuple[int, int] = (3, 11)


@dataclass(frozen=True, slots=True)
class Storage:
    """The data set's folder, and what is below it."""

    path: str
    """As given."""
    problem: str | None = None
    """Why it could not be looked at; None: it was."""
    is_reference: bool = False
    """Whether it names code, `package.module:factory`, and not a path."""
    mount: Mount | None = None
    """None: /proc does not tell."""
    disks: tuple[Disk, ...] = ()
    files: FileSample | None = None
    residency: Residency | None = None

    @property
    def total_bytes(self) -> int | None:
        """Bytes of all files seen, from the mean of the sample; None: none could be opened."""
        if self.files is None or self.residency is None or self.residency.mean_bytes is None:
            return None
        return round(self.files.seen * self.residency.mean_bytes)


@dataclass(frozen=True, slots=True)
class Requirement:
    """A package that loadtune needs."""

    name: str
    bounds: str
    version: str | None
    """None: it is not installed."""


@dataclass(frozen=True, slots=True)
class Software:
    """What is installed, and how it was built."""

    versions: dict[str, str]
    """Distribution to version, of those that can change what is measured."""
    torch: Build | None = None
    torchvision: Build | None = None
    torchvision_needs: str | None = None
    """The bounds that torchvision sets for torch; None: it does not say."""
    image_extension: ImageExtension | None = None
    pillow: Pillow | None = None
    requirements: tuple[Requirement, ...] = ()
    other_distribution: str | None = None
    """Version of the other project whose package has our name; None: it is not installed beside ours."""


@dataclass(frozen=True, slots=True)
class Cuda:
    """What came of trying CUDA in a process of its own."""

    failure: str | None = None
    """Why that process did not answer; None: it did."""
    import_s: float | None = None
    """How long torch took to be imported."""
    checked: CudaChecked | None = None
    links: dict[str, Link] = field(default_factory=dict)
    """PCIe link by the GPU's UUID, read while copies ran."""


@dataclass(frozen=True, slots=True)
class Readings:
    """Everything."""

    host: Host
    software: Software
    driver: Driver
    storage: Storage | None = None
    """None: no data set was named."""
    cuda: Cuda | None = None
    """None: not asked for."""
