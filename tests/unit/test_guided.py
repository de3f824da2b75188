"""The guided search on made-up surfaces: near the grid's best, in few trials, with few workers, fooled by little."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from loadtune.advice.axes import worker_ladder
from loadtune.advice.case import UTILISATION_SAMPLES_MIN
from loadtune.advice.feasibility import Obstacle
from loadtune.advice.guided import GuidedSearch
from loadtune.advice.search import is_end_to_end
from loadtune.advice.selection import choose
from loadtune.records.measurement import Cause, TrialState, WorkerCost, WorkerTimes
from loadtune.records.settings import Settings
from tests.fake_runner import FakeRunner, drive

CORES = 2.0
LADDER = worker_ladder(64)
BASELINE = Settings(num_workers=2, batch_size=16)


@dataclass(frozen=True)
class World:
    """A workload: the truth, and what trials of its ceilings would say."""

    rate: Callable[[int], float]
    device: float = 1e9
    wall_s: float = 0.01
    cpu_s: float = 0.0
    main_cores: Callable[[int], float] = lambda workers: 0.05

    def surface(self, settings: Settings) -> float:
        return min(self.rate(settings.num_workers), self.device)

    def runner(self, **fields) -> FakeRunner:
        def used(settings: Settings) -> tuple[float, float]:
            return min(CORES, self.surface(settings) * self.cpu_s), self.main_cores(settings.num_workers)

        return FakeRunner(
            self.surface,
            device_rate=lambda batch: self.device,
            worker=WorkerCost(cpu_s_per_sample=self.cpu_s, wall_s_per_sample=self.wall_s),
            used_cores=used,
            main_cpu_s=0.0,
            **fields,
        )


def shards(count: int, rate: float) -> Callable[[int], float]:
    """Whole shards to a worker: the slowest worker sets the pace."""
    return lambda workers: rate * count / math.ceil(count / max(1, workers))


WORLDS = {
    "waiting": World(lambda w: max(1, w) / 0.031, device=300.0, wall_s=0.031, cpu_s=0.001),
    "waiting, no device limit": World(lambda w: max(1, w) / 0.031, wall_s=0.031, cpu_s=0.0001),
    "decoding": World(lambda w: min(max(1, w), 2) / 0.008 * (1 - 0.002 * w), wall_s=0.008, cpu_s=0.008),
    "device-bound": World(lambda w: max(1, w) / 0.002, device=100.0, wall_s=0.002, cpu_s=0.002),
    "plateau before the rise": World(shards(12, 20.0), wall_s=0.05, cpu_s=0.001),
    "main process": World(lambda w: 100 / (1 + 0.15 * w), wall_s=0.01, cpu_s=0.002, main_cores=lambda w: 0.97),
    "in memory": World(lambda w: 5000 if w == 0 else 1500, wall_s=0.0002, cpu_s=0.0002, main_cores=lambda w: 0.9),
    "balanced": World(lambda w: max(1, w) / 0.02, device=98.0, wall_s=0.02, cpu_s=0.004),
}


def search_in(world: World, seconds: float = 60.0, *, ladder=LADDER, baseline=BASELINE, runner=None, **options):
    search = GuidedSearch(baseline, ladder, options.pop("batch_sizes", (16,)), cores=CORES, **options)
    runner = runner or world.runner()
    drive(search, runner, seconds)
    return search, runner


def end_to_end(runner: FakeRunner) -> list[int]:
    return [each.settings.num_workers for each in runner.results if is_end_to_end(each) and each.round == 0]


def cheapest_good(world: World, ladder=LADDER) -> int:
    best = max(world.surface(Settings(num_workers=w, batch_size=16)) for w in ladder)
    return min(w for w in ladder if world.surface(Settings(num_workers=w, batch_size=16)) >= 0.97 * best)


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("baseline_workers", [0, 2, 16])
def test_it_finds_the_best_with_few_workers_in_few_trials(name, baseline_workers):
    world = WORLDS[name]
    baseline = Settings(num_workers=baseline_workers, batch_size=16)
    _, runner = search_in(world, baseline=baseline)
    chosen = choose(runner.results, baseline).settings
    best = max(world.surface(Settings(num_workers=w, batch_size=16)) for w in LADDER)
    assert world.surface(chosen) >= 0.97 * best
    enough = cheapest_good(world)
    assert chosen.num_workers <= LADDER[min(LADDER.index(enough) + 1, len(LADDER) - 1)]
    assert len(end_to_end(runner)) <= 9


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("seed", range(4))
def test_noise_costs_little(name, seed):
    """3 % of noise a trial: the choice keeps 94 % of the best, and needs no more than two steps more of workers.

    Where the ladder goes far beyond a plateau that the model does not know of, noise may leave it there.
    """
    world = WORLDS[name]
    _, runner = search_in(world, 90.0, runner=world.runner(noise_sd=0.03, seed=seed), seed=seed)
    chosen = choose(runner.results, BASELINE).settings
    best = max(world.surface(Settings(num_workers=w, batch_size=16)) for w in LADDER)
    assert world.surface(chosen) >= 0.94 * best
    if name != "plateau before the rise":
        assert chosen.num_workers <= LADDER[min(LADDER.index(cheapest_good(world)) + 2, len(LADDER) - 1)]


def test_a_loader_that_feeds_the_device_ends_the_search():
    """Three legs say it all, and one more that fewer workers would not do."""
    world = World(lambda w: 1000.0 * max(1, w), device=100.0, wall_s=0.001, cpu_s=0.001)
    search, runner = search_in(world, baseline=Settings(num_workers=1, batch_size=16))
    assert max(end_to_end(runner)) <= 1
    assert any("the loader is not the limit" in note for note in search.notes())


def test_the_opening_is_baseline_device_loader():
    _, runner = search_in(WORLDS["waiting"])
    assert [(leg.role, leg.feed, leg.consume) for leg in runner.legs[:3]] == [
        ("baseline", "loader", "device"),
        ("ceiling", "resident", "device"),
        ("loader", "loader", "nothing"),
    ]


def test_where_the_model_is_right_its_first_guess_is_the_answer():
    """Waits of 31 ms and a device of 300 a second take 9.3 workers: 12 is the ladder's next."""
    _, runner = search_in(WORLDS["waiting"])
    assert end_to_end(runner)[1] == 12


