"""What the charts hold, in numbers, and what their drawings promise."""

import re

import msgspec
import pytest

from loadtune.render.charts import FailedPoint, compute_duel_chart, compute_throughput_chart
from loadtune.render.drawing import (
    NARROW,
    TICKS_MAX,
    WIDE,
    Size,
    choose_ratio_ticks,
    choose_ticks,
    draw_duel,
    draw_throughput,
)
from loadtune.stats import TIE_RATIO
from tests.examples import (
    complete,
    empty_report,
    faster_report,
    inconclusive_report,
    interrupted_report,
    same_report,
    settings,
    single_trial_report,
)


def test_each_batch_size_is_a_line_by_workers() -> None:
    """Points stand in order of num_workers, ceilings and the loader alone left out."""
    chart = compute_throughput_chart(faster_report())
    assert chart is not None
    workers = {line.batch_size: [point.num_workers for point in line.points] for line in chart.lines}
    assert workers == {16: [0, 2, 4, 6, 8, 16], 32: [0, 2, 4, 6, 8]}


def test_failed_settings_have_no_rate_and_keep_their_state() -> None:
    """A skip and an out-of-memory are told apart in the numbers."""
    chart = compute_throughput_chart(faster_report())
    assert chart is not None
    assert chart.failed == (FailedPoint(16, 32, "out of memory"), FailedPoint(24, 32, "skipped"))


def test_tie_band_holds_what_ties_with_the_chosen_setting() -> None:
    """The band is the tie rule around the recommended rate."""
    chart = compute_throughput_chart(faster_report())
    assert chart is not None
    assert chart.chosen is not None
    assert chart.tie_band_per_s is not None
    low, high = (bound / chart.chosen.rate_per_s for bound in chart.tie_band_per_s)
    assert low == pytest.approx(TIE_RATIO)
    assert high == pytest.approx(1 / TIE_RATIO)


def test_repeated_setting_is_its_mean_with_whiskers_over_all_its_trials() -> None:
    """Rounds that differ widen the whiskers, they do not add points."""
    report = msgspec.structs.replace(
        faster_report(),
        trials=(
            complete(1, settings(2, 16), 40.0, spread_ratio=0.01),
            complete(2, settings(2, 16), 60.0, spread_ratio=0.05),
        ),
    )
    chart = compute_throughput_chart(report)
    assert chart is not None
    (line,) = chart.lines
    (point,) = line.points
    assert point.rate_per_s == pytest.approx(50.0)
    assert (point.low_per_s, point.high_per_s) == pytest.approx((38.0, 63.0))


def test_of_settings_at_one_place_the_fastest_is_drawn() -> None:
    """Another prefetch_factor is another setting, but the chart has one place for both."""
    fast = settings(2, 16, prefetch_factor=4)
    report = msgspec.structs.replace(
        faster_report(), trials=(complete(1, fast, 60.0), complete(2, settings(2, 16), 40.0))
    )
    chart = compute_throughput_chart(report)
    assert chart is not None
    assert [point.rate_per_s for point in chart.lines[0].points] == pytest.approx([60.0])


def test_nothing_to_draw_is_none() -> None:
    """Without a complete trial, or without a recommendation's duel, there is no chart."""
    assert compute_throughput_chart(empty_report()) is None
    assert compute_duel_chart(interrupted_report()) is None


def test_duel_shows_every_pair_with_the_interval_of_the_verdict() -> None:
    """Disturbed pairs are shown as such, never dropped."""
    report = faster_report()
    chart = compute_duel_chart(report)
    assert chart is not None
    assert len(chart.pairs) == len(report.duels[0].pairs)
    assert [pair.number for pair in chart.pairs if pair.is_flagged] == [5]
    assert {pair.restart for pair in chart.pairs} == {0, 1}
    assert (chart.low, chart.high) == (1.83, 1.97)
    assert all(1.7 < pair.ratio < 2.1 for pair in chart.pairs)


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_same_numbers_give_the_same_bytes(size: Size) -> None:
    """A page can be compared and cached."""
    throughput, duel = compute_throughput_chart(faster_report()), compute_duel_chart(faster_report())
    assert throughput is not None
    assert duel is not None
    assert draw_throughput(throughput, size) == draw_throughput(throughput, size)
    assert draw_duel(duel, size) == draw_duel(duel, size)


def test_drawing_takes_its_colours_from_the_page_and_its_ids_are_its_own() -> None:
    """Light and dark work with one drawing, and two drawings share no id."""
    throughput, duel = compute_throughput_chart(faster_report()), compute_duel_chart(faster_report())
    assert throughput is not None
    assert duel is not None
    svgs = [draw_throughput(throughput), draw_throughput(throughput, NARROW), draw_duel(duel)]
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in svgs]
    assert not ids[0] & ids[1]
    assert not ids[0] & ids[2]
    for svg in svgs:
        assert "currentColor" in svg
        assert "var(--series-1)" in svg
        assert not re.search(r"#0[0-9a-f]{5}", svg)
        assert not re.search(r"<style|<metadata|<script|<image|https?://(?!www\.w3\.org/)", svg)
        assert set(re.findall(r'href="#([^"]+)', svg)) <= set(re.findall(r'\bid="([^"]+)"', svg))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", [single_trial_report, inconclusive_report, same_report])
def test_poor_data_can_be_drawn(make: object) -> None:
    """One point, no spread, no ceiling and tiny ranges draw without a warning."""
    report = make()  # type: ignore[operator]
    throughput, duel = compute_throughput_chart(report), compute_duel_chart(report)
    drawn = [draw_throughput(throughput)] if throughput is not None else []
    drawn += [draw_duel(duel)] if duel is not None else []
    assert all(svg.startswith("<svg") and svg.endswith("</svg>") for svg in drawn)


@pytest.mark.parametrize(("low", "high"), [(0.98, 1.02), (0.9, 1.2), (0.95, 2.1), (0.3, 1.1), (0.5, 40.0)])
def test_ratio_ticks_are_few_round_and_within_bounds(low: float, high: float) -> None:
    """From a few per cent to many times, the axis can be read."""
    ticks = choose_ratio_ticks(low, high)
    assert 2 <= len(ticks) <= TICKS_MAX + 1
    assert all(low <= tick <= high for tick in ticks)
    assert all(len(f"{tick:g}") <= 5 for tick in ticks)


def test_worker_ticks_keep_their_distance_and_both_ends() -> None:
    """Labels that would touch are left out."""
    assert choose_ticks([0, 1, 2, 4, 32], 0.1) == [0, 4, 32]
    assert choose_ticks([7], 0.1) == [7]
