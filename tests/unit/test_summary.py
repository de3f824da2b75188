"""What did a leg show? Made-up steps and stamps, and the Measurement that follows from them."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from torch.utils.data import IterableDataset

from loadtune.measure.accelerator import Step
from loadtune.measure.batch_clock import Work
from loadtune.measure.loader import Stamp
from loadtune.measure.loop import make_window
from loadtune.measure.summary import BAD_SAMPLES_LISTED, Evidence, count_ready, summarise
from loadtune.records.settings import DeviceChoice, Settings, TrialSpec, WorkloadSpec
from loadtune.workload.segmentation import Faults

BEGAN_S = 1000.0


def make_leg(kind="replay", peak=None, **changes):
    settings = changes.pop("settings", Settings(num_workers=2, batch_size=4))
    spec = TrialSpec(settings=settings, device=DeviceChoice(kind=kind), workload=WorkloadSpec(), **changes)
    device = SimpleNamespace(peak_memory_bytes=lambda: peak, uuid="GPU-7")
    return SimpleNamespace(spec=spec, accelerator=device, build_s=0.5, loader=None)


def make_step(ended_s, *, idle_s=0.02, copy_s=0.01, compute_s=0.07, wait_s=0.03):
    return Step(
        samples=4,
        data_wait_s=wait_s,
        idle_s=idle_s,
        copy_s=copy_s,
        compute_s=compute_s,
        started_s=ended_s - copy_s - compute_s,
        finished_s=ended_s,
    )


def make_stamp(finished_s, *, worker=0, cpu_s=0.02, wall_s=0.08, faults=None):
    return Stamp(worker, finished_s, wall_s, cpu_s, faults or Faults(), 4)


STEPS = [make_step(BEGAN_S + 0.1 * (number + 1)) for number in range(21)]
TAKEN = [(make_stamp(step.finished_s - 0.15), step.finished_s - 0.1) for step in STEPS]


def make_evidence(**changes):
    values = {
        "run_steps": STEPS,
        "windows": [make_window(STEPS, 0, 10), make_window(STEPS, 10, 20)],
        "taken": TAKEN,
        "idle_reference_s": 0.005,
        "first_step": 0,
        "batch_bytes": 64,
        "main_cpu_s": 0.8,
        "process_s": 0.03,
        "device_warm_up_s": 0.2,
        "first_batch_s": 0.05,
        "loader_began_s": BEGAN_S,
        "notes": ["a note"],
    }
    return Evidence(**(values | changes))


def test_a_window_adds_up_the_steps_within_it():
    """From the end of one step to the end of another: what ended at its beginning is not in it."""
    window = make_window(STEPS, 5, 15)
    assert (window.batches, window.samples) == (10, 40)
    assert window.duration_s == pytest.approx(1.0)
    assert window.started_s == STEPS[5].finished_s
    assert (window.data_wait_s, window.device_idle_s) == (pytest.approx(0.3), pytest.approx(0.2))
    assert (window.copy_s, window.compute_s) == (pytest.approx(0.1), pytest.approx(0.7))


def test_the_figures_of_a_trained_leg():
    """Rates from windows, medians of steps, costs a sample."""
    found = summarise(make_leg(peak=77), make_evidence())
    assert found.rate_per_s == pytest.approx(40.0)
    assert (found.step_s, found.copy_s) == (pytest.approx(0.07), pytest.approx(0.01))
    assert found.step_spread_s == pytest.approx(0.0, abs=1e-9)
    assert found.stall_ratio == pytest.approx(0.15)
    assert found.main_cpu_s_per_sample == pytest.approx(0.01)
    assert found.worker.cpu_s_per_sample == pytest.approx(0.005)
    assert found.worker.wall_s_per_sample is None  # the worker may have waited for the consumer
    assert found.worker.sample_bytes == 16
    assert found.device_memory_bytes == 77
    assert found.samples_seen == 84
    assert found.device_uuid == "GPU-7"
    assert found.notes == ("a note",)


def test_windows_are_told_in_seconds_since_the_loader_began():
    """And start-up is what lies before the first."""
    found = summarise(make_leg(), make_evidence())
    assert [window.started_s for window in found.windows] == [pytest.approx(0.1), pytest.approx(1.1)]
    assert found.startup.loader_warm_up_s == pytest.approx(0.05)
    assert found.startup.build_s == 0.5
    assert found.epoch_boundary_s == 0.0


def test_an_epoch_s_end_costs_what_the_first_batch_takes_beyond_a_batch():
    """Not with persistent workers, nor without a loader."""
    assert summarise(make_leg(), make_evidence(first_batch_s=0.6)).epoch_boundary_s == pytest.approx(0.5)
    lasting = Settings(num_workers=2, batch_size=4, persistent_workers=True)
    assert summarise(make_leg(settings=lasting), make_evidence()).epoch_boundary_s is None
    assert summarise(make_leg(feed="cached"), make_evidence()).epoch_boundary_s is None


class Stream(IterableDataset):
    """Of no samples."""

    def __iter__(self):
        return iter(())


def test_without_workers_nothing_is_started_anew():
    """A file that the main process opens at first stays open; what an iterable data set does again is not known."""
    alone = make_leg(settings=Settings(num_workers=0, batch_size=4))
    assert summarise(alone, make_evidence(first_batch_s=3.0)).epoch_boundary_s == 0.0
    alone.loader = SimpleNamespace(dataset=Stream())
    assert summarise(alone, make_evidence(first_batch_s=3.0)).epoch_boundary_s is None


def test_an_epoch_that_ended_is_told_by_its_samples():
    """The last whole one; where none ended while the device was watched, none is told of."""
    assert summarise(make_leg(), make_evidence()).epoch_samples is None
    assert summarise(make_leg(), make_evidence(epoch_starts=(3, 15, 40))).epoch_samples == 48
    assert summarise(make_leg(), make_evidence(epoch_starts=(12,))).epoch_samples == 48
    late = make_evidence(epoch_starts=(3, 40), first_step=5, windows=[make_window(STEPS, 5, 20)], first_batch_s=0.6)
    assert summarise(make_leg(), late).epoch_samples is None
    assert summarise(make_leg(), late).epoch_boundary_s == pytest.approx(0.5)  # by the first batch, as of other data


def test_a_leg_without_a_device_has_no_device_figures():
    """But knows what a sample costs in elapsed time, since nobody lets the workers wait."""
    found = summarise(make_leg(consume="nothing", peak=77), make_evidence())
    assert (found.step_s, found.step_spread_s, found.copy_s, found.stall_ratio) == (None,) * 4
    assert (found.device_memory_bytes, found.busy_spans) == (None, ())
    assert found.worker.wall_s_per_sample == pytest.approx(0.02)


def test_busy_spans_are_kept_of_a_replayed_device_alone():
    """A real one is watched by its driver."""
    assert len(summarise(make_leg(), make_evidence()).busy_spans) == 21
    assert summarise(make_leg("cpu"), make_evidence()).busy_spans == ()


def test_a_batch_that_does_not_say_how_many_samples_it_holds_has_as_many_as_the_others():
    """Windows know it from the tensors: four."""
    work = Work(0.4, 0.1, 0.1, 0.0, 0.0, 0.4, 0.4, 3, "dataset", (), 0)
    taken = [(replace(stamp, samples=None, work=work), at_s) for stamp, at_s in TAKEN]
    assert summarise(make_leg(), make_evidence(taken=taken)).worker.times.busy_s_per_sample == pytest.approx(0.1)


def test_without_workers_there_is_no_worker_s_cost():
    """The main process made the batches."""
    taken = [(make_stamp(at_s, worker=None), at_s) for at_s in (BEGAN_S + 1, BEGAN_S + 2)]
    assert summarise(make_leg(), make_evidence(taken=taken)).worker is None
    assert summarise(make_leg(), make_evidence(taken=[(None, BEGAN_S)])).worker is None


def test_a_worker_s_first_batch_and_those_of_the_warm_up_do_not_count():
    """The first holds the start of the data set."""
    taken = [
        (make_stamp(BEGAN_S - 1, cpu_s=99.0), BEGAN_S),
        (make_stamp(BEGAN_S + 1, cpu_s=None, wall_s=None), BEGAN_S + 1),
        (make_stamp(BEGAN_S + 1, cpu_s=0.04), BEGAN_S + 1),
    ]
    assert summarise(make_leg(), make_evidence(taken=taken)).worker.cpu_s_per_sample == pytest.approx(0.01)


def test_ready_batches_are_those_made_and_not_yet_taken():
    """At a moment, from the stamps of what was taken later."""
    taken = [(make_stamp(1.0), 5.0), (make_stamp(2.0), 5.5), (make_stamp(4.0), 6.0), (None, 7.0)]
    assert [count_ready(taken, at_s) for at_s in (0.5, 1.0, 3.0, 4.5, 5.2, 6.0)] == [0, 1, 2, 3, 2, 0]


def test_every_window_knows_the_queue_at_its_ends():
    """What was made 0.05 s before it was taken lies ready half of a step's time."""
    taken = [(make_stamp(BEGAN_S), BEGAN_S + 5), (make_stamp(BEGAN_S + 1.5), BEGAN_S + 5), *TAKEN]
    first, second = summarise(make_leg(), make_evidence(taken=taken)).windows
    assert second.queue_before == first.queue_after
    assert second.queue_after - second.queue_before == 1


