"""What the machine is, and what it did while a trial ran."""

from typing import Annotated

from msgspec import Meta

from loadtune.records.record import Record


class Unavailable(Record, frozen=True, kw_only=True):
    """A reading that could not be had, and why: it stands beside the None that it explains."""

    reading: Annotated[str, Meta(description="Name of the field that is None.")]
    reason: Annotated[str, Meta(description="Why, in one sentence.")]


class HostSample(Record, frozen=True, kw_only=True):
    """The host at one moment. Rates cover the time since the sample before."""

    at_s: Annotated[float, Meta(description="Seconds since the trace began.")]
    worker_cores: Annotated[
        float | None, Meta(description="CPU cores used by the trial's DataLoader workers (all descendants).")
    ] = None
    main_cores: Annotated[float | None, Meta(description="CPU cores used by the trial's main process.")] = None
    foreign_cores: Annotated[
        float | None, Meta(description="CPU cores busy on this machine outside the trial, loadtune's own included.")
    ] = None
    steal_cores: Annotated[float | None, Meta(description="CPU cores the hypervisor took from this machine.")] = None
    memory_bytes: Annotated[
        int | None,
        Meta(description="Resident memory of the trial's process tree, shared pages counted once a process."),
    ] = None
    shm_bytes: Annotated[int | None, Meta(description="/dev/shm in use, whole machine.")] = None
    read_bytes_per_s: Annotated[float | None, Meta(description="Bytes the trial's tree took from storage.")] = None
    read_chars_per_s: Annotated[float | None, Meta(description="Bytes the trial's tree read, page cache included.")] = (
        None
    )
    throttled_ratio: Annotated[
        float | None, Meta(description="Share of the interval in which the cgroup CPU quota held the group back.")
    ] = None


class GpuSample(Record, frozen=True, kw_only=True):
    """One utilisation sample of one GPU, as NVML buffers them, or as replay's busy spans would have shown it."""

    at_s: Annotated[float, Meta(description="Seconds since the trace began.")]
    utilisation_ratio: Annotated[float, Meta(ge=0, description="Share of the sampling period with a kernel running.")]


class GpuState(Record, frozen=True, kw_only=True):
    """The slower GPU readings at one moment."""

    at_s: Annotated[float, Meta(description="Seconds since the trace began.")]
    memory_bytes: Annotated[int | None, Meta(description="Memory in use on the whole device, every process.")] = None
    power_w: Annotated[float | None, Meta(description="Power draw of the device.")] = None
    sm_clock_mhz: Annotated[int | None, Meta(description="Clock of the multiprocessors.")] = None
    throttle_reasons: Annotated[tuple[str, ...] | None, Meta(description="Active clock event reasons by name.")] = None


class Throttled(Record, frozen=True, kw_only=True):
    """For how long one cause held a GPU's clocks down."""

    cause: Annotated[str, Meta(description="power_cap, thermal, sync_boost, board_limit or reliability.")]
    ratio: Annotated[float, Meta(ge=0, description="Share of the time. Causes may overlap.")]


class GpuUse(Record, frozen=True, kw_only=True):
    """What one GPU, or MIG instance, did while the trial measured: the whole device, whoever used it.

    None: not read, and the trace's `unavailable` says why under `gpu_use.<field>`.
    """

    energy_j: Annotated[float | None, Meta(description="Energy by the driver's counter.")] = None
    mean_power_w: Annotated[float | None, Meta(description="Mean power, by the energy counter if there is one.")] = None
    throttled: Annotated[
        tuple[Throttled, ...] | None, Meta(description="Causes that held the clocks down; empty: none did.")
    ] = None
    pcie_rx_bytes_per_s: Annotated[float | None, Meta(description="Bytes a second over PCIe to the GPU.")] = None
    pcie_tx_bytes_per_s: Annotated[float | None, Meta(description="Bytes a second over PCIe from the GPU.")] = None
    pcie_generation: Annotated[int | None, Meta(description="Of the PCIe link under load: the highest seen.")] = None
    pcie_width: Annotated[int | None, Meta(description="Lanes of that link.")] = None
    sm_active_ratio: Annotated[
        float | None, Meta(description="Multiprocessors busy, mean over them and over time (GPM, Hopper and newer).")
    ] = None
    sm_occupancy_ratio: Annotated[float | None, Meta(description="Warps active by what there is room for (GPM).")] = (
        None
    )
    tensor_active_ratio: Annotated[float | None, Meta(description="Share of time in tensor operations (GPM).")] = None
    dram_active_ratio: Annotated[float | None, Meta(description="Memory bandwidth used by what there is (GPM).")] = None
    other_processes: Annotated[
        int | None, Meta(description="Most processes on it beside the trial's; in a container some may be hidden.")
    ] = None
    other_sm_ratio: Annotated[float | None, Meta(description="Share of time in which those had a kernel running.")] = (
        None
    )


