"""From trials and a duel to the recommendation: properties, near-oracle picks, and verdicts."""

import dataclasses

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from loadtune.advice.epochs import Gain
from loadtune.advice.grid import GridSearch
from loadtune.advice.selection import Terms, choose, recommend
from loadtune.errors import NothingMeasuredError
from loadtune.records.measurement import Cause, Duel, Failure, Measurement, TrialState
from loadtune.records.report import Verdict
from loadtune.records.resources import ResourceTrace
from loadtune.records.settings import Settings
from loadtune.render.answer import compose_speedup
from tests import strategies
from tests.fake_runner import STARTUP, FakeRunner, complete_result, drive, failed_result
from tests.strategies import BASELINE

TERMS = Terms(baseline=BASELINE, baseline_origin="made up", optimizer="sgd", sample_count=3600, epochs=10)
WORKERS = (0, 1, 2, 4, 8, 16)


def at(num_workers: int, batch_size: int = 8, **fields: object) -> Settings:
    return Settings(num_workers=num_workers, batch_size=batch_size, **fields)


def screen(rates: dict[Settings, float | list[float]], **fields: object):
    """One trial a setting and round."""
    made = []
    for settings, several in rates.items():
        for place, rate in enumerate(several if isinstance(several, list) else [several]):
            made.append(complete_result(settings, rate, number=len(made) + 1, round=place, **fields))
    return made


def duel(runner: FakeRunner, contender: Settings, **fields: object) -> Duel:
    options = {"method": "frozen", "slice_s": 2.0, "head_s": 0.3} | fields
    return Duel(baseline=BASELINE, contender=contender, pairs=tuple(runner.duel(BASELINE, contender)), **options)


def probe(surface, *, noise_sd: float = 0.02, seed: int = 0, seconds: float = 90.0, **options):
    """Screen, choose, hold the duel, recommend."""
    runner = FakeRunner(surface, noise_sd=noise_sd, seed=seed, **options)
    trials = drive(GridSearch(BASELINE, WORKERS, (8,), may_extend_workers=True, seed=seed), runner, seconds)
    choice = choose(trials, BASELINE)
    held = duel(runner, choice.settings) if choice.settings != BASELINE else None
    return recommend(choice, held, trials, TERMS)


@given(strategies.trials())
def test_only_a_completed_setting_is_chosen(trials):
    """At the user's batch size, and so are the ties."""
    choice = choose(trials, BASELINE)
    complete = {each.settings for each in trials if each.state is TrialState.COMPLETE}
    assert {choice.settings, *choice.ties} <= complete
    assert {each.batch_size for each in (choice.settings, *choice.ties)} == {BASELINE.batch_size}


@given(strategies.trials(), st.randoms(use_true_random=False))
def test_order_of_trials_does_not_matter(trials, rng):
    """Shuffled, the choice and the whole recommendation are equal."""
    shuffled = list(trials)
    rng.shuffle(shuffled)
    expected = recommend(choose(trials, BASELINE), None, trials, TERMS)
    assert recommend(choose(shuffled, BASELINE), None, shuffled, TERMS) == expected


@given(strategies.trials(), st.sampled_from([0.25, 4.0, 1024.0]))
def test_scale_of_rates_does_not_matter(trials, scale):
    """A machine four times as fast leads to the same setting and ties."""
    scaled = []
    for trial in trials:
        if trial.measurement is None:
            scaled.append(trial)
            continue
        windows = [
            msgspec.structs.replace(each, duration_s=each.duration_s / scale) for each in trial.measurement.windows
        ]
        measurement = Measurement(windows=tuple(windows), startup=STARTUP)
        scaled.append(msgspec.structs.replace(trial, measurement=measurement, rate_per_s=measurement.rate_per_s))
    one, other = choose(trials, BASELINE), choose(scaled, BASELINE)
    assert (one.settings, one.ties) == (other.settings, other.ties)


