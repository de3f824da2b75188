"""Is what a trial reports true? Data and devices whose rate is known beforehand, through the real engine."""

import itertools
import os
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from loadtune.advice.search import Leg
from loadtune.measure.loader import EndlessOrder
from loadtune.payload import share_objects
from loadtune.records.measurement import Cause, TrialState
from loadtune.records.messages import InspectTask, Sources
from loadtune.records.settings import DeviceChoice, WorkloadSpec
from tests.integration.conftest import make_runner, make_spec, quick, replay
from tests.targets.truth import SAMPLE_S, STEP_S

TRUTH = "tests.targets.truth:"
CPU = DeviceChoice(kind="cpu")


ATTEMPTS = 5
"""Others work on the machine too: a rate that is off may be theirs, one that is off five times is not."""


def measured(run, *args, rate=None, within=None, **changes):
    """The measurement of a trial that must complete; with a rate, of the first of a few that comes near it."""
    spec = make_spec(*args, **changes)
    for _ in range(1 if rate is None else ATTEMPTS):
        result = run(spec)
        assert result.state is TrialState.COMPLETE, result.failure
        if rate is not None and result.rate_per_s == pytest.approx(rate, rel=within):
            break
    if rate is not None:
        assert result.rate_per_s == pytest.approx(rate, rel=within)
    return result.measurement


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_a_device_bound_rate_is_the_profile_s(run, num_workers):
    """A loader that is quick enough leaves the device's own rate, without stalls."""
    options = quick(measure_s=1.0, window_min_s=0.4)
    device = replay(0.05)
    found = measured(
        run, TRUTH + "instant", num_workers, batch_size=8, device=device, measure=options, rate=8 / 0.05, within=0.03
    )
    assert found.step_s == pytest.approx(0.05, rel=0.03)
    assert found.stall_ratio < 0.05


def test_the_resident_ceiling_is_the_profile_s(run):
    """No loader at all: one batch on the device again and again."""
    device = replay(0.05)
    found = measured(
        run, TRUTH + "instant", 2, batch_size=8, feed="resident", device=device, rate=8 / 0.05, within=0.03
    )
    assert found.worker is None
    assert found.batch_bytes is None


def test_a_loader_bound_rate_is_workers_over_seconds_a_sample(run):
    """Waits overlap in workers; the device stalls, and more workers are faster."""
    rates = []
    for num_workers in (1, 2, 4):
        rate = num_workers / SAMPLE_S
        options = quick(measure_s=1.2, window_min_s=0.4)
        found = measured(run, TRUTH + "waiting", num_workers, batch_size=4, measure=options, rate=rate, within=0.1)
        assert found.stall_ratio > 0.9
        assert all(window.batches % num_workers == 0 for window in found.windows)
        rates.append(found.rate_per_s)
    assert rates == sorted(rates)


def test_without_workers_loading_and_training_take_turns(run):
    """The main process loads: on a CPU its wait and the step add up, beside a device the longer one counts."""
    step = TRUTH + "train_step"  # 10 ms
    found = measured(
        run, TRUTH + "squares_waiting", 0, batch_size=2, device=CPU, train_step_target=step, rate=2 / 0.05, within=0.1
    )
    assert found.stall_ratio == pytest.approx(0.8, abs=0.1)
    rate = 2 / (2 * SAMPLE_S)
    found = measured(run, TRUTH + "waiting", 0, batch_size=2, device=replay(0.02), rate=rate, within=0.1)
    assert found.stall_ratio == pytest.approx(0.8, abs=0.1)


def test_a_slow_start_of_the_training_does_not_fill_the_queue_beforehand(run):
    """Its first steps take long: the device is warm before the loader starts, so no full queue feeds the first window.

    With eight batches of each of two workers ready beforehand, the first window would look several times as fast.
    """
    step = TRUTH + "slow_at_first"
    options = quick(measure_s=1.5, window_min_s=0.5, warm_up_s=0.5)
    found = measured(
        run,
        TRUTH + "waiting",
        2,
        batch_size=4,
        prefetch_factor=8,
        device=CPU,
        train_step_target=step,
        measure=options,
        rate=2 / SAMPLE_S,
        within=0.12,
    )
    assert found.windows[0].queue_before <= 2
    assert found.startup.device_warm_up_s > 0.8


