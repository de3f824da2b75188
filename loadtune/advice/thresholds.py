"""From which number on does a rule speak, and who says so? Every threshold of the rules, with its source."""

from dataclasses import dataclass

from loadtune.records.report import Evidence

OWN = "own choice"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A limit that a number is held against."""

    name: str
    """Of the number, its unit at the end."""
    value: float
    source: str
    """A paper, a tool, a measurement; or that it was chosen here, and by what reasoning."""
    effect: str
    """What breaks if it is changed."""
    unit: str = ""

    def evidence(self, value: float) -> Evidence:
        """Return the number beside its limit."""
        return Evidence(name=self.name, value=value, unit=self.unit, threshold=self.value, source=self.source)


STALL = Threshold(
    "stall_ratio",
    0.05,
    "TensorFlow Profiler and torch_tb_profiler: input-bound from 5 % of the step",
    "lower chases launch gaps, higher misses loaders that cost a twentieth",
)
SEVERE_STALL = Threshold(
    "stall_ratio",
    0.2,
    "TensorFlow Profiler: highly input-bound from 20 %",
    "decides between advice and warning only",
)
MOST = Threshold(
    "most_of_stall_ratio",
    0.5,
    f"{OWN}: most of it",
    "lower lets a trifle take the place of the right advice; higher asks for workers beside a quota that they would "
    "use up",
)
HOST_WAITS = Threshold(
    "data_wait_of_stall_ratio",
    0.5,
    f"{OWN}: the host waits longer than the device, whose queue covers for it; with less than half it was busy itself",
    "lower blames the loader for a busy host, higher leaves stalls of short steps undecided",
)
LONG_BATCH = Threshold(
    "long_batch_spreads",
    2.0,
    f"{OWN}: one batch in twenty is that much longer than the mean, more where the tail is heavy",
    "higher calls a queue short that is emptied once an epoch",
    "standard deviations",
)
UTILISATION_SOURCE = "SageMaker Debugger LowGPUUtilization: p95 < 70, p5 < 10"
BUSY_P95 = Threshold(
    "utilisation_p95", 0.7, UTILISATION_SOURCE, "lower calls an idle GPU busy, and its jitter goes unseen"
)
IDLE_P5 = Threshold(
    "utilisation_p5", 0.1, UTILISATION_SOURCE, "higher calls any GPU jittery, since a sample may fall into a pause"
)
SATURATED = Threshold(
    "used_cores",
    0.9,
    "SageMaker Debugger CPUBottleneck: CPU > 90 %; here of the usable cores, those that workers wait for included",
    "lower refuses workers that would help, higher misses saturation, since some core always idles",
    "of the cores",
)
MAIN_CORES = Threshold(
    "main_cores",
    0.9,
    "SageMaker Debugger CPUBottleneck: CPU > 90 %; here of the one core that Python's lock allows",
    "lower blames a main process that could still take more",
    "cores",
)
HANDOVER_CORES = Threshold(
    "handover_cores",
    0.5,
    f"{OWN}: half of the one core, while it waits by turns for the writer's end of the pipe",
    "lower blames a main process that mostly waits",
    "cores",
)
HANDOVER_SPARE = Threshold(
    "loader_spare_ratio",
    1.5,
    f"{OWN}: workers that could make half as much again are held up behind them",
    "lower blames the main process where the workers are as slow",
)
MISS = Threshold(
    "miss_ratio",
    0.5,
    f"{OWN}: most of the bytes",
    "lower blames storage for a few misses, higher needs a wholly cold cache",
)
BLOCKED = Threshold(
    "blocked_ratio",
    0.5,
    f"{OWN}: most of a worker's time",
    "lower blames storage where computing takes longer",
)
BOUNDARY = Threshold("boundary_ratio", 0.05, f"{OWN}: the same 5 % as any other stall", "lower tells of trifles")
START = Threshold(
    "worker_start_s",
    1.0,
    f"{OWN}: eight times what forking four workers took (0.12 s), a quarter of one import of torch (3.7 s)",
    "lower blames fork, higher misses spawn on a fast machine",
    "s",
)
COPY = Threshold(
    "copy_ratio",
    0.1,
    f"{OWN}: a tenth of the step is worth a change",
    "lower speaks of copies that a side stream hides anyway",
)
FIXED_COST = Threshold(
    "fixed_cost_ratio",
    0.1,
    f"{OWN}: a step t(B) = a + b B; doubling B wins at most a / (a + b B)",
    "lower asks for larger batches that win less than the noise",
)
LAUNCH = Threshold(
    "launch_cpu_ratio",
    0.9,
    f"{OWN}: the device cannot end a step before the host has queued it",
    "lower blames launches that overlap with the device's work",
)
CAPACITY = Threshold(
    "loader_capacity_ratio",
    1.05,
    f"{OWN}: a steady loader with so much to spare never lets the device wait; 5 % is what single trials are good to",
    "lower takes a loader for fast enough that is as slow as the device, higher misses uneven ones that just suffice",
)
SLOW_FACTOR = Threshold(
    "slowest_by_median",
    5.0,
    f"{OWN}: the largest of 16 samples of an ordinary photograph folder takes three times the median",
    "lower blames data of uneven size",
    "times",
)
SLOW_EXCESS = Threshold(
    "slow_excess_ratio",
    0.1,
    f"{OWN}: a tenth of the preparing is worth a look at single samples",
    "lower names a sample whatever the data",
)
SPREAD = Threshold(
    "batch_spread_ratio",
    0.3,
    f"{OWN}: even preparing spreads by 2 to 6 % a batch, by 10 to 30 % where cores run out",
    "lower takes noise of a busy machine for variance of the data",
)
DELAYED = Threshold(
    "delayed_ratio",
    0.1,
    f"{OWN}: a tenth of a worker's time lost in the queue for a core",
    "lower sees the scheduler's own granularity",
)
INFLATED = Threshold(
    "step_inflation",
    1.1,
    f"{OWN}: a step beside the loader by a step alone",
    "lower takes noise of a step for contention",
    "times",
)
QUOTA = Threshold(
    "throttled_ratio",
    0.05,
    f"{OWN}: share of quota periods held back; the same 5 % as any other stall",
    "lower tells of one period at start-up",
)
FOREIGN_RATIO = 0.1
"""Share of the usable cores that others may take before a trial is marked as disturbed. Own choice; the search and the
duel use it too."""
FOREIGN = Threshold(
    "foreign_cores",
    FOREIGN_RATIO,
    f"{OWN}: 10 % of the cores",
    "lower marks every machine with a desktop on it as disturbed",
    "of the cores",
)
THROTTLED = Threshold("throttled_ratio", 0.05, f"{OWN}: the same 5 % as any other stall", "lower tells of one look")
OTHER_SM = Threshold(
    "other_sm_ratio", 0.05, f"{OWN}: the same 5 % as any other stall", "lower tells of a desktop's redraws"
)
SWAPPED = Threshold(
    "swapped_in_bytes",
    2.0**20,
    f"{OWN}: 256 pages in a few seconds; a machine that does not swap reads none",
    "lower tells of one page of another process",
    "bytes",
)
GROWTH = Threshold(
    "growth_ratio",
    0.1,
    f"{OWN}: share of the memory limit that one epoch would add",
    "lower tells of allocators that settle, higher of a machine that is about to run out",
)
GROWTH_OWN = Threshold(
    "growth_own_ratio",
    0.25,
    f"{OWN}: share of what the training's processes held at first that one epoch would add",
    "lower tells of caches that fill, higher misses copied pages on a machine with memory to spare",
)
GROWTH_SEEN = Threshold(
    "growth_per_worker_bytes",
    64 * 2.0**20,
    "benchmarks/diagnosis.py: healthy allocators settle by up to 40 MiB where samples take megabytes",
    "lower projects that noise over an epoch; higher waits for growth that a trial of seconds does not show",
    "bytes",
)
PINNED = Threshold(
    "pinned_ratio",
    0.25,
    f"{OWN}: share of the memory limit that cannot be swapped or dropped",
    "lower tells of settings that run well",
)
REPEATED = Threshold(
    "repeated_ratio",
    0.5,
    f"{OWN}: first samples that two workers share; a sharded data set shares none, an unsharded one all",
    "lower takes chance repeats for an unsharded data set",
)
NOISY = Threshold(
    "spread_ratio",
    0.1,
    "torch.utils.benchmark: IQR above 10 % is a warning, above 25 % unreliable",
    "lower marks decoding on any shared machine",
)
PLATEAU = Threshold(
    "rate_by_more_workers",
    1.03,
    "the tie rule: 3 % is no gain",
    "lower takes noise for a gain by more workers",
    "times",
)
