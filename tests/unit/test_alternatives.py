"""Is a larger batch offered by what it is worth for the training, where the noise scale tells?"""

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from loadtune.advice.alternatives import ALTERNATIVE_GAIN_RATIO
from loadtune.advice.selection import choose, recommend
from loadtune.advice.terms import Terms
from loadtune.records.settings import Settings
from loadtune.schedule.batch_growth import NoiseScaleEstimate, read_noise_scale
from loadtune.schedule.curve import Exponential, iterations
from loadtune.schedule.rules import samples_ratio
from tests.fake_runner import complete_result

OWN = 8


def at(batch_size: int, **fields: object) -> Settings:
    return Settings(num_workers=2, batch_size=batch_size, **fields)


def answer(rates: dict[int, float], noise_scale: NoiseScaleEstimate | None = None, **terms: object):
    """Screen one trial for each batch size; the first is the user's own."""
    trials = [complete_result(at(size), rate, number=number) for number, (size, rate) in enumerate(rates.items())]
    baseline = at(OWN)
    given = {"optimizer": "sgd", "sample_count": 3600, "epochs": 10, "noise_scale": noise_scale} | terms
    stated = Terms(baseline=baseline, baseline_origin="made up", **given)
    return recommend(choose(trials, baseline), None, trials, stated)


def measured(samples: float, low: float, high: float | None, **fields: object) -> NoiseScaleEstimate:
    given = {"steps": 100, "is_lower_bound": False} | fields
    return NoiseScaleEstimate(samples=samples, low=low, high=high, **given)


def test_a_batch_that_outweighs_what_its_samples_teach_less_is_offered_with_the_reckoning():
    """Twice the samples/s at twice the batch; at a noise scale of 1000 a sample teaches hardly less."""
    (found,) = answer({OWN: 100.0, 16: 200.0}, measured(1000.0, 800.0, 1300.0)).alternatives
    assert found.progress.samples_ratio == pytest.approx(1016 / 1008)
    assert found.progress.ratio == pytest.approx(2 * 1008 / 1016)
    assert found.progress.low == pytest.approx(2 * 808 / 816)
    assert found.progress.high == pytest.approx(2 * 1308 / 1316)
    assert found.learning_rate.factor == pytest.approx(2 * 1008 / 1016)
    assert "noise scale" in found.learning_rate.rule


@pytest.mark.parametrize(
    ("terms", "samples"),
    [
        ({"sample_count": 450, "is_rank_share": True}, 3600),
        ({"sample_count": 3600}, 3600),
        ({"sample_count": 450, "is_rank_share": True, "drop_last": True}, 3584),
    ],
)
def test_the_code_counts_an_epoch_of_all_ranks(terms, samples):
    """Eight ranks of 450 samples, of which batches of 16 drop two."""
    (found,) = answer({OWN: 100.0, 16: 200.0}, world_size=8, **terms).alternatives
    code = "\n".join(found.learning_rate.code)
    assert f"batch_size=16, world_size=8, samples_per_epoch={samples})" in code
    assert f"samples={samples})" in code


def test_a_batch_that_does_not_is_no_answer_and_the_reason_says_so():
    """1.6 times the samples/s, but 2.47 times the samples."""
    told = answer({OWN: 100.0, 64: 160.0}, measured(30.0, 20.0, 50.0))
    assert told.alternatives == ()
    assert any("batch_size=64 does 1.60 times" in each and "0.65 [0.53 0.81]" in each for each in told.reasons)
    assert answer({OWN: 100.0, 64: 160.0}).alternatives != ()


def test_the_batch_of_the_most_progress_is_offered_and_not_the_most_samples():
    """At a noise scale of 100, batch 32 gains 1.27 times and batch 128 loses."""
    told = answer({OWN: 100.0, 32: 155.0, 128: 190.0}, measured(100.0, 80.0, 130.0))
    (found,) = told.alternatives
    assert found.settings.batch_size == 32
    assert any("batch_size=128 does 1.90 times" in each for each in told.reasons)


def test_a_lower_bound_speaks_against_no_batch_and_praises_none():
    """The network was not trained: its noise scale grows, so the same batch may pay later."""
    (found,) = answer({OWN: 100.0, 64: 160.0}, measured(30.0, 20.0, 50.0, is_lower_bound=True)).alternatives
    assert found.progress.is_at_least
    assert found.progress.ratio == pytest.approx(1.6 * 28 / 84)
    assert (found.progress.low, found.progress.high) == (None, None)
    assert found.learning_rate.factor == 8.0
    assert any("lower bound" in each for each in found.learning_rate.warnings)