def test_a_worker_that_starts_late_is_no_stall(run):
    """The first window begins when what was waited for while warming up has been trained on."""
    options = quick(measure_s=1.0, window_min_s=0.4)
    found = measured(
        run, TRUTH + "late_second", 2, batch_size=8, device=replay(0.05), measure=options, rate=8 / 0.05, within=0.05
    )
    assert found.startup.loader_warm_up_s > 1.0
    assert found.stall_ratio < 0.05


def test_a_worker_that_is_ahead_does_not_raise_the_rate(launcher):
    """One worker starts late: the other fills its part of the queue, which then stays full and adds nothing."""
    with ExitStack() as stack:
        path = share_objects({"dataset": SlowStart()}, stack)
        runner = make_runner(launcher, Sources(payload_path=path))

        def run(spec):
            return runner.run(spec, Leg(settings=spec.settings, role="grid"), 1, spec_deadline())

        options = quick(measure_s=1.5, window_min_s=0.5)
        found = measured(run, "", 2, batch_size=4, prefetch_factor=8, measure=options, rate=2 / SAMPLE_S, within=0.12)
    assert abs(found.windows[-1].queue_after - found.windows[0].queue_before) <= 3


def spec_deadline():
    """A minute from now."""
    return time.monotonic() + 60


class SlowStart(Dataset):
    """The first batch takes a second to arrive, while the other worker runs ahead."""

    def __len__(self):
        return 1000

    def __getitem__(self, number):
        info = torch.utils.data.get_worker_info()
        if info is not None and info.id == 0 and not hasattr(self, "begun"):
            time.sleep(1.0)
        self.begun = True
        time.sleep(SAMPLE_S)
        return torch.zeros(4)


def test_windows_of_the_loader_are_whole_bursts_and_none_is_dropped(run):
    """Windows follow each other without a gap."""
    found = measured(run, TRUTH + "waiting_half", 3, batch_size=2, measure=quick(measure_s=1.0, window_min_s=0.2))
    assert len(found.windows) >= 2
    assert all(window.batches % 3 == 0 for window in found.windows)
    for left, right in zip(found.windows, found.windows[1:], strict=False):
        assert right.started_s == pytest.approx(left.started_s + left.duration_s, abs=1e-6)
    assert found.samples_seen >= sum(window.samples for window in found.windows)


def test_nothing_consuming_measures_the_loader_alone(run):
    """No device figures; the worker's elapsed time a sample is known, since it never waits."""
    options = quick(measure_s=1.0)
    found = measured(run, TRUTH + "waiting", 2, consume="nothing", measure=options, rate=2 / SAMPLE_S, within=0.1)
    assert (found.step_s, found.stall_ratio, found.copy_s, found.busy_spans) == (None, None, None, ())
    assert found.worker.wall_s_per_sample == pytest.approx(SAMPLE_S, rel=0.15)
    assert found.worker.cpu_s_per_sample < 0.2 * SAMPLE_S
    assert found.worker.sample_bytes == 16
    assert found.batch_bytes == 64


def test_cached_batches_take_the_loader_out(run):
    """Its first batches again: the device's rate, however slow the data set is."""
    device = replay(0.05)
    found = measured(run, TRUTH + "waiting", 2, batch_size=4, feed="cached", device=device, rate=80, within=0.03)
    assert found.worker is None


def test_a_cap_gives_one_short_window_and_says_so(run):
    """A loader too slow for one window still gives a rate, with a note."""
    options = quick(window_min_s=30.0, measure_s=60.0, cap_s=1.5, warm_up_s=0.5)
    found = measured(run, TRUTH + "waiting", 2, batch_size=2, measure=options)
    assert len(found.windows) == 1
    assert "Time was up" in found.notes[0]