def test_broken_samples_are_listed_once_by_name_and_bounded():
    """A data set full of them would fill the report."""
    many = Faults(tuple((f"{number:03}.png", "cut off") for number in range(150)), 100, 25)
    taken = [(make_stamp(BEGAN_S + 1, faults=many), BEGAN_S + 1)] * 2
    found = summarise(make_leg(), make_evidence(taken=taken))
    assert len(found.bad_samples) == BAD_SAMPLES_LISTED
    assert [bad.name for bad in found.bad_samples[:2]] == ["000.png", "001.png"]
    assert found.ignored_label_ratio == pytest.approx(0.25)
    assert summarise(make_leg(), make_evidence()).ignored_label_ratio is None


def streaming(*, later_s, first_s=0.3, length=4, **changes):
    """Return what a loop noted of an iterable data set whose epochs are `length` steps long."""
    starts = tuple(range(length, len(STEPS), length))
    steps = [
        replace(step, idle_s=first_s if number in starts else later_s(number % length))
        for number, step in enumerate(STEPS)
    ]
    return make_evidence(run_steps=steps, epoch_starts=starts, first_batch_s=0.9, **changes)


def test_an_epoch_s_end_that_was_seen_costs_what_the_device_waited_until_the_queue_could_be_full():
    """Two workers with two batches each: the first four of an epoch count, by what they waited beyond the others."""
    seen = streaming(length=10, later_s=lambda behind: 0.12 if behind == 2 else 0.02)
    assert summarise(make_leg(), seen).epoch_boundary_s == pytest.approx((0.28 + 0.28 + 0.1) / 2)  # of 10 and of 20
    starved = streaming(length=10, later_s=lambda behind: 0.3)
    assert summarise(make_leg(), starved).epoch_boundary_s == pytest.approx(0.0)
    bursts = streaming(length=9, later_s=lambda behind: 0.3 * (behind % 2 == 0))  # of the last burst one is missing
    assert summarise(make_leg(), bursts).epoch_boundary_s == pytest.approx(
        (0 + 0.6 - 3 * 0.15) / 2
    )  # the second is cut


