"""What came out of a trial: windows, decomposition, costs, or the way it failed; and the slices of a duel."""

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta

from loadtune.records.record import Record
from loadtune.records.resources import ResourceTrace, Unavailable
from loadtune.records.settings import CacheState, Consume, Feed, Settings


class Window(Record, frozen=True, kw_only=True):
    """Neighbouring batches in steady state, whole multiples of num_workers where they come in bursts."""

    started_s: Annotated[float, Meta(description="Seconds since the loader was started.")]
    duration_s: Annotated[float, Meta(gt=0, description="On the device's own timeline where it has one.")]
    batches: Annotated[int, Meta(ge=1)]
    samples: Annotated[int, Meta(ge=0)]
    data_wait_s: Annotated[float, Meta(description="Host time blocked in next(iterator).")] = 0.0
    device_idle_s: Annotated[float | None, Meta(description="Device time with nothing queued.")] = None
    copy_s: Annotated[float | None, Meta(description="Host-to-device copies on the device's timeline.")] = None
    compute_s: Annotated[float | None, Meta(description="Forward, backward, optimizer on the device's timeline.")] = (
        None
    )
    queue_before: Annotated[int, Meta(description="Batches ready and not consumed when the window began.")] = 0
    queue_after: Annotated[int, Meta(description="Batches ready and not consumed when it ended.")] = 0
    flags: Annotated[tuple[str, ...], Meta(description="Known disturbances in this window.")] = ()


class Startup(Record, frozen=True, kw_only=True):
    """What happens once, apart from the steady state."""

    process_s: Annotated[float, Meta(description="From the request to the trial process running our code.")]
    build_s: Annotated[float, Meta(description="Data set, model and optimizer.")]
    device_warm_up_s: Annotated[float, Meta(description="Steps on a resident batch before the loader starts.")]
    first_batch_s: Annotated[float, Meta(description="From iter(loader) to the first batch in hand.")]
    loader_warm_up_s: Annotated[float, Meta(description="From the first batch to the first window.")]
    shutdown_s: Annotated[float | None, Meta(description="Ending the workers; None: they were killed.")] = None


class PartCost(Record, frozen=True, kw_only=True):
    """What one named part of the preparation takes, as timed in one worker."""

    name: Annotated[str, Meta(description="Class of the transform, or `collate_fn`.")]
    s_per_sample: Annotated[float, Meta(ge=0, description="Elapsed seconds a sample.")]


class WorkerTimes(Record, frozen=True, kw_only=True):
    """Where the time of a sample goes in a worker that is at work: waiting for something to do is left out.

    busy = on a core + delayed + blocked, of the thread that prepares; where other threads of the worker compute for it,
    on a core + delayed + blocked is less, and what they compute the rest.
    """

    busy_s_per_sample: Annotated[float, Meta(ge=0, description="Elapsed seconds, collate_fn included.")]
    cpu_s_per_sample: Annotated[
        float | None, Meta(description="Of these, seconds on a core: of the thread that prepares alone.")
    ] = None
    delayed_s_per_sample: Annotated[
        float | None, Meta(description="Of these, ready to run and waiting for a core: by the kernel's schedstat.")
    ] = None
    blocked_s_per_sample: Annotated[
        float | None,
        Meta(
            description="Of these, the rest in which no thread of the worker computed: waiting for storage, network, a "
            "lock, or asleep. Too small where several threads compute at once."
        ),
    ] = None
    collate_s_per_sample: Annotated[float | None, Meta(description="Of these, inside collate_fn.")] = None
    batch_spread_ratio: Annotated[
        float | None, Meta(description="Standard deviation of a batch's busy time by its mean.")
    ] = None
    median_sample_s: Annotated[float | None, Meta(description="Median over batches of each one's median sample.")] = (
        None
    )
    slowest_sample_s: Annotated[float | None, Meta(description="The slowest sample met.")] = None
    slowest_index: Annotated[int | None, Meta(description="Index of that sample, in what slowest_in says.")] = None
    slowest_in: Annotated[
        str | None,
        Meta(
            description="`dataset`: as it was handed over; `dataset.dataset`: what that Subset is of; `worker 2`: the "
            "samples that this worker took from an iterable data set, from 0 in each epoch."
        ),
    ] = None
    slow_excess_ratio: Annotated[
        float | None,
        Meta(description="Share of the busy time by which each batch's slowest sample exceeds its median sample."),
    ] = None
    parts: Annotated[tuple[PartCost, ...], Meta(description="Transforms that could be timed, dearest first.")] = ()
    minor_faults_per_sample: Annotated[float | None, Meta(description="Pages first touched or copied.")] = None


