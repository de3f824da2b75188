"""What do finished trials add up to? Ceilings, the trial that stands for a setting, and too many broken samples."""

import msgspec
import pytest

from loadtune.concluding import (
    BAD_SAMPLES_IN_ERROR,
    compute_ceilings,
    conclude,
    list_bad_samples,
    refuse_too_many,
    representative,
)
from loadtune.errors import TooManyBadSamplesError
from loadtune.records.measurement import BadSample, Cause, TrialState
from loadtune.records.settings import Settings
from tests.fake_runner import complete_result, failed_result

TWO, FOUR = (Settings(num_workers=number, batch_size=8) for number in (2, 4))


def with_bad(settings, *names, samples_seen=1000):
    trial = complete_result(settings, 100.0)
    bad = tuple(BadSample(name=name, reason="cut off") for name in names)
    fields = {"bad_samples": bad, "bad_sample_count": len(bad), "samples_seen": samples_seen}
    return msgspec.structs.replace(trial, measurement=msgspec.structs.replace(trial.measurement, **fields))


def test_the_last_complete_end_to_end_trial_stands_for_a_setting():
    """Neither ceilings nor failures nor another setting."""
    last = complete_result(TWO, 120.0, number=3)
    trials = [
        complete_result(TWO, 100.0, number=1, role="baseline"),
        complete_result(FOUR, 200.0, number=2),
        last,
        complete_result(TWO, 900.0, number=4, role="ceiling", feed="resident"),
        complete_result(TWO, 800.0, number=5, role="loader", consume="nothing"),
        failed_result(TWO, number=6),
    ]
    assert representative(trials, TWO) is last
    assert representative(trials, Settings(num_workers=9, batch_size=8)) is None


def test_ceilings_are_the_device_s_and_the_loader_s_own_rates():
    """By worker count, as JSON has it."""
    trials = [
        complete_result(TWO, 900.0, role="ceiling", feed="resident"),
        complete_result(TWO, 300.0, role="loader", consume="nothing"),
        complete_result(FOUR, 500.0, role="loader", consume="nothing"),
        complete_result(TWO, 250.0),
    ]
    found = compute_ceilings(trials, None)
    assert found.device_rate_per_s == pytest.approx(900.0)
    assert found.loader_rates_per_s == {"2": pytest.approx(300.0), "4": pytest.approx(500.0)}
    assert found.reached_ratio is None


def test_a_ceiling_that_was_not_measured_says_why():
    """Its failure, or that time did not suffice."""
    assert compute_ceilings([], None).device_rate_reason == "time did not suffice"
    failed = failed_result(TWO, TrialState.OUT_OF_MEMORY, Cause.DEVICE_MEMORY, role="ceiling")
    found = compute_ceilings([failed], None)
    assert (found.device_rate_per_s, found.device_rate_reason) == (None, "made up")
    both = compute_ceilings([failed, complete_result(TWO, 900.0, role="ceiling")], None)
    assert both.device_rate_per_s == pytest.approx(900.0)


def test_without_a_choice_there_are_ceilings_alone():
    """Nothing is recommended, nothing found."""
    found = conclude(None, [complete_result(TWO, 900.0, role="ceiling")], [], None, "")
    assert (found.recommendation, found.findings) == (None, ())
    assert found.ceilings.device_rate_per_s == pytest.approx(900.0)


def test_broken_samples_are_listed_once_in_order():
    """However many trials met them."""
    trials = [with_bad(TWO, "b.png", "a.png"), failed_result(TWO), with_bad(FOUR, "a.png")]
    assert [bad.name for bad in list_bad_samples(trials)] == ["a.png", "b.png"]


def test_more_broken_samples_than_allowed_end_the_probe_with_their_names():
    """The first few are named, all are counted."""
    trials = [with_bad(TWO, *(f"{number:02}.png" for number in range(6)))]
    with pytest.raises(TooManyBadSamplesError) as raised:
        refuse_too_many(trials, 100, 0.05)
    assert raised.value.what.startswith("6 of 100 samples are broken, 5 are allowed: 00.png: cut off")
    assert raised.value.what.count(".png") == BAD_SAMPLES_IN_ERROR
    assert "\n" not in raised.value.what
    refuse_too_many(trials, 100, 0.06)


def test_one_broken_sample_is_allowed_unless_none_is():
    """1 % of 20 samples rounds up; of 0 % nothing does."""
    one = [with_bad(TWO, "a.png")]
    refuse_too_many(one, 20, 0.01)
    with pytest.raises(TooManyBadSamplesError):
        refuse_too_many(one, 20, 0.0)
    with pytest.raises(TooManyBadSamplesError):
        refuse_too_many([with_bad(TWO, "a.png", "b.png")], 20, 0.01)


def test_a_part_of_the_data_is_judged_by_what_was_seen_of_it():
    """20 % broken of a million is noticed after a hundred; a share by chance a little above 1 % is let pass."""
    names = [f"{number}.png" for number in range(20)]
    with pytest.raises(TooManyBadSamplesError):
        refuse_too_many([with_bad(TWO, *names, samples_seen=100)], 1_000_000, 0.01)
    refuse_too_many([with_bad(TWO, *names[:3], samples_seen=100)], 1_000_000, 0.01)
