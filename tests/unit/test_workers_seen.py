"""What follows from made-up words and times of workers."""

import pytest

from loadtune.measure.batch_clock import Work
from loadtune.measure.loader import Stamp
from loadtune.measure.worker_clock import Hello
from loadtune.measure.workers_seen import summarise_setup, summarise_times
from loadtune.workload.segmentation import Faults


def work(**changes):
    values = {
        "busy_s": 0.4,
        "cpu_s": 0.1,
        "process_cpu_s": 0.1,
        "delayed_s": 0.1,
        "collate_s": 0.04,
        "median_s": 0.1,
        "slowest_s": 0.12,
        "slowest_index": 7,
        "indexed": "dataset",
        "parts": (("Crop", 0.2),),
        "minor_faults": 8,
    }
    return Work(**(values | changes))


def stamp(made=None, hello=None, worker=0, samples=4):
    return Stamp(worker, 1.0, None, None, Faults(), samples, made, hello)


def hello(prints=(), cpus=(0, 1), started_s=10.5, reason=None, prints_reason=None):
    return Hello(started_s=started_s, cpus=cpus, threads=2, prints=prints, prints_reason=prints_reason, reason=reason)


def test_busy_time_is_core_delay_and_the_rest_blocked():
    found = summarise_times([stamp(work()), stamp(work())], 4)
    assert found.busy_s_per_sample == pytest.approx(0.1)
    assert (found.cpu_s_per_sample, found.delayed_s_per_sample) == (pytest.approx(0.025), pytest.approx(0.025))
    assert found.blocked_s_per_sample == pytest.approx(0.05)
    assert found.minor_faults_per_sample == pytest.approx(2.0)


def test_what_the_kernel_does_not_tell_is_unknown():
    """Even where it tells it of one batch only. The time on a core comes from another clock."""
    found = summarise_times([stamp(work()), stamp(work(delayed_s=None))], 4)
    assert (found.delayed_s_per_sample, found.blocked_s_per_sample) == (None, None)
    assert found.cpu_s_per_sample == pytest.approx(0.025)


def test_what_other_threads_compute_is_no_waiting():
    """0.4 s, 0.1 of them late: threads that compute for 0.2 s leave 0.1; more than all of it is none."""
    found = summarise_times([stamp(work(process_cpu_s=0.2))], 4)
    assert found.blocked_s_per_sample == pytest.approx(0.1 / 4)
    assert found.cpu_s_per_sample == pytest.approx(0.1 / 4)
    assert summarise_times([stamp(work(process_cpu_s=1.2))], 4).blocked_s_per_sample == 0.0


def test_batches_that_the_data_set_makes_count_their_samples():
    """With batch_size=None a stamp does not say how many: what the windows counted stands in."""
    found = summarise_times([stamp(work(), samples=None), stamp(work(), samples=None)], 32.0)
    assert found.busy_s_per_sample == pytest.approx(0.4 / 32)
    assert found.parts[0].s_per_sample == pytest.approx(0.2 / 32)
    assert summarise_times([stamp(work(), samples=None)], 0.0) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (7, "dataset")),
        ({"indexed": "dataset.dataset"}, (7, "dataset.dataset")),
        ({"indexed": "worker"}, (7, "worker 3")),
        ({"slowest_index": None}, (None, None)),
        ({"slowest_s": None, "slowest_index": None}, (None, None)),
    ],
)
def test_the_slowest_sample_is_said_to_be_of_what_its_index_counts_in(changes, expected):
    found = summarise_times([stamp(work(**changes), worker=3)], 4)
    assert (found.slowest_index, found.slowest_in) == expected


def test_only_slow_samples_count_as_excess():
    """A sample of 1.2 times the median is none; one of ten times adds nine medians."""
    assert summarise_times([stamp(work()), stamp(work())], 4).slow_excess_ratio == 0.0
    found = summarise_times([stamp(work()), stamp(work()), stamp(work(busy_s=1.2, slowest_s=1.0, slowest_index=3))], 4)
    assert found.slow_excess_ratio == pytest.approx(0.9 / 2.0)
    assert (found.slowest_index, found.slowest_sample_s) == (3, 1.0)


def test_a_batch_that_is_slow_as_a_whole_holds_no_slow_sample():
    """It is a burst: the batches differ, not the samples."""
    burst = work(busy_s=4.0, median_s=1.0, slowest_s=1.1)
    found = summarise_times([stamp(work()), stamp(work()), stamp(burst)], 4)
    assert found.slow_excess_ratio == 0.0
    assert found.batch_spread_ratio > 1.0


def test_parts_add_up_to_the_busy_time_dearest_first():
    found = summarise_times([stamp(work())], 4)
    assert [part.name for part in found.parts] == ["Crop", "the rest of __getitem__", "collate_fn"]
    assert sum(part.s_per_sample for part in found.parts) == pytest.approx(found.busy_s_per_sample)
    assert summarise_times([stamp(work(parts=()))], 4).parts[0].name == "__getitem__"


def test_nothing_timed_is_nothing_known():
    assert summarise_times([stamp()], 4) is None
    assert summarise_setup([stamp(work())], 1, "fork", 10.0) is None


def test_the_last_worker_s_start_counts_and_the_cpus_of_all():
    stamps = [stamp(hello=hello(cpus=(0,))), stamp(hello=hello(cpus=(3,), started_s=12.0), worker=1)]
    found = summarise_setup(stamps, 2, "spawn", 10.0)
    assert (found.start_s, found.cpus, found.threads, found.start_method) == (2.0, 2, 2, "spawn")


def test_a_worker_that_gave_no_batch_leaves_it_open():
    found = summarise_setup([stamp(work(), hello(prints=(1, 2)))], 2, "fork", 10.0)
    assert (found.start_s, found.cpus, found.repeated_ratio) == (None, None, None)
    assert found.unavailable[0].reason == "a worker gave no batch"


@pytest.mark.parametrize(
    ("prints", "expected"),
    [
        (((1, 2, 3), (1, 2, 3)), 1.0),
        (((1, 2), (3, 4)), 0.0),
        (((1, 2, 3, 4), (1, 5, 6, 7)), 0.25),
        (((1, 1), (1, 1)), None),
        (((), ()), None),
    ],
)
def test_repeats_are_told_from_shards_and_from_samples_that_are_all_alike(prints, expected):
    stamps = [stamp(work(), hello(prints=each), number) for number, each in enumerate(prints)]
    found = summarise_setup(stamps, 2, "fork", 10.0)
    assert found.repeated_ratio == expected
    assert (expected is None) == bool(found.unavailable)


def test_samples_that_are_not_compared_leave_the_repeats_open():
    """Of any worker."""
    stamps = [stamp(work(), hello(prints=(1, 2))), stamp(work(), hello(prints_reason="odd"), 1)]
    found = summarise_setup(stamps, 2, "fork", 10.0)
    assert (found.repeated_ratio, found.unavailable[0].reason) == (None, "odd")


@pytest.mark.parametrize(("reason", "expected"), [("odd", "odd"), (None, "samples come by no method that is watched")])
def test_times_that_are_missing_have_a_reason(reason, expected):
    """The clock's, or that nothing came its way."""
    found = summarise_setup([stamp(hello=hello(reason=reason)), stamp(hello=hello(), worker=1)], 2, "fork", 10.0)
    assert [each.reason for each in found.unavailable if each.reading == "worker.times"] == [expected]