def test_a_data_set_slower_than_the_cap_still_ends(run):
    """One batch takes longer than the whole leg may: two are waited for, not more."""
    options = quick(window_min_s=5.0, measure_s=10.0, cap_s=0.3, warm_up_s=0.1)
    result = run(make_spec(TRUTH + "waiting", 1, batch_size=10, measure=options))
    assert result.state is TrialState.COMPLETE, result.failure
    assert result.measurement.samples_seen <= 5 * 10


def test_an_iterable_data_set_that_ends_is_begun_again(run):
    """Epochs follow one another; the rate is that of the whole, starts included."""
    for num_workers in (0, 2):
        for persistent in {False, num_workers > 0}:
            found = measured(run, TRUTH + "stream", num_workers, batch_size=4, persistent_workers=persistent)
            assert found.samples_seen > 40 * max(1, num_workers)


def test_a_data_set_that_yields_nothing_is_the_user_s_error(run):
    """It says what to do instead of running for ever."""
    for num_workers in (0, 2):
        result = run(make_spec(TRUTH + "dry", num_workers))
        assert (result.state, result.failure.cause) == (TrialState.FAILED, Cause.USER_CODE)
        assert "yields no batch" in result.failure.message


class Recording(Dataset):
    """Appends each index it is asked for to a file; one write a sample, so that lines stay whole."""

    def __init__(self, path, length=50):
        self.path = path
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, number):
        with Path(self.path).open("a") as file:
            file.write(f"{number}\n")
        return torch.zeros(4)


def indices(launcher, tmp_path, name, num_workers, **changes):
    """The first indices that a trial asked for; those of several workers as a set for each round of batches."""
    path = tmp_path / name
    with ExitStack() as stack:
        sources = Sources(payload_path=share_objects({"dataset": Recording(str(path))}, stack))
        runner = make_runner(launcher, sources)
        spec = make_spec("", num_workers, measure=quick(measure_s=0.1, window_min_s=0.05), **changes)
        result = runner.run(spec, Leg(settings=spec.settings, role="grid"), 1, spec_deadline())
    assert result.state is TrialState.COMPLETE, result.failure
    return [int(line) for line in path.read_text().split()]


def test_every_trial_sees_the_same_seeded_order(launcher, tmp_path):
    """Settings are compared on the same samples; each epoch is a shuffle of all, and seeds differ."""
    # The device's warm-up takes no batch of a replayed device, so the record begins with the trial's own order.
    first = indices(launcher, tmp_path, "a", 0)
    assert indices(launcher, tmp_path, "b", 0)[:100] == first[:100]
    assert indices(launcher, tmp_path, "c", 1)[:100] == first[:100]
    assert indices(launcher, tmp_path, "d", 1, batch_size=10)[:100] == first[:100]
    two = indices(launcher, tmp_path, "e", 2)
    # Two workers write as they come: all but what was in flight at the end is a beginning of the same order.
    expected = Counter(itertools.islice(EndlessOrder(50, 0), len(two)))
    assert (Counter(two) - expected).total() <= 6 * 4
    assert sorted(first[:50]) == sorted(first[50:100]) == list(range(50))
    assert first[:50] not in (first[50:100], list(range(50)))
    assert indices(launcher, tmp_path, "f", 0, order_seed=1)[:50] != first[:50]
    assert indices(launcher, tmp_path, "g", 0, first_sample=60)[:40] == first[60:100]