class ResourceTrace(Record, frozen=True, kw_only=True):
    """Everything that was watched during one trial or duel, from outside the trial process."""

    started_monotonic_s: Annotated[float, Meta(description="time.monotonic() at at_s = 0.")]
    measuring_s: Annotated[
        tuple[float, float] | None, Meta(description="at_s from which to which the trial measured; None: not marked.")
    ] = None
    host: tuple[HostSample, ...] = ()
    gpu: tuple[GpuSample, ...] = ()
    gpu_states: tuple[GpuState, ...] = ()
    gpu_is_replayed: Annotated[bool, Meta(description="The gpu samples come from a replayed profile.")] = False
    gpu_use: Annotated[GpuUse | None, Meta(description="While measuring; None: no GPU was watched meanwhile.")] = None
    peak_memory_bytes: Annotated[int | None, Meta(description="Largest memory_bytes seen.")] = None
    pss_bytes: Annotated[
        int | None, Meta(description="Proportional set size of the trial's tree, read once near the end.")
    ] = None
    mean_worker_cores: Annotated[float | None, Meta(description="Mean of worker_cores while measuring.")] = None
    mean_main_cores: Annotated[float | None, Meta(description="Mean of main_cores while measuring.")] = None
    mean_foreign_cores: Annotated[float | None, Meta(description="Mean of foreign_cores while measuring.")] = None
    mean_steal_cores: Annotated[float | None, Meta(description="Mean of steal_cores while measuring.")] = None
    miss_ratio: Annotated[
        float | None, Meta(description="Share of bytes read by the tree that came from storage, not the page cache.")
    ] = None
    utilisation_mean_ratio: Annotated[float | None, Meta(description="Mean GPU utilisation while measuring.")] = None
    jitter_ratio: Annotated[
        float | None, Meta(description="Standard deviation of GPU utilisation over its samples while measuring.")
    ] = None
    sampler_cores: Annotated[
        float | None, Meta(description="CPU cores that the watching itself took; None: it had not begun.")
    ] = None
    pss_first_bytes: Annotated[
        int | None, Meta(description="The same after the first batch; with pss_bytes it tells growth.")
    ] = None
    pss_file_growth_bytes: Annotated[
        int | None,
        Meta(description="Of that growth, pages of files (libraries, memory maps), which the kernel may drop."),
    ] = None
    swapped_in_bytes: Annotated[
        int | None, Meta(description="Read back from swap by the whole machine during the trial.")
    ] = None
    oom_kills: Annotated[int | None, Meta(description="Kernel out-of-memory kills counted during the trial.")] = None
    unavailable: tuple[Unavailable, ...] = ()


class HostLimits(Record, frozen=True, kw_only=True):
    """What this process may use of the machine, each figure after affinity, cgroups and file-system limits."""

    usable_cores: Annotated[float, Meta(gt=0, description="min(affinity, cgroup quota), divided among ranks.")]
    affinity_cores: Annotated[int, Meta(ge=1, description="CPUs in the scheduler mask.")]
    quota_cores: Annotated[float | None, Meta(description="cgroup CPU quota in cores; None: no quota.")] = None
    memory_limit_bytes: Annotated[int, Meta(description="Tightest of cgroup limits and physical memory.")]
    memory_available_bytes: Annotated[int, Meta(description="What may still be used below that limit.")]
    memory_oom_group: Annotated[bool, Meta(description="memory.oom.group: one OOM kill takes the whole cgroup.")] = (
        False
    )
    shm_total_bytes: Annotated[int | None, Meta(description="Size of /dev/shm; None: not a mount.")] = None
    shm_free_bytes: Annotated[int | None, Meta(description="Free bytes of /dev/shm.")] = None
    open_files_limit: Annotated[int | None, Meta(description="RLIMIT_NOFILE, soft.")] = None
    ranks_per_node: Annotated[int, Meta(ge=1, description="Local ranks that share cores and memory.")] = 1
    returns_memory: Annotated[
        bool,
        Meta(description="A virtual machine that hands freed memory back to its host: free page reporting."),
    ] = False

    @property
    def spare_cores(self) -> float:
        """Cores in the scheduler mask that this process may not use, and others may without disturbing it."""
        return max(0.0, self.affinity_cores - self.usable_cores)


class GpuInfo(Record, frozen=True, kw_only=True):
    """One GPU as NVML names it."""

    uuid: str
    name: str
    memory_bytes: int | None = None
    driver: str | None = None
    cuda_index: Annotated[
        int | None, Meta(description="Index that CUDA_VISIBLE_DEVICES gives it; None: not shown, or not known.")
    ] = None
    mig_uuids: Annotated[tuple[str, ...], Meta(description="Its MIG instances; empty: it is not divided.")] = ()
    max_sm_clock_mhz: Annotated[int | None, Meta(description="Highest clock of the multiprocessors.")] = None
    pcie_max_generation: Annotated[int | None, Meta(description="Of the link that GPU and slot both can do.")] = None
    pcie_max_width: Annotated[int | None, Meta(description="Lanes of that link.")] = None


class Environment(Record, frozen=True, kw_only=True):
    """The machine and the software of this probe."""

    platform: str
    cpu_model: str | None
    python: str
    versions: Annotated[dict[str, str], Meta(description="Distribution name to version.")]
    limits: HostLimits
    start_method: Annotated[str, Meta(description="multiprocessing's default start method here.")]
    gpus: tuple[GpuInfo, ...] = ()
    file_system: Annotated[str | None, Meta(description="File system type of the data set.")] = None
    warnings: Annotated[tuple[str, ...], Meta(description="What is wrong with this machine, one line each.")] = ()
    unavailable: tuple[Unavailable, ...] = ()


class Reading(Record, frozen=True, kw_only=True):
    """A source of readings about this machine: whether it is there, and what the diagnosis loses without it."""

    name: Annotated[str, Meta(description="As people call it, e.g. `GPU utilisation (NVML)`.")]
    is_available: bool
    reason: Annotated[str | None, Meta(description="Why it is not available.")] = None
    cost: Annotated[str | None, Meta(description="What its absence costs the diagnosis, in one sentence.")] = None
    is_needed: Annotated[bool, Meta(description="Whether a probe of this device makes use of it.")] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.is_available and not self.reason:
            raise ValueError(f"the reading {self.name} is not available and says no reason")
