"""From readings to a trace: fake readers and a fake clock; and the replayed GPU, as a property."""

import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtune.monitor import trace as tracing
from loadtune.monitor.gpu import UTILISATION, GpuReadings
from loadtune.monitor.gpu_watch import GPU_INTERVAL_S, GpuWatch
from loadtune.monitor.host import MachineReading, TreeReading
from loadtune.monitor.sampler import Sampler, replayed_gpu_samples, with_replayed_gpu
from loadtune.records.resources import GpuSample, ResourceTrace, Unavailable
from loadtune.stats import jitter

START_S = 5000.0
UUID = "GPU-1"


class Clock:
    def __init__(self):
        self.now_s = START_S

    def __call__(self):
        return self.now_s


class FakeTree:
    """A tree whose workers use 3 cores and whose main process uses half of one, twice that after 10 s."""

    root_pid = 100
    pids = frozenset({100, 101})
    io_reason = None
    pss_reason = None

    pss_processes = 1
    pss_file_bytes = 200

    def __init__(self, clock):
        self.clock = clock
        self.failure = None
        self.memory_bytes = 1000
        self.disk = self.chars = 10
        self.pss = 700
        self.is_closed = False

    def read(self):
        if self.failure is not None:
            raise self.failure
        passed_s = self.clock() - START_S
        used_s = passed_s + max(0.0, passed_s - 10)
        return TreeReading(
            main_cpu_s=2 + 0.5 * used_s,
            worker_cpu_s=1 + 3 * used_s,
            memory_bytes=self.memory_bytes,
            process_count=4,
            read_bytes=None if self.disk is None else int(self.disk * passed_s),
            read_chars=None if self.chars is None else int(self.chars * passed_s),
        )

    def read_pss_bytes(self):
        return self.pss

    def close(self):
        self.is_closed = True


class FakeMachine:
    """A machine with one core busy with others, a quarter stolen, throttled in two periods of five."""

    def __init__(self, clock, tree):
        self.clock, self.tree = clock, tree
        self.reasons = {}
        self.failure = None
        self.kills = (3, None)

    def read(self):
        if self.failure is not None:
            raise self.failure
        passed_s = self.clock() - START_S
        ours = self.tree.read()
        return MachineReading(
            busy_s=50 + passed_s + ours.main_cpu_s + ours.worker_cpu_s,
            steal_s=0.25 * passed_s,
            shm_bytes=64,
            periods=round(10 * passed_s),
            throttled_periods=round(4 * passed_s),
        )

    def read_oom_kills(self):
        return self.kills

    def read_swapped_in_bytes(self):
        return None if self.clock() < START_S else round(4096 * (self.clock() - START_S))

    def close(self):
        pass


class FakeGpu:
    """A GPU that gives six samples a second, 80 % and 40 % by turns."""

    uuid = UUID
    lost_reason = None

    def __init__(self, clock):
        self.clock = clock
        self.is_closed = False
        self.drained_s = START_S - 2
        self.drains_s = []
        self.unavailable = ()
        self.state = GpuReadings(memory_bytes=5, power_w=300.0, sm_clock_mhz=1700, throttle_reasons=())

    def drain_utilisation(self):
        samples = []
        while self.drained_s + 1 / 6 <= self.clock() + 1e-9:
            self.drained_s += 1 / 6
            samples.append((self.drained_s, 0.8 if len(samples) % 2 else 0.4))
        self.drains_s.append(self.clock())
        return samples

    def read_state(self):
        return self.state

    def close(self):
        self.is_closed = True


class FakeNvml:
    reason = None
    refusal = None

    def __init__(self, gpu):
        self.gpu = gpu

    def device(self, uuid):
        if uuid != UUID:
            self.refusal = f"{uuid}: the driver knows no such thing"
            return None
        return self.gpu


class Bench:
    """A sampler on fakes, moved by hand."""

    def __init__(self, **options):
        self.clock = Clock()
        self.tree = FakeTree(self.clock)
        self.machine = FakeMachine(self.clock, self.tree)
        self.gpu = FakeGpu(self.clock)
        self.sampler = Sampler((100,), trees=(self.tree,), machine=self.machine, clock=self.clock, **options)

    def watch_gpu(self, uuid=UUID):
        """Watch the GPU, or one that the driver does not know; return the driver's session."""
        nvml = FakeNvml(self.gpu)
        self.sampler._gpu = GpuWatch(nvml, self.clock, shares_pids=True)
        if uuid is not None:
            self.sampler.use_gpu(uuid)
        return nvml

    def run(self, ticks, interval_s=0.1):
        for _ in range(ticks):
            self.sampler.tick()
            self.clock.now_s += interval_s


