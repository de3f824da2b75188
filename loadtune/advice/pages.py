"""What does each rule mean, by which numbers does it speak, and how was it validated? One page a rule, as data.

`loadtune explain RULE` prints a page and the report embeds that of each finding: both show this text.
"""

from dataclasses import dataclass

from loadtune.advice import thresholds as limits
from loadtune.advice.thresholds import Threshold

UNIT = "Unit tests at both sides of each threshold."
LIVE = "Live workers in the tests show that the readings arrive"
NO_GPU = "On a real GPU it has not been validated."


def _named(count: int, of: int) -> str:
    """Return how often the rule was the top finding where its fault was injected: scored once, nothing set by it."""
    return f"Named first in {count} of {of} injected faults (benchmarks/diagnosis.py, seeds 100 to 109)."


BATCH_NORM = Threshold(
    "batch_size", 8.0, "DeepLabv3: mIOU falls below 8", "higher warns of batches that train well", "samples"
)


@dataclass(frozen=True, slots=True)
class Page:
    """One rule, explained."""

    rule: str
    meaning: str
    """What it says when it speaks, in two or three sentences."""
    evidence: str
    """What it looks at, and where that comes from."""
    thresholds: tuple[Threshold, ...]
    validated: str
    silent: str = ""
    """When it cannot speak, because something was not collected; empty: it always can."""


WORKERS_ONLY = (
    "Not collected without workers, or where the data set is of a built-in type or its class has a metaclass."
)
STEPS = "Not collected where a trial's steps were not decomposed."