class Signing(torch.utils.data.Dataset):
    """Notes the process that every sample is made in."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 50

    def __getitem__(self, number):
        with Path(self.path).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return torch.zeros(4)


@pytest.mark.parametrize("persists", [True, False])
def test_workers_outlive_the_end_of_an_epoch_if_they_persist(launcher, tmp_path, persists):
    """Epochs of two batches for each of two workers: the same two processes in all of them, or two new ones in each."""
    path = tmp_path / "pids"
    with ExitStack() as stack:
        sources = Sources(payload_path=share_objects({"dataset": Signing(str(path))}, stack))
        measure = quick(measure_s=0.3, window_min_s=0.1)
        spec = make_spec("", 2, measure=measure, epoch_batches=4, persistent_workers=persists)
        result = make_runner(launcher, sources).run(spec, Leg(settings=spec.settings, role="grid"), 1, spec_deadline())
    assert result.state is TrialState.COMPLETE, result.failure
    workers = set(path.read_text().split())
    assert result.measurement.samples_seen > 3 * 4 * 4
    assert (len(workers) == 2) is persists
    assert (len(workers) > 4) is not persists


def test_a_loader_with_its_own_batches_keeps_them(run, runner):
    """A batch_sampler decides the batch size; it is begun again when it ends."""
    task = InspectTask(
        workload=WorkloadSpec(dataset_target=TRUTH + "loader_of_its_own_batches"), sources=Sources(), batch_size=16
    )
    looked = runner.inspect(task)
    assert looked.fixed_batch_size == 2
    assert looked.loader_settings.num_workers == 0
    found = measured(run, TRUTH + "loader_of_its_own_batches", 2, batch_size=2)
    assert {window.samples / window.batches for window in found.windows} == {2.0}
    assert found.samples_seen > 20


def test_a_loader_with_its_own_sampler_keeps_it(run):
    """The batch size is still ours."""
    found = measured(run, TRUTH + "loader_of_its_own_order", 2, batch_size=8)
    assert {window.samples / window.batches for window in found.windows} == {8.0}
    assert found.samples_seen > 20


def test_a_loader_keeps_collate_generator_and_worker_init(run):
    """The data set would sleep a minute a sample if worker_init_fn did not reach the worker's copy of it."""
    found = measured(run, TRUTH + "loader_of_its_own_parts", 2, batch_size=4)
    assert found.batch_bytes == 64
    result = run(make_spec(TRUTH + "loader_of_its_own_parts", 0, measure=quick(silence_s=1.0)))
    assert result.failure.cause is Cause.HANG  # no worker, so nobody calms it


def test_an_unbatched_loader_yields_what_it_yields(run):
    """batch_size=None: samples come as they are."""
    found = measured(run, TRUTH + "unbatched_loader", 1, batch_size=1)
    assert found.rate_per_s > 0


@pytest.mark.parametrize(
    "changes",
    [{"persistent_workers": True}, {"prefetch_factor": 1}, {"prefetch_factor": 6}, {"in_order": False}],
    ids=lambda changes: next(iter(changes)),
)
def test_the_other_settings_leave_the_rate_alone(run, changes):
    """Steady data know no difference."""
    options = quick(measure_s=1.0)
    measured(run, TRUTH + "waiting", 2, batch_size=2, measure=options, rate=2 / SAMPLE_S, within=0.1, **changes)


def test_a_tiny_model_trains_on_the_cpu(run):
    """The device is warmed up on a batch of the user's own, and every step takes time."""
    found = measured(run, TRUTH + "squares", 1, batch_size=4, device=CPU, model_target=TRUTH + "tiny_model", threads=1)
    assert found.step_s > 0
    assert found.startup.device_warm_up_s > 0
    assert found.device_memory_bytes is None
    assert 0 <= found.stall_ratio <= 1
    assert found.busy_spans == ()


def test_a_user_s_own_step_is_timed(run):
    """It sleeps, at least as long as it asks for, and nothing else takes long: most of each batch's time is its own."""
    step = TRUTH + "train_step"
    found = measured(run, TRUTH + "squares", 1, batch_size=4, device=CPU, train_step_target=step, threads=1)
    batch_s = sum(window.duration_s for window in found.windows) / sum(window.batches for window in found.windows)
    assert found.step_s is not None
    assert STEP_S <= found.step_s <= 1.05 * batch_s
    assert found.step_s > 0.5 * batch_s