def test_a_worker_that_waits_for_the_main_process_is_not_slow_itself():
    """From batch to batch it takes 6 ms a sample, of which it works 0.3: without workers nothing is handed over."""
    world = World(lambda w: 2000.0 if w == 0 else 420.0, device=1960.0)
    runner = world.runner()
    busy = WorkerTimes(busy_s_per_sample=0.0003, cpu_s_per_sample=0.0003)
    runner.worker = WorkerCost(cpu_s_per_sample=0.0003, wall_s_per_sample=0.006, times=busy)
    runner.main_cpu_s = 0.0017
    search_in(world, 60.0, runner=runner)
    assert choose(runner.results, BASELINE).settings.num_workers == 0


def test_what_is_hopeless_is_not_measured_and_the_reason_is_kept():
    search, runner = search_in(WORLDS["waiting"])
    assert not {0, 1, 3, 4} & set(end_to_end(runner))
    told = {each.settings.num_workers: each for each in search.summary().expectations}
    assert "of the best" in told[4].left_out
    assert told[12].left_out is None
    assert search.summary().settings_count == len(LADDER)


def test_predictions_are_those_of_before_the_measuring():
    search, _ = search_in(WORLDS["waiting"])
    predicted = search.expectations.predicted[Settings(num_workers=12, batch_size=16)]
    assert predicted == pytest.approx(300.0, rel=0.1)


def test_a_wrong_model_is_overruled_by_what_is_measured():
    """The loader alone looked ten times slower than it is: the climb still ends at the best."""
    world = World(lambda w: max(1, w) / 0.031, device=300.0, wall_s=0.31, cpu_s=0.2)
    _, runner = search_in(world)
    assert world.surface(choose(runner.results, BASELINE).settings) >= 0.97 * 300


def test_a_setting_that_runs_out_of_memory_bounds_the_ladder():
    world = WORLDS["waiting, no device limit"]
    runner = world.runner(failure_cause=lambda each: Cause.HOST_MEMORY if each.num_workers > 8 else None)
    search_in(world, runner=runner)
    assert choose(runner.results, BASELINE).settings.num_workers == 8
    assert sum(each.state is TrialState.OUT_OF_MEMORY for each in runner.results) <= 3


def test_what_is_forbidden_is_never_run():
    obstacle = Obstacle(Cause.SHARED_MEMORY, "too much")
    world = WORLDS["waiting, no device limit"]
    _, runner = search_in(world, obstacle=lambda each: obstacle if each.num_workers > 4 else None)
    assert max(end_to_end(runner)) == 4