def reasons(trace):
    return {item.reading: item.reason for item in trace.unavailable}


def test_means_cover_the_whole_trace_when_unmarked():
    """Rates between samples, and the same in the means."""
    bench = Bench()
    bench.run(51)
    trace = bench.sampler.stop()
    assert trace.started_monotonic_s == START_S
    assert trace.mean_worker_cores == pytest.approx(3)
    assert trace.mean_main_cores == pytest.approx(0.5)
    assert trace.mean_foreign_cores == pytest.approx(1)
    assert trace.mean_steal_cores == pytest.approx(0.25)
    first, second = trace.host[:2]
    assert (first.at_s, first.worker_cores, first.memory_bytes, first.shm_bytes) == (0.0, None, 1000, 64)
    assert second.at_s == pytest.approx(0.1)
    assert second.worker_cores == pytest.approx(3)
    assert trace.host[5].throttled_ratio in {0.0, 1.0}
    assert bench.tree.is_closed


def test_means_cover_only_the_measuring_interval():
    """Marks fall between readings; the figures on either side do not count."""
    bench = Bench()
    bench.run(201)
    bench.sampler.mark_measuring(START_S + 12.03, START_S + 17.77)
    assert bench.sampler.stop().mean_worker_cores == pytest.approx(6)


def test_mean_across_a_change_is_weighted_by_time():
    """A quarter of the interval at 3 cores, three quarters at 6."""
    bench = Bench()
    bench.run(201)
    bench.sampler.mark_measuring(START_S + 8, START_S + 16)
    assert bench.sampler.stop().mean_worker_cores == pytest.approx(3 / 4 + 6 * 3 / 4)


def test_means_do_not_depend_on_the_pace_of_reading():
    """Uneven readings, as of a starved thread, give the same mean."""
    bench = Bench()
    for pause in (0.1, 2.3, 0.1, 7.0, 0.4, 3.0):
        bench.run(1, pause)
    bench.sampler.mark_measuring(START_S + 1, START_S + 9)
    assert bench.sampler.stop().mean_worker_cores == pytest.approx(3)


def test_an_interval_that_was_not_watched_has_no_mean():
    """None with a reason, not the nearest figure."""
    bench = Bench()
    bench.run(11)
    bench.sampler.mark_measuring(START_S + 100, START_S + 110)
    trace = bench.sampler.stop()
    assert (trace.mean_worker_cores, trace.miss_ratio) == (None, None)
    assert reasons(trace)["mean_worker_cores"] == tracing.NOTHING_IN_INTERVAL
    assert reasons(trace)["miss_ratio"] == tracing.NOTHING_IN_INTERVAL


def test_memory_is_the_latest_and_the_peak():
    """The runner compares the latest with its limit; the trace keeps the largest."""
    bench = Bench()
    assert bench.sampler.memory_bytes is None
    for size in (1000, 9000, 3000):
        bench.tree.memory_bytes = size
        bench.run(1)
    assert bench.sampler.memory_bytes == 3000
    assert bench.sampler.stop().peak_memory_bytes == 9000


def test_a_long_trace_stays_small_and_true():
    """An hour of readings: evenly thinned, rates between what is kept, the last reading among them."""
    bench = Bench()
    bench.run(9000, 0.4)
    trace = bench.sampler.stop()
    assert len(trace.host) <= tracing.POINTS_MAX
    gaps = {round(right.at_s - left.at_s, 3) for left, right in zip(trace.host[1:], trace.host[2:-1], strict=False)}
    assert len(gaps) == 1
    assert trace.host[-1].at_s == pytest.approx(3600)
    assert trace.host[-10].worker_cores == pytest.approx(6)


