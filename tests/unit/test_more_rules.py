"""The rules that need what workers, windows or other trials say: each at both sides of its threshold, and its worth."""

import msgspec
import pytest

from loadtune.advice.case import Case, step_times
from loadtune.advice.rules import DROPPED_IF_EXPLAINED, EXPLAINED_BY, find
from loadtune.advice.worth import device_rate_per_s, worth_of_feeding, worth_of_loader_speed, worth_of_step_time
from loadtune.records.measurement import (
    Measurement,
    PartCost,
    Window,
    WorkerCost,
    WorkerSetup,
    WorkerTimes,
)
from loadtune.records.resources import (
    GpuInfo,
    GpuSample,
    GpuState,
    GpuUse,
    HostLimits,
    HostSample,
    ResourceTrace,
    Throttled,
)
from loadtune.records.settings import Settings
from loadtune.schedule.batch_growth import NoiseScaleEstimate
from tests.fake_runner import STARTUP, complete_result

GIB = 2**30
LIMITS = HostLimits(usable_cores=4.0, affinity_cores=4, memory_limit_bytes=16 * GIB, memory_available_bytes=12 * GIB)
IDLE, FULL = {"mean_worker_cores": 1.0, "mean_main_cores": 0.2}, {"mean_worker_cores": 3.7, "mean_main_cores": 0.2}
TIMES = WorkerTimes(
    busy_s_per_sample=0.02,
    cpu_s_per_sample=0.018,
    delayed_s_per_sample=0.001,
    blocked_s_per_sample=0.001,
    batch_spread_ratio=0.05,
    median_sample_s=0.02,
    slowest_sample_s=0.03,
    slowest_index=5,
    slow_excess_ratio=0.0,
)
SETUP = WorkerSetup(start_method="fork", start_s=0.1, cpus=4, threads=1)


def times(**changes):
    return msgspec.structs.replace(TIMES, **changes)


def setup(**changes):
    return msgspec.structs.replace(SETUP, **changes)


def run(
    *,
    stall=0.0,
    gap=0.0,
    copy=0.0,
    rate=100.0,
    settings=None,
    worker=TIMES,
    own=SETUP,
    trace=None,
    wait=None,
    number=1,
    role="grid",
    feed="loader",
    **measured,
):
    """A trial of 10 s whose steps split as said, all in shares of the time."""
    settings = settings or Settings(num_workers=2, batch_size=16)
    batches = round(10 * rate / settings.batch_size)
    whole_s = batches * settings.batch_size / rate
    window = Window(
        started_s=0.0,
        duration_s=whole_s,
        batches=batches,
        samples=batches * settings.batch_size,
        data_wait_s=(stall if wait is None else wait) * whole_s,
        device_idle_s=(stall + gap) * whole_s,
        copy_s=copy * whole_s,
        compute_s=(1 - stall - gap - copy) * whole_s,
    )
    cost = None if worker is None else WorkerCost(cpu_s_per_sample=0.018, times=worker)
    measurement = Measurement(windows=(window,), startup=STARTUP, stall_ratio=stall, worker=cost, setup=own, **measured)
    watched = ResourceTrace(started_monotonic_s=0.0, **(IDLE if trace is None else trace))
    return complete_result(settings, rate, measurement=measurement, trace=watched, number=number, role=role, feed=feed)


def alone(rate, batch_size=16, **changes):
    return run(
        rate=rate, settings=Settings(num_workers=0, batch_size=batch_size), role="ceiling", feed="resident", **changes
    )


def taking(main_cpu_s):
    """The loader alone: what taking a sample costs the main process."""
    return msgspec.structs.replace(run(role="loader", main_cpu_s_per_sample=main_cpu_s), consume="nothing")


def findings(chosen, **fields):
    options = {"limits": LIMITS, "device": "cuda", "sample_count": 10**6, "baseline": None} | fields
    return find(Case(chosen=chosen, **options))


def rules(chosen, **fields):
    return {each.rule: each for each in findings(chosen, **fields)}


def test_times_of_a_step_add_up():
    split = step_times(run(stall=0.3, gap=0.1, copy=0.2))
    assert split.whole_s == pytest.approx(0.16, rel=0.02)
    assert split.stall_s / split.whole_s == pytest.approx(0.3)
    assert split.gap_s / split.whole_s == pytest.approx(0.1)
    assert split.device_s == pytest.approx(0.7 * split.whole_s)


def test_worth_is_bounded_by_the_device():
    """Of a stall of a half at most all is won; a loader twice as fast wins no more, one by a tenth a tenth."""
    trial = run(stall=0.5)
    case = Case(chosen=trial, baseline=None, limits=LIMITS, device="cuda", others=(trial, alone(150.0)))
    assert device_rate_per_s(case, trial) == pytest.approx(200.0, rel=0.02)
    assert worth_of_feeding(case, trial) == pytest.approx(100.0, rel=0.02)
    assert worth_of_loader_speed(case, trial, 9.0) == worth_of_feeding(case, trial)
    assert worth_of_loader_speed(case, trial, 1.1) == pytest.approx(10.0)
    assert worth_of_step_time(trial, 100.0) == pytest.approx(900.0)  # a tenth of the step is always left
    with pytest.raises(ValueError, match="does not win"):
        worth_of_loader_speed(case, trial, 0.5)


