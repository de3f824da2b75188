"""What the parent asks of a trial process, and what comes back while it works: one JSON object a line."""

from typing import Annotated

from msgspec import Meta

from loadtune.records.measurement import BadSample, Cause, Measurement, TrialState
from loadtune.records.record import Record
from loadtune.records.settings import Settings, TrialSpec, WorkloadSpec
from loadtune.records.stored import Masks


class Sources(Record, frozen=True, kw_only=True):
    """Where a trial process finds what is too large, or too alive, for a message."""

    index_path: Annotated[str | None, Meta(description="Shared index of image-mask pairs.")] = None
    payload_path: Annotated[
        str | None, Meta(description="The caller's own objects, pickled by value into memory that both can open.")
    ] = None


class InspectTask(Record, frozen=True, kw_only=True, tag="inspect"):
    """Say what the data look like and which accelerator there is."""

    workload: WorkloadSpec
    sources: Sources
    batch_size: Annotated[int, Meta(ge=1, description="Batch size that the sample's bytes are asked for.")]
    cuda_index: Annotated[int | None, Meta(description="CUDA device to look at; None: do not touch CUDA.")] = None


class CacheTask(Record, frozen=True, kw_only=True, tag="cache"):
    """Read the data once, in the order the trials will, so that no trial warms the next one's page cache."""

    workload: WorkloadSpec
    sources: Sources
    order_seed: int
    limit_s: Annotated[float, Meta(gt=0, description="Seconds after which no further file is read.")]


class TrialTask(Record, frozen=True, kw_only=True, tag="trial"):
    """Measure one setting."""

    spec: TrialSpec
    sources: Sources
    requested_s: Annotated[float, Meta(description="time.monotonic() when the parent asked.")]


class SideTask(Record, frozen=True, kw_only=True, tag="side"):
    """Train with one setting until told to stop: one side of a duel."""

    spec: TrialSpec
    sources: Sources
    is_plain: Annotated[
        bool, Meta(description="As a training script would: no stamps in the batches, no marks around the steps.")
    ] = False


class CudaCheckTask(Record, frozen=True, kw_only=True, tag="cuda_check"):
    """Try every CUDA device that this process may use: a computation, and copies both ways."""


Task = InspectTask | CacheTask | TrialTask | SideTask | CudaCheckTask


class CudaInfo(Record, frozen=True, kw_only=True):
    """A CUDA device as torch sees it."""

    index: int
    name: str
    uuid: str | None
    memory_bytes: int
    has_bf16: bool


class Inspected(Record, frozen=True, kw_only=True, tag="inspected"):
    """What the data and the device are."""

    sample_count: int | None
    is_rank_share: Annotated[
        bool, Meta(description="sample_count is one rank's: the loader's sampler deals the data out to ranks.")
    ] = False
    drop_last: Annotated[bool, Meta(description="The user's loader leaves out what fills no batch.")] = False
    sample_bytes: Annotated[
        int | None, Meta(description="Bytes of one collated sample; None for listed pairs, whose crop decides.")
    ] = None
    tensors_per_batch: Annotated[int, Meta(ge=1, description="Tensors in one batch, each a shared-memory file.")] = 2
    class_count: int | None = None
    is_binary_mask: bool | None = None
    masks: Annotated[Masks | None, Meta(description="How masks are to be read; None: the data are the user's own.")] = (
        None
    )
    is_prepared: Annotated[
        bool, Meta(description="The samples are prepared by loadtune's own transform, so that the crop decides.")
    ] = False
    mean_pair_bytes: float | None = None
    unreadable: tuple[BadSample, ...] = ()
    fixed_axes: tuple[str, ...] = ()
    fixed_batch_size: Annotated[int | None, Meta(description="Batch size that the user's loader insists on.")] = None
    loader_settings: Annotated[
        Settings | None, Meta(description="Settings of the user's ready DataLoader; its batch size as one batch shows.")
    ] = None
    is_iterable: bool = False
    cuda: CudaInfo | None = None
    cuda_reason: Annotated[str | None, Meta(description="Why cuda is None.")] = None


class CacheRead(Record, frozen=True, kw_only=True, tag="cache_read"):
    """How far the reading of files came."""

    samples: Annotated[int, Meta(ge=0, description="Samples whose files were read, in trial order.")]
    is_complete: bool
    read_bytes: int
    seconds: float


class Phase(Record, frozen=True, kw_only=True, tag="phase"):
    """A trial process passed a mark. Marks: built, device_warm, first_batch, measuring, measured, running."""

    name: str
    at_s: Annotated[float, Meta(description="time.monotonic() in the trial process, the same clock everywhere.")]


class DeviceInUse(Record, frozen=True, kw_only=True, tag="device"):
    """Which GPU the trial uses, since CUDA's index is not NVML's."""

    uuid: str | None


class StepsDone(Record, frozen=True, kw_only=True, tag="steps"):
    """Steps that finished; also the sign of life that tells slow from hung."""

    finished_s: Annotated[tuple[float, ...], Meta(description="time.monotonic() at the end of each step.")]
    samples: tuple[int, ...]


class Measured(Record, frozen=True, kw_only=True, tag="measured"):
    """The trial is complete."""

    measurement: Measurement


class Failed(Record, frozen=True, kw_only=True, tag="failed"):
    """The trial process itself could say what went wrong."""

    state: TrialState
    cause: Cause
    message: str
    hint: str | None = None


class CopyRates(Record, frozen=True, kw_only=True):
    """How fast a device is fed over its bus."""

    pinned_to_device_bytes_per_s: Annotated[float, Meta(description="From pinned host memory.")]
    pageable_to_device_bytes_per_s: Annotated[float, Meta(description="From ordinary host memory.")]
    pinned_to_host_bytes_per_s: Annotated[float, Meta(description="Back into pinned host memory.")]


class CudaDevice(Record, frozen=True, kw_only=True):
    """One CUDA device, tried."""

    index: Annotated[int, Meta(ge=0, description="CUDA's, after CUDA_VISIBLE_DEVICES.")]
    name: str
    uuid: str
    failure: Annotated[str | None, Meta(description="Why a small computation failed on it; None: it ran.")] = None
    copies: CopyRates | None = None
    copies_reason: Annotated[str | None, Meta(description="Why copies is None.")] = None


class CudaChecked(Record, frozen=True, kw_only=True, tag="cuda_checked"):
    """What came of trying CUDA."""

    devices: tuple[CudaDevice, ...] = ()
    reason: Annotated[str | None, Meta(description="Why there are no devices.")] = None


Event = Inspected | CacheRead | CudaChecked | Phase | DeviceInUse | StepsDone | Measured | Failed


class Start(Record, frozen=True, kw_only=True, tag="start"):
    """Ask the zygote to fork a process for a task; three descriptors travel with it: events, control, log."""

    task: Task


class Started(Record, frozen=True, kw_only=True, tag="started"):
    """The zygote forked it. Its process group has the same number."""

    pid: int


class Exited(Record, frozen=True, kw_only=True, tag="exited"):
    """A trial process ended and was reaped."""

    pid: int
    exit_code: int | None
    signal: int | None
    cpu_s: Annotated[float, Meta(description="User and system CPU seconds, its reaped children included.")]
    peak_rss_bytes: Annotated[int, Meta(description="Largest resident set of any one of its processes.")]


class Ready(Record, frozen=True, kw_only=True, tag="ready"):
    """The zygote has imported torch."""

    import_s: float


ZygoteReply = Ready | Started | Exited
