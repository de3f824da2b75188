"""Is what a duel over short epochs shows carried over to a real one?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtune.advice.epochs import SHORT_STEADY_S, boundary_share, gain_over_epoch, gain_ratio, shorten
from loadtune.stats import RatioInterval

ratios = st.floats(0.2, 20.0)
seconds = st.floats(0.01, 100.0)
longer = st.floats(1.0, 1e4)
"""A real epoch by the short one."""


@given(seconds, longer)
def test_no_difference_stays_none(short_s, times):
    assert gain_ratio(1.0, short_s, times * short_s) == 1.0


@given(ratios, ratios, seconds, longer)
def test_the_gain_grows_with_the_ratio(one, other, short_s, times):
    low, high = sorted((one, other))
    assert gain_ratio(low, short_s, times * short_s) <= gain_ratio(high, short_s, times * short_s) * (1 + 1e-12)


@given(ratios, seconds, longer)
def test_the_gain_lies_between_one_and_the_ratio(ratio, short_s, times):
    low, high = sorted((1.0, ratio))
    assert low * (1 - 1e-9) <= gain_ratio(ratio, short_s, times * short_s) <= high * (1 + 1e-9)


@given(ratios, seconds, longer, longer)
def test_the_longer_the_epoch_the_nearer_to_one(ratio, short_s, times, more):
    near, far = (abs(gain_ratio(ratio, short_s, each * short_s) - 1.0) for each in (times * more, times))
    assert near <= far + 1e-9
    assert gain_ratio(ratio, short_s, 1e9 * short_s) == pytest.approx(1.0)


@given(st.floats(10, 1e4), st.floats(0.01, 5.0), st.floats(0.0, 1.0), st.integers(100, 10**6), st.floats(0.01, 1.0))
def test_the_gain_is_that_of_the_model(rate, boundary_s, kept, count, part):
    """Both epochs spelled out: steady work, and a boundary of which a part is left."""
    short, saved_s = part * count, (1 - kept) * boundary_s
    short_s, real_s = short / rate + boundary_s, count / rate + boundary_s
    ratio = short_s / (short_s - saved_s)
    assert gain_ratio(ratio, short_s, real_s) == pytest.approx(real_s / (real_s - saved_s), rel=1e-6)


def test_the_interval_is_carried_over():
    gain = gain_over_epoch(RatioInterval(estimate=1.25, low=1.0, high=2.0, pairs=8), 1.0, 4.0)
    assert (gain.estimate, gain.low, gain.high) == pytest.approx((4 / 3.8, 1.0, 4 / 3.5))
    assert gain_over_epoch(RatioInterval(estimate=1.25, pairs=1), 1.0, 4.0) is None


@given(st.integers(0, 10**5), st.floats(1, 1e5), st.integers(1, 64), st.integers(1, 256))
def test_a_short_epoch_is_whole_for_every_worker_and_no_longer_than_a_real_one(count, rate, workers, size):
    batches = shorten(count, rate, workers, size)
    whole = count // size
    assert batches <= whole
    assert batches == whole or (batches % workers == 0 and batches * size >= SHORT_STEADY_S * rate * (1 - 1e-9))
    assert (batches - workers) * size < SHORT_STEADY_S * rate


def test_the_share_of_a_boundary():
    assert boundary_share(900, 100.0, 1.0) == pytest.approx(0.1)