@pytest.mark.parametrize("blocked", [0.0099, 0.0101])
def test_workers_that_wait_are_hidden_by_more_of_them(blocked):
    """That they wait is said from half of their time on; more are asked for until they were seen to win nothing."""
    chosen = run(stall=0.5, worker=times(blocked_s_per_sample=blocked, cpu_s_per_sample=0.009))
    found = rules(chosen)
    assert "storage-bound" not in found
    assert ("waits for something else" in found["loader-bound"].detail) == (blocked > 0.01)
    more = run(rate=101.0, settings=Settings(num_workers=4, batch_size=16))
    plateau = rules(chosen, others=(more,))
    assert ("storage-bound" in plateau, "loader-bound" in plateau) == (blocked > 0.01, False)


def test_a_cold_cache_is_told_from_other_waiting_by_misses():
    """Both are storage; only one is this machine's disk."""
    waiting = times(blocked_s_per_sample=0.015, cpu_s_per_sample=0.004)
    more = run(rate=101.0, settings=Settings(num_workers=4, batch_size=16))
    cold = rules(run(stall=0.5, worker=waiting, trace=IDLE | {"miss_ratio": 0.9}))["storage-bound"]
    warm = rules(run(stall=0.5, worker=waiting, trace=IDLE | {"miss_ratio": 0.0}), others=(more,))["storage-bound"]
    assert (cold.confidence, warm.confidence) == ("high", "medium")
    assert "came from storage" in cold.detail
    assert "0% of the bytes missed" in warm.detail


def test_the_dearest_transform_is_named():
    worker = times(parts=(PartCost(name="RandomAffine", s_per_sample=0.015), PartCost(name="Flip", s_per_sample=0.001)))
    found = rules(run(stall=0.5, worker=worker, trace=FULL))["cpu-saturated"]
    assert "RandomAffine takes longest: 75%" in found.detail
    whole = times(parts=(PartCost(name="__getitem__", s_per_sample=0.02),))
    assert "longest" not in rules(run(stall=0.5, worker=whole, trace=FULL))["cpu-saturated"].detail
    assert found.worth_per_s == pytest.approx(100.0, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "is_told"),
    [
        ({"slowest_sample_s": 0.1, "slow_excess_ratio": 0.1}, True),
        ({"slowest_sample_s": 0.099, "slow_excess_ratio": 0.1}, False),
        ({"slowest_sample_s": 0.1, "slow_excess_ratio": 0.099}, False),
        ({"slowest_sample_s": 0.1, "slow_excess_ratio": None}, False),
    ],
)
def test_slow_samples_are_rare_and_cost_something(changes, is_told):
    """Five times the median, and a tenth of the preparing; named by index, and nothing else is blamed."""
    found = findings(run(stall=0.3, worker=times(**changes)))
    assert (found[0].rule == "slow-samples") == is_told
    if is_told:
        assert "sample 5," in found[0].detail
        assert "loader-bound" not in {each.rule for each in found}
    assert "slow-samples" not in rules(run(stall=0.04, worker=times(**changes)))


@pytest.mark.parametrize(
    ("place", "named", "confirm"),
    [
        (None, "The slowest, sample 5, took", "dataset[5] timed"),
        ("dataset", "The slowest, sample 5, took", "dataset[5] timed"),
        ("dataset.dataset", "sample 5 of the data set under your Subset, took", "dataset.dataset[5] timed"),
        ("worker 1", "number 5 (from 0) of worker 1's samples in an epoch, took", "iter(dataset)"),
    ],
)
def test_the_slowest_sample_has_a_name_that_its_user_can_follow(place, named, confirm):
    """An index means nothing without what it counts in."""
    slow = times(slowest_sample_s=0.1, slow_excess_ratio=0.1, slowest_in=place)
    found = rules(run(stall=0.3, worker=slow))["slow-samples"]
    assert named in found.detail
    assert confirm in found.confirm
    nameless = rules(run(stall=0.3, worker=times(slowest_sample_s=0.1, slow_excess_ratio=0.1, slowest_index=None)))
    assert "one by one" in nameless["slow-samples"].confirm


@pytest.mark.parametrize(
    ("slowest", "busy", "is_told"), [(0.27, 0.004, False), (0.28, 0.004, True), (0.27, 0.02, True)]
)
def test_a_slow_sample_that_the_queue_hides_is_no_cause(slowest, busy, is_told):
    """Its batch takes 60 ms more, and three of 112 ms lie ready behind it where the workers are fast enough."""
    slow = times(slowest_sample_s=slowest, slow_excess_ratio=0.2, busy_s_per_sample=busy)
    assert ("slow-samples" in rules(run(stall=0.3, worker=slow))) == is_told


@pytest.mark.parametrize(
    ("busy", "spread", "is_told"),
    [
        (0.008, 0.9, True),
        (0.008, 0.2, False),
        (0.008, 0.5, False),
        (0.004, 0.9, False),
        (0.012, 0.5, True),
        (0.02, 0.9, False),
    ],
)
def test_a_short_queue_is_told_where_the_rate_suffices(busy, spread, is_told):
    """Two workers at 8 ms do 250/s, the device 142/s: the mean is enough. At 20 ms it is not.

    A batch two spreads longer than the mean must outlast the three that lie ready (336 ms), where the workers could
    make half as much again and so refill the queue.
    """
    found = rules(run(stall=0.3, worker=times(busy_s_per_sample=busy, batch_spread_ratio=spread)))
    assert ("shallow-prefetch" in found) == is_told
    if is_told:
        assert "prefetch_factor=4 (now 2)" in found["shallow-prefetch"].action


