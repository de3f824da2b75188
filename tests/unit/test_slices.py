"""How many samples belong to a slice? Simulated sides whose pace is known, and laws that hold for any steps."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtune.engine.slices import Share, Slice, share_out

SECONDS = st.floats(0.05, 3.0)


def make_turns(lengths, pauses):
    """Slices of these lengths with these pauses before each."""
    turns, now = [], 10.0
    for length, pause in zip(lengths, pauses, strict=False):
        turns.append(Slice(now + pause, now + pause + length))
        now += pause + length
    return turns


def run_host(turns, step_s):
    """Ends of the steps of a side that stands still while it is stopped, begun with the first turn."""
    ends, left = [], step_s
    for turn in turns:
        now = turn.started_s
        while now + left <= turn.ended_s:
            now += left
            ends.append(now)
            left = step_s
        left -= turn.ended_s - now
    return ends


def run_device(turns, step_s, run_ahead=2):
    """Ends of the steps of a device that goes on with what is queued while its host is stopped."""
    ends, free_s = [], turns[0].started_s
    for turn in turns:
        now = turn.started_s
        while True:
            if len(ends) >= run_ahead:
                now = max(now, ends[-run_ahead])  # the host waits for room in the queue
            if now >= turn.ended_s:
                break
            free_s = max(free_s, now) + step_s
            ends.append(free_s)
    return ends


def cover(share):
    return share.samples / share.active_s


@given(st.lists(SECONDS, min_size=2, max_size=8), st.data(), st.floats(0.01, 2.0))
def test_every_sample_between_first_and_last_step_belongs_to_a_slice(lengths, data, step_s):
    """Without heads, and whatever the pauses, the shares of a side that stands still add up to its samples."""
    pauses = data.draw(st.lists(SECONDS, min_size=len(lengths), max_size=len(lengths)))
    turns = make_turns(lengths, pauses)
    ends = run_host(turns, step_s)
    if len(ends) < 2:
        return
    shares = [share for share in share_out(ends, [3] * len(ends), turns, 0.0) if share is not None]
    assert sum(share.samples for share in shares) == pytest.approx(3 * (len(ends) - 1), rel=1e-6, abs=1e-6)


@given(st.lists(SECONDS, min_size=2, max_size=8), st.data(), st.floats(0.01, 2.0))
def test_a_pause_adds_nothing(lengths, data, step_s):
    """The same work in the same running time gives the same shares, however long the pauses between."""
    ours = make_turns(lengths, [0.5] * len(lengths))
    theirs = make_turns(lengths, data.draw(st.lists(SECONDS, min_size=len(lengths), max_size=len(lengths))))
    one, two = (
        share_out(run_host(turns, step_s), [3] * len(run_host(turns, step_s)), turns, 0.2) for turns in (ours, theirs)
    )
    # Where a step ends within rounding of a turn's end, it may fall on either side of the pause.
    for left, right in zip(one, two, strict=True):
        if left is not None and right is not None:
            assert left.samples == pytest.approx(right.samples, abs=1e-3)


@pytest.mark.parametrize("step_s", [0.013, 0.21, 0.8, 1.9])
@pytest.mark.parametrize("pause_s", [0.3, 2.0, 11.0])
def test_a_steady_host_has_its_own_rate_in_every_slice(step_s, pause_s):
    """Warm-up and the turn after the last slice are handed in with the rest, so no step is cut by an unknown pause."""
    turns = make_turns([4.0, 2.0, 2.0, 2.0, 4.0], [0.0, *[pause_s] * 4])
    ends = run_host(turns, step_s)
    shares = share_out(ends, [16] * len(ends), turns, 0.3)[1:-1]
    assert [cover(share) for share in shares] == pytest.approx([16 / step_s] * 3, rel=1e-6)


@pytest.mark.parametrize("step_s", [0.013, 0.21, 0.8, 1.9])
@pytest.mark.parametrize("pause_s", [0.0, 2.0, 11.0])
@pytest.mark.parametrize("run_ahead", [1, 2, 4])
def test_a_device_that_runs_on_in_a_pause_gains_nothing(step_s, pause_s, run_ahead):
    """Steps queued before a freeze end in it: counting them would make a device-bound side look faster.

    It holds where a pause outlasts the queue, as the other side's slice of four steps or more does.
    """
    pause_s += 1.01 * run_ahead * step_s
    turns = make_turns([8.0, 2.0, 2.0, 2.0, 8.0], [0.0, *[pause_s] * 4])
    ends = run_device(turns, step_s, run_ahead)
    shares = share_out(ends, [16] * len(ends), turns, 0.3)[1:-1]
    assert [cover(share) for share in shares] == pytest.approx([16 / step_s] * 3, rel=1e-6)


@given(st.lists(st.floats(0.0, 20.0), min_size=2, max_size=40).map(sorted), st.data())
def test_shares_are_never_negative_nor_more_than_all(ends, data):
    """Whatever is told, no slice holds less than nothing or more than everything."""
    lengths = data.draw(st.lists(SECONDS, min_size=1, max_size=6))
    turns = make_turns(lengths, data.draw(st.lists(SECONDS, min_size=len(lengths), max_size=len(lengths))))
    turns = [Slice(turn.started_s - 10.0, turn.ended_s - 10.0) for turn in turns]
    samples = data.draw(st.lists(st.integers(0, 64), min_size=len(ends), max_size=len(ends)))
    head_s = data.draw(st.floats(0.0, 0.5))
    for turn, share in zip(turns, share_out(ends, samples, turns, head_s), strict=True):
        if share is not None:
            assert 0 <= share.samples <= sum(samples) + 1e-9
            assert share.active_s == pytest.approx(turn.ended_s - turn.started_s - head_s)


@given(st.lists(SECONDS, min_size=1, max_size=5), st.floats(0.02, 1.0), st.floats(0.0, 0.4), st.floats(0.0, 0.4))
def test_a_longer_head_never_counts_more(lengths, step_s, one_s, other_s):
    """Monotone: what is cut off at the start is taken from the samples."""
    turns = make_turns(lengths, [0.7] * len(lengths))
    ends = run_host(turns, step_s)
    short, long = (
        share_out(ends, [1] * len(ends), turns, head_s) for head_s in (min(one_s, other_s), max(one_s, other_s))
    )
    for left, right in zip(short, long, strict=True):
        if left is not None and right is not None:
            assert right.samples <= left.samples + 1e-9


def test_a_slice_no_longer_than_its_head_holds_nothing():
    """None, which no pair can be made of."""
    assert share_out([0.1, 0.2, 0.3], [1, 1, 1], [Slice(0.0, 0.3)], 0.3) == [None]


def test_a_side_without_two_steps_has_no_pace():
    """One end of a step says nothing of how long it took."""
    assert share_out([], [], [Slice(0.0, 2.0)], 0.3) == [None]
    assert share_out([1.0], [16], [Slice(0.0, 2.0)], 0.3) == [None]


def test_slices_after_the_last_step_hold_nothing():
    """A side that stopped making steps has no share rather than a share of zero samples."""
    assert share_out([0.1, 0.5], [1, 1], [Slice(0.0, 1.0), Slice(2.0, 3.0)], 0.0)[1] is None


def test_a_cut_step_counts_in_part():
    """Steps of one second, a slice from 0.5 to 2.75: 2.25 of them."""
    ends = [0.0, 1.0, 2.0, 3.0, 4.0]
    assert share_out(ends, [4] * 5, [Slice(0.5, 2.75)], 0.0) == [Share(samples=pytest.approx(9.0), active_s=2.25)]


def test_a_step_that_lasts_several_slices_is_shared_among_them():
    """Three seconds of running for one step of 12 samples: 4 a second, in every slice."""
    turns = [Slice(0.0, 1.0), Slice(5.0, 6.0), Slice(9.0, 10.0), Slice(20.0, 21.0)]
    shares = share_out([0.0, 10.0, 21.0], [12, 12, 4], turns, 0.0)
    assert [share.samples for share in shares[:3]] == pytest.approx([4.0, 4.0, 4.0])


def test_ends_may_coincide():
    """Steps told with one time count at that time."""
    shares = share_out([0.5, 1.0, 1.0, 1.0, 1.5], [1] * 5, [Slice(0.0, 0.9), Slice(0.9, 2.0)], 0.0)
    assert sum(share.samples for share in shares) == pytest.approx(4.0)


def test_neighbouring_slices_without_a_pause_add_up():
    """Where nothing is frozen, slices only cut the whole."""
    ends = [0.3 * number for number in range(20)]
    turns = [Slice(left, right) for left, right in pairwise([0.0, 1.0, 2.5, 5.7])]
    shares = share_out(ends, [2] * 20, turns, 0.0)
    assert sum(share.samples for share in shares) == pytest.approx(2 * 19)


def run_bursts(turns, burst_s, steps):
    """Ends of the steps of workers in step: `steps` of them together, once every `burst_s` of running time."""
    return [end + 1e-4 * place for end in run_host(turns, burst_s) for place in range(steps)]


@pytest.mark.parametrize("phase_s", [0.0, 0.13, 0.25, 0.41])
def test_bursts_count_evenly_at_any_phase(phase_s):
    """Slices of four bursts, each begun at the same phase: step by step they would count 3 or 4 bursts of 3.4."""
    turns = make_turns([1.0 + phase_s, *[2.0] * 5], [1.0] * 6)
    ends = run_bursts(turns, 0.5, 4)
    even = [share.samples / share.active_s for share in share_out(ends, [16] * len(ends), turns, 0.3, 4)[1:5]]
    assert even == pytest.approx([4 * 16 / 0.5] * 4, rel=0.01)
    stepwise = [share.samples / share.active_s for share in share_out(ends, [16] * len(ends), turns, 0.3)[1:5]]
    assert max(abs(rate / 128 - 1) for rate in stepwise) > 0.08


@given(st.lists(SECONDS, min_size=2, max_size=6), st.integers(1, 8), st.floats(0.02, 0.5))
def test_bursts_lose_no_sample_between_the_first_and_the_last_whole_one(lengths, steps, burst_s):
    """Without heads the shares add up to the samples of the whole bursts."""
    turns = make_turns(lengths, [0.7] * len(lengths))
    ends = run_bursts(turns, burst_s, steps)
    if len(ends) <= steps:
        return
    shares = share_out(ends, [3] * len(ends), turns, 0.0, steps)
    whole = (len(ends) - 1) // steps * steps
    assert sum(share.samples for share in shares if share is not None) == pytest.approx(3 * whole, rel=1e-6)