def test_miss_ratio_is_storage_over_all_bytes():
    """Readahead may fetch more than was read: at most 1."""
    bench = Bench()
    bench.tree.disk, bench.tree.chars = 1_000_000, 4_000_000
    bench.run(11)
    assert bench.sampler.stop().miss_ratio == pytest.approx(0.25, abs=1e-3)
    bench = Bench()
    bench.tree.disk, bench.tree.chars = 4_000_000, 1_000_000
    bench.run(11)
    assert bench.sampler.stop().miss_ratio == 1.0


def test_unreadable_io_is_none_with_its_reason():
    """And so are the rates of the samples."""
    bench = Bench()
    bench.tree.disk = bench.tree.chars = None
    bench.tree.io_reason = "/proc/<pid>/io: Permission denied"
    bench.run(11)
    trace = bench.sampler.stop()
    assert (trace.miss_ratio, trace.host[5].read_bytes_per_s) == (None, None)
    assert reasons(trace)["miss_ratio"] == "/proc/<pid>/io: Permission denied"


@pytest.mark.parametrize(
    ("disk", "chars", "reason"),
    [
        (0, 0, "the trial read no bytes while measuring"),
        (4_000, 8_000, "the trial read only "),
        (4_000_000, 1_000, "by memory maps"),
        (4_000_000, 0, "by memory maps"),
    ],
)
def test_too_few_bytes_read_are_not_a_ratio(disk, chars, reason):
    """Data in memory; a module that is imported meanwhile; a map, whose hits in the page cache are counted nowhere."""
    bench = Bench()
    bench.tree.disk, bench.tree.chars = disk, chars
    bench.run(11)
    trace = bench.sampler.stop()
    assert trace.miss_ratio is None
    assert reason in reasons(trace)["miss_ratio"]


@pytest.mark.parametrize(("kills", "expected"), [((3, None), 0), ((4, 0), 1), ((3, 2), 0), ((None, None), None)])
def test_out_of_memory_kills_are_counted(kills, expected):
    """Growth of the larger counter; None where there is none."""
    bench = Bench()
    bench.run(2)
    bench.machine.kills = kills
    trace = bench.sampler.stop()
    assert trace.oom_kills == expected
    assert ("oom_kills" in reasons(trace)) == (expected is None)


@pytest.mark.parametrize("failure", [OSError("gone"), ValueError("cut off"), IndexError("short")])
def test_a_failing_tree_is_dropped_and_the_machine_goes_on(failure):
    """Nothing is raised; what hangs on it is None, with the reason."""
    bench = Bench()
    bench.machine.tree = FakeTree(bench.clock)
    bench.tree.failure = failure
    bench.run(5)
    trace = bench.sampler.stop()
    assert (trace.mean_worker_cores, trace.mean_foreign_cores, trace.peak_memory_bytes) == (None, None, None)
    assert trace.mean_steal_cores == pytest.approx(0.25)
    assert reasons(trace)["mean_worker_cores"] == f"process 100: {failure}"


def test_a_failing_machine_is_dropped_for_good():
    """It is not asked again, and the tree goes on."""
    bench = Bench()
    bench.machine.failure = OSError("no /proc/stat")
    bench.run(5)
    bench.machine.failure = None
    bench.run(5)
    trace = bench.sampler.stop()
    assert trace.mean_worker_cores == pytest.approx(3)
    assert (trace.mean_foreign_cores, trace.mean_steal_cores, trace.host[-1].shm_bytes) == (None, None, None)
    assert "no /proc/stat" in reasons(trace)["mean_steal_cores"]


def test_what_the_machine_lacks_is_explained():
    """Series that are None throughout have their reason too."""
    bench = Bench()
    bench.machine.reasons = {"periods": "no cgroup CPU quota is set", "shm_bytes": "/dev/shm is not a mount"}
    assert reasons(bench.sampler.stop())["host.throttled_ratio"] == "no cgroup CPU quota is set"
    assert "host.shm_bytes" in reasons(bench.sampler.stop())


def test_several_trees_are_summed():
    """A duel watches two; foreign is what neither uses."""
    clock = Clock()
    trees = FakeTree(clock), FakeTree(clock)
    sampler = Sampler((), trees=trees, machine=FakeMachine(clock, trees[0]), clock=clock)
    for _ in range(11):
        sampler.tick()
        clock.now_s += 0.1
    assert sampler.memory_bytes == 2000
    assert sampler.read_pss() == 1400
    trace = sampler.stop()
    assert trace.mean_worker_cores == pytest.approx(6)
    assert trace.mean_foreign_cores == 0.0


