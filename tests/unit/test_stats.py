"""Windows, quantiles, paired intervals: exact values and properties; `test_simulated_probes` has the levels."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtune import stats
from loadtune.records.measurement import SlicePair, Window
from loadtune.records.report import Verdict
from tests import strategies

RATES = st.floats(0.1, 1000)
FACTORS = st.floats(0.01, 100)


def window(samples: int = 100, duration_s: float = 1.0, batches: int = 10, **fields: object) -> Window:
    return Window(started_s=0.0, duration_s=duration_s, batches=batches, samples=samples, **fields)


def make_pairs(log_ratios, *, level=None, restarts: int = 4) -> list[SlicePair]:
    """Pairs whose contender is exp(log_ratio) times the baseline, both at a common level."""
    count = len(log_ratios)
    level = np.ones(count) if level is None else level
    return [
        SlicePair(
            baseline_samples=float(100 * level[place]),
            baseline_s=1.7,
            contender_samples=float(100 * level[place] * math.exp(log_ratios[place])),
            contender_s=1.7,
            baseline_first=place % 2 == 0,
            restart=place * restarts // count,
        )
        for place in range(count)
    ]


@pytest.mark.parametrize(
    ("p", "df", "expected"),
    [
        (0.975, 1, 12.706204736),
        (0.975, 2, 4.302652730),
        (0.975, 7, 2.364624252),
        (0.95, 10, 1.812461123),
        (0.995, 19, 2.860934606),
        (0.975, 120, 1.979930405),
        (0.9995, 5, 6.868826626),
    ],
)
def test_student_quantile_agrees_with_tables(p, df, expected):
    """Published table values, odd and even degrees of freedom."""
    assert stats.student_t_quantile(p, df) == pytest.approx(expected, rel=1e-8)


@given(st.floats(0.001, 0.999), st.integers(1, 200))
def test_student_quantile_is_odd_about_the_median(p, df):
    """t(p) = -t(1 - p)."""
    expected = -stats.student_t_quantile(1 - p, df)
    assert stats.student_t_quantile(p, df) == pytest.approx(expected, abs=1e-6, rel=1e-9)


@pytest.mark.parametrize(("p", "df"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_student_quantile_refuses_what_has_no_value(p, df):
    """The ends of the distribution and no degrees of freedom."""
    with pytest.raises(ValueError, match="no Student quantile"):
        stats.student_t_quantile(p, df)


def test_rate_weighs_windows_by_their_time():
    """100 in 1 s and 100 in 3 s are 50 a second, not the mean of 100 and 33."""
    assert stats.rate_per_s([window(), window(duration_s=3.0)]) == pytest.approx(50.0)


def test_full_queue_is_taken_out_of_the_loaders_rate():
    """32 batches in the time of 16 produced ones, 16 having been ready."""
    prefilled = [window(samples=320, duration_s=1.6, batches=32, queue_before=16)]
    assert stats.rate_per_s(prefilled) == pytest.approx(200.0)
    assert stats.corrected_rate_per_s(prefilled) == pytest.approx(100.0)
    assert stats.queue_bias_ratio(prefilled) == pytest.approx(0.5)


def test_batches_left_in_the_queue_were_produced():
    """10 consumed and 5 more ready at the end: the loader made 15 batches of 10 in that second."""
    assert stats.corrected_rate_per_s([window(queue_after=5)]) == pytest.approx(150.0)


@given(strategies.windows(), FACTORS)
def test_correction_is_the_share_that_the_queue_gave(windows, pace):
    """Corrected by plain rate is 1 give or take the queue's bias, whatever the pace; never negative."""
    corrected = stats.corrected_rate_per_s(windows)
    if corrected is None:
        assert stats.queue_bias_ratio(windows) >= 1.0
        return
    assert corrected > 0.0
    off = corrected / stats.rate_per_s(windows) - 1
    assert abs(off) == pytest.approx(stats.queue_bias_ratio(windows))
    slower = [msgspec.structs.replace(each, duration_s=each.duration_s * pace) for each in windows]
    assert stats.corrected_rate_per_s(slower) == pytest.approx(corrected / pace)


def test_windows_fed_by_the_queue_alone_say_nothing_of_the_loader():
    """16 ready, 16 consumed, none produced: undefined rather than zero."""
    assert stats.corrected_rate_per_s([window(batches=16, queue_before=16)]) is None