class WorkerSetup(Record, frozen=True, kw_only=True):
    """What the workers are, as they said with their first batch."""

    start_method: str
    start_s: Annotated[float | None, Meta(description="From iter(loader) to the last worker's code running.")] = None
    cpus: Annotated[int | None, Meta(description="CPUs that the workers, taken together, may run on.")] = None
    threads: Annotated[int | None, Meta(description="torch intra-op threads of a worker: the most of any.")] = None
    repeated_ratio: Annotated[
        float | None, Meta(description="Share of a worker's first samples that another worker gave as well.")
    ] = None
    unavailable: Annotated[tuple[Unavailable, ...], Meta(description="Why a figure is None.")] = ()


class WorkerCost(Record, frozen=True, kw_only=True):
    """What one sample costs in the process that prepares it."""

    cpu_s_per_sample: Annotated[float, Meta(description="CPU seconds in the worker.")]
    wall_s_per_sample: Annotated[
        float | None, Meta(description="Elapsed seconds in the worker; only where it never waits for the consumer.")
    ] = None
    sample_bytes: Annotated[int | None, Meta(description="Bytes of one collated sample as it crosses processes.")] = (
        None
    )
    wall_spread_ratio: Annotated[
        float | None,
        Meta(description="Standard deviation of a batch's elapsed time by its mean; where wall_s_per_sample is."),
    ] = None
    times: Annotated[WorkerTimes | None, Meta(description="None: single samples could not be timed.")] = None


class BadSample(Record, frozen=True, kw_only=True):
    """A sample that could not be read and was replaced by the next good one."""

    name: str
    reason: str


class Measurement(Record, frozen=True, kw_only=True):
    """What a completed trial saw. Rates are derived from the windows."""

    windows: Annotated[tuple[Window, ...], Meta(min_length=1)]
    startup: Startup
    epoch_boundary_s: Annotated[
        float | None, Meta(description="Time an epoch's end adds to the steady state with these settings.")
    ] = None
    epoch_samples: Annotated[
        int | None,
        Meta(description="Samples of an epoch that the data set itself ended; None: none ended while measuring."),
    ] = None
    idle_reference_s: Annotated[
        float, Meta(description="Device idle a step that the loader does not cause (launch gaps).")
    ] = 0.0
    step_s: Annotated[float | None, Meta(description="Median time of a device step, waiting apart.")] = None
    step_spread_s: Annotated[
        float | None, Meta(description="Standard deviation of step_s from step to step; None with under two steps.")
    ] = None
    copy_s: Annotated[float | None, Meta(description="Median time of a batch's copy to the device.")] = None
    launch_cpu_s: Annotated[
        float | None,
        Meta(
            description="CPU seconds of the loop's thread to copy and queue one step: the least of all, not held up. "
            "On CUDA autograd launches the backward pass from a thread of its own, which is not in."
        ),
    ] = None
    stall_ratio: Annotated[
        float | None, Meta(description="Share of time the device waited for data: 4.2 in the method notes.")
    ] = None
    longest_batch_s: Annotated[
        float | None,
        Meta(description="Longest time between two batches of one worker; waiting for a full queue is part of it."),
    ] = None
    stalled_step_ratio: Annotated[
        float | None, Meta(description="Share of the steps before which the device waited more than 5 % of a step.")
    ] = None
    worker: WorkerCost | None = None
    setup: Annotated[WorkerSetup | None, Meta(description="None without workers.")] = None
    main_threads: Annotated[int | None, Meta(description="torch intra-op threads of the main process.")] = None
    synchronisations: Annotated[
        int | None, Meta(description="Times that one step waits for the device, as torch warns; CUDA only.")
    ] = None
    main_cpu_s_per_sample: Annotated[
        float | None, Meta(description="CPU seconds of the main process a sample, preparing apart where workers do it.")
    ] = None
    batch_bytes: Annotated[int | None, Meta(description="Bytes of one collated batch.")] = None
    device_memory_bytes: Annotated[int | None, Meta(description="Peak device memory of the step.")] = None
    samples_seen: Annotated[int, Meta(description="Samples consumed in the whole trial, warm-up included.")] = 0
    bad_samples: Annotated[tuple[BadSample, ...], Meta(description="The first hundred, by name.")] = ()
    bad_sample_count: Annotated[int, Meta(ge=0, description="Different broken samples met.")] = 0
    ignored_label_ratio: Annotated[
        float | None, Meta(description="Share of mask pixels whose label was out of range and mapped to ignore.")
    ] = None
    busy_spans: Annotated[
        tuple[tuple[float, float], ...],
        Meta(description="(start_s, end_s) of device work on time.monotonic(); replay only."),
    ] = ()
    device_uuid: Annotated[str | None, Meta(description="CUDA device used, as its driver names it.")] = None
    notes: Annotated[tuple[str, ...], Meta(description="What a reader must know, one sentence each.")] = ()

    @property
    def duration_s(self) -> float:
        """Seconds in windows."""
        return sum(window.duration_s for window in self.windows)

    @property
    def rate_per_s(self) -> float:
        """Samples a second: ratio of sums over all windows."""
        return sum(window.samples for window in self.windows) / self.duration_s