@given(strategies.trials())
def test_nothing_tied_is_cheaper_than_the_choice(trials):
    """Fewest workers among all that tie."""
    choice = choose(trials, BASELINE)
    assert all(choice.settings.num_workers <= each.num_workers for each in choice.ties)


def test_nothing_completed_is_an_error():
    """At the user's batch size; other batch sizes do not stand in."""
    with pytest.raises(NothingMeasuredError, match="batch_size=8"):
        choose([failed_result(BASELINE), complete_result(at(2, 16), 10.0)], BASELINE)


def test_ceilings_and_loader_rates_are_no_contenders():
    """A resident batch is fast, and nobody's setting."""
    trials = [
        *screen({BASELINE: 50.0}),
        complete_result(at(8), 500.0, role="ceiling", feed="resident"),
        complete_result(at(8), 500.0, role="loader", consume="nothing"),
    ]
    assert choose(trials, BASELINE).settings == BASELINE


def test_cheaper_setting_within_the_tie_replaces_the_best():
    """0.98 of the best with fewer workers wins; 0.96 does not; the best is then among the ties."""
    quiet = {at(0): [50.0, 50.1], at(2): [98.0, 98.2], at(4): [96.0, 96.1], at(8): [100.0, 100.1]}
    assert choose(screen(quiet), BASELINE).settings == at(2)
    assert choose(screen(quiet), BASELINE).ties == (at(8),)
    quiet[at(2)] = [96.0, 96.2]
    assert choose(screen(quiet), BASELINE).settings == at(8)


def test_wide_intervals_tie_with_nothing():
    """0.99 of the best, but one of 20 % noise: the lower end is far below 0.94."""
    rates = {at(0): [100.0, 60.0, 80.0], at(2): [80.0, 99.0, 118.0], at(8): [100.0, 105.0, 95.0]}
    assert choose(screen(rates), BASELINE).settings == at(8)


def test_least_memory_decides_among_equal_workers():
    """Same workers, same rate: the one that takes less; unknown comes last."""
    lean, fat, unknown = at(4, prefetch_factor=2), at(4, prefetch_factor=8), at(4, prefetch_factor=1)
    trials = screen({unknown: 100.0}, spread=0.001)
    for number, (settings, memory) in enumerate([(fat, 2 * 10**9), (lean, 10**9)], start=2):
        trace = ResourceTrace(started_monotonic_s=0.0, peak_memory_bytes=memory)
        trials.append(complete_result(settings, 100.0, number=number, spread=0.001, trace=trace))
    choice = choose(trials, BASELINE)
    assert (choice.settings, *choice.ties) == (lean, fat, unknown)


@pytest.mark.parametrize(("spread", "expected"), [(0.005, 2), (0.2, 8), (0.0, 8)])
def test_single_round_ties_by_the_windows_spread(spread, expected):
    """0.98 of the best: tied where both are steady, not where they are noisy or of unknown spread."""
    choice = choose(screen({at(2): 98.0, at(8): 100.0}, spread=spread), BASELINE)
    assert choice.settings.num_workers == expected
    assert any("looked at once" in reason for reason in choice.reasons)


def test_rounds_are_compared_within_themselves():
    """The machine halves its pace in round 1, in which the slower setting was not measured."""
    trials = screen({BASELINE: [100.0, 50.0], at(4): [130.0], at(8): [150.0, 75.0]})
    assert choose(trials, BASELINE).settings == at(8)
    trials = screen({BASELINE: [100.0, 50.0], at(4): [150.0], at(8): [130.0, 65.0]})
    assert choose(trials, BASELINE).settings == at(4)


SURFACES = {
    "plateau": lambda each: min(100.0, 20.0 * max(1, each.num_workers)),
    "cliff": lambda each: 20.0 * max(1, each.num_workers) if each.num_workers <= 4 else 30.0,
    "monotone": lambda each: 10.0 * max(0.8, each.num_workers) ** 0.7,
    "peak at the edge": lambda each: 10.0 + min(each.num_workers, 32),
    "fewer are better": lambda each: 100.0 / (1 + 0.1 * each.num_workers),
}


