"""How long is a slice of a duel? From the bursts and the longest batch of the two settings' own trials."""

import msgspec
import pytest

from loadtune.advice.budget import HEAD_MIN_S, HEAD_SHARE_MAX, SLICE_MAX_S, DuelPlan
from loadtune.advice.slicing import SLICE_LIMIT_S, find_pace, fit_duel
from loadtune.records.settings import Settings
from tests.fake_runner import complete_result


def trial(num_workers=4, rate=100.0, batch_size=16, **measured):
    """A trial of a setting that delivers `rate` samples a second."""
    result = complete_result(Settings(num_workers=num_workers, batch_size=batch_size), rate)
    values = {"stall_ratio": 0.5, "longest_batch_s": 0.1, "step_s": 0.01} | measured
    return msgspec.structs.replace(result, measurement=msgspec.structs.replace(result.measurement, **values))


def test_a_loader_that_is_waited_for_delivers_in_bursts_of_its_workers():
    """Four workers, 0.16 s a batch: bursts of 0.64 s, three of them and a margin in a slice."""
    pace = find_pace(trial(), "cpu")
    assert pace.burst_steps == 4
    assert pace.active_s == pytest.approx(1.15 * 3 * 0.64)


@pytest.mark.parametrize(("workers", "stall"), [(4, 0.01), (4, None), (1, 0.5), (0, 0.5)])
def test_where_the_device_sets_the_pace_steps_are_even(workers, stall):
    """A full queue, one worker, none, or a wait that is not known: four steps are enough."""
    pace = find_pace(trial(workers, stall_ratio=stall), "cpu")
    assert pace.burst_steps == 1
    assert pace.active_s == pytest.approx(4 * 0.16)


def test_the_head_is_as_long_as_the_longest_batch():
    """What a worker got for nothing while it was stopped is delivered with the batch it belongs to."""
    assert find_pace(trial(longest_batch_s=0.8), "cpu").head_s == 0.8
    assert find_pace(trial(longest_batch_s=0.001), "cpu").head_s == HEAD_MIN_S
    assert find_pace(trial(longest_batch_s=None), "cpu").head_s == HEAD_MIN_S


def test_a_full_queue_hides_the_longest_batch():
    """There the time between a worker's batches is its wait for room."""
    assert find_pace(trial(stall_ratio=0.0, longest_batch_s=5.0), "cpu").head_s == HEAD_MIN_S


def test_a_gpu_works_on_while_its_process_is_stopped():
    """Two steps may lie queued on it."""
    assert find_pace(trial(stall_ratio=0.0, step_s=0.4), "cuda").head_s == pytest.approx(0.8)
    assert find_pace(trial(stall_ratio=0.0, step_s=0.4), "replay").head_s == HEAD_MIN_S


def test_short_epochs_are_bursts_of_their_own():
    """20 batches of 0.01 s and a boundary of twice 0.1 s: three and a margin in a slice, however even the steps are."""
    even = trial(rate=1600.0, stall_ratio=0.0, epoch_boundary_s=0.1)
    pace = find_pace(even, "replay", 20)
    assert pace.burst_steps == 20
    assert pace.active_s == pytest.approx(1.15 * 3 * 0.4)
    plan = fit_duel(60.0, even, even, "replay", epoch_batches=20)
    assert plan.burst_steps == (20, 20)
    assert plan.slice_s - plan.dropped_s >= 1.15 * 3 * 0.4
    slow = trial(rate=1600.0, stall_ratio=0.0, epoch_boundary_s=3.0)
    assert fit_duel(60.0, slow, even, "replay") is not None
    assert fit_duel(60.0, slow, even, "replay", epoch_batches=20) is None
    assert find_pace(slow, "replay", 20).active_s == pytest.approx(1.15 * 3 * (0.2 + 3.3))


def test_the_slower_side_decides_the_slice():
    """Bursts of 31 ms x 16 with four and eight workers, as long as each other: slices hold three and the head."""
    sides = [trial(workers, rate=workers * 16 / 0.5, longest_batch_s=0.52) for workers in (4, 8)]
    plan = fit_duel(120.0, *sides, "cpu")
    assert plan.burst_steps == (4, 8)
    assert plan.dropped_s == pytest.approx(0.52)
    assert plan.slice_s == pytest.approx(max(SLICE_MAX_S, 0.52 + 1.15 * 3 * 0.5))


def test_the_head_is_a_part_of_the_slice():
    """A batch of two seconds: the slice grows with it, up to the limit; beyond, the head is cut."""
    plan = fit_duel(400.0, *[trial(1, rate=8.0, longest_batch_s=2.0)] * 2, "cpu")
    assert plan.slice_s == SLICE_LIMIT_S
    assert plan.dropped_s == pytest.approx(2.0)
    assert DuelPlan(pairs=8, slice_s=0.5, restarts=4, head_s=2.0).dropped_s == pytest.approx(HEAD_SHARE_MAX * 0.5)


def test_a_duel_that_does_not_fit_is_not_planned():
    """Ten seconds hold no eight pairs of a loader that takes half a second a start."""
    assert fit_duel(3.0, trial(), trial(), "cpu") is None


HEAVY = {"batch_bytes": 64 << 20}
"""Ten batches of 64 MB a second, at 160 samples a second."""


def test_memory_that_goes_back_to_the_host_has_time_to_do_so():
    """What the other side freed is handed back while this one runs: its first 2.5 s do not count."""
    plan = fit_duel(120.0, trial(rate=160.0, **HEAVY), trial(rate=160.0), "cpu", returns_memory=True)
    assert plan.dropped_s == pytest.approx(2.5)
    assert plan.slice_s >= 2.5 / HEAD_SHARE_MAX
    assert plan.note is None


@pytest.mark.parametrize(("measured", "returns_memory"), [(HEAVY, False), ({}, True), ({"batch_bytes": 1000}, True)])
def test_other_machines_and_light_batches_lose_no_time(measured, returns_memory):
    """Bare metal keeps what was freed; little memory does not show."""
    plan = fit_duel(120.0, *[trial(rate=160.0, **measured)] * 2, "cpu", returns_memory=returns_memory)
    assert (plan.dropped_s, plan.slice_s, plan.note) == (HEAD_MIN_S, SLICE_MAX_S, None)


def test_a_duel_too_short_to_settle_says_so():
    """The usual heads, and a note that the report carries."""
    plan = fit_duel(40.0, *[trial(rate=160.0, **HEAVY)] * 2, "cpu", returns_memory=True)
    assert plan.dropped_s == HEAD_MIN_S
    assert "handed back" in plan.note


@pytest.mark.parametrize("left_s", [60.0, 70.0, 72.0, 75.0, 80.0, 100.0])
def test_no_duel_settles_at_the_price_of_its_starts(left_s):
    """Two starts tell little: then rather the usual heads, more starts, and the note."""
    plan = fit_duel(left_s, *[trial(rate=160.0, **HEAVY)] * 2, "cpu", returns_memory=True)
    assert plan.restarts >= 3
    assert (plan.note is None) == (plan.dropped_s == pytest.approx(2.5))