def test_the_resident_feed_trains_on_a_batch_of_the_user_s_own(run):
    """The ceiling of a model that only takes the user's shapes."""
    found = measured(
        run, TRUTH + "squares", 0, batch_size=4, feed="resident", device=CPU, model_target=TRUTH + "tiny_model"
    )
    assert found.step_s > 0


def test_the_built_in_network_takes_the_built_in_noise(run):
    """DeepLabv3+ on the CPU, resident: nothing but the crop decides."""
    found = measured(
        run,
        "",
        0,
        batch_size=2,
        feed="resident",
        device=CPU,
        crop_px=33,
        backbone="resnet18",
        measure=quick(measure_s=0.3, window_min_s=0.1),
    )
    assert found.rate_per_s > 0


class Detections(Dataset):
    """Images of 3 channels whose targets differ in number, as detectors take them."""

    def __len__(self):
        return 64

    def __getitem__(self, number):
        return torch.zeros(3, 8, 8), {"boxes": torch.zeros(number % 5, 4)}


def keep_apart(samples):
    """Collate without stacking."""
    return tuple(zip(*samples, strict=True))


def test_samples_are_counted_where_the_collate_stacks_nothing(launcher):
    """A detector's batch is a tuple of images: its samples are not its images' channels."""
    with ExitStack() as stack:
        loader = DataLoader(Detections(), batch_size=8, collate_fn=keep_apart)
        sources = Sources(payload_path=share_objects({"dataset": loader}, stack))
        runner = make_runner(launcher, sources)
        for feed in ("loader", "cached"):
            spec = make_spec("", 1, batch_size=8, feed=feed, device=replay(0.01))
            result = runner.run(spec, Leg(settings=spec.settings, role="grid"), 1, spec_deadline())
            assert {window.samples / window.batches for window in result.measurement.windows} == {8.0}
        looked = runner.inspect(InspectTask(workload=WorkloadSpec(), sources=sources, batch_size=4))
    assert looked.loader_settings.batch_size == 8
    assert looked.sample_bytes == pytest.approx(3 * 8 * 8 * 4 + 2 * 16, rel=0.1)


def test_start_up_is_told_apart_from_the_steady_state(run):
    """Phases are not negative, and windows begin after the warm-up."""
    found = measured(run, TRUTH + "waiting", 2, batch_size=4)
    startup = found.startup
    phases = (startup.process_s, startup.build_s, startup.first_batch_s, startup.loader_warm_up_s)
    assert all(phase >= 0 for phase in phases)
    assert startup.first_batch_s >= 4 * SAMPLE_S
    begun_s = found.windows[0].started_s
    assert begun_s == pytest.approx(startup.first_batch_s + startup.loader_warm_up_s, abs=0.01)
    assert found.epoch_boundary_s >= 0


@pytest.mark.parametrize("batch_size", [20, 40])
def test_the_end_of_an_epoch_that_the_data_set_ends_is_what_the_device_waits_for(run, batch_size):
    """Forty samples a worker: one or two batches each, so that nothing of an epoch is a steady state."""
    found = measured(run, TRUTH + "stream", 2, batch_size=batch_size, device=replay(0.01))
    assert found.epoch_samples == 80
    batches = sum(window.batches for window in found.windows)
    epoch_s = found.duration_s / batches * (80 / batch_size)
    assert found.epoch_boundary_s == pytest.approx(epoch_s - 80 / batch_size * 0.01, rel=0.25)
    assert found.worker.times.busy_s_per_sample >= 0.001


def test_what_workers_are_too_slow_for_is_no_end_of_an_epoch(run):
    """Twenty batches each at 2 ms before a device of half a millisecond: the most of the waiting is all along."""
    found = measured(run, TRUTH + "stream", 2, batch_size=2, device=replay(0.0005))
    assert found.epoch_samples == 80
    epoch_s = found.duration_s / sum(window.batches for window in found.windows) * 40
    assert 0 < found.epoch_boundary_s < 0.7 * found.stall_ratio * epoch_s