@pytest.mark.parametrize("name", SURFACES)
@pytest.mark.parametrize("seed", range(4))
def test_pick_is_near_the_oracle(name, seed):
    """Three per cent of regret beyond the noise, at 2 % of noise, extension of the edge included."""
    surface = SURFACES[name]
    picked = probe(surface, seed=seed).settings
    oracle = max(surface(at(workers)) for workers in (*WORKERS, 32, 64))
    assert surface(picked) >= 0.93 * oracle


def test_pick_on_a_plateau_is_cheap():
    """Five workers reach the plateau: 8 of the grid, not 16."""
    picks = [probe(SURFACES["plateau"], noise_sd=0.01, seed=seed).settings.num_workers for seed in range(20)]
    assert picks.count(8) >= 18


def test_out_of_memory_corner_is_avoided():
    """The best by rate does not fit; the best of the rest is picked."""
    cause = lambda each: Cause.HOST_MEMORY if each.num_workers > 4 else None  # noqa: E731
    assert probe(SURFACES["monotone"], failure_cause=cause).settings == at(4)


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(10, 1000), min_size=len(WORKERS), max_size=len(WORKERS)), st.integers(0, 10))
def test_regret_is_bounded_on_any_surface(rates, seed):
    """Whatever the surface, with 1 % of noise and two rounds the pick reaches 0.93 of what was measured."""
    truth = dict(zip(WORKERS, rates, strict=True))
    runner = FakeRunner(lambda each: truth[each.num_workers], noise_sd=0.01, seed=seed)
    trials = drive(GridSearch(BASELINE, WORKERS, (8,), seed=seed), runner, 120.0)
    assert truth[choose(trials, BASELINE).settings.num_workers] >= 0.93 * max(rates)


def test_pure_noise_leads_to_few_workers_and_never_to_a_claim():
    """Equal settings: FASTER in at most 5 % of 200 probes, and mostly 0 or 2 workers."""
    made = [probe(lambda each: 100.0, noise_sd=0.02, seed=seed) for seed in range(200)]
    assert sum(each.verdict is Verdict.FASTER for each in made) <= 10
    assert sum(each.settings.num_workers <= BASELINE.num_workers for each in made) >= 150


def test_faster_comes_from_the_duel_with_hours():
    """Twice the baseline's rate: an hour's run of 36000 samples at 20/s becomes half of it."""
    runner = FakeRunner(lambda each: 10.0 * max(1, each.num_workers), noise_sd=0.01)
    trials = screen({BASELINE: [20.0, 20.0], at(4): [40.0, 40.0]})
    answer = recommend(choose(trials, BASELINE), duel(runner, at(4)), trials, TERMS)
    assert (answer.verdict, answer.settings) == (Verdict.FASTER, at(4))
    assert answer.speedup.low < 2.0 < answer.speedup.high
    assert answer.hours_saved == pytest.approx(36_000 / 40 / 3600, rel=0.05)
    assert answer.hours_saved_basis == "10 epochs of 3600 samples"


def test_duel_that_is_lost_recommends_the_baseline():
    """Screening was fooled; the duel was not."""
    runner = FakeRunner(lambda each: 100.0 - each.num_workers, noise_sd=0.005)
    trials = screen({BASELINE: [20.0, 20.0], at(16): [40.0, 40.0]})
    answer = recommend(choose(trials, BASELINE), duel(runner, at(16)), trials, TERMS)
    assert (answer.settings, answer.verdict) == (BASELINE, Verdict.SAME)
    assert (answer.speedup.estimate, answer.speedup.low, answer.speedup.high) == (None, None, None)
    assert "slower" in answer.speedup.reason
    assert answer.hours_saved is None


