"""Batch ratio to learning rate: the two rules, and where they end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtune.schedule.rescale import LINEAR_RULE, SQUARE_ROOT_RULE, UNCHANGED_RULE, rescale_learning_rate


@pytest.mark.parametrize(
    ("optimizer", "factor", "rule"),
    [("sgd", 4.0, LINEAR_RULE), ("adam", 2.0, SQUARE_ROOT_RULE), ("adamw", 2.0, SQUARE_ROOT_RULE)],
)
def test_each_optimizer_has_its_rule(optimizer, factor, rule):
    """Four times the batch: linear for SGD, square root for the Adam family."""
    rescaled = rescale_learning_rate(optimizer, 8, 32, rate=0.01)
    assert (rescaled.factor, rescaled.rate, rescaled.rule) == (factor, pytest.approx(0.01 * factor), rule)


def test_without_a_rate_there_is_only_the_factor():
    """The new rate is None, not a guess."""
    assert rescale_learning_rate("sgd", 8, 16).rate is None


def test_same_batch_changes_nothing():
    """Factor 1, no warning, and no rule to quote, however small the batch."""
    rescaled = rescale_learning_rate("adam", 4, 4, rate=0.1)
    assert (rescaled.factor, rescaled.rate, rescaled.rule, rescaled.warnings) == (
        1.0,
        0.1,
        UNCHANGED_RULE,
        (),
    )


@pytest.mark.parametrize(
    ("optimizer", "base", "new", "words"),
    [
        ("sgd", 8, 16, []),
        ("sgd", 8, 24, ["warm up"]),
        ("adam", 8, 72, ["warm up"]),
        ("adam", 8, 80, ["warm up", "beta1"]),
        ("sgd", 8, 80, ["warm up"]),
        ("sgd", 16, 4, ["BatchNorm"]),
    ],
)
def test_warnings_appear_where_a_rule_ends(optimizer, base, new, words):
    """Above twice the batch, at kappa (1 - beta1) = 1 for Adam, and below 8 samples."""
    warnings = rescale_learning_rate(optimizer, base, new).warnings
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True))


@given(st.sampled_from(["sgd", "adam", "adamw"]), *[st.integers(1, 4096)] * 3)
def test_rescaling_twice_is_rescaling_once(optimizer, first, second, third):
    """Factors multiply, so the way to a batch size does not matter."""
    one, two = (
        rescale_learning_rate(optimizer, first, second),
        rescale_learning_rate(optimizer, second, third),
    )
    assert one.factor * two.factor == pytest.approx(rescale_learning_rate(optimizer, first, third).factor)


@pytest.mark.parametrize(("base", "new", "rate"), [(0, 8, None), (8, 0, None), (8, 8, 0.0), (8, 8, -1.0)])
def test_impossible_figures_are_refused(base, new, rate):
    """No batch below one, no rate that is not positive."""
    with pytest.raises(ValueError, match="no rescaling"):
        rescale_learning_rate("sgd", base, new, rate)