@pytest.mark.parametrize(
    ("alone_s", "delayed_s", "batch_size", "is_told"),
    [(0.008, 0.0, 16, True), (0.016, 0.0, 16, False), (0.008, 0.01, 16, False), (0.008, 0.0, 8, False)],
)
def test_uneven_batches_are_judged_by_every_look_at_them(alone_s, delayed_s, batch_size, is_told):
    """At 14.4 ms two workers miss the device's 143/s by a hair; the loader alone saw 8 ms, and the mean suffices.

    Not where its workers waited for cores, nor at another batch size.
    """
    cost = {"batch_spread_ratio": 0.9, "delayed_s_per_sample": 0.0}
    own = run(stall=0.3, worker=times(busy_s_per_sample=0.0144, **cost))
    look = times(busy_s_per_sample=alone_s, **cost | {"delayed_s_per_sample": delayed_s})
    settings = Settings(num_workers=1, batch_size=batch_size)
    loader = msgspec.structs.replace(run(role="loader", worker=look, settings=settings), consume="nothing")
    assert ("shallow-prefetch" in rules(own, others=(own, loader))) == is_told


def test_pinned_workers_come_before_what_they_cause():
    """Two workers on one CPU of four: not the CPU, and more workers would not help."""
    found = findings(run(stall=0.5, own=setup(cpus=1)))
    assert found[0].rule == "pinned-workers"
    assert "loader-bound" not in {each.rule for each in found}
    assert found[0].worth_per_s == pytest.approx(100.0, rel=0.02)
    assert "pinned-workers" not in rules(run(stall=0.5, own=setup(cpus=2)))
    assert rules(run(stall=0.01, own=setup(cpus=1)))["pinned-workers"].severity == "info"


def test_one_cpu_for_everything_is_no_pinning():
    limits = msgspec.structs.replace(LIMITS, usable_cores=1.0, affinity_cores=1)
    assert "pinned-workers" not in rules(run(stall=0.5, own=setup(cpus=1)), limits=limits)


def throttled(*ratios):
    host = tuple(HostSample(at_s=place + 1.0, throttled_ratio=each) for place, each in enumerate(ratios))
    return FULL | {"host": host, "measuring_s": (1.0, float(len(ratios)))}


def test_a_quota_is_told_by_its_periods():
    """While measuring only; it explains cores that are used up."""
    limits = msgspec.structs.replace(LIMITS, quota_cores=4.0)
    found = findings(run(stall=0.5, trace=throttled(0.0, 0.3, 0.5)), limits=limits)
    assert [each.rule for each in found][:2] == ["cpu-quota", "cpu-saturated"]
    assert "40%" in found[0].detail
    assert "cpu-quota" not in rules(run(stall=0.5, trace=throttled(1.0, 0.0, 0.0)))
    assert "cpu-quota" not in rules(run(stall=0.5, trace=FULL))


def test_threads_count_where_they_are_felt():
    """Two workers of four threads on four cores: by the workers' delay, or by the step's."""
    many = setup(threads=4)
    felt = rules(run(stall=0.3, own=many, worker=times(delayed_s_per_sample=0.002), trace=FULL))
    assert felt["thread-oversubscription"].confidence == "high"
    assert "thread-oversubscription" not in rules(run(stall=0.3, own=many, worker=times(delayed_s_per_sample=0.0019)))
    few = rules(run(stall=0.3, own=setup(threads=1), worker=times(delayed_s_per_sample=0.01)))
    assert "thread-oversubscription" not in few


def test_the_main_process_s_threads_count_on_a_cpu():
    """Its step takes twice as long beside the workers as alone."""
    trial = run(main_threads=4)
    slowed = rules(trial, device="cpu", others=(alone(200.0),))
    assert slowed["thread-oversubscription"].worth_per_s == pytest.approx(100.0, rel=0.02)
    assert "thread-oversubscription" not in rules(trial, device="cpu", others=(alone(105.0),))


def test_copies_are_told_with_memory_and_link():
    use = GpuUse(pcie_generation=3, pcie_width=8)
    gpu = GpuInfo(uuid="GPU-1", name="H100", pcie_max_generation=5, pcie_max_width=16)
    trial = run(copy=0.2, batch_bytes=160_000_000, trace=IDLE | {"gpu_use": use})
    found = rules(trial, gpu=gpu)["copy-bound"]
    assert (found.severity, found.worth_per_s) == ("warning", pytest.approx(25.0, rel=0.02))
    assert "pageable" in found.detail
    assert "generation 3 x8, at most 8 GB/s, though 5 x16 is possible" in found.detail
    assert rules(trial)["copy-bound"].severity == "advice"
    assert "copy-bound" not in rules(run(copy=0.099))
    assert "copy-bound" not in rules(run(copy=0.2, stall=0.2))  # the loader sets the pace, copies or not
    pinned = Settings(num_workers=2, batch_size=16, pin_memory=True)
    assert "pin_memory=True" not in rules(run(copy=0.2, settings=pinned))["copy-bound"].action