def test_spread_needs_two_windows():
    """One window has no spread; equal ones have none either, but known."""
    assert stats.spread_ratio([window()]) is None
    assert stats.spread_ratio([window(), window()]) == 0.0
    assert stats.spread_ratio([window(samples=90), window(samples=110)]) == pytest.approx(math.sqrt(200) / 100)


def test_jitter_needs_two_samples():
    """Of one utilisation sample nothing is known."""
    assert stats.jitter([0.5]) is None
    assert stats.jitter([0.0, 1.0]) == pytest.approx(math.sqrt(0.5))


@given(strategies.windows(), st.floats(0.1, 20))
def test_merging_windows_drops_nothing(windows, min_s):
    """Time, samples, batches and the outer queue counts are kept; all last min_s if together they do."""
    merged = stats.merge_windows(windows, min_s)
    assert sum(each.samples for each in merged) == sum(each.samples for each in windows)
    assert sum(each.batches for each in merged) == sum(each.batches for each in windows)
    assert stats.rate_per_s(merged) == pytest.approx(stats.rate_per_s(windows))
    assert stats.queue_bias_ratio(merged) == pytest.approx(stats.queue_bias_ratio(windows))
    if sum(each.duration_s for each in windows) >= min_s:
        assert min(each.duration_s for each in merged) >= min_s
    corrected = stats.corrected_rate_per_s(windows)
    assert stats.corrected_rate_per_s(merged) == (None if corrected is None else pytest.approx(corrected))


def test_merged_window_does_not_know_what_a_part_does_not():
    """The sum of the known idle times would be too small."""
    merged = stats.merge_windows([window(device_idle_s=0.1), window()], min_s=2.0)
    assert [each.device_idle_s for each in merged] == [None]


def test_duel_of_clear_difference_is_faster():
    """A tenth more, one per cent of noise."""
    rng = np.random.default_rng(0)
    interval = stats.duel_interval(make_pairs(math.log(1.1) + rng.normal(0, 0.01, 12)))
    assert stats.verdict(interval) is Verdict.FASTER
    assert interval.low < 1.1 < interval.high
    assert interval.smallest_detectable_ratio == pytest.approx(interval.estimate / interval.low)


def test_duel_of_equals_is_same_and_of_noise_inconclusive():
    """Half a per cent of noise decides; fifteen do not."""
    rng = np.random.default_rng(1)
    assert stats.verdict(stats.duel_interval(make_pairs(rng.normal(0, 0.005, 12)))) is Verdict.SAME
    assert stats.verdict(stats.duel_interval(make_pairs(rng.normal(0, 0.15, 12)))) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(("pairs_min", "count", "trusted"), [(8, 7, False), (8, 8, True), (4, 4, True), (4, 3, False)])
