"""Does the learning-rate benchmark score its rows as it promises?"""

import random

import pytest

from benchmarks.learning_rate_scores import best_of_curve, compare, judge

SEEDS = 20


def runs(mean, spread, count=SEEDS, seed=0):
    generator = random.Random(seed)
    return [generator.gauss(mean, spread) for _ in range(count)]


def test_equal_runs_are_equivalent_and_distant_ones_are_not():
    base = runs(1.0, 0.1)
    assert compare(base, runs(1.0, 0.1, seed=1)).is_equivalent
    far = compare(base, runs(1.3, 0.1, seed=1))
    assert not far.is_equivalent
    assert far.difference_sds > 2
    assert not compare(base, runs(0.7, 0.1, seed=1)).is_equivalent


def test_noise_alone_is_not_equivalence():
    """A difference of nothing, told by two runs, proves nothing."""
    assert not compare([1.0, 1.1], [1.1, 1.0]).is_equivalent


def test_no_more_than_one_in_twenty_is_called_equivalent_at_the_margin():
    """With the base run's spread known well, a true difference of one sd passes in at most 5 % of trials."""
    passed = 0
    for seed in range(400):
        shared = runs(0.0, 0.3, seed=seed)
        base = [value + own for value, own in zip(shared, runs(0.0, 0.95, seed=seed + 1000), strict=True)]
        other = [value + own for value, own in zip(shared, runs(1.0, 0.95, seed=seed + 2000), strict=True)]
        passed += compare(base, other).is_equivalent
    assert passed <= 30  # 20 expected at the level; the margin is estimated too


def test_a_run_that_diverged_is_not_equivalent():
    found = compare([1.0, 1.1, 0.9], [1.0, None, 0.9])
    assert (found.is_equivalent, found.difference_sds) == (False, None)


@pytest.mark.parametrize(("base", "other"), [([1.0], [1.0]), ([1.0, 1.1], [1.0]), ([1.0, None], [1.0, 1.0])])
def test_runs_that_cannot_be_compared_are_refused(base, other):
    with pytest.raises(ValueError, match="base runs"):
        compare(base, other)


def rows(variant, losses, rate=0.1, **notes):
    keys = {"optimizer": "SGD", "quantity": "training loss", "unit": "nats", "is_judged": True, "rate": rate}
    return [
        {**keys, "variant": f"SGD, {variant}", "seed": seed, "value": loss, **notes} for seed, loss in enumerate(losses)
    ]


def a_record(warned=False, ours=None, late=1.5):
    """Rows in which ours is as good as the base run at 4B, and both controls are worse."""
    found = rows("base", runs(1.0, 0.1))
    found += rows("4B, ours", ours or runs(1.0, 0.1, seed=1), rate=0.4)
    found += rows("4B, nothing", runs(1.5, 0.1, seed=2))
    found += rows("4B, ten times", [None] * SEEDS, rate=4.0)
    found += rows("16B, ours", runs(late, 0.1, seed=3), rate=1.6, warned=warned)
    for rate, loss in ((0.1, 1.2), (0.2, 1.0), (0.8, None)):
        found += rows(f"4B, curve {rate}", [loss] * 3, rate=rate, is_curve=True)
    return {"rows": found}


def test_the_curve_is_led_by_the_least_median_and_divergence_loses():
    assert best_of_curve(a_record(), "SGD") == 0.2
    assert best_of_curve({"rows": []}, "SGD") is None


def test_what_holds_is_met():
    found = judge(a_record(warned=True), ("SGD",), SEEDS)
    assert [criterion.met for criterion in found] == [True] * 6


def test_what_fails_is_not_met():
    unwarned = judge(a_record(), ("SGD",), SEEDS)
    assert [criterion.met for criterion in unwarned] == [True, True, True, True, False, True]
    worse = judge(a_record(warned=True, ours=runs(1.2, 0.1, seed=1)), ("SGD",), SEEDS)
    assert worse[0].met is False
    assert judge(a_record(late=1.0), ("SGD",), SEEDS)[4].met is True
    alarmed = a_record()
    for row in alarmed["rows"]:
        row["warned"] = True
    assert [criterion.met for criterion in judge(alarmed, ("SGD",), SEEDS)][4:] == [True, False]


def test_too_few_seeds_are_not_judged():
    assert [criterion.met for criterion in judge(a_record(), ("SGD",), SEEDS + 1)] == [None] * 6
    assert [criterion.met for criterion in judge({"rows": []}, ("SGD",), SEEDS)] == [None] * 6