def test_pss_is_read_on_request_only():
    """None with a reason before, kept after; a failed reading says why."""
    assert reasons(Bench().sampler.stop())["pss_bytes"] == "it was not asked for"
    bench = Bench()
    bench.tree.pss, bench.tree.pss_reason = None, "smaps_rollup: Permission denied"
    assert bench.sampler.read_pss() is None
    bench.tree.pss, bench.tree.pss_reason = 700, None
    assert bench.sampler.read_pss() == 700
    trace = bench.sampler.stop()
    assert (trace.pss_bytes, "pss_bytes" in reasons(trace)) == (700, False)


def test_the_early_pss_is_kept_where_it_is_of_the_same_processes():
    """It is no reading of the end, which is asked for apart; of fewer processes it tells no growth."""
    bench = Bench()
    bench.tree.pss = 500
    bench.sampler.read_first_pss()
    trace = bench.sampler.stop()
    assert (trace.pss_first_bytes, trace.pss_bytes) == (500, None)
    assert reasons(trace)["pss_bytes"] == "it was not asked for"
    bench = Bench()
    bench.tree.pss = 500
    bench.sampler.read_first_pss()
    bench.tree.pss, bench.tree.pss_processes = 900, 2
    bench.sampler.read_pss()
    trace = bench.sampler.stop()
    assert (trace.pss_first_bytes, trace.pss_bytes) == (None, 900)
    assert (trace.pss_file_growth_bytes, "pss_file_growth_bytes" in reasons(trace)) == (None, True)


def test_growth_in_files_is_told_apart():
    """None, with its reason, where a kernel does not tell it."""
    bench = Bench()
    bench.sampler.read_first_pss()
    bench.tree.pss, bench.tree.pss_file_bytes = 1000, 450
    bench.sampler.read_pss()
    assert bench.sampler.stop().pss_file_growth_bytes == 250
    bench = Bench()
    bench.sampler.read_first_pss()
    bench.tree.pss_file_bytes = None
    bench.sampler.read_pss()
    trace = bench.sampler.stop()
    assert trace.pss_file_growth_bytes is None
    assert "the kernel tells no files" in reasons(trace)["pss_file_growth_bytes"]


def test_what_came_back_from_swap_is_counted_from_the_start():
    """Here a page a second."""
    bench = Bench()
    bench.run(11)
    assert bench.sampler.stop().swapped_in_bytes == pytest.approx(4096, rel=0.2)


def test_gpu_is_drained_about_once_a_second_and_from_the_start_on():
    """What the driver's ring holds of before is left out; the means cover the measuring interval."""
    bench = Bench()
    bench.watch_gpu()
    bench.run(101)
    bench.sampler.mark_measuring(START_S + 2, START_S + 8)
    trace = bench.sampler.stop()
    assert min(sample.at_s for sample in trace.gpu) >= 0
    assert len(bench.gpu.drains_s) == pytest.approx(10 / GPU_INTERVAL_S, abs=2)
    assert trace.utilisation_mean_ratio == pytest.approx(0.6, abs=0.02)
    assert trace.jitter_ratio == pytest.approx(0.2, abs=0.02)
    assert trace.gpu_states[0].power_w == 300.0
    assert not trace.gpu_is_replayed
    assert {"utilisation_mean_ratio", "jitter_ratio"}.isdisjoint(reasons(trace))
    assert trace.gpu_use.mean_power_w == pytest.approx(300.0)
    assert bench.gpu.is_closed