def test_a_small_batch_is_told_by_two_batch_sizes():
    """100/s at 16 and 160/s at 32: 0.12 s of fixed cost of 0.16 s. Doubling wins at most 60 %."""
    found = rules(run(), others=(alone(100.0), alone(160.0, 32)))["launch-bound"]
    assert (found.confidence, found.worth_per_s) == ("high", pytest.approx(60.0, rel=0.02))
    assert "batch_size=32 with 2 times" in found.action
    assert "launch-bound" not in rules(run(), others=(alone(100.0), alone(104.0, 32)))


def test_a_small_batch_counts_accumulation_the_noise_scale_and_the_ranks():
    """Three steps of 16 on two ranks are 96 samples, and twice the batch doubles that: the same factor as elsewhere."""
    settings = Settings(num_workers=2, batch_size=16, accumulation_steps=3)
    slow = {"others": (alone(100.0), alone(160.0, 32))}
    plain = rules(run(settings=settings), **slow)["launch-bound"]
    assert "batch_size=32 with 2 times the learning rate" in plain.action
    noise = NoiseScaleEstimate(samples=500.0, low=400.0, high=700.0, steps=100, is_lower_bound=False)
    found = rules(run(settings=settings), noise_scale=noise, world_size=2, **slow)["launch-bound"]
    assert f"with {2 * 596 / 692:.3g} times the learning rate" in found.action
    assert f"pays from {692 / 596:.2f} times the samples/s" in found.action


def test_a_small_batch_takes_the_place_of_accumulation_at_the_same_rate():
    settings = Settings(num_workers=2, batch_size=16, accumulation_steps=4)
    found = rules(run(settings=settings), others=(alone(100.0), alone(160.0, 32)))["launch-bound"]
    assert found.action == "Try batch_size=32 with accumulation_steps=2 and the same learning rate."
    assert found.worth_per_s == pytest.approx(60.0, rel=0.02)


def test_at_the_noise_scale_no_larger_batch_is_asked_for():
    """Compiling may take the whole fixed cost away: 0.12 of 0.16 s. Utilisation asks for no larger batch either."""
    noise = NoiseScaleEstimate(samples=10.0, low=8.0, high=12.0, steps=100, is_lower_bound=False)
    low = tuple(GpuSample(at_s=place / 6, utilisation_ratio=0.5) for place in range(30))
    trial = run(trace=IDLE | {"gpu": low})
    found = rules(trial, others=(alone(100.0), alone(160.0, 32)), noise_scale=noise)
    assert "batch_size" not in found["launch-bound"].action
    assert "torch.compile" in found["launch-bound"].action
    assert found["launch-bound"].worth_per_s == pytest.approx(300.0, rel=0.02)
    assert "batch_size" not in found["low-steady-gpu"].action


def test_a_small_batch_is_told_by_the_host_s_launches_where_there_is_one_size():
    """Medium: the host needs the whole step to queue it. Two sizes that say otherwise overrule it."""
    trial = run(launch_cpu_s=0.15)
    assert rules(trial)["launch-bound"].confidence == "medium"
    assert "launch-bound" not in rules(run(launch_cpu_s=0.14))
    assert "launch-bound" not in rules(trial, others=(alone(100.0), alone(101.0, 32)))
    assert "launch-bound" not in rules(trial, device="cpu")


def test_low_utilisation_is_judged_by_the_fixed_cost():
    """Where two batch sizes tell that a larger one wins nothing, utilisation does not ask for it."""
    low = tuple(GpuSample(at_s=place / 6, utilisation_ratio=0.5) for place in range(30))
    trial = run(trace=IDLE | {"gpu": low})
    assert "would not help" in rules(trial, others=(alone(100.0), alone(101.0, 32)))["low-steady-gpu"].title
    assert rules(trial, others=(alone(100.0), alone(160.0, 32)))["low-steady-gpu"].action is not None


def test_a_synchronising_step_counts_where_the_device_pauses():
    assert rules(run(gap=0.06, synchronisations=1))["synchronising-step"].severity == "advice"
    assert rules(run(gap=0.04, synchronisations=2))["synchronising-step"].severity == "info"
    late = rules(run(stall=0.3, wait=0.2, synchronisations=1))["synchronising-step"]
    assert (late.severity, late.worth_per_s) == ("advice", pytest.approx(100 / 0.9 - 100, rel=0.01))
    assert "synchronising-step" not in rules(run(gap=0.5, synchronisations=0))
    assert "synchronising-step" not in rules(run(gap=0.5))


def test_a_synchronising_step_is_not_what_waits_for_the_loader():
    """fp16's GradScaler calls .item() in each step: a loader that stalls it is the loader's, known or still open."""
    found = findings(run(stall=0.3, gap=0.02, synchronisations=1))
    told = next(each for each in found if each.rule == "synchronising-step")
    assert (told.severity, told.worth_per_s) == ("info", pytest.approx(100 / 0.98 - 100, rel=0.01))
    assert found[0].rule == "loader-bound"
    unknown = rules(run(stall=0.3, synchronisations=1, trace={}))
    assert unknown["undecided"].between == ("loader-bound", "cpu-saturated")
    partly = rules(run(stall=0.5, wait=0.3, synchronisations=1, trace={}))
    assert partly["synchronising-step"].severity == "advice"
    assert partly["undecided"].between == ("loader-bound", "cpu-saturated")
    alone_in_turn = run(stall=0.3, wait=0.2, synchronisations=1, settings=Settings(num_workers=0, batch_size=16))
    assert rules(alone_in_turn)["synchronising-step"].severity == "info"


