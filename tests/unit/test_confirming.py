"""Are kept workers taken by what they win over a real epoch, and by nothing else? Duels are made up."""

from types import SimpleNamespace

import msgspec
import pytest

from loadtune import confirming
from loadtune.advice.feasibility import Obstacle
from loadtune.advice.terms import Choice
from loadtune.advice.variants import Variant
from loadtune.concluding import is_over_rates
from loadtune.confirming import refine
from loadtune.engine.duel import STRIDE_SAMPLES
from loadtune.records.measurement import Cause, Duel, SlicePair
from loadtune.records.settings import DeviceChoice, Settings, TrialSpec, WorkloadSpec
from loadtune.render.answer import deciding_duel
from tests import examples
from tests.fake_runner import complete_result, failed_result

OWN = Settings(num_workers=4, batch_size=10)
KEPT = msgspec.structs.replace(OWN, persistent_workers=True)
RATE = 1000.0
BATCHES = 28
"""Of a short epoch: seven rounds of four workers, 0.28 s."""
BOUNDARY_S = 0.1
SHORT_S = BATCHES * 10 / RATE + BOUNDARY_S


def trial(settings, boundary_s=BOUNDARY_S):
    made = complete_result(settings, RATE, role="variant" if settings == KEPT else "grid")
    return msgspec.structs.replace(
        made, measurement=msgspec.structs.replace(made.measurement, epoch_boundary_s=boundary_s, stall_ratio=0.0)
    )


def hold(ratio):
    """A duel over short epochs of the ratio, with a tenth of a percent of noise."""

    def held(run, baseline, contender, plan, *args):
        run.held.append((baseline, contender, plan))
        samples = 1.7 / SHORT_S * baseline.epoch_batches * 10
        pairs = [
            SlicePair(
                baseline_samples=samples,
                baseline_s=1.7,
                contender_samples=samples * ratio * (1 + 0.001 * (1 if place % 4 in {0, 3} else -1)),
                contender_s=1.7,
                baseline_first=place % 2 == 0,
                restart=place // 2,
            )
            for place in range(8)
        ]
        return Duel(
            baseline=baseline.settings,
            contender=contender.settings,
            method="frozen",
            pairs=tuple(pairs),
            slice_s=plan.slice_s,
            head_s=plan.dropped_s,
            burst_steps=plan.burst_steps,
            epoch_batches=baseline.epoch_batches,
        )

    return held


def probe(count=1000, boundary_s=BOUNDARY_S, budget_s=100.0, *, is_iterable=False):
    """A probe that has chosen OWN, by name only what refine asks for."""
    device = DeviceChoice(kind="replay")
    plan = SimpleNamespace(
        baseline=OWN,
        device=device,
        is_iterable=is_iterable,
        terms=SimpleNamespace(rank_samples=count),
        limits=SimpleNamespace(returns_memory=False, shm_free_bytes=None),
        needs=SimpleNamespace(sample_bytes=None, device_memory_bytes=None),
        spec=lambda leg, *args: TrialSpec(settings=leg.settings, device=device, workload=WorkloadSpec()),
    )
    return SimpleNamespace(
        options=SimpleNamespace(search="guided", budget_s=budget_s, seed=0),
        plan=plan,
        cache="warm",
        trials=[trial(OWN, boundary_s)],
        duels=[],
        held=[],
        notes=(),
        samples_used=0,
        arena=object(),
        runner=SimpleNamespace(run=lambda spec, *args: trial(spec.settings, None), memory_end_bytes=None),
        progress=SimpleNamespace(phase=lambda text: None),
        spent_s=lambda: 0.0,
        first_sample=lambda: 0,
        deadline_s=lambda spec: 0.0,
        count_samples=lambda trial: None,
    )


def refined(monkeypatch, run, ratio, obstacle=None):
    monkeypatch.setattr(confirming, "_hold", hold(ratio))
    return refine(run, Choice(settings=OWN, rate_per_s=RATE, ties=(), reasons=()), lambda settings: obstacle)