def test_a_failing_baseline_does_not_end_the_search():
    world = WORLDS["waiting"]
    runner = world.runner(failure_cause=lambda each: Cause.WORKER if each == BASELINE else None)
    search_in(world, runner=runner)
    assert world.surface(choose(runner.results, BASELINE).settings) >= 0.97 * 300


def test_a_winner_that_stands_apart_needs_no_second_look():
    """Nothing cheaper is near it, and its duel with the baseline follows anyway."""
    search, runner = search_in(WORLDS["waiting"], 90.0)
    assert {each.round for each in runner.results} == {0}
    assert "after 1 look:" in search.notes()[-1]


def test_the_contenders_of_the_race_are_each_others_control():
    """8 workers reach 0.96 of what 12 do: both look again, in every round; the baseline, far below, does not."""
    world = World(lambda w: max(1, w) / 0.03, device=278.0, wall_s=0.03, cpu_s=0.001)
    _, runner = search_in(world, 90.0)
    later = [each for each in runner.results if each.round]
    assert later
    for number in {each.round for each in later}:
        assert {each.settings.num_workers for each in later if each.round == number} == {8, 12}


def test_what_is_plainly_slower_is_not_looked_at_again():
    """8 workers reach 0.92 of what 12 do, with cores to spare: looks differ by less."""
    world = World(lambda w: max(1, w) / 0.03, device=290.0, wall_s=0.03, cpu_s=0.001)
    _, runner = search_in(world, 90.0)
    assert {8, 12} <= set(end_to_end(runner))
    assert {each.round for each in runner.results} == {0}
    busy = World(lambda w: max(1, w) / 0.03, device=290.0, wall_s=0.03, cpu_s=2 / 290)
    _, runner = search_in(busy, 90.0)
    assert 8 in {each.settings.num_workers for each in runner.results if each.round == 1}


def test_what_only_the_baseline_contests_is_left_to_their_duel():
    """0 workers and the baseline's 2 are all that is near: no look tells them apart as a duel does."""
    search, runner = search_in(WORLDS["device-bound"], 90.0, runner=WORLDS["device-bound"].runner(noise_sd=0.001))
    assert choose(runner.results, BASELINE).settings.num_workers == 0
    assert {each.round for each in runner.results} == {0}
    assert "nothing else may still win" in search.notes()[-1]


def test_a_second_look_that_does_not_fit_is_said_and_taken_up_again():
    world = World(lambda w: max(1, w) / 0.03, device=278.0, wall_s=0.03, cpu_s=0.001)
    search, runner = search_in(world, 13.0)
    assert {each.round for each in runner.results} == {0}
    assert "did not fit" in search.notes()[-1]
    drive(search, runner, 90.0)
    assert 1 in {each.round for each in runner.results}


def test_a_leg_that_did_not_fit_waits():
    search = GuidedSearch(BASELINE, LADDER, (16,), cores=CORES)
    assert search.ask(0.5) is None
    assert "Not measured" in search.notes()[-1]
    assert search.ask(60.0).role == "baseline"


def test_a_watched_baseline_is_looked_at_for_longer():
    """Percentiles of GPU utilisation want twelve samples; nothing else does."""
    watched = GuidedSearch(BASELINE, LADDER, (16,), cores=CORES, is_watched=True)
    first, plain = watched.ask(60.0), GuidedSearch(BASELINE, LADDER, (16,), cores=CORES).ask(60.0)
    assert first.measure_s / 0.2 > UTILISATION_SAMPLES_MIN > plain.measure_s / 0.2


def test_larger_batches_are_measured_while_device_and_loader_gain():
    """t = 20 ms + 1 ms a sample: twice the batch is worth 1.56 times; the loader feeds 700 a second."""
    world = World(lambda w: max(1, w) / 0.01)
    runner = world.runner()
    runner.device_rate = lambda batch: batch / (0.02 + 0.001 * batch)
    runner.surface = lambda each: min(max(1, each.num_workers) / 0.01, runner.device_rate(each.batch_size), 700.0)
    search, _ = search_in(world, 120.0, runner=runner, batch_sizes=(16, 32, 64, 128))
    sizes = {each.settings.batch_size for each in runner.results if is_end_to_end(each)}
    assert sizes == {16, 32, 64, 128}
    capped = world.runner()
    capped.device_rate = lambda batch: 100.0
    search, _ = search_in(world, 120.0, runner=capped, batch_sizes=(16, 32, 64))
    assert {each.settings.batch_size for each in capped.results if is_end_to_end(each)} == {16}
    assert any("grows no more" in note for note in search.notes())


