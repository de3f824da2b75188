"""What is said of a claim, given what was measured? The judging alone; nothing runs."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtune.records.measurement import Duel, SlicePair
from loadtune.records.settings import Settings
from loadtune.records.verification import Outcome
from loadtune.stats import RatioInterval
from loadtune.verifying.bench import Bench, describe_ratio, figure, judge_equal, mean_foreign_cores
from loadtune.verifying.comparisons import _join
from loadtune.verifying.verify import check_quiet


def interval(low, high, reason=None):
    return RatioInterval(estimate=(low * high) ** 0.5, low=low, high=high, pairs=8, reason=reason)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.98, 1.02, Outcome.HOLDS),
        (0.97, 1.03, Outcome.HOLDS),
        (1.005, 1.02, Outcome.HOLDS),
        (0.9, 1.1, Outcome.UNKNOWN),
        (0.96, 1.0, Outcome.UNKNOWN),
        (0.9, 0.96, Outcome.FAILS),
        (1.04, 1.2, Outcome.FAILS),
    ],
)
def test_equal_means_the_whole_interval_within_three_per_cent(low, high, outcome):
    """Wholly outside it fails; across the border it cannot be told."""
    assert judge_equal(interval(low, high), is_disturbed=False)[0] is outcome


@given(st.floats(0.5, 2.0), st.floats(1.0, 1.5), st.booleans())
def test_noise_never_holds(centre, half, is_disturbed):
    """An interval wider than the target is never said to hold, and what does not hold has a reason."""
    outcome, reason = judge_equal(interval(centre / half, centre * half), is_disturbed=is_disturbed)
    if half > 1.0305:
        assert outcome is not Outcome.HOLDS
    if is_disturbed:
        assert outcome is not Outcome.FAILS
    assert (reason is None) == (outcome is Outcome.HOLDS)


def test_a_difference_beside_a_busy_neighbour_is_not_held_against_the_tool():
    """And the reason names the neighbour; narrow equality is told all the same."""
    outcome, reason = judge_equal(interval(0.8, 0.9), is_disturbed=True)
    assert (outcome, "others" in reason) == (Outcome.UNKNOWN, True)
    assert judge_equal(interval(0.99, 1.01), is_disturbed=True)[0] is Outcome.HOLDS


def test_an_interval_that_is_not_trusted_tells_nothing():
    """Its own reason is the reason."""
    assert judge_equal(interval(0.99, 1.01, "7 slice pairs, 8 needed"), is_disturbed=False) == (
        Outcome.UNKNOWN,
        "7 slice pairs, 8 needed",
    )
    nothing = RatioInterval(pairs=0, reason="9 s are too few")
    assert judge_equal(nothing, is_disturbed=False) == (Outcome.UNKNOWN, "9 s are too few")
    assert describe_ratio(nothing) == "not measured"
    assert figure("ratio", nothing).reason == "9 s are too few"


def test_what_may_only_slow_down_may_be_faster():
    """Watching is not held responsible for a side that ran faster."""
    for low, high, outcome in ((1.04, 1.2, Outcome.HOLDS), (0.98, 1.2, Outcome.HOLDS), (0.9, 0.96, Outcome.FAILS)):
        assert judge_equal(interval(low, high), is_disturbed=False, may_be_faster=True)[0] is outcome


@given(st.floats(0.001, 0.05), st.floats(0.9, 1.1), st.floats(1.0, 1.05))
def test_a_closer_limit_is_kept(limit, centre, half):
    """What holds lies within the limit asked for, and what fails wholly outside it."""
    low, high = centre / half, centre * half
    outcome, _ = judge_equal(interval(low, high), is_disturbed=False, limit_ratio=limit)
    assert (outcome is Outcome.HOLDS) == (1 - limit <= low and high <= 1 + limit)
    assert (outcome is Outcome.FAILS) == (high < 1 - limit or low > 1 + limit)


def bench(foreign, steal, limit=0.2):
    run = SimpleNamespace(arena=SimpleNamespace(foreign_limit_cores=limit))
    return Bench(
        run=run, launcher=None, nvml=None, trial=None, is_quick=False, foreign_cores=foreign, steal_ratios=steal
    )


@pytest.mark.parametrize(
    ("foreign", "steal", "outcome", "told"),
    [
        ([0.1, 0.05], [0.0], Outcome.HOLDS, "0.10 cores"),
        ([0.1, 1.1], [0.0], Outcome.UNKNOWN, "others were busy"),
        ([0.0], [0.0, 0.3], Outcome.UNKNOWN, "hypervisor"),
        ([0.1], [], Outcome.UNKNOWN, "could not be read"),
        ([], [0.0], Outcome.UNKNOWN, "no duel was held"),
    ],
)
def test_a_restless_machine_is_named_and_never_held_against_the_tool(foreign, steal, outcome, told):
    """The worst of all checks counts."""
    check = check_quiet(bench(foreign, steal), [])
    assert check.outcome is outcome
    assert told in f"{check.measured} {check.reason}"


def pair(restart=0, foreign=None):
    return SlicePair(
        baseline_samples=10,
        baseline_s=1.0,
        contender_samples=10,
        contender_s=1.0,
        baseline_first=True,
        restart=restart,
        foreign_cores=foreign,
    )


def duel(*pairs, seconds=3.0):
    one = Settings(num_workers=1, batch_size=2)
    return Duel(
        baseline=one, contender=one, method="frozen", pairs=pairs, slice_s=1.0, head_s=0.3, seconds_spent=seconds
    )


def test_duels_of_one_start_each_make_one_of_many():
    """So that what differs between starts is in the interval."""
    joined = _join([duel(pair(), pair()), duel(pair(), pair()), duel(pair())])
    assert [each.restart for each in joined.pairs] == [0, 0, 1, 1, 2]
    assert joined.seconds_spent == 9.0


def test_foreign_load_of_a_duel_is_the_mean_of_its_pairs():
    """Pairs that were not read are left out; none read is None, not 0."""
    assert mean_foreign_cores(duel(pair(foreign=0.5), pair(foreign=None), pair(foreign=1.0))) == 0.75
    assert mean_foreign_cores(duel(pair())) is None
