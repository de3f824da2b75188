"""Ends of epochs that a data set ends by itself: what they cost, and what is not laid at their door."""

import pytest

from loadtune.advice.case import Case
from loadtune.advice.variants import find_variants
from loadtune.records.settings import Settings
from tests.unit.test_more_rules import FULL, LIMITS, findings, rules, run, setup, times

QUICK = times(busy_s_per_sample=0.001)


def ending(share=0.4, *, samples=320, stall=0.4, worker=QUICK, **changes):
    """Return a trial at 100 samples/s that lost a share of each epoch of so many samples to its end."""
    return run(stall=stall, worker=worker, epoch_boundary_s=share * samples / 100, epoch_samples=samples, **changes)


def told(trial, **fields):
    """Return the rules that say something is wrong, in order."""
    return [each.rule for each in findings(trial, **fields) if each.severity != "info"]


def test_full_cores_are_the_trace_of_workers_that_start():
    """Importing torch at each end fills cores; where ends were little of the stall, the cores come first."""
    assert told(ending(trace=FULL))[:2] == ["epoch-boundary", "cpu-saturated"]
    assert told(ending(0.1, trace=FULL))[:2] == ["cpu-saturated", "epoch-boundary"]


def test_uneven_batches_are_no_matter_of_the_queue_where_ends_explain_the_stall():
    uneven = times(busy_s_per_sample=0.01, batch_spread_ratio=0.6)
    assert told(ending(worker=uneven))[0] == "epoch-boundary"


@pytest.mark.parametrize(("samples", "between"), [(80, ("epoch-boundary", "loader-bound")), (96, None)])
def test_epochs_that_are_all_beginning_leave_it_open_whose_the_waiting_is(samples, between):
    """Two workers, two batches ahead of each: the fifth and sixth of an epoch could lie ready, and tell."""
    found = rules(ending(samples=samples, worker=None))
    assert ("epoch-boundary" in found) == (between is None)
    assert "loader-bound" not in found
    assert (found["undecided"].between if between else None) == between
    known = rules(ending(samples=samples))  # workers that are known to be quick enough
    assert {"epoch-boundary"} == known.keys() & {"epoch-boundary", "loader-bound", "undecided"}


def test_epochs_of_one_batch_without_workers_leave_it_open_too():
    alone = Settings(num_workers=0, batch_size=16)
    open_end = rules(ending(samples=16, worker=None, own=None, settings=alone))["undecided"]
    assert open_end.between[0] == "epoch-boundary"
    assert "persistent_workers" not in open_end.action
    found = rules(ending(samples=160, worker=None, own=None, settings=alone))["epoch-boundary"]
    assert "before its first sample" in found.action


def test_workers_that_last_are_not_asked_to():
    lasting = Settings(num_workers=2, batch_size=16, persistent_workers=True)
    assert rules(ending())["epoch-boundary"].action.startswith("Let the data set")
    slow_to_start = rules(ending(own=setup(start_s=0.7)))["epoch-boundary"]  # of the 1.28 s that an end takes
    assert slow_to_start.action.startswith("Set persistent_workers=True.")
    assert "saves 0.6 s" in rules(ending(own=setup(start_s=0.6)))["epoch-boundary"].action
    assert "yield more" in rules(ending(settings=lasting))["epoch-boundary"].action


def test_slow_starts_are_worth_what_the_device_waited_for_them():
    """By spawn, 1 s of the 3.2 s of an epoch: it explains the end that was seen. None is worth more than that."""
    found = findings(ending(own=setup(start_s=1.0, start_method="spawn")), sample_count=None)
    assert [each.rule for each in found[:2]] == ["slow-start", "epoch-boundary"]
    assert found[0].worth_per_s == pytest.approx(100 / (1 - 1.0 / 3.2) - 100)
    hidden = rules(ending(0.1, own=setup(start_s=3.0, start_method="spawn")))["slow-start"]
    assert hidden.worth_per_s == pytest.approx(100 / 0.9 - 100)


def test_a_start_that_is_little_of_an_end_explains_nothing_of_it():
    """1 s of the 6.4 s that an end of 16 s takes: the data set itself is what is slow to begin."""
    found = findings(ending(samples=1600, own=setup(start_s=1.0, start_method="spawn")), sample_count=None)
    assert found[0].rule == "epoch-boundary"
    assert {each.rule: each.severity for each in found}["slow-start"] == "info"


def test_a_stall_is_told_of_where_ends_are_too_little_to_be():
    """9 % waited, 4.5 % at ends: neither half alone is told of."""
    found = rules(ending(0.045, stall=0.09))
    assert "epoch-boundary" not in found
    assert "undecided" in found  # workers are quick enough
    slow = times(busy_s_per_sample=0.02)
    assert "loader-bound" in rules(ending(0.045, stall=0.09, worker=slow))


def test_a_main_process_that_is_full_is_no_trace_of_ends():
    full = {"mean_worker_cores": 1.0, "mean_main_cores": 1.0}
    assert told(ending(trace=full))[0] == "main-process-bound"


def test_an_epoch_is_held_against_the_baseline_s_time_for_as_many_samples():
    """Four workers that repeat the stream yield four times its samples; that is no slower epoch."""
    baseline = run(rate=50.0, epoch_boundary_s=0.1, epoch_samples=80, settings=Settings(num_workers=1, batch_size=16))
    assert rules(ending(), baseline=baseline)["epoch-boundary"].severity == "advice"
    endless = run(rate=100.0, epoch_boundary_s=0.1)  # of 160 samples: no end was seen
    assert rules(ending(), baseline=endless, sample_count=160)["epoch-boundary"].severity == "advice"
    quicker = run(rate=200.0, epoch_boundary_s=0.1, epoch_samples=80)
    found = rules(ending(), baseline=quicker)["epoch-boundary"]
    assert found.severity == "warning"
    assert "it takes 1.6 s in all" in found.detail


def variants(trial, sample_count=None):
    case = Case(chosen=trial, baseline=None, limits=LIMITS, device="replay", sample_count=sample_count)
    return [each for each in find_variants(case) if each.settings.persistent_workers]


def test_workers_are_kept_by_the_rate_where_the_data_set_ends_its_epochs():
    """With a length or without: a duel's sides meet the same ends, so short epochs need not be made for it."""
    for count in (None, 320, 10**6):
        (found,) = variants(ending(), count)
        assert found.epoch_batches is None
        assert "40% of an epoch of 320 samples" in found.why
    assert variants(ending(0.02)) == []


@pytest.mark.parametrize(("collate_s", "word"), [(0.011, "bytes"), (0.009, "smaller stored images")])
def test_cores_that_put_batches_together_are_told_to_put_less_together(collate_s, word):
    busy = times(busy_s_per_sample=0.02, collate_s_per_sample=collate_s)
    assert word in rules(run(stall=0.4, trace=FULL, worker=busy))["cpu-saturated"].action