def test_a_baseline_that_failed_when_it_ran_again_is_not_kept_though_it_wins_the_duel():
    """Fast while it lasts."""
    runner = FakeRunner(lambda each: 100.0 - each.num_workers, noise_sd=0.005)
    trials = [*screen({BASELINE: 50.0, at(16): 40.0}), failed_result(BASELINE, number=9)]
    answer = recommend(choose(trials, BASELINE), duel(runner, at(16)), trials, TERMS)
    assert (answer.settings, answer.rate_per_s) == (at(16), pytest.approx(40.0))
    assert answer.verdict is not Verdict.FASTER
    assert answer.baseline.failure == "made up"


def test_same_and_dearer_recommends_the_baseline_and_same_and_cheaper_the_choice():
    """Nobody pays workers for nothing; nobody is told to keep workers that give nothing."""
    runner = FakeRunner(lambda each: 100.0, noise_sd=0.005)
    dearer = screen({BASELINE: [20.0, 20.0], at(16): [40.0, 40.0]})
    cheaper = screen({BASELINE: [20.0, 20.0], at(0): [20.0, 20.0]})
    assert recommend(choose(dearer, BASELINE), duel(runner, at(16)), dearer, TERMS).settings == BASELINE
    answer = recommend(choose(cheaper, BASELINE), duel(runner, at(0)), cheaper, TERMS)
    assert (answer.settings, answer.verdict) == (at(0), Verdict.SAME)
    assert answer.speedup.pairs == 16


GAIN = Gain(estimate=1.2, low=1.1, high=1.3, pairs=9)


def test_what_kept_workers_win_of_an_epoch_is_the_claim_where_nothing_else_changes():
    """The duel over short epochs was held already; hours are saved by it."""
    trials = screen({BASELINE: [100.0, 100.0], at(8): [90.0, 90.0]})
    kept = msgspec.structs.replace(BASELINE, persistent_workers=True)
    choice = dataclasses.replace(choose(trials, BASELINE), settings=kept, epoch_gain=GAIN)
    answer = recommend(choice, None, trials, TERMS)
    assert (answer.verdict, answer.settings) == (Verdict.FASTER, kept)
    assert (answer.speedup.basis, answer.speedup.estimate, answer.speedup.low, answer.speedup.high) == (
        "epoch", 1.2, 1.1, 1.3,
    )  # fmt: skip
    assert answer.speedup.pairs == 9
    assert answer.hours_saved == pytest.approx(10 * 3600 / 100 * 0.2 / 3600)
    told = compose_speedup(answer)
    assert told.startswith("1.20x [1.10 1.30] the rate of ")
    assert told.endswith(" over whole epochs, an estimate from a duel over short ones")
    other = dataclasses.replace(choice, settings=msgspec.structs.replace(kept, prefetch_factor=4))
    assert recommend(other, None, trials, TERMS).verdict is Verdict.INCONCLUSIVE
    assert recommend(dataclasses.replace(choice, epoch_gain=None), None, trials, TERMS).verdict is Verdict.INCONCLUSIVE


def test_a_won_epoch_is_not_given_up_for_equal_rates():
    """As fast between the ends, and dearer: what the ends win lies beside that."""
    runner = FakeRunner(lambda each: 100.0, noise_sd=0.005)
    dearer = screen({BASELINE: [20.0, 20.0], at(16): [40.0, 40.0], at(16, persistent_workers=True): [40.0, 40.0]})
    kept = at(16, persistent_workers=True)
    choice = dataclasses.replace(choose(dearer, BASELINE), settings=kept)
    assert recommend(choice, duel(runner, kept), dearer, TERMS).settings == BASELINE
    answer = recommend(dataclasses.replace(choice, epoch_gain=GAIN), duel(runner, kept), dearer, TERMS)
    assert (answer.settings, answer.verdict, answer.speedup.basis) == (kept, Verdict.SAME, "rate")