def test_taking_a_ready_batch_is_what_a_queue_would_hide():
    """The loader alone says 2 ms a sample: of 160 ms a step, 32 pass while the device, told to wait, has nothing."""
    ready = times(busy_s_per_sample=0.012)
    trial = run(stall=0.3, synchronisations=1, trace=IDLE | {"mean_main_cores": 0.6}, worker=ready)
    told = rules(trial, others=(trial, taking(0.002)))["synchronising-step"]
    assert (told.severity, told.worth_per_s) == ("advice", pytest.approx(100 / 0.8 - 100, rel=0.02))
    found = findings(trial, others=(trial, taking(0.004)))
    assert found[0].rule == "synchronising-step"
    assert "loader-bound" not in {each.rule for each in found}


def test_a_batch_that_is_not_ready_is_the_loader_s_however_long_taking_takes():
    """fp16's GradScaler with too few workers: they make no more than arrives."""
    trial = run(stall=0.3, synchronisations=1)
    found = findings(trial, others=(trial, taking(0.004)))
    assert found[0].rule == "loader-bound"
    assert next(each for each in found if each.rule == "synchronising-step").severity == "info"


@pytest.mark.parametrize(
    ("cores", "busy", "is_told"), [(0.501, 0.012, True), (0.499, 0.012, False), (0.501, 0.014, False)]
)
def test_a_main_process_that_holds_up_faster_workers_is_the_limit(cores, busy, is_told):
    """Half busy with taking is enough where the workers could make half as much again: between them is nothing else."""
    trial = run(stall=0.5, trace=IDLE | {"mean_main_cores": 0.6}, worker=times(busy_s_per_sample=busy))
    found = rules(trial, others=(trial, taking(cores / 100)))
    assert ("main-process-bound" in found, "loader-bound" in found) == (is_told, not is_told)
    assert "main-process-bound" not in rules(trial)


@pytest.mark.parametrize(("busy", "is_open"), [(0.0093, True), (0.0094, False)])
def test_workers_that_are_fast_enough_are_not_too_few(busy, is_open):
    """At 9.3 ms two of them make 215/s, half as much again as the device's 142.9/s."""
    found = rules(run(stall=0.3, worker=times(busy_s_per_sample=busy)))
    assert ("loader-bound" in found) != is_open
    if is_open:
        assert found["undecided"].between == ("shallow-prefetch", "main-process-bound")


@pytest.mark.parametrize(
    ("start", "persists", "severity"), [(0.9, False, None), (4.0, False, "advice"), (4.0, True, "info")]
)
def test_slow_starts_count_for_the_epoch(start, persists, severity):
    """4 s of an epoch of 10 s; once a run it is a remark. What the boundary shows then is explained."""
    settings = Settings(num_workers=2, batch_size=16, persistent_workers=persists)
    trial = run(
        own=setup(start_s=start, start_method="spawn"),
        settings=settings,
        epoch_boundary_s=None if persists else start + 0.1,
    )
    found = findings(trial, sample_count=1000)
    told = {each.rule: each for each in found}.get("slow-start")
    assert (None if told is None else told.severity) == severity
    if severity == "advice":
        assert found[0].rule == "slow-start"
        assert told.worth_per_s == pytest.approx(100 * 4 / 14, rel=0.02)


def test_repeated_samples_are_worth_what_an_epoch_loses():
    found = findings(run(own=setup(repeated_ratio=1.0)))
    assert (found[0].rule, found[0].worth_per_s) == ("repeated-samples", pytest.approx(50.0))
    assert "repeated-samples" not in rules(run(own=setup(repeated_ratio=0.49)))
    one = Settings(num_workers=1, batch_size=16)
    assert "repeated-samples" not in rules(run(own=setup(repeated_ratio=1.0), settings=one))


@pytest.mark.parametrize(
    ("grown_mib", "count", "is_told"), [(200, 10**6, True), (200, 1000, False), (127, 10**7, False)]
)
def test_growth_is_projected_over_an_epoch(grown_mib, count, is_told):
    """200 MiB over 984 samples are 198 GiB over a million; up to 64 MiB a worker may be the allocator's."""
    memory = IDLE | {"pss_first_bytes": GIB, "pss_bytes": GIB + grown_mib * 2**20}
    assert ("memory-growth" in rules(run(samples_seen=1000, trace=memory), sample_count=count)) == is_told


@pytest.mark.parametrize(("count", "severity"), [(1300, "advice"), (1200, None), (20_000, "warning")])
def test_growth_is_told_by_what_was_there_and_warned_of_by_the_limit(count, severity):
    """200 MiB over 984 samples: a quarter of a GiB in an epoch of 1,260, a tenth of 16 GiB in one of 8,060."""
    memory = IDLE | {"pss_first_bytes": GIB, "pss_bytes": GIB + 200 * 2**20}
    found = rules(run(samples_seen=1000, trace=memory), sample_count=count).get("memory-growth")
    assert (None if found is None else found.severity) == severity