PAGES = (
    Page(
        "device-bound",
        "The device hardly ever waits for data. The loader is fine; more workers are waste.",
        "The stall ratio: device time without work, beyond the launch gaps of a resident batch, by all time.",
        (limits.STALL, limits.COPY, limits.HANDOVER_SPARE),
        f"{UNIT} {_named(10, 10)} benchmarks/jitter.py: simulated utilisation of known worlds, against the article's "
        "and SageMaker's rules.",
        STEPS,
    ),
    Page(
        "jittery-gpu",
        "GPU utilisation fluctuates between busy and idle. The article's advice is more workers; it is given only "
        "where the steps confirm that the device waits for data, and overruled where they do not.",
        "NVML utilisation while measuring (5th and 95th percentile), and the stall ratio.",
        (limits.BUSY_P95, limits.IDLE_P5, limits.STALL),
        f"{UNIT} benchmarks/jitter.py, as for device-bound.",
        "Not collected with fewer than 12 samples of utilisation over all looks at a setting, or without NVML.",
    ),
    Page(
        "low-steady-gpu",
        "GPU utilisation is low. The article's advice is a larger batch; a loader that stalls every step looks the "
        "same to NVML, so the steps decide. Where the device was measured alone at two batch sizes, the share of a "
        "step that does not grow with the batch decides, and not utilisation.",
        "NVML utilisation, the stall ratio, and t(B) = a + b B through the resident batches.",
        (limits.BUSY_P95, limits.STALL, limits.FIXED_COST, limits.LAUNCH, limits.IDLE_P5),
        f"{UNIT} benchmarks/jitter.py, as for device-bound.",
        "Not collected with fewer than 12 samples of utilisation over all looks at a setting, or without NVML.",
    ),
    Page(
        "noise-scale",
        "How far the batch may grow before its gain in samples a second is eaten by worse steps: where a noise scale "
        "was handed over, a batch B needs kappa (B + Bn) / (kappa B + Bn) times the samples for the same loss.",
        "loadtune.NoiseScale in the user's own training, or a number of samples.",
        (),
        f"{UNIT} Formula against simulated gradients of known noise; NoiseScale on real networks in the tests.",
        "Not collected by a probe: it needs a training.",
    ),
    Page(
        "cpu-saturated",
        "The device waits and all usable cores are in use, or waited for by workers that fight for them by turns: more "
        "workers would share the same cores. The transform that takes longest is named where it was timed in the "
        "worker.",
        "CPU time of workers and main process by /proc, what workers waited for a core by schedstat; transforms of a "
        "Compose timed one by one in the worker.",
        (
            limits.STALL,
            limits.SATURATED,
            limits.BLOCKED,
            limits.FOREIGN,
            limits.INFLATED,
            limits.MOST,
            limits.SEVERE_STALL,
        ),
        f"{UNIT} {_named(20, 20)} {LIVE}.",
        "Transforms are named only where they stand in a list (torchvision's Compose) or are loadtune's own.",
    ),
    Page(
        "storage-bound",
        "The workers mostly wait for reads. Misses of the page cache tell a cold cache on this machine's disk; few "
        "misses and blocked workers mean a network file system, a service, or a wait in the data set's code, and then "
        "it speaks only where more workers were seen not to hide it, or no core is left for them: else loader-bound "
        "does.",
        "Share of bytes that storage delivered (/proc/<pid>/io), and of a worker's time off the cores (schedstat).",
        (limits.STALL, limits.MISS, limits.BLOCKED, limits.SATURATED, limits.PLATEAU, limits.SEVERE_STALL),
        f"{UNIT} {_named(10, 10)} {LIVE}.",
        "Network and overlay file systems count no misses, memory maps no hits; then blocked workers alone decide, "
        "with low confidence where nothing could be read. Silent where the cores are used up: a thread that waits for "
        "others of its process looks blocked too.",
    ),
    Page(
        "slow-samples",
        "A few samples take many times the usual. Batches are handed over in order, so all that lie ready behind a "
        "slow one wait for it (head of line). The slowest is named by its index: under a Subset in the data set "
        "below it, of an iterable data set among the samples of its worker.",
        "Each sample timed in its worker, waiting for a core left out; not the first of a stream's epoch, which "
        "holds what the data set does before it. It is silent where workers that could make half as much again as the "
        "device takes have steps enough in the queue to hide the slowest.",
        (
            limits.STALL,
            limits.SLOW_FACTOR,
            limits.SLOW_EXCESS,
            limits.HANDOVER_SPARE,
            limits.LONG_BATCH,
            limits.SEVERE_STALL,
        ),
        f"{UNIT} {_named(10, 10)} The slow one of a watched data set is named in a test.",
        f"{WORKERS_ONLY} Data sets with __getitems__ give all samples of a batch at once, and none can be named.",
    ),
    Page(
        "copy-bound",
        "Receiving the batch takes much of the device's step. Pageable memory is copied twice and makes the host "
        "wait; a PCIe link below what card and slot can do is a matter of the slot.",
        "The copy between two events on the device's timeline; PCIe generation and width under load by NVML.",
        (limits.COPY, limits.STALL, limits.HANDOVER_SPARE),
        f"{UNIT} {_named(10, 10)} On an H100 it named copies of pageable memory at 5 GB/s.",
        "The link is not collected without NVML. Silent where the loader sets the pace: copies cost nothing then.",
    ),
    Page(
        "launch-bound",
        "A step has a cost that does not grow with the batch: launches, the optimizer, Python. A batch twice as large "
        "wins at most half of it, a sample. torch.compile(mode='reduce-overhead') may win all of the launches, and is "
        "what is left where the noise scale says that a larger batch is no gain.",
        "a / (a + b B) of the device alone at two batch sizes; with one size, the host's CPU time to queue a step by "
        "the step's time.",
        (limits.FIXED_COST, limits.LAUNCH, limits.STALL),
        f"{UNIT} {_named(9, 10)} With a replayed device the launches are by construction. {NO_GPU}",
        "Two sizes are measured only where --batch-size allows a larger one. With one size nothing is said of steps "
        "that wait for the device: the host turns meanwhile, and looks as if it were launching.",
    ),
    Page(
        "main-process-bound",
        "The main process uses its one core all the time while the device waits, or half of it to take batches of "
        "which the workers could make far more: unpickling, pinning, or the loop's own Python. More workers make it "
        "worse.",
        "CPU time of the main process by /proc, and what the workers could make if they never waited.",
        (limits.STALL, limits.MAIN_CORES, limits.HANDOVER_CORES, limits.HANDOVER_SPARE),
        f"{UNIT} {_named(10, 10)}",
        "On device cpu the main process trains, and a busy one says nothing.",
    ),
    Page(
        "loader-bound",
        "The device waits, cores are idle, and nothing speaks against more workers: there are too few. Where a worker "
        "mostly waits for something else than a core, that is told: more workers hide it.",
        "The stall ratio, the cores in use, misses, blocked workers, and trials with more workers.",
        (
            limits.STALL,
            limits.SATURATED,
            limits.MISS,
            limits.BLOCKED,
            limits.PLATEAU,
            limits.HANDOVER_SPARE,
            limits.SEVERE_STALL,
            limits.BOUNDARY,
        ),
        f"{UNIT} {_named(30, 30)}",
        "Cores that were not read leave it undecided.",
    ),
    Page(
        "epoch-boundary",
        "The end of an epoch takes a share of it: workers are started anew and the queue fills again.",
        "First batch after starting the loader beyond a usual batch, by an epoch of the data set's own length. Where "
        "the data set was seen to end epochs, what the device waited until the queue could be full again, beyond a "
        "later batch: no more than it waited in all, and nothing that workers could not have made at their speed.",
        (limits.BOUNDARY, limits.MOST),
        f"{UNIT} {_named(7, 10)}",
        "Not collected with persistent workers unless the data set was seen to end epochs, nor with no known length.",
    ),
    Page(
        "slow-start",
        "Workers take seconds to begin: by spawn or forkserver each imports torch anew and unpickles the data set.",
        "Each worker says with its first batch when its worker_init_fn had ended.",
        (limits.START, limits.BOUNDARY, limits.MOST),
        f"{UNIT} {_named(10, 10)} {LIVE}.",
        "Not collected where a worker gave no batch.",
    ),
    Page(
        "shallow-prefetch",
        "The workers are fast enough on average, but their batches are so uneven that the queue runs dry: a longer "
        "queue helps, and more workers do not.",
        "What the workers could deliver if they never waited for work, by what the device takes; spread of a batch's "
        "time.",
        (
            limits.STALL,
            limits.CAPACITY,
            limits.SPREAD,
            limits.HANDOVER_SPARE,
            limits.LONG_BATCH,
            limits.SEVERE_STALL,
            limits.DELAYED,
        ),
        f"{UNIT} {_named(10, 10)}",
        WORKERS_ONLY,
    ),
    Page(
        "thread-oversubscription",
        "More threads than cores: intra-op threads of the workers, or of the main process on a CPU, take turns with "
        "everything else, and an OpenMP team spins for the core it lost.",
        "torch's intra-op threads of workers and main process; a worker's time ready without a core (schedstat); a "
        "step beside the loader by a step alone.",
        (limits.DELAYED, limits.INFLATED, limits.SEVERE_STALL, limits.STALL),
        f"{UNIT} {_named(10, 10)}",
        "Threads of other libraries (OpenCV, MKL by itself) are not counted, only their delay is seen. Where those of "
        "the main process keep more than one core busy, the guided search tries main_threads=1.",
    ),
    Page(
        "pinned-workers",
        "The workers together may run on fewer CPUs than there are workers, while the process may use more: an "
        "import or worker_init_fn sets the affinity.",
        "Each worker's scheduler mask, with its first batch.",
        (limits.STALL,),
        f"{UNIT} {_named(10, 10)} {LIVE}.",
        "A mask that is set later than the first batch is not seen.",
    ),
    Page(
        "cpu-quota",
        "The control group has a CPU quota, and its processes use it up and must wait for the next period. It is most "
        "of a stall only where the share of such periods is half of the stall or more; else it ranks behind.",
        "nr_throttled by nr_periods of the tightest quota, in cpu.stat, while measuring.",
        (limits.QUOTA, limits.STALL, limits.MOST),
        f"{UNIT} {_named(10, 10)} Recorded files of both cgroup versions.",
        "Not collected without a quota, or where the group counts no periods.",
    ),
    Page(
        "memory-growth",
        "Each sample costs memory that stays: reading a Python object writes its reference count, and the page that "
        "workers shared with their parent is copied.",
        "Proportional set size after the first batch and at the end, batches on their way and pages of files left out, "
        "projected over an epoch.",
        (limits.GROWTH, limits.GROWTH_OWN, limits.GROWTH_SEEN),
        f"{UNIT} {_named(10, 10)}",
        "Not collected where smaps_rollup cannot be read, or without a length. A list of paths that is copied page by "
        "page over a whole epoch grows too slowly for a trial of seconds, and is not told from an allocator. Kernels "
        "without Pss_File in smaps_rollup count what memory maps hold as growth.",
    ),
    Page(
        "pin-pressure",
        "prefetch_factor times num_workers batches may be pinned at once, and torch rounds each block up to a power of "
        "two: memory that can be neither swapped nor dropped.",
        "Bytes of a batch, and the settings: arithmetic.",
        (limits.PINNED,),
        UNIT,
        "Silent without pin_memory.",
    ),
    Page(
        "shared-gpu",
        "Other processes used the GPU meanwhile: neither its time nor its memory were the training's alone.",
        "NVML's processes and their utilisation.",
        (limits.OTHER_SM, limits.STALL),
        f"{UNIT} Recorded drivers.",
        "In a container the driver may hide other processes.",
    ),
    Page(
        "throttled-gpu",
        "Heat, or a failing power supply, held the GPU's clocks down. A power cap is no fault and left out.",
        "NVML's violation counters, or its clock event reasons at five looks, one a second, or more.",
        (limits.THROTTLED, limits.STALL),
        f"{UNIT} Recorded drivers.",
        "Not collected without NVML.",
    ),
    Page(
        "synchronising-step",
        "The training step waits for the device itself (.item(), .cpu(), print of a tensor): the host cannot queue "
        "ahead, and the device pauses between the steps. Pauses in which the host waited for a batch are the loader's; "
        "those in which it took one that lay ready are not.",
        "One warm step under torch's own debug mode, which warns of each wait; the device's idle time in the loop; the "
        "host's CPU to take a batch, from the loader alone.",
        (limits.STALL, limits.HANDOVER_SPARE),
        f"{UNIT} {_named(10, 10)} The counting is tested against scripted warnings. {NO_GPU}",
        "CUDA, or a replayed device that is told to wait. Collectives and sparse operations are not covered by torch's "
        "mode.",
    ),
    Page(
        "small-batch-norm",
        "BatchNorm's statistics come from too few samples a device; accumulation does not help, they are taken a "
        "batch.",
        "The batch size.",
        (BATCH_NORM,),
        UNIT,
        "Whether the model has BatchNorm is not looked at.",
    ),
    Page(
        "repeated-samples",
        "An iterable data set that every worker walks through whole: an epoch holds each sample num_workers times. Its "
        "worth is in different samples a second.",
        "Fingerprints of each worker's first 16 samples.",
        (limits.REPEATED,),
        f"{UNIT} {_named(10, 10)} Two live workers with and without shards.",
        "Random augmentation or shuffling hides repeats; samples that are all alike tell nothing. Compared are "
        "tensors, arrays, numbers and text alone.",
    ),
    Page(
        "swap",
        "The machine read pages back from swap: what was swapped out is waited for. It is most of a stall only where "
        "that many pages, read one by one from a disk, can have taken half of it; else it ranks behind.",
        "pswpin of /proc/vmstat over the trial, of the whole machine.",
        (limits.SWAPPED, limits.STALL, limits.MOST),
        UNIT,
        "Not collected where the kernel does not count it.",
    ),
    Page(
        "foreign-load",
        "Others, or the hypervisor, used cores that the training could have used.",
        "/proc/stat less the trial's own CPU time, and steal.",
        (limits.FOREIGN, limits.BLOCKED, limits.INFLATED, limits.SATURATED, limits.STALL),
        f"{UNIT} {_named(10, 10)} benchmarks/coverage.py marks disturbed runs by the same threshold.",
        "Memory bandwidth and storage that others use are not seen.",
    ),
    Page(
        "undecided",
        "The evidence is missing or contradicts itself: the causes that it cannot tell apart are named, with what to "
        "run.",
        "What two rules would have needed.",
        (
            limits.STALL,
            limits.PLATEAU,
            limits.INFLATED,
            limits.HOST_WAITS,
            limits.BLOCKED,
            limits.MISS,
            limits.HANDOVER_SPARE,
            limits.SATURATED,
            limits.FOREIGN,
            limits.MOST,
        ),
        UNIT,
    ),
    Page(
        "noisy",
        "The rates of a trial's windows differ so much that a single trial says little.",
        "Standard deviation of the windows by their mean.",
        (limits.NOISY,),
        UNIT,
    ),
    Page(
        "page-cache",
        "Where the bytes came from: a first epoch and a later one differ in that.",
        "Share of bytes that storage delivered, and the state of the cache that was meant.",
        (),
        UNIT,
        "Not collected on file systems that bypass block accounting.",
    ),
    Page(
        "other-streams",
        "Each worker seeds its own generators: another num_workers draws other augmentations for the same seed.",
        "The two settings.",
        (),
        UNIT,
    ),
)
"""Every rule that a finding may carry."""

BY_RULE = {page.rule: page for page in PAGES}