def test_the_end_of_an_epoch_that_is_all_beginning_counts_beyond_the_gaps_between_steps():
    seen = streaming(length=2, later_s=lambda behind: 0.105)
    assert summarise(make_leg(), seen).epoch_boundary_s == pytest.approx(0.295 + 0.1 * 9 / 10)  # step 20 is the last


def test_an_end_that_was_seen_counts_with_workers_that_last_and_without_workers_too():
    lasting = make_leg(settings=Settings(num_workers=2, batch_size=4, persistent_workers=True))
    seen = streaming(length=10, later_s=lambda behind: 0.02)
    assert summarise(lasting, seen).epoch_boundary_s == pytest.approx(0.28)
    alone = make_leg(settings=Settings(num_workers=0, batch_size=4))
    assert summarise(alone, seen).epoch_boundary_s == pytest.approx(0.28)
    assert summarise(make_leg(consume="nothing"), seen).epoch_boundary_s == pytest.approx(0.8)  # by its first batch


def test_workers_that_make_one_batch_each_epoch_cost_what_it_took():
    """None of their batches follows another: their processes' time is what is left to tell by."""
    work = Work(0.08, 0.05, 0.06, 0.0, 0.01, 0.02, 0.03, 1, "dataset", (), 0)
    first = [(replace(stamp, cpu_s=None, wall_s=None, work=work), taken_s) for stamp, taken_s in TAKEN]
    cost = summarise(make_leg(), make_evidence(taken=first)).worker
    assert cost.cpu_s_per_sample == pytest.approx(0.06 / 4)
    assert cost.times.busy_s_per_sample == pytest.approx(0.08 / 4)