def test_gpu_reasons_follow_the_cause():
    """No NVML asked for, no GPU named, an unknown one, one that gives no utilisation."""
    assert reasons(Bench().sampler.stop())["utilisation_mean_ratio"] == "NVML is not used"
    bench = Bench()
    bench.watch_gpu(None)
    assert reasons(bench.sampler.stop())["jitter_ratio"] == "the trial names no GPU"
    bench = Bench()
    bench.watch_gpu("GPU-2")
    found = reasons(bench.sampler.stop())
    assert "GPU-2" in found["utilisation_mean_ratio"]
    assert found["gpu_use"] == found["utilisation_mean_ratio"]
    bench = Bench()
    bench.watch_gpu(None).reason = "libnvidia-ml.so.1 not found"
    assert reasons(bench.sampler.stop())["utilisation_mean_ratio"] == "libnvidia-ml.so.1 not found"
    bench = Bench()
    bench.watch_gpu()
    bench.gpu.drained_s = float("inf")
    bench.gpu.state = GpuReadings()
    bench.gpu.unavailable = (
        Unavailable(reading=UTILISATION, reason="MIG instances have no utilisation"),
        Unavailable(reading="gpu_states.power_w", reason="not supported"),
    )
    trace = bench.sampler.stop()
    assert (trace.gpu, trace.gpu_states) == ((), ())
    assert reasons(trace)["utilisation_mean_ratio"] == "MIG instances have no utilisation"
    assert reasons(trace)["gpu_states.power_w"] == "not supported"


def test_a_gpu_that_is_lost_is_named_although_there_are_samples():
    """What was seen before stays; the loss is no secret."""
    bench = Bench()
    bench.watch_gpu()
    bench.run(31)
    bench.gpu.lost_reason = "the GPU is lost"
    trace = bench.sampler.stop()
    assert trace.utilisation_mean_ratio == pytest.approx(0.6, abs=0.05)
    assert reasons(trace)["gpu"] == "the GPU is lost"


def test_thread_reads_and_ends():
    """start and stop with a real thread on fakes; a second stop gives the same trace."""
    bench = Bench(interval_s=60.0)
    bench.sampler.start()
    trace = bench.sampler.stop()
    assert bench.sampler.stop() is trace
    assert len(trace.host) >= 1
    assert bench.sampler.cpu_s >= 0
    assert "loadtune-sampler" not in {thread.name for thread in threading.enumerate()}


def test_a_hanging_reading_does_not_hang_stop(monkeypatch):
    """A driver call that never returns costs the last reading, and the trace says so."""
    monkeypatch.setattr("loadtune.monitor.sampler.STOP_TIMEOUT_S", 0.01)
    bench = Bench()
    inside, release = threading.Event(), threading.Event()

    def hang():
        inside.set()
        release.wait(30)
        return []

    bench.gpu.drain_utilisation = hang
    bench.watch_gpu()
    bench.sampler.start()
    assert inside.wait(30)
    trace = bench.sampler.stop()
    release.set()
    bench.sampler._thread.join(30)
    assert "did not return" in reasons(trace)["gpu"]
    assert not bench.tree.is_closed
    assert not bench.gpu.is_closed


def test_no_tree_and_no_interval_are_told_apart():
    """Nothing to watch is a trace with reasons; no interval is a mistake."""
    clock = Clock()
    machine = FakeMachine(clock, FakeTree(clock))
    sampler = Sampler((), trees=(), machine=machine, clock=clock)
    assert sampler.read_pss() is None
    assert reasons(sampler.stop())["peak_memory_bytes"] == "no process is watched"
    with pytest.raises(ValueError, match="interval_s"):
        Sampler((), interval_s=0.0)


def test_slow_and_quick_samples_weigh_by_their_time():
    """Rates asked once a second and ring samples of 1/6 s in one mean; jitter takes each sample as it is."""
    quick = [GpuSample(at_s=place / 6, utilisation_ratio=1.0) for place in range(1, 13)]
    slow = [GpuSample(at_s=2.0 + place, utilisation_ratio=0.0) for place in (1, 2)]
    mean, deviation = tracing.summarise_utilisation([*quick, *slow], 0.0, 4.0)
    assert mean == pytest.approx(0.5)
    assert deviation == pytest.approx(jitter([1.0] * 12 + [0.0] * 2))
    assert tracing.summarise_utilisation([], 0.0, 1.0) == (None, None)


def test_thinning_keeps_all_of_a_short_list():
    """And every k-th of a long one."""
    assert tracing.thin((), 3) == ()
    assert tracing.thin((1, 2, 3), 3) == (1, 2, 3)
    assert tracing.thin((1, 2, 3, 4), 3) == (1, 3)