def test_workers_are_kept_for_what_they_win_over_a_real_epoch(monkeypatch):
    """1.3 over epochs of 0.38 s are 0.088 s of 1.1 s."""
    run = probe()
    choice = refined(monkeypatch, run, 1.3)
    assert choice.settings == KEPT
    assert choice.epoch_gain.estimate == pytest.approx(1.087, abs=1e-3)
    assert choice.epoch_gain.pairs == 8
    assert "an epoch of 1000 samples becomes 1.087 times as fast, an estimate (1.08" in choice.reasons[-1]
    ((baseline, contender, plan),) = run.held
    assert (baseline.settings, contender.settings) == (OWN, KEPT)
    assert (baseline.epoch_batches, contender.epoch_batches) == (BATCHES, BATCHES)
    assert plan.burst_steps == (BATCHES, BATCHES)


@pytest.mark.parametrize(
    ("ratio", "told"), [(1.05, "makes that 1.017 times as fast, a tie"), (0.9, "did not show it faster")]
)
def test_a_tie_over_a_real_epoch_is_not_worth_a_change(monkeypatch, ratio, told):
    """Nor is what the duel did not show."""
    run = probe()
    assert refined(monkeypatch, run, ratio).settings == OWN
    assert told in run.notes[-1]
    assert len(run.duels) == 1


def test_what_cannot_run_is_not_tried_and_what_failed_is_not_called_slow(monkeypatch):
    """/dev/shm that is too small is known before; a crash is told as one."""
    run = probe()
    obstacle = Obstacle(cause=Cause.SHARED_MEMORY, arithmetic="9 GiB of /dev/shm, 1 is free")
    assert refined(monkeypatch, run, 1.3, obstacle).settings == OWN
    assert run.notes[-1].endswith("9 GiB of /dev/shm, 1 is free.")
    assert len(run.trials) == 1
    run.runner.run = lambda spec, *args: failed_result(spec.settings, role="variant")
    assert refined(monkeypatch, run, 1.3).settings == OWN
    assert run.notes[-1].endswith("its trial failed (made up).")


def test_what_a_duel_read_is_not_read_again(monkeypatch):
    """Each start of each side begins elsewhere; with a cold cache the next trial must begin beyond them."""
    run = probe()
    refined(monkeypatch, run, 1.3)
    ((_, _, plan),) = run.held
    assert run.samples_used == 2 * plan.restarts * STRIDE_SAMPLES


def test_what_does_not_fit_is_said_and_not_tried(monkeypatch):
    """Workers that take 3 s to start: slices of three epochs are ten seconds long."""
    run = probe(boundary_s=3.0)
    assert refined(monkeypatch, run, 1.3).settings == OWN
    assert run.notes[-1].startswith("Not tried: ")
    assert "three short epochs do not fit into a slice of the 80 s" in run.notes[-1]
    assert (len(run.trials), run.duels) == (1, [])


def test_what_was_not_tried_takes_nobody_s_place(monkeypatch):
    """Three candidates, of which the first finds no room, and two may be tried."""
    run = probe(boundary_s=3.0)
    others = [msgspec.structs.replace(OWN, prefetch_factor=each) for each in (4, 8, 16)]
    found = [Variant(KEPT, "ends", BATCHES), *(Variant(each, "a guess") for each in others)]
    monkeypatch.setattr(confirming, "find_variants", lambda *args: found)
    run.runner.run = lambda spec, *args: complete_result(spec.settings, RATE / 2, role="variant")
    assert refined(monkeypatch, run, 1.3).settings == OWN
    assert [each.settings for each in run.trials[1:]] == others[:2]


def test_a_data_set_that_ends_by_itself_is_left_alone(monkeypatch):
    run = probe(is_iterable=True)
    assert refined(monkeypatch, run, 1.3).settings == OWN
    assert (len(run.trials), run.duels, run.notes) == (1, [], ())


def test_a_duel_over_short_epochs_is_never_read_as_one_of_rates(monkeypatch):
    """Not for the claim, and not where the answer names the duel that decided."""
    run = probe()
    refined(monkeypatch, run, 1.3)
    over_epochs = run.duels[0]
    assert not is_over_rates(over_epochs, OWN, KEPT)
    assert is_over_rates(msgspec.structs.replace(over_epochs, epoch_batches=None), OWN, KEPT)
    report = examples.faster_report()
    own = deciding_duel(report)
    short = msgspec.structs.replace(over_epochs, baseline=own.baseline)
    assert deciding_duel(msgspec.structs.replace(report, duels=(*report.duels, short))) == own
    lost = msgspec.structs.replace(own, contender=msgspec.structs.replace(own.contender, in_order=False))
    assert deciding_duel(msgspec.structs.replace(report, duels=(*report.duels, lost))) == own
