"""What did the machine do during this trial? One thread of the parent reads host and GPU on a fixed clock into a trace.

It never raises into the program: a reading that fails is dropped, and the trace says why. It ends no trial; the runner
reads `memory_bytes` and decides.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

from loadtune.monitor import trace as tracing
from loadtune.monitor.gpu_watch import GPU_INTERVAL_S, GpuWatch
from loadtune.monitor.host import MachineReader, MachineReading, TreeReader, TreeReading
from loadtune.monitor.nvml import Nvml
from loadtune.monitor.replayed import replayed_gpu_samples, with_replayed_gpu
from loadtune.monitor.trace import HostPoint, HostSeries, Interval
from loadtune.records.resources import ResourceTrace, Unavailable

__all__ = ["GPU_INTERVAL_S", "Sampler", "replayed_gpu_samples", "with_replayed_gpu"]

INTERVAL_S = 0.1
"""Time between host readings. CPU time is counted in ticks of 10 ms, so a shorter one shows steps, not load; a longer
one sees a memory limit being crossed later."""

STOP_TIMEOUT_S = 5.0
"""How long `stop` waits for a reading in progress: a driver call on a dying GPU can hang for good."""

EXPECTED_ERRORS = (OSError, ValueError, LookupError, ArithmeticError)
"""What a kernel file that is gone, cut off or of another form can raise."""


class Sampler:
    """Watches the process trees of one trial or duel, and the GPU it uses.

    All methods are called from the parent's own thread. `start` begins the watching, `stop` ends it and may be called
    again; without `start` the trace holds the reading that `stop` takes.

    Args:
        root_pids: Main process of each watched trial; their descendants are found.
        nvml: An open session; None: the GPU is not watched.
        interval_s: Seconds between host readings.
        trees: Readers of the trees, made from root_pids unless given.
        machine: Reader of the machine, made unless given.
        clock: Monotonic seconds, the trace's clock.
        shares_pids: Whether the GPU driver numbers processes as we do; None: it is found out.

    Raises:
        ValueError: interval_s is not positive.
    """

    def __init__(
        self,
        root_pids: Sequence[int],
        nvml: Nvml | None = None,
        interval_s: float = INTERVAL_S,
        *,
        trees: Sequence[TreeReader] | None = None,
        machine: MachineReader | None = None,
        clock: Callable[[], float] = time.monotonic,
        shares_pids: bool | None = None,
    ) -> None:
        if not interval_s > 0:
            raise ValueError(f"interval_s must be positive, not {interval_s}")
        self._interval_s, self._clock = interval_s, clock
        self._gpu = GpuWatch(nvml, clock, shares_pids=shares_pids)
        self._trees = [TreeReader(pid) for pid in root_pids] if trees is None else list(trees)
        self._machine = MachineReader() if machine is None else machine
        self._dropped: dict[str, str] = {}
        self._series = HostSeries()
        self._started_s = clock()
        self._memory_bytes: int | None = None
        self._peak_bytes: int | None = None
        self._pss_bytes: int | None = None
        self._measuring: Interval | None = None
        self._kills_before = self._machine.read_oom_kills()
        self._swapped_before = self._machine.read_swapped_in_bytes()
        self._pss_first_bytes: int | None = None
        self._pss_first_file_bytes: int | None = None
        self._pss_first_processes = 0
        self._cpu_s = 0.0
        self._ending = threading.Event()
        self._is_resting = False
        self._thread: threading.Thread | None = None
        self._trace: ResourceTrace | None = None

    @property
    def memory_bytes(self) -> int | None:
        """Resident memory of the watched trees at the last reading; None before the first."""
        return self._memory_bytes

    @property
    def cpu_s(self) -> float:
        """CPU seconds that the watching itself has cost so far."""
        return self._cpu_s

    def start(self) -> None:
        """Begin to read, in a thread of its own that does not keep the program alive."""
        self._started_s = self._clock()
        self._thread = threading.Thread(target=self._run, name="loadtune-sampler", daemon=True)
        self._thread.start()

    def rest(self, is_resting: bool) -> None:
        """Leave readings out until told to go on: what they cost can be measured so."""
        self._is_resting = is_resting

    def use_gpu(self, uuid: str) -> None:
        """Watch this GPU from the next reading on.

        Args:
            uuid: As the trial process names it: "GPU-...", "MIG-...", or a GPU's bare UUID.
        """
        self._gpu.use(uuid)

    def mark_measuring(self, start_monotonic_s: float, end_monotonic_s: float) -> None:
        """Say between which times the trial measured: the means cover only these. The last call counts."""
        self._measuring = (start_monotonic_s, end_monotonic_s)

    def read_pss(self) -> int | None:
        """Read the trees' proportional set size now and keep it for the trace: 15 ms of CPU a process."""
        figures = [tree.read_pss_bytes() for tree in self._trees]
        known = [figure for figure in figures if figure is not None]
        self._pss_bytes = sum(known) if known and len(known) == len(figures) else None
        reasons = [tree.pss_reason for tree in self._trees if tree.pss_reason is not None]
        if self._pss_bytes is None:
            self._dropped["pss_bytes"] = reasons[0] if reasons else "no process is watched"
        else:
            self._dropped.pop("pss_bytes", None)
        return self._pss_bytes

    def read_first_pss(self) -> None:
        """Read it early, before what is measured, so that the later reading tells growth."""
        self._pss_first_bytes, self._pss_bytes = self.read_pss(), None
        self._pss_first_file_bytes = self._pss_file_bytes()
        self._pss_first_processes = sum(tree.pss_processes for tree in self._trees)
        self._dropped.pop("pss_bytes", None)

    def stop(self) -> ResourceTrace:
        """Take a last reading, end the thread and return what was seen."""
        if self._trace is None:
            self._ending.set()
            if self._thread is not None:
                self._thread.join(STOP_TIMEOUT_S)
            has_ended = self._thread is None or not self._thread.is_alive()
            if has_ended:
                self.tick(is_last=True)
            else:  # the files stay open, for the thread may still read them
                self._dropped["gpu"] = f"a reading did not return within {STOP_TIMEOUT_S:g} s: the driver hangs"
            self._trace = self._build()
            if has_ended:
                for tree in self._trees:
                    tree.close()
                self._gpu.close()
            self._machine.close()
        return self._trace

    def tick(self, *, is_last: bool = False) -> None:
        """Read once. Called by the thread, and by `stop`, which wants the GPU read whether or not it is time."""
        now_s = self._clock()
        readings = [reading for tree in self._trees if (reading := self._read_tree(tree)) is not None]
        tree = tracing.sum_trees(readings) if len(readings) == len(self._trees) else None
        if tree is not None:
            self._memory_bytes = tree.memory_bytes
            self._peak_bytes = max(self._peak_bytes or 0, tree.memory_bytes)
        self._series.add(HostPoint(now_s, tree, self._read_machine()))
        own_pids = frozenset[int]().union(*(each.pids for each in self._trees))
        self._gpu.tick(now_s, own_pids, len(self._trees), at_once=is_last)

    def _run(self) -> None:
        due_s = self._clock()
        while not self._ending.is_set():
            if not self._is_resting:
                self.tick()
            self._cpu_s = time.thread_time()
            # Readings keep to the clock; one that came too late is left out, not made up for.
            due_s = max(due_s + self._interval_s, self._clock())
            self._ending.wait(due_s - self._clock())

    def _read_tree(self, tree: TreeReader) -> TreeReading | None:
        try:
            return tree.read()
        except EXPECTED_ERRORS as error:
            for name in ("mean_worker_cores", "mean_main_cores", "mean_foreign_cores", "peak_memory_bytes"):
                self._dropped.setdefault(name, f"process {tree.root_pid}: {error}")
            return None

    def _read_machine(self) -> MachineReading | None:
        if "machine" in self._dropped:
            return None
        try:
            return self._machine.read()
        except EXPECTED_ERRORS as error:
            for name in ("machine", "mean_foreign_cores", "mean_steal_cores"):
                self._dropped.setdefault(name, f"/proc/stat and its kin: {error}")
            return None

    def _build(self) -> ResourceTrace:
        points = self._series.points()
        interval = tracing.clamp_interval(self._measuring, points)
        missing = dict(self._dropped)
        means: dict[str, float | None] = {}
        for name, counter in (
            ("mean_worker_cores", tracing.worker_s),
            ("mean_main_cores", tracing.main_s),
            ("mean_foreign_cores", tracing.foreign_s),
            ("mean_steal_cores", tracing.steal_s),
        ):
            means[name] = None if interval is None else tracing.compute_mean_rate(points, counter, interval)
        means["miss_ratio"], why = (
            (None, tracing.NOTHING_IN_INTERVAL) if interval is None else tracing.compute_miss_ratio(points, interval)
        )
        if why is not None:
            missing.setdefault("miss_ratio", self._io_reason() or why)
        gpu = self._gpu.samples(self._started_s)
        gpu_use, unused = self._gpu.use_within(self._measuring)
        start_s, end_s = self._measuring or (self._started_s, float("inf"))
        means["utilisation_mean_ratio"], means["jitter_ratio"] = tracing.summarise_utilisation(
            gpu, start_s - self._started_s, end_s - self._started_s
        )
        kills, watched_s = self._count_oom_kills(), self._clock() - self._started_s
        first, swapped = self._pss_first_bytes if self._has_same_processes() else None, self._count_swapped_in()
        figures = {**means, "peak_memory_bytes": self._peak_bytes, "pss_bytes": self._pss_bytes, "oom_kills": kills}
        file_growth = None if first is None or self._pss_bytes is None else self._grown_in_files()
        figures |= {"pss_first_bytes": first, "pss_file_growth_bytes": file_growth, "swapped_in_bytes": swapped}
        marked = None if self._measuring is None else (start_s - self._started_s, end_s - self._started_s)
        return ResourceTrace(
            started_monotonic_s=self._started_s,
            measuring_s=marked,
            host=tracing.compute_host_samples(points, self._started_s),
            gpu=tracing.thin(gpu, tracing.GPU_SAMPLES_MAX),
            gpu_states=tracing.thin(self._gpu.states(self._started_s), tracing.POINTS_MAX),
            gpu_use=gpu_use,
            peak_memory_bytes=self._peak_bytes,
            pss_bytes=self._pss_bytes,
            pss_first_bytes=first,
            pss_file_growth_bytes=file_growth,
            swapped_in_bytes=swapped,
            mean_worker_cores=means["mean_worker_cores"],
            mean_main_cores=means["mean_main_cores"],
            mean_foreign_cores=means["mean_foreign_cores"],
            mean_steal_cores=means["mean_steal_cores"],
            miss_ratio=means["miss_ratio"],
            utilisation_mean_ratio=means["utilisation_mean_ratio"],
            jitter_ratio=means["jitter_ratio"],
            sampler_cores=self._cpu_s / watched_s if watched_s > 0 and self._cpu_s > 0 else None,
            oom_kills=kills,
            unavailable=self._explain(figures, missing, unused),
        )

    def _has_same_processes(self) -> bool:
        """Say whether both readings of the proportional set size are of as many processes, and so can be compared."""
        return sum(tree.pss_processes for tree in self._trees) == self._pss_first_processes

    def _pss_file_bytes(self) -> int | None:
        """Return what of the last proportional set size was pages of files; None where a kernel does not tell."""
        known = [tree.pss_file_bytes for tree in self._trees if tree.pss_file_bytes is not None]
        return sum(known) if known and len(known) == len(self._trees) else None

    def _grown_in_files(self) -> int | None:
        now, first = self._pss_file_bytes(), self._pss_first_file_bytes
        return None if now is None or first is None else max(0, now - first)

    def _count_swapped_in(self) -> int | None:
        """Return what came back from swap since this began; None where it is not counted."""
        after = self._machine.read_swapped_in_bytes()
        return None if after is None or self._swapped_before is None else max(0, after - self._swapped_before)

    def _count_oom_kills(self) -> int | None:
        """Return the larger growth of the machine's and our cgroup's counter: either may miss the trial's own kill."""
        after = self._kills_before
        with contextlib.suppress(*EXPECTED_ERRORS):
            after = self._machine.read_oom_kills()
        pairs = zip(self._kills_before, after, strict=True)
        growth = [right - left for left, right in pairs if left is not None and right is not None]
        return max(growth, default=None)

    def _explain(
        self, figures: dict[str, float | None], missing: dict[str, str], unused: dict[str, str]
    ) -> tuple[Unavailable, ...]:
        """Return a reason for each figure that is None, for each series that is, and for each use of the GPU."""
        general = {
            "pss_bytes": "it was not asked for",
            "pss_first_bytes": "it was not read early, or not of the same number of processes",
            "pss_file_growth_bytes": "not read twice, of the same number of processes, or the kernel tells no files",
            "swapped_in_bytes": "/proc/vmstat does not count it",
            "peak_memory_bytes": "no process is watched",
            "oom_kills": "neither /proc/vmstat nor the cgroup counts them",
            "mean_foreign_cores": self._machine.reasons.get("busy_s"),
            "mean_steal_cores": self._machine.reasons.get("steal_s"),
            "utilisation_mean_ratio": self._gpu.reason(),
            "jitter_ratio": self._gpu.reason(),
        }
        reasons = {
            name: missing.get(name) or general.get(name) or tracing.NOTHING_IN_INTERVAL
            for name, figure in figures.items()
            if figure is None
        }
        for field, name in (("shm_bytes", "host.shm_bytes"), ("periods", "host.throttled_ratio")):
            if field in self._machine.reasons:
                reasons[name] = self._machine.reasons[field]
        reasons |= {**self._gpu.refusals(), **unused}
        if "gpu" in missing:
            reasons["gpu"] = missing["gpu"]
        return tuple(Unavailable(reading=name, reason=reason) for name, reason in reasons.items())

    def _io_reason(self) -> str | None:
        reasons = [tree.io_reason for tree in self._trees if tree.io_reason is not None]
        return reasons[0] if reasons else None