def test_without_an_upper_bound_the_gain_is_at_most_that_of_the_samples():
    (found,) = answer({OWN: 100.0, 64: 300.0}, measured(300.0, 100.0, None)).alternatives
    assert found.progress.high == pytest.approx(3.0)
    assert found.progress.low == pytest.approx(3 * 108 / 164)


def test_a_noise_scale_that_could_not_be_told_changes_nothing():
    unknown = NoiseScaleEstimate(samples=None, reason="3 steps, 8 needed")
    (found,) = answer({OWN: 100.0, 64: 160.0}, unknown).alternatives
    (plain,) = answer({OWN: 100.0, 64: 160.0}).alternatives
    assert found.progress is None
    assert found.learning_rate.factor == plain.learning_rate.factor == 8.0
    assert any("not known" in each for each in found.learning_rate.warnings)


def test_the_samples_of_all_ranks_count():
    """64 a rank is far beyond a noise scale of 200 on 8 ranks, and not on one."""
    noise = measured(200.0, 150.0, 260.0)
    assert answer({OWN: 100.0, 64: 160.0}, noise).alternatives != ()
    assert answer({OWN: 100.0, 64: 160.0}, noise, world_size=8).alternatives == ()


def test_fewer_accumulation_steps_cost_no_progress():
    """The step holds as many samples as before, whatever the noise scale."""
    own = at(8, accumulation_steps=4)
    trials = [complete_result(own, 100.0), complete_result(at(16, accumulation_steps=4), 150.0, number=1)]
    terms = Terms(baseline=own, baseline_origin="", optimizer="sgd", accumulate=True, noise_scale=measured(1.0, 0.9, 2))
    (found,) = recommend(choose(trials, own), None, trials, terms).alternatives
    assert (found.kind, found.progress, found.learning_rate.code) == ("accumulate", None, ())


def test_nothing_is_rescaled_where_nothing_is_trained():
    (found,) = answer({OWN: 100.0, 64: 160.0}, measured(1.0, 0.9, 2.0), is_training=False).alternatives
    assert (found.progress, found.learning_rate.factor, found.learning_rate.code) == (None, 1.0, ())


def test_the_recommendation_carries_code_where_the_rate_was_tuned_for_another_batch():
    """Tuned at 4, run at 8: the setting to use asks for twice the rate."""
    schedule = Exponential(k=0.001, unit=iterations(4))
    told = answer({OWN: 100.0}, base_batch_size=4, learning_rate=0.1, schedule=schedule).learning_rate
    assert told.rate == pytest.approx(0.2)
    assert f"schedule = {schedule!r}" in told.code
    assert any("rescale(optimizer, 4, 8)" in line for line in told.code)
    assert answer({OWN: 100.0}, learning_rate=0.1).learning_rate.code == ()


def test_the_code_survives_json():
    (found,) = answer({OWN: 100.0, 16: 200.0}, read_noise_scale(1000), learning_rate=0.1).alternatives
    again = msgspec.json.decode(msgspec.json.encode(found), type=type(found))
    assert again == found
    assert again.learning_rate.code[0].startswith("from loadtune import")
    assert (again.progress.low, again.progress.high) == (None, None)  # a bare number has no interval


@hypothesis_settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.sampled_from([16, 32, 64, 128, 512]), st.floats(50, 2000), min_size=1),
    st.floats(1, 1e5),
)
def test_what_is_offered_is_faster_to_the_same_loss_and_no_other_batch_is_more_so(larger, noise):
    told = answer({OWN: 100.0, **larger}, read_noise_scale(noise))
    worth = {size: rate / 100.0 / samples_ratio(OWN, size, noise) for size, rate in larger.items()}
    for found in told.alternatives:
        assert found.progress.ratio == pytest.approx(worth[found.settings.batch_size], rel=1e-6)
        assert found.progress.ratio > ALTERNATIVE_GAIN_RATIO
        assert found.progress.ratio == pytest.approx(max(worth.values()), rel=1e-6)
    if not told.alternatives:
        assert max(worth.values()) <= ALTERNATIVE_GAIN_RATIO * (1 + 1e-6) or max(larger.values()) <= 104
