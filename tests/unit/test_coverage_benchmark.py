"""Does the coverage benchmark score what probes and duels said as it promises?"""

import pytest

from benchmarks.coverage_scores import (
    Said,
    Tally,
    count_agreeing,
    is_as_good,
    judge,
    most_frequent,
    pooled_truth,
    read_said,
    tabulate,
    tally_intervals,
)


def said(estimate=2.0, half=0.1, **changes):
    """A probe that recommends two workers over one."""
    figures = {} if estimate is None else {"estimate": estimate, "low": estimate - half, "high": estimate + half}
    return Said(
        **{"cell": "c", "neighbour": "idle", "verdict": "FASTER", "workers": 2, "over": 1, **figures, **changes}
    )


def probe_rows(repeat, value, low, high, reason=None, workers=2, rates=()):
    keys = {"variant": "c, idle", "part": "probes", "repeat": repeat}
    told = {"cell": "c", "neighbour": "idle", "verdict": "FASTER", "workers": workers, "over": 1, "reason": reason}
    rows = [{**keys, **told, "quantity": "speed-up", "value": value, "unit": "x", "low": low, "high": high}]
    for number, (own, rate) in enumerate(rates):
        extra = {"quantity": f"rate {number}", "unit": "samples/s", "num_workers": own, "round": 0}
        rows.append({**keys, **extra, "value": rate})
    return rows


def duel_rows(part, verdicts, low=0.9, high=1.2):
    keys = {"variant": part, "part": part, "unit": "x", "quantity": "ratio", "value": 1.0, "low": low, "high": high}
    return [{**keys, "verdict": verdict, "repeat": number} for number, verdict in enumerate(verdicts)]


def test_the_pooled_truth_is_the_geometric_mean_of_the_others():
    everything = [said(9.0), said(1.0), said(2.0), said(4.0)]
    assert pooled_truth(everything, 0) == pytest.approx(2.0)


@pytest.mark.parametrize("other", [{"neighbour": "busy"}, {"cell": "d"}, {"workers": 3}, {"over": 0}])
def test_other_questions_are_not_pooled(other):
    assert pooled_truth([said(), said(), said(), said(**other)], 0) is None
    assert pooled_truth([said(), said(), said(), said(), said(7.0, **other)], 0) == pytest.approx(2.0)


def test_two_others_make_no_truth_nor_do_probes_without_an_interval():
    assert pooled_truth([said(), said(), said()], 0) is None
    assert pooled_truth([said(), said(), said(), said(None)], 0) is None


def test_intervals_are_held_missed_untold_or_not_stated():
    everything = [*[said(2.0)] * 4, said(3.0, 0.1), said(2.0, cell="alone"), said(None)]
    # To the four, the truth is (2^3 * 3)^(1/4) = 2.21; to the fifth it is 2.
    assert tally_intervals(everything) == Tally(held=0, judged=5, untold=1, without=1)
    everything = [*[said(2.0, 0.3)] * 4, said(3.0, 0.1), said(2.0, cell="alone"), said(None)]
    assert tally_intervals(everything) == Tally(held=4, judged=5, untold=1, without=1)


def test_the_ends_of_an_interval_belong_to_it():
    everything = [said(2.0), said(2.0), said(2.0), said(2.5, low=2.0, high=3.0, half=0)]
    assert tally_intervals(everything).held == 1


def test_of_choices_as_frequent_the_fewest_workers_are_usual():
    assert most_frequent([said(workers=3), said(workers=1), said(workers=None)]) == 1
    assert most_frequent([said(workers=3), said(workers=3), said(workers=1)]) == 3
    assert most_frequent([said(workers=None)]) is None


def rated(workers, one, two, **changes):
    return said(workers=workers, rates={(1, 0): one, (2, 0): two}, **changes)


def test_a_choice_that_is_tied_with_the_usual_one_agrees():
    """Within 3 % of it, surely within 6 %, over the rounds of all probes of the question."""
    tied = [rated(2, 99, 100), rated(2, 98, 100), rated(1, 99, 100)]
    assert is_as_good(tied, 1, 2)
    assert count_agreeing(tied) == 3
    slower = [rated(2, 90, 100), rated(2, 91, 100), rated(1, 90, 100)]
    assert not is_as_good(slower, 1, 2)
    assert count_agreeing(slower) == 2