def test_without_a_model_larger_batches_take_the_workers_that_did_best():
    """The loader alone said nothing: that is no evidence that it cannot feed them."""
    runner = World(lambda w: max(1, w) / 0.01).runner()
    runner.worker = runner.main_cpu_s = None
    runner.device_rate = lambda batch: batch / (0.02 + 0.001 * batch)
    runner.surface = lambda each: min(max(1, each.num_workers) / 0.01, runner.device_rate(each.batch_size))
    search, _ = search_in(WORLDS["balanced"], 120.0, runner=runner, batch_sizes=(16, 32, 64))
    assert search.expectations.model(16) is None
    assert {each.settings.batch_size for each in runner.results if is_end_to_end(each)} == {16, 32, 64}


def test_of_batches_that_tie_the_one_with_most_room_is_climbed():
    """2 workers give 450 at any batch; batch 64 is fed at 460, batch 128 would take 550, and 4 workers give 500."""
    device = {16: 240.0, 32: 355.0, 64: 460.0, 128: 550.0}
    world = World(lambda w: 0.0, wall_s=0.002, cpu_s=0.002)
    runner = world.runner()
    runner.device_rate = lambda batch: device[batch]
    loader = {0: 250.0, 1: 300.0, 2: 450.0}
    runner.surface = lambda each: min(loader.get(each.num_workers, 500.0), device[each.batch_size])
    search_in(world, 120.0, runner=runner, batch_sizes=tuple(device))
    tried = {(each.settings.num_workers, each.settings.batch_size) for each in runner.results if is_end_to_end(each)}
    assert any(workers > 2 and batch == 128 for workers, batch in tried)


@pytest.mark.parametrize("largest", [16, 64, 256, 1024])
def test_trials_grow_with_the_logarithm_of_the_ladder(largest):
    ladder = tuple(range(largest + 1))
    world = World(lambda w: max(1, w) / 0.1, device=0.6 * largest / 0.1, wall_s=0.1, cpu_s=0.0001)
    _, runner = search_in(world, 600.0, ladder=ladder)
    assert world.surface(choose(runner.results, BASELINE).settings) >= 0.96 * world.device
    assert len(end_to_end(runner)) <= 3 + 1.2 * math.log2(largest)


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    wall_s=st.floats(0.001, 0.2),
    cpu_share=st.floats(0.0, 1.0),
    device=st.floats(20.0, 3000.0),
    baseline_workers=st.sampled_from([0, 1, 2, 4, 8, 16]),
    model_error=st.floats(0.5, 2.0),
)
def test_regret_is_bounded(wall_s, cpu_share, device, baseline_workers, model_error):
    """Workers that wait and compute on two cores, a device, a model off by up to two: 5 % is the most that is lost."""
    cpu_s = cpu_share * wall_s
    world = World(
        lambda w: 1 / wall_s if w == 0 else min(w / wall_s, CORES / max(cpu_s, 1e-9)),
        device=device,
        wall_s=model_error * wall_s,
        cpu_s=model_error * cpu_s,
    )
    baseline = Settings(num_workers=baseline_workers, batch_size=16)
    _, runner = search_in(world, 300.0, baseline=baseline)
    chosen = choose(runner.results, baseline).settings
    best = max(world.surface(Settings(num_workers=w, batch_size=16)) for w in LADDER)
    assert world.surface(chosen) >= 0.95 * best - 1e-9
    assert len(end_to_end(runner)) <= 12


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.floats(1, 200), st.floats(0.1, 6), st.integers(0, 5), st.sampled_from(sorted(WORLDS)))
def test_time_is_never_overdrawn(seconds, overhead_s, seed, name):
    runner = WORLDS[name].runner(noise_sd=0.05, overhead_s=overhead_s, seed=seed)
    search_in(WORLDS[name], seconds, runner=runner, seed=seed)
    assert runner.seconds <= seconds + (overhead_s if len(runner.results) == 1 else 0.0) + 1e-6


def test_the_same_results_lead_to_the_same_legs():
    assert search_in(WORLDS["waiting"])[1].legs == search_in(WORLDS["waiting"])[1].legs


def test_the_ladder_has_thirds_and_halves_between_and_its_end():
    assert worker_ladder(16) == (0, 1, 2, 3, 4, 6, 8, 12, 16)
    assert worker_ladder(10) == (0, 1, 2, 3, 4, 6, 8, 10)
    assert worker_ladder(1) == (0, 1)
    assert worker_ladder(0) == (0,)