def test_too_few_pairs_are_not_trusted(pairs_min, count, trusted):
    """Eight for a frozen duel, four for ABBA; never a verdict below, whatever the figures."""
    logs = [0.5 + 0.01 * (-1) ** (place // 2) for place in range(count)]
    interval = stats.duel_interval(make_pairs(logs), pairs_min=pairs_min)
    assert interval.trusted is trusted
    assert (stats.verdict(interval) is Verdict.FASTER) is trusted


@pytest.mark.parametrize("pairs", [[], make_pairs([0.1])])
def test_no_or_one_pair_has_no_figures(pairs):
    """Nothing to compute, and a reason."""
    interval = stats.duel_interval(pairs)
    assert (interval.estimate, interval.low, interval.smallest_detectable_ratio) == (None, None, None)
    assert "needed" in interval.reason


def test_slice_without_samples_is_not_trusted():
    """A slice that delivered nothing has no ratio."""
    dead = SlicePair(baseline_samples=0, baseline_s=1, contender_samples=5, contender_s=1, baseline_first=True)
    interval = stats.duel_interval([*make_pairs([0.0] * 9), dead])
    assert stats.verdict(interval) is Verdict.INCONCLUSIVE
    assert interval.reason == "a slice delivered no sample"


def test_coarse_slices_are_not_trusted():
    """100 samples a slice are not two bursts of 64."""
    pairs = make_pairs(np.random.default_rng(2).normal(0, 0.01, 12))
    assert stats.duel_interval(pairs, burst_samples=(8, 8)).trusted
    assert "too coarse" in stats.duel_interval(pairs, burst_samples=(8, 64)).reason


def test_restarts_that_differ_widen_the_interval():
    """Two starts 10 % apart, each steady: the pairs alone would be sure of what the restarts deny."""
    logs = [0.05, 0.051, 0.049, 0.05] * 2 + [0.15, 0.151, 0.149, 0.15] * 2
    alone = stats.duel_interval(make_pairs(logs, restarts=1))
    grouped = stats.duel_interval(make_pairs(logs, restarts=2))
    assert stats.verdict(grouped) is Verdict.INCONCLUSIVE
    assert grouped.smallest_detectable_ratio > 1.5 * alone.smallest_detectable_ratio


def test_single_start_is_not_trusted():
    """However many pairs and however clear: what differs between starts is in no single one."""
    logs = math.log(1.5) + np.random.default_rng(4).normal(0, 0.01, 24)
    alone, two = (stats.duel_interval(make_pairs(logs, restarts=count)) for count in (1, 2))
    assert stats.verdict(alone) is Verdict.INCONCLUSIVE
    assert alone.reason.startswith("1 start of both sides, 2 needed")
    assert stats.verdict(two) is Verdict.FASTER


def test_neighbours_that_resemble_each_other_widen_the_interval():
    """The same eight ratios in each start, in runs or alternating: in runs each tells less."""
    runs = stats.duel_interval(make_pairs([0.01, 0.01, 0.0, 0.0, 0.01, 0.01, 0.0, 0.0] * 4))
    alternating = stats.duel_interval(make_pairs([0.01, 0.0] * 16))
    wide, narrow = (math.log(each.smallest_detectable_ratio) for each in (runs, alternating))
    assert wide > 1.1 * narrow


def test_drifting_ratio_is_never_called():
    """A contender that loses 2 % a pair is caught within its starts."""
    logs = 0.7 - 0.02 * np.arange(16) + np.random.default_rng(21).normal(0, 0.002, 16)
    interval = stats.duel_interval(make_pairs(logs))
    assert interval.low > 1.0
    assert stats.verdict(interval) is Verdict.INCONCLUSIVE
    assert interval.reason == "the ratio drifted by -1.9 % a slice pair"


def test_starts_that_differ_are_not_taken_for_drift():
    """Each start faster than the last, and none moves: wide, but trusted."""
    logs = np.repeat([0.4, 0.45, 0.5, 0.55], 4) + np.tile([0.01, -0.01, -0.01, 0.01], 4)
    assert stats.duel_interval(make_pairs(logs)).trusted
    drifting = logs + np.tile([-0.015, -0.005, 0.005, 0.015], 4)
    assert "drifted by +1.0 %" in stats.duel_interval(make_pairs(drifting)).reason


def test_ratio_that_comes_and_goes_is_caught():
    """Waves have no trend; neighbouring pairs give them away."""
    rng = np.random.default_rng(23)
    wave = 0.1 * np.sin(np.arange(48) * 2 * math.pi / 12)
    made = [stats.duel_interval(make_pairs(0.2 + wave + rng.normal(0, 0.02, 48))) for _ in range(100)]
    assert sum("more alike than chance" in (each.reason or "") for each in made) >= 95


LOGS = st.lists(st.floats(-0.5, 0.5), min_size=8, max_size=20)


@given(LOGS, st.integers(2, 4), FACTORS, FACTORS)
def test_duel_interval_follows_the_contender_and_not_the_machine(logs, restarts, machine, gain):
    """Both sides times a factor: nothing changes. The contender alone: the interval moves by that factor."""
    pairs = make_pairs(logs, restarts=restarts)
    before = stats.duel_interval(pairs)
    scaled = [
        msgspec.structs.replace(
            each,
            baseline_samples=each.baseline_samples * machine,
            contender_samples=each.contender_samples * machine * gain,
        )
        for each in pairs
    ]
    after = stats.duel_interval(scaled)
    for name in ("estimate", "low", "high"):
        assert getattr(after, name) == pytest.approx(gain * getattr(before, name), rel=1e-6)


@given(LOGS, st.integers(1, 4))
def test_swapped_sides_invert_the_duel_interval(logs, restarts):
    """Which side is called the contender must not matter."""
    pairs = make_pairs(logs, restarts=restarts)
    swapped = [
        msgspec.structs.replace(
            each,
            baseline_samples=each.contender_samples,
            contender_samples=each.baseline_samples,
            baseline_first=not each.baseline_first,
        )
        for each in pairs
    ]
    one, other = stats.duel_interval(pairs), stats.duel_interval(swapped)
    assert other.estimate == pytest.approx(1 / one.estimate)
    assert (other.low, other.high) == pytest.approx((1 / one.high, 1 / one.low), rel=1e-6)
    assert one.low <= one.estimate <= one.high


@pytest.mark.parametrize(
    ("ratio", "low", "tied"),
    [(0.97, 0.94, True), (0.969, 0.968, False), (1.02, 0.939, False), (1.0, 1.0, True)],
)
def test_tie_needs_both_the_ratio_and_its_lower_end(ratio, low, tied):
    """Wide intervals tie with nothing."""
    assert stats.is_tied(ratio, low) is tied


@given(st.floats(0.8, 1.2), st.floats(0.8, 1.2), st.floats(0, 0.1), st.floats(0, 0.1))
def test_what_ties_still_ties_when_faster_and_surer(ratio, low, more, surer):
    """A better ratio or a better lower end never unties."""
    assert stats.is_tied(ratio + more, low + surer) >= stats.is_tied(ratio, low)


def test_round_effects_cancel_in_paired_ratios():
    """A machine half as fast in the second round changes both sides alike."""
    interval = stats.paired_ratio_interval([110.0, 55.0, 33.0], [100.0, 50.0, 30.0])
    assert interval.estimate == pytest.approx(1.1)
    assert interval.high / interval.low == pytest.approx(1.0)


@given(st.lists(st.tuples(RATES, RATES, FACTORS), min_size=2, max_size=6), st.booleans())
def test_paired_ratios_know_neither_rounds_nor_sides(rounds, is_pooled):
    """A factor common to a round changes nothing, and swapped sides invert the interval."""
    noise = stats.PooledNoise(0.02, 5) if is_pooled else None
    a, b, paces = (list(column) for column in zip(*rounds, strict=True))
    scaled = [[rate * pace for rate, pace in zip(rates, paces, strict=True)] for rates in (a, b)]
    one, other, moved = (stats.paired_ratio_interval(*sides, noise) for sides in ((a, b), (b, a), scaled))
    expected = pytest.approx((one.low, one.estimate, one.high), rel=1e-6)
    assert (moved.low, moved.estimate, moved.high) == expected
    assert (1 / other.high, 1 / other.estimate, 1 / other.low) == expected


def test_one_round_has_no_interval():
    """The ratio is known, its error is not."""
    interval = stats.paired_ratio_interval([110.0], [100.0])
    assert interval.estimate == pytest.approx(1.1)
    assert (interval.low, interval.trusted) == (None, False)


def test_pooled_noise_is_the_noise_that_was_put_in():
    """Rounds and settings differ widely, and neither counts as noise."""
    rng = np.random.default_rng(3)
    rates = [
        {place: float(base * pace * math.exp(rng.normal(0, 0.05))) for place, pace in enumerate((1, 0.5, 2))}
        for base in (10, 20, 40, 80) * 25
    ]
    noise = stats.pool_noise(rates)
    assert noise.sd == pytest.approx(0.05, rel=0.1)
    assert noise.degrees_of_freedom == 99 * 2
    assert stats.pool_noise([{0: 1.0}, {0: 2.0}]) is None
    assert stats.pool_noise([]) is None


def test_pooled_noise_narrows_two_rounds():
    """Two rounds of two settings give t(1); the other settings lend their degrees of freedom."""
    alone = stats.paired_ratio_interval([101.0, 99.0], [100.0, 100.0])
    lent = stats.paired_ratio_interval([101.0, 99.0], [100.0, 100.0], stats.PooledNoise(0.01, 8))
    assert lent.low > alone.low


def test_a_ratio_beyond_what_a_float_holds_is_an_interval_all_the_same():
    """A file that somebody wrote by hand must not end in a traceback."""
    wild = [
        SlicePair(
            baseline_samples=1e-300 if place % 2 else 1e300,
            baseline_s=1.0,
            contender_samples=1e300 if place % 2 else 1e-300,
            contender_s=1.0,
            baseline_first=True,
            restart=place // 2,
        )
        for place in range(8)
    ]
    interval = stats.duel_interval(wild)
    assert 0.0 < interval.low <= interval.high < math.inf