def test_baseline_that_is_the_choice_needs_no_duel():
    """Nothing changes: no ratio, no pairs, a reason. With nothing to compare it to, nothing is claimed."""
    trials = screen({BASELINE: [100.0, 100.0], at(8): [90.0, 90.0]})
    answer = recommend(choose(trials, BASELINE), None, trials, TERMS)
    assert (answer.verdict, answer.settings) == (Verdict.SAME, BASELINE)
    assert (answer.speedup.estimate, answer.speedup.low, answer.speedup.high) == (None, None, None)
    assert answer.speedup.reason == "no setting measured was faster by more than a tie"
    alone = screen({BASELINE: [100.0, 100.0]})
    answer = recommend(choose(alone, BASELINE), None, alone, TERMS)
    assert (answer.verdict, answer.settings) == (Verdict.INCONCLUSIVE, BASELINE)
    assert "no other setting" in answer.speedup.reason


def test_without_a_duel_there_is_no_claim():
    """Ten times as fast in screening, and still INCONCLUSIVE with the reason."""
    trials = screen({BASELINE: [10.0, 10.0], at(8): [100.0, 100.0]})
    answer = recommend(choose(trials, BASELINE), None, trials, TERMS, no_duel_reason="3 s were left")
    assert (answer.verdict, answer.speedup.estimate) == (Verdict.INCONCLUSIVE, None)
    assert answer.speedup.reason == "3 s were left"
    failure = Failure(cause=Cause.HOST_MEMORY, message="two sides did not fit")
    failed = Duel(baseline=BASELINE, contender=at(8), method="frozen", slice_s=2.0, head_s=0.3, failure=failure)
    answer = recommend(choose(trials, BASELINE), failed, trials, TERMS)
    assert "two sides did not fit" in answer.speedup.reason


def test_larger_batch_is_an_alternative_with_its_learning_rate():
    """Batch 32 gains 20 %; batch 16 ties with it and is smaller."""
    trials = screen({BASELINE: [50.0, 50.0], at(4): [100.0, 100.0], at(4, 16): [119.0, 119.0], at(4, 32): [120.0] * 2})
    (found,) = recommend(choose(trials, BASELINE), None, trials, TERMS).alternatives
    assert (found.kind, found.settings, found.learning_rate.factor) == ("larger batch", at(4, 16), 2.0)
    assert found.screening_ratio == pytest.approx(2.38)


def test_larger_batch_that_gains_little_is_not_offered():
    """Three per cent do not pay for another learning rate."""
    trials = screen({BASELINE: [100.0, 100.0], at(2, 16): [102.9, 102.9]})
    assert recommend(choose(trials, BASELINE), None, trials, TERMS).alternatives == ()


def test_accumulation_answer_keeps_the_effective_batch():
    """4 x 8 becomes 2 x 16, factor 1; only when asked, and never a batch that does not divide 32."""
    own = at(2, 8, accumulation_steps=4)
    rates = {
        own: [50.0, 50.0],
        at(2, 16, accumulation_steps=4): [80.0] * 2,
        at(2, 24, accumulation_steps=4): [99.0] * 2,
    }
    terms = Terms(baseline=own, baseline_origin="", optimizer="adam", learning_rate=0.1, accumulate=True)
    trials = screen(rates)
    larger, accumulate = recommend(choose(trials, own), None, trials, terms).alternatives
    assert (larger.kind, larger.settings.batch_size) == ("larger batch", 24)
    assert accumulate.settings == at(2, 16, accumulation_steps=2)
    assert (accumulate.learning_rate.factor, accumulate.learning_rate.rate) == (1.0, 0.1)
    assert "accumulation_steps=4" in accumulate.note


def test_cost_is_told_where_it_was_measured():
    """Memory from the traces; cores and device memory were not read, and that is said."""
    runner = FakeRunner(lambda each: 10.0 * max(1, each.num_workers))
    trials = drive(GridSearch(BASELINE, (2, 4), (8,)), runner, 60.0)
    cost = recommend(choose(trials, BASELINE), None, trials, TERMS).cost
    assert (cost.memory_bytes, cost.cores, cost.device_memory_bytes) == (2 * 10**8, None, None)
    assert [each.split(":")[0] for each in cost.unavailable] == ["CPU", "VRAM"]