def test_ties_are_not_looked_for_in_other_cells_nor_in_one_round():
    probes = [rated(2, 99, 100), rated(2, 99, 100, cell="d"), rated(1, 99, 100, cell="d")]
    assert count_agreeing(probes) == 3
    assert not is_as_good([rated(1, 99, 100)], 1, 2)
    unpaired = said(workers=1, rates={(1, 0): 99.0, (2, 1): 100.0})
    assert not is_as_good([unpaired, unpaired], 1, 2)


def test_a_probe_without_an_answer_agrees_with_none():
    assert count_agreeing([said(), said(), said(workers=None)]) == 2


def test_rows_become_what_was_said():
    rows = [*probe_rows(0, 2.0, 1.9, 2.1, rates=[(1, 50.0), (2, 100.0)]), *probe_rows(1, 1.5, 1.4, 1.6, "too coarse")]
    first, second = read_said(rows)
    assert (first.estimate, first.low, first.high) == (2.0, 1.9, 2.1)
    assert first.rates == {(1, 0): 50.0, (2, 0): 100.0}
    assert (second.estimate, second.low, second.high, second.rates) == (None, None, None, {})
    assert read_said(duel_rows("same", ["SAME"])) == []


def test_a_failed_probe_has_no_figures():
    keys = {"variant": "c, idle", "part": "probes", "repeat": 0, "cell": "c", "neighbour": "idle", "unit": "x"}
    row = {**keys, "quantity": "speed-up", "value": None, "verdict": "FAILED", "reason": "exit code 9"}
    (failed,) = read_said([row])
    assert (failed.workers, failed.estimate) == (None, None)
    assert count_agreeing([failed]) == 0
    assert tally_intervals([failed]) == Tally(without=1)


def met(rows, probes=4, same=4, faster=4):
    return [criterion.met for criterion in judge({"rows": rows}, probes, same, faster)]


def test_nothing_is_judged_before_it_is_whole():
    assert met([]) == [None] * 5
    rows = [row for repeat in range(3) for row in probe_rows(repeat, 2.0, 1.9, 2.1)]
    rows += duel_rows("same", ["FASTER"] * 3) + duel_rows("faster", ["FASTER"] * 3)
    assert met(rows) == [None] * 5


def test_whole_parts_are_judged():
    rows = [row for repeat in range(4) for row in probe_rows(repeat, 2.0, 1.9, 2.1)]
    rows += duel_rows("same", ["FASTER"] * 3 + ["SAME"]) + duel_rows("faster", ["FASTER"] * 4)
    assert met(rows) == [True, True, True, True, None]
    rows = [row for repeat in range(3) for row in probe_rows(repeat, 2.0, 1.9, 2.1)]
    rows += probe_rows(3, 3.0, 2.9, 3.1, workers=3)
    rows += duel_rows("same", ["FASTER"] * 4) + duel_rows("faster", ["FASTER"] * 3 + ["INCONCLUSIVE"])
    assert met(rows) == [None, False, False, False, None]


def test_intervals_that_few_probes_state_are_not_judged():
    rows = [row for repeat in range(4) for row in probe_rows(repeat, 2.0, 1.9, 2.1)]
    silent = [row for repeat in range(4, 9) for row in probe_rows(repeat, 2.0, 1.9, 2.1, "too coarse")]
    assert met([*rows, *silent[:4]], probes=8)[0] is True
    assert met([*rows, *silent], probes=9)[0] is None


def test_lines_count_verdicts_and_what_holds():
    rows = [row for repeat in range(4) for row in probe_rows(repeat, 2.0, 1.9, 2.1)]
    rows += duel_rows("same", ["SAME", "FASTER"], low=1.01) + duel_rows("faster", ["FASTER"])
    probes, same, faster = tabulate({"rows": rows})
    assert "4 probes, 4 FASTER; use 2: 4 agree; 2.000x [2.000 2.000]; 4 of 4 hold" in probes
    assert "2 duels, 1 FASTER, 1 SAME; 0 hold 1" in same
    assert "1 duels, 1 FASTER; 1 hold 1.15" in faster