@pytest.mark.parametrize(("grown_mib", "is_told"), [(300, False), (310, True)])
def test_batches_on_their_way_are_no_growth(grown_mib, is_told):
    """Seven of 25 MiB: four in the queue, one in each worker's hands and one in the main process's."""
    memory = IDLE | {"pss_first_bytes": GIB, "pss_bytes": GIB + grown_mib * 2**20}
    found = rules(run(samples_seen=1000, trace=memory, batch_bytes=25 * 2**20))
    assert ("memory-growth" in found) == is_told


def test_pages_of_a_memory_map_are_no_growth():
    """np.memmap and LMDB fill the page cache, and a numpy array would not help."""
    memory = IDLE | {"pss_first_bytes": GIB, "pss_bytes": GIB + 300 * 2**20}
    assert "memory-growth" in rules(run(samples_seen=1000, trace=memory))
    mapped = memory | {"pss_file_growth_bytes": 200 * 2**20}
    assert "memory-growth" not in rules(run(samples_seen=1000, trace=mapped))


def test_pinned_queues_are_held_against_memory():
    pinned = Settings(num_workers=2, batch_size=16, pin_memory=True)
    assert rules(run(settings=pinned, batch_bytes=GIB // 2))["pin-pressure"].severity == "advice"
    assert rules(run(settings=pinned, batch_bytes=3 * GIB // 2))["pin-pressure"].severity == "warning"
    assert "pin-pressure" not in rules(run(settings=pinned, batch_bytes=GIB // 4))
    assert "pin-pressure" not in rules(run(batch_bytes=GIB))


def test_swap_is_told_from_a_megabyte():
    assert rules(run(stall=0.5, trace=IDLE | {"swapped_in_bytes": 300 * 2**20}))["swap"].severity == "warning"
    assert rules(run(trace=IDLE | {"swapped_in_bytes": 2**20}))["swap"].severity == "info"
    assert "swap" not in rules(run(trace=IDLE | {"swapped_in_bytes": 2**20 - 1}))


@pytest.mark.parametrize(("mib", "severity"), [(1, "info"), (5, "advice"), (7, "advice"), (9, "warning")])
def test_swap_explains_a_stall_that_its_pages_can_have_taken(mib, severity):
    """256 pages a MiB of 1.25 ms each, in 10 s: 3.2 %. A stall of half the time is mostly that from 7.8 MiB on."""
    found = findings(run(stall=0.5, trace=IDLE | {"swapped_in_bytes": mib * 2**20}))
    told = next(each for each in found if each.rule == "swap")
    share = 0.032 * mib
    assert told.severity == severity
    assert told.worth_per_s == pytest.approx(min(100.0, 100 * share / (1 - share)), rel=0.02)
    assert ("loader-bound" in {each.rule for each in found}) == (severity != "warning")
    assert (found[0].rule == "swap") == (severity == "warning")


def test_a_quota_explains_a_stall_that_its_periods_can_have_taken():
    """5 % of the periods are no stall of a half; 30 % are most of it, and more workers would only meet the quota."""
    idle = {key: value for key, value in throttled(0.0, 0.05, 0.05).items() if key not in FULL} | IDLE
    slight = findings(run(stall=0.5, trace=idle))
    assert [each.rule for each in slight][:2] == ["loader-bound", "cpu-quota"]
    assert slight[1].severity == "advice"
    assert slight[1].worth_per_s == pytest.approx(100 * 0.05 / 0.95)
    often = {key: value for key, value in throttled(0.0, 0.3, 0.3).items() if key not in FULL} | IDLE
    found = findings(run(stall=0.5, trace=often))
    assert (found[0].rule, found[0].severity) == ("cpu-quota", "warning")
    assert "loader-bound" not in {each.rule for each in found}
    unknown = {key: value for key, value in throttled(0.0, 0.05, 0.05).items() if key not in FULL}
    assert "undecided" in rules(run(stall=0.5, trace=unknown))


def test_a_neighbour_is_worth_its_cores_where_they_lack():
    """Half of what is used, taken by another: a half at most, or what the workers waited for a core."""
    busy = {"mean_worker_cores": 2.4, "mean_main_cores": 0.2, "mean_foreign_cores": 1.3}
    unknown = times(delayed_s_per_sample=None)
    assert rules(run(stall=0.5, trace=busy, worker=unknown))["foreign-load"].worth_per_s == pytest.approx(50.0)
    waited = times(delayed_s_per_sample=0.004)
    assert rules(run(stall=0.5, trace=busy, worker=waited))["foreign-load"].worth_per_s == pytest.approx(25.0)
    assert rules(run(stall=0.5, trace=IDLE | {"mean_foreign_cores": 0.5}))["foreign-load"].worth_per_s == 0.0
    assert rules(run(stall=0.01, trace=IDLE | {"mean_foreign_cores": 0.5}))["foreign-load"].severity == "info"


def test_heat_and_other_users_are_worth_what_they_take():
    hot = {
        "gpu_use": GpuUse(throttled=(Throttled(cause="thermal", ratio=0.5),), other_sm_ratio=0.2, other_processes=1),
        "gpu_states": (GpuState(at_s=1.0, sm_clock_mhz=900), GpuState(at_s=2.0, sm_clock_mhz=900)),
    }
    gpu = GpuInfo(uuid="GPU-1", name="H100", max_sm_clock_mhz=1800)
    found = rules(run(trace=IDLE | hot), gpu=gpu)
    assert found["throttled-gpu"].worth_per_s == pytest.approx(100.0)
    assert found["shared-gpu"].worth_per_s == pytest.approx(25.0)
    assert rules(run(trace=IDLE | hot))["throttled-gpu"].worth_per_s is None


# Undecided ----------------------------------------------------------------------------------------------------------


def test_unknown_cores_leave_it_open():
    """No guess: both names, and what to run."""
    found = rules(run(stall=0.3, trace={}))
    assert found["undecided"].between == ("loader-bound", "cpu-saturated")
    assert "--num-workers 4" in found["undecided"].action
    assert "loader-bound" not in found


def test_more_workers_that_won_nothing_contradict_idle_cores():
    more = run(rate=101.0, settings=Settings(num_workers=4, batch_size=16))
    found = rules(run(stall=0.3), others=(more,))
    assert found["undecided"].between == ("storage-bound", "main-process-bound")
    assert "loader-bound" not in found
    better = run(rate=104.0, settings=Settings(num_workers=4, batch_size=16))
    assert "loader-bound" in rules(run(stall=0.3), others=(better,))


def test_a_host_that_had_the_data_leaves_it_open():
    """The device waited 30 %, the loop for batches 5 %."""
    found = findings(run(stall=0.3, wait=0.05))
    assert ("synchronising-step", "main-process-bound") in [each.between for each in found]
    told = rules(run(stall=0.3, wait=0.05, synchronisations=1))
    assert "undecided" not in told


def test_a_step_slower_than_alone_leaves_it_open():
    """Nothing waits, and yet a fifth of the rate is missing; where the delay is known it is not asked for."""
    unknown = times(delayed_s_per_sample=None, blocked_s_per_sample=None)
    found = rules(run(worker=unknown), others=(alone(125.0),))
    assert found["undecided"].between == ("thread-oversubscription", "foreign-load")
    assert "undecided" not in rules(run(), others=(alone(125.0),))
    assert "undecided" not in rules(run(worker=unknown), others=(alone(105.0),))
    disturbed = rules(run(worker=unknown, trace=IDLE | {"mean_foreign_cores": 2.8}), others=(alone(125.0),))
    assert "undecided" not in disturbed
    assert disturbed["foreign-load"].worth_per_s == pytest.approx(25.0, rel=0.02)


def test_what_is_explained_ranks_behind_its_cause_or_is_dropped():
    assert set(EXPLAINED_BY) >= DROPPED_IF_EXPLAINED
    found = [each.rule for each in findings(run(stall=0.5, trace=FULL, own=setup(cpus=1)))]
    assert found[:2] == ["pinned-workers", "cpu-saturated"]


def test_what_workers_share_is_looked_for_where_there_are_workers():
    """The choice has none: because they are pinned, or all give the same. The gain is over the choice."""
    chosen = run(settings=Settings(num_workers=0, batch_size=16), own=None, worker=None, stall=0.5)
    pinned = run(stall=0.6, rate=80.0, own=setup(cpus=1, repeated_ratio=1.0), number=2)
    found = rules(chosen, others=(pinned, chosen))
    assert found["pinned-workers"].worth_per_s == pytest.approx(60.0)
    assert found["repeated-samples"].worth_per_s is None
    slow = run(settings=Settings(num_workers=1, batch_size=16), own=setup(start_s=9.0, start_method="spawn"))
    assert rules(chosen, others=(slow,))["slow-start"].severity == "info"
    assert "undecided" not in found


def test_cores_that_others_use_are_not_idle():
    """One core used and three taken by a neighbour: no call for more workers, and its end is worth what they waited."""
    taken = IDLE | {"mean_foreign_cores": 2.8}
    waited = times(busy_s_per_sample=0.03, delayed_s_per_sample=0.01)
    found = findings(run(stall=0.5, trace=taken, worker=waited))
    assert [each.rule for each in found][:2] == ["foreign-load", "cpu-saturated"]
    assert found[0].worth_per_s == pytest.approx(50.0)
    assert found[1].worth_per_s == pytest.approx(50.0, rel=0.05)
    assert "2.8 more by others" in found[1].detail


@pytest.mark.parametrize(("delayed_s", "named"), [(0.0029, "loader-bound"), (0.0031, "cpu-saturated")])
def test_cores_that_workers_wait_for_by_turns_are_not_idle(delayed_s, named):
    """3.3 of 4 are used on average, and workers wait for 0.3 more: nine tenths of all."""
    trace = {"mean_worker_cores": 3.1, "mean_main_cores": 0.2}
    found = findings(run(stall=0.5, trace=trace, worker=times(delayed_s_per_sample=delayed_s)))
    assert found[0].rule == named
    assert {each.rule for each in found} & {"loader-bound", "cpu-saturated"} == {named}
    assert ("workers waited for 0.3 more" in found[0].detail) == (named == "cpu-saturated")


@pytest.mark.parametrize(
    ("worker", "own"),
    [
        (times(busy_s_per_sample=0.05, delayed_s_per_sample=0.03), setup(cpus=1)),
        (times(busy_s_per_sample=0.05, delayed_s_per_sample=0.01, blocked_s_per_sample=0.03), SETUP),
    ],
)
def test_waiting_for_a_core_says_nothing_of_idle_ones_where_workers_cannot_or_need_not_use_them(worker, own):
    """Held to one CPU they wait for that one; where they mostly read, more of them hide the reads."""
    found = rules(run(stall=0.5, trace={"mean_worker_cores": 3.0, "mean_main_cores": 0.2}, worker=worker, own=own))
    assert "cpu-saturated" not in found
    assert ("loader-bound" in found) == (own is SETUP)


def test_a_neighbour_that_leaves_cores_is_what_workers_wait_for():
    """1.2 used, 1.2 taken, and workers wait for 2.6 by turns: samples are not to be made cheaper for that."""
    waited = times(busy_s_per_sample=0.03, delayed_s_per_sample=0.026)
    found = findings(run(stall=0.5, trace=IDLE | {"mean_foreign_cores": 1.2}, worker=waited))
    assert [each.rule for each in found][:2] == ["foreign-load", "cpu-saturated"]


def test_ends_of_epochs_that_stalled_the_device_leave_nothing_undecided():
    """Workers that are fast enough, a queue that is not to blame: what is left is the end that was seen."""
    quick = times(busy_s_per_sample=0.001)
    ended = run(stall=0.4, worker=quick, epoch_boundary_s=0.4, epoch_samples=100)
    assert [each.rule for each in findings(ended) if each.severity != "info"] == ["epoch-boundary"]
    barely = rules(run(stall=0.4, worker=quick, epoch_boundary_s=0.1, epoch_samples=100))
    assert {"epoch-boundary", "undecided"} <= barely.keys()
    unseen = rules(run(stall=0.4, worker=quick, epoch_boundary_s=1e5))
    assert {"epoch-boundary", "undecided"} <= unseen.keys()


def test_more_workers_are_asked_for_only_by_what_the_ends_of_epochs_do_not_explain():
    """Workers that make 125/s where 100/s arrive lose 20 % to ends; the other half of the 40 % is the loader's."""
    slow = times(busy_s_per_sample=2 / 125)
    found = rules(run(stall=0.4, worker=slow, epoch_boundary_s=0.4, epoch_samples=100))
    assert found["epoch-boundary"].worth_per_s == pytest.approx(25)
    assert found["loader-bound"].worth_per_s == pytest.approx(25)
    assert "The ends of epochs were 20% of the time" in found["loader-bound"].detail
    unknown = rules(run(stall=0.4, worker=None, epoch_boundary_s=0.4, epoch_samples=100))
    assert "loader-bound" not in unknown
    assert "epoch-boundary" in unknown
    assert "loader-bound" in rules(run(stall=0.4, worker=None, epoch_boundary_s=0.2, epoch_samples=100))


def test_copies_count_where_the_loader_is_fast_enough():
    """The device waits now and then, and a fifth of a step is still a copy."""
    assert "copy-bound" in rules(run(stall=0.2, copy=0.2, worker=times(busy_s_per_sample=0.001)))
    assert "copy-bound" not in rules(run(stall=0.2, copy=0.2))


def test_blocked_workers_need_no_idle_cores():
    """A neighbour has them all, and still reading is what the workers wait for."""
    blocked = times(cpu_s_per_sample=0.001, blocked_s_per_sample=0.018)
    found = findings(run(stall=0.5, trace=IDLE | {"mean_foreign_cores": 2.8}, worker=blocked))
    assert found[0].rule == "storage-bound"
    assert "cpu-saturated" not in {each.rule for each in found}


def test_workers_that_wait_for_their_own_threads_do_not_wait_for_storage():
    """The master of an OpenMP team sleeps until the others are done; that looks like a read."""
    team = times(cpu_s_per_sample=0.004, delayed_s_per_sample=0.004, blocked_s_per_sample=0.012)
    found = [each.rule for each in findings(run(stall=0.5, own=setup(threads=8), worker=team, trace=FULL))]
    assert found[:2] == ["thread-oversubscription", "cpu-saturated"]
    assert "storage-bound" not in found


@pytest.mark.parametrize("missed", [0.0, 0.9])
def test_cores_that_are_used_up_are_no_storage(missed):
    """OpenCV or PyAV decode in threads of their own: the worker's main thread waits, and all cores compute."""
    decoding = times(cpu_s_per_sample=0.001, blocked_s_per_sample=0.018)
    found = findings(run(stall=0.5, worker=decoding, trace=FULL | {"miss_ratio": missed}))
    assert found[0].rule == "cpu-saturated"
    assert not {"storage-bound", "loader-bound", "undecided"} & {each.rule for each in found}
    assert not any("more workers" in (each.action or "").lower() for each in found)


def test_more_workers_hide_waiting_only_where_cores_are_left():
    """A neighbour has them all: what is waited for is named, and no worker is asked for."""
    blocked = times(cpu_s_per_sample=0.001, blocked_s_per_sample=0.018)
    idle = rules(run(stall=0.5, worker=blocked))
    taken = rules(run(stall=0.5, worker=blocked, trace=IDLE | {"mean_foreign_cores": 2.8}))
    assert "num_workers=" in idle["loader-bound"].action
    assert "storage-bound" not in idle
    assert "loader-bound" not in taken
    assert "local copy" in taken["storage-bound"].action