def test_epoch_rate_counts_the_boundary():
    """3600 samples at 40/s take 90 s, and 10 s more at the epoch's end: 36/s."""
    plain = complete_result(BASELINE, 40.0)
    measurement = msgspec.structs.replace(plain.measurement, epoch_boundary_s=10.0)
    trials = [complete_result(BASELINE, 40.0, measurement=measurement)]
    assert recommend(choose(trials, BASELINE), None, trials, TERMS).epoch_rate_per_s == pytest.approx(36.0)
    assert recommend(choose([plain], BASELINE), None, [plain], TERMS).epoch_rate_per_s is None
    ended = [
        msgspec.structs.replace(each, measurement=msgspec.structs.replace(each.measurement, epoch_samples=36))
        for each in trials
    ]  # its ends are in the rate already
    own = choose(ended, BASELINE)
    assert recommend(own, None, ended, TERMS).epoch_rate_per_s == pytest.approx(own.rate_per_s)


def test_choice_survives_an_unmeasured_baseline():
    """The baseline crashed: there is a choice, no claim, and no baseline rate."""
    trials = [failed_result(BASELINE, number=9), *screen({at(4): 40.0, at(8): 60.0})]
    answer = recommend(choose(trials, BASELINE), None, trials, TERMS, no_duel_reason="the baseline crashed")
    assert (answer.settings, answer.baseline.rate_per_s) == (at(8), None)
    assert (answer.verdict, answer.baseline.failure) == (Verdict.INCONCLUSIVE, "made up")
    assert compose_speedup(answer) == "speed-up not measured: yours does not run here"


@pytest.mark.parametrize("cause", [Cause.DEADLINE, Cause.BUDGET, Cause.INTERRUPT])
def test_a_baseline_that_was_cut_short_may_run(cause):
    """More time might have been enough: it is not told to be given up."""
    trials = [failed_result(BASELINE, TrialState.SKIPPED, cause, number=9), *screen({at(8): 60.0})]
    answer = recommend(choose(trials, BASELINE), None, trials, TERMS, no_duel_reason="no time")
    assert (answer.baseline.failure, answer.speedup.reason) == (None, "no time")


def test_what_failed_when_it_ran_again_is_not_chosen():
    """16 workers were the fastest once, and then ran out of memory. A skip, or a spent budget, says nothing of them."""
    trials = screen({BASELINE: 50.0, at(4): 60.0, at(16): 90.0})
    again = failed_result(at(16), number=9)
    assert choose(trials, BASELINE).settings == at(16)
    choice = choose([*trials, again], BASELINE)
    assert choice.settings == at(4)
    assert choice.reasons[-1] == "num_workers=16 is left out: it ran, and failed when it ran again (made up)."
    for state, cause in ((TrialState.SKIPPED, Cause.SHARED_MEMORY), (TrialState.FAILED, Cause.DEADLINE)):
        harmless = failed_result(at(16), state, cause, number=9)
        assert choose([*trials, harmless], BASELINE).settings == at(16)
    third = msgspec.structs.replace(trials[-1], number=10)
    assert choose([*trials, again, third], BASELINE).settings == at(16)


def test_hours_saved_count_the_ends_of_epochs():
    """Starting workers anew each epoch takes from what they win; where it takes more, nothing is said to be saved."""

    def hours(boundary_s: float) -> float | None:
        trials = [
            msgspec.structs.replace(
                each,
                measurement=msgspec.structs.replace(
                    each.measurement, epoch_boundary_s=boundary_s if each.settings == at(8) else 0.0
                ),
            )
            for each in screen({BASELINE: [50.0, 50.0], at(8): [100.0, 100.0]})
        ]
        runner = FakeRunner(lambda each: 100.0 if each == at(8) else 50.0, noise_sd=0.001)
        terms = dataclasses.replace(TERMS, sample_count=1000, epochs=36)
        return recommend(choose(trials, BASELINE), duel(runner, at(8)), trials, terms).hours_saved

    assert hours(0.0) == pytest.approx(0.1, rel=0.02)
    assert hours(5.0) == pytest.approx(0.05, rel=0.05)
    assert hours(11.0) is None