class TrialState(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    FAILED = "failed"
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"
    SKIPPED = "skipped"
    INTERRUPTED = "interrupted"


class Cause(StrEnum):
    """Why it did not complete: a closed list."""

    DEVICE_MEMORY = "device memory"
    HOST_MEMORY = "host memory"
    SHARED_MEMORY = "shared memory"
    OPEN_FILES = "open files"
    USER_CODE = "user code"
    WORKER = "worker died"
    SIGNAL = "signal"
    EXIT = "exit"
    HANG = "hang"
    DEADLINE = "deadline"
    BUDGET = "budget"
    CORES = "cores"
    BAD_SAMPLES = "bad samples"
    INTERRUPT = "interrupt"


class Failure(Record, frozen=True, kw_only=True):
    """Why there is no measurement."""

    cause: Cause
    message: Annotated[str, Meta(description="One line: what happened, or the arithmetic behind a skip.")]
    hint: Annotated[str | None, Meta(description="One line: what to do about it.")] = None
    log_tail: Annotated[str, Meta(description="Last lines the trial process printed.")] = ""
    exit_code: int | None = None
    signal: int | None = None


Role = Literal["grid", "baseline", "ceiling", "loader", "variant"]
"""variant: the chosen setting with one more thing changed than the main axes; only a duel can make it the answer."""


class TrialResult(Record, frozen=True, kw_only=True):
    """One trial, whatever happened to it."""

    number: Annotated[int, Meta(ge=1, description="Order of the trial within the probe.")]
    role: Annotated[
        Role, Meta(description="grid, baseline and variant train; ceiling has no loader; loader has no device.")
    ]
    round: Annotated[int, Meta(ge=0, description="Round of the interleaved order.")] = 0
    spec_key: Annotated[str, Meta(description="TrialSpec.key")]
    state: TrialState
    settings: Settings
    feed: Feed = "loader"
    consume: Consume = "device"
    cache: CacheState = "warm"
    threads: int | None = None
    rate_per_s: Annotated[float | None, Meta(description="Samples a second; None unless complete.")] = None
    spread_ratio: Annotated[
        float | None, Meta(description="Standard deviation over windows by their mean; None with under two windows.")
    ] = None
    started_s: Annotated[float, Meta(description="Seconds since the probe began.")] = 0.0
    seconds_spent: Annotated[float, Meta(description="Wall seconds of the trial, start to reaped.")] = 0.0
    measurement: Measurement | None = None
    trace: ResourceTrace | None = None
    failure: Failure | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        complete = self.state is TrialState.COMPLETE
        if complete != (self.measurement is not None) or complete != (self.rate_per_s is not None):
            raise ValueError(f"trial {self.number}: exactly a complete trial has a measurement and a rate")
        if complete == (self.failure is not None):
            raise ValueError(f"trial {self.number}: exactly an incomplete trial has a failure")
        if self.measurement is not None and self.rate_per_s is not None:
            derived = self.measurement.rate_per_s
            if abs(self.rate_per_s - derived) > 1e-6 * abs(derived):
                raise ValueError(f"trial {self.number}: rate {self.rate_per_s} is not its windows' {derived}")


class SlicePair(Record, frozen=True, kw_only=True):
    """One slice of each side, taken one right after the other. The dropped head is in neither figure."""

    baseline_samples: Annotated[float, Meta(ge=0, description="Samples, the steps cut by the slice counted in part.")]
    baseline_s: Annotated[float, Meta(gt=0, description="Active seconds.")]
    contender_samples: Annotated[float, Meta(ge=0)]
    contender_s: Annotated[float, Meta(gt=0)]
    baseline_first: Annotated[bool, Meta(description="Order within the pair; it alternates.")]
    restart: Annotated[int, Meta(ge=0, description="Which start of the two process groups.")] = 0
    foreign_cores: Annotated[float | None, Meta(description="Cores busy outside both sides.")] = None
    flags: tuple[str, ...] = ()


class Duel(Record, frozen=True, kw_only=True):
    """The winner of the selection against the baseline, or a variant of it against the winner without it."""

    baseline: Settings
    contender: Settings
    method: Annotated[
        Literal["frozen", "abba"], Meta(description="frozen: live groups stopped by turns; abba: fresh runs.")
    ]
    pairs: tuple[SlicePair, ...] = ()
    slice_s: Annotated[float, Meta(description="Active seconds of one slice.")]
    head_s: Annotated[float, Meta(description="Seconds dropped at the start of each slice.")]
    burst_steps: Annotated[
        tuple[int, int],
        Meta(description="Steps of baseline and contender that end together: samples count evenly over so many."),
    ] = (1, 1)
    epoch_batches: Annotated[
        int | None,
        Meta(
            description="Both sides began their epochs anew after so many batches, so that it is no ratio of steady "
            "rates; None: without end."
        ),
    ] = None
    seconds_spent: float = 0.0
    notes: Annotated[tuple[str, ...], Meta(description="What was dropped or done differently, and why.")] = ()
    failure: Failure | None = None