def test_replayed_square_wave_is_seen_as_nvml_would():
    """60 ms busy and 60 ms idle in turns look steady at 1/6 s; bursts of 1 s do not."""
    quick = [(place * 0.12, place * 0.12 + 0.06) for place in range(100)]
    slow = [(place * 2.0, place * 2.0 + 1.0) for place in range(6)]
    for spans, low, high in ((quick, 0.05, 0.2), (slow, 0.45, 0.55)):
        ratios = [sample.utilisation_ratio for sample in replayed_gpu_samples(spans, 0.0, 12.0)]
        assert len(ratios) == 72
        assert low < jitter(ratios) < high


def test_replayed_samples_need_time():
    """No period, no sample."""
    assert replayed_gpu_samples([(0.0, 1.0)], 5.0, 5.0) == ()


@given(
    st.lists(st.tuples(st.floats(-5, 40), st.floats(0, 3)), max_size=60),
    st.floats(-2, 10),
    st.floats(0.01, 30),
    st.floats(0.01, 2),
)
def test_replayed_mean_is_the_busy_share(pairs, start_s, length_s, period_s):
    """Whatever the spans: overlapping, unsorted, partly outside; and every value lies within 0 to 1."""
    spans = [(left, left + width) for left, width in pairs]
    end_s = start_s + length_s
    samples = replayed_gpu_samples(spans, start_s, end_s, period_s)
    edges = sorted({start_s, end_s, *(min(max(edge, start_s), end_s) for span in spans for edge in span)})
    busy_s = sum(
        right - left for left, right in pairwise(edges) if any(span[0] <= left and right <= span[1] for span in spans)
    )
    ratios = [sample.utilisation_ratio for sample in samples]
    assert all(0.0 <= ratio <= 1.0 for ratio in ratios)
    assert sum(ratios) / len(ratios) == pytest.approx(busy_s / (end_s - start_s), abs=1e-6)
    assert samples[-1].at_s == pytest.approx(end_s - start_s)


def empty_trace():
    missing = tuple(Unavailable(reading=name, reason="none") for name in ("utilisation_mean_ratio", "jitter_ratio"))
    other = Unavailable(reading="miss_ratio", reason="kept")
    return ResourceTrace(started_monotonic_s=START_S, unavailable=(*missing, other))


def test_a_trace_takes_a_replayed_gpu():
    """Marked as replayed; mean and jitter of the measuring interval alone; only that reason goes."""
    spans = [(START_S + 1, START_S + 4), (START_S + 5, START_S + 6), (START_S + 7, START_S + 8)]
    trace = with_replayed_gpu(empty_trace(), spans, (START_S + 4, START_S + 8))
    assert trace.gpu_is_replayed
    assert trace.utilisation_mean_ratio == pytest.approx(0.5)
    assert trace.jitter_ratio == pytest.approx(0.51, abs=0.01)
    assert (trace.gpu[0].at_s, trace.gpu[-1].at_s) == (pytest.approx(1 + 1 / 6), pytest.approx(8))
    assert reasons(trace) == {"miss_ratio": "kept"}
    assert with_replayed_gpu(empty_trace(), spans).utilisation_mean_ratio == pytest.approx(5 / 7)


def test_a_device_that_was_never_busy_is_not_zero():
    """No spans are no measurement."""
    trace = with_replayed_gpu(empty_trace(), [], (START_S, START_S + 1))
    assert (trace.gpu, trace.gpu_is_replayed, trace.utilisation_mean_ratio) == ((), False, None)
    assert reasons(trace)["jitter_ratio"] == "the replayed device was never busy"


def test_one_replayed_sample_has_no_jitter():
    """Too short an interval: the mean is there, the deviation has its reason."""
    trace = with_replayed_gpu(empty_trace(), [(START_S, START_S + 0.1)], (START_S, START_S + 0.2))
    assert trace.utilisation_mean_ratio == pytest.approx(0.5)
    assert (trace.jitter_ratio, "jitter_ratio" in reasons(trace)) == (None, True)


def test_throttling_that_is_not_counted_is_none():
    """Of either counter, at either end."""
    counted = MachineReading(periods=10, throttled_periods=5)
    for left, right in ((MachineReading(), counted), (counted, MachineReading(periods=20)), (None, counted)):
        points = [tracing.HostPoint(float(place), None, each) for place, each in enumerate((left, right))]
        assert tracing.compute_host_samples(points, 0.0)[1].throttled_ratio is None
