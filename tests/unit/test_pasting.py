"""Does the code that comes with another batch make what it says: the rescaled optimizer, warmed up, on its schedule?"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DistributedSampler

from loadtune.schedule.anneal import anneal
from loadtune.schedule.batch_growth import NoiseScaleEstimate
from loadtune.schedule.curve import Constant, Cosine, Plateau, Product, StepDecay, epochs, iterations, with_warm_up
from loadtune.schedule.epoch import change_epoch, count_epoch
from loadtune.schedule.optimizers import read_optimizer
from loadtune.schedule.pasting import ASSUMED_NOTE, Tuned, add_code
from loadtune.schedule.plan import has_warm_up
from loadtune.schedule.rescale import rescale, rescale_learning_rate

COUNT = 1000
STEP = StepDecay(every=3, gamma=0.5, unit=epochs(COUNT))


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(1))]


def change(tuned: Tuned, batch_size: int, accumulation_steps: int = 1):
    base = tuned.batch_size * tuned.accumulation_steps
    told = rescale_learning_rate(
        tuned.optimizer,
        base,
        batch_size * accumulation_steps,
        tuned.learning_rate,
        noise_scale=tuned.noise_scale,
        world_size=tuned.world_size,
    )
    return add_code(told, tuned, batch_size, accumulation_steps)


def paste(code: tuple[str, ...], optimizer) -> dict[str, object]:
    """Run the code with an optimizer at hand, as a training script would."""
    scope: dict[str, object] = {"torch": torch, "optimizer": optimizer}
    exec("\n".join(code), scope)  # noqa: S102
    return scope


def test_warnings_are_of_the_optimizer_that_was_handed_over():
    """beta1 = 0.5 reaches 0 at four times the batch, which torch's 0.9 does not; RMSprop has none."""
    adam = read_optimizer("adam", {"lr": 0.001, "betas": (0.5, 0.999)})
    told = change(Tuned(optimizer="adam", handed=adam, batch_size=16, sample_count=COUNT), 64)
    assert any("beta1" in each and "0.5" in each for each in told.warnings)
    rms = read_optimizer("rmsprop", {"lr": 0.001})
    told = change(Tuned(optimizer="adam", handed=rms, batch_size=16, sample_count=COUNT), 256)
    assert not any("beta1" in each for each in told.warnings)


def test_a_named_optimizer_is_rescaled_where_it_is():
    """Its momentum, which nobody told, is kept; the rate after each step is the old one's at equal samples, times 4."""
    told = change(Tuned(optimizer="sgd", learning_rate=0.1, schedule=STEP, batch_size=10, sample_count=COUNT), 40)
    optimizer = torch.optim.SGD(parameters(), lr=0.1, momentum=0.8)
    scope = paste(told.code, optimizer)
    twin = torch.optim.SGD(parameters(), lr=0.1)
    old = anneal(twin, STEP, batch_size=10, samples_per_epoch=COUNT)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)  # the warm-up begins at the old rate
    for _ in range(8 * COUNT // 40):
        optimizer.step()
        scope["scheduler"].step()
        for _ in range(4):
            twin.step()
            old.step()
    assert scope["scheduler"].samples_seen == old.samples_seen == 8 * COUNT
    assert optimizer.param_groups[0]["lr"] == pytest.approx(4 * twin.param_groups[0]["lr"], rel=1e-12)
    assert optimizer.param_groups[0]["momentum"] == 0.8
    assert "lr=0.4" in "\n".join(told.code)


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_an_optimizer_that_was_handed_over_is_set_as_rescale_sets_it(kind):
    """Every group, and nothing else: an option that there is no rule for stays."""

    def make():
        groups = [{"params": parameters()}, {"params": parameters(), "lr": 0.01}]
        return getattr(torch.optim, kind)(groups, lr=0.1, weight_decay=0.01, maximize=True)

    held = read_optimizer(make(), {})
    rule = "sgd" if kind == "SGD" else "adam"
    tuned = Tuned(optimizer=rule, handed=held, learning_rate=0.1, schedule=Constant(), batch_size=8, sample_count=COUNT)
    pasted, applied = make(), make()
    paste(change(tuned, 16).code, pasted)
    rescale(applied, 8, 16).apply(applied)
    for one, other in zip(pasted.param_groups, applied.param_groups, strict=True):
        for name in held.groups[0]:
            assert one[name] == pytest.approx(other[name], rel=1e-5), name
        assert one["maximize"]


def test_of_an_optimizer_without_a_rule_the_rate_alone_is_multiplied():
    told = change(Tuned(optimizer="adam", handed="NAdam", batch_size=8), 32)
    optimizer = torch.optim.NAdam(parameters(), lr=0.1, betas=(0.9, 0.99))
    paste(told.code, optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)
    assert any("no rule was checked for NAdam" in line for line in told.code)


def test_curves_of_several_groups_stay_their_own():
    schedule = (STEP, Constant())
    tuned = Tuned(optimizer="sgd", learning_rate=0.1, schedule=schedule, batch_size=10, sample_count=COUNT, epochs=10)
    optimizer = torch.optim.SGD([{"params": parameters()}, {"params": parameters()}], lr=0.1)
    scope = paste(change(tuned, 40).code, optimizer)
    for _ in range(6 * COUNT // 40):
        optimizer.step()
        scope["scheduler"].step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.4])


def test_a_schedule_with_a_warm_up_gets_no_second_one():
    own = with_warm_up(STEP, length=1, unit=epochs(COUNT), start=0.1)
    tuned = Tuned(optimizer="sgd", schedule=own, batch_size=10, sample_count=COUNT)
    told = change(tuned, 80)
    assert f"schedule = {own!r}" in told.code
    assert not any("warm up" in each for each in told.warnings)


def test_where_the_length_is_not_known_the_warm_up_is_a_warning():
    """And a schedule that counts iterations is followed all the same."""
    tuned = Tuned(optimizer="sgd", schedule=Cosine(total=500, unit=iterations(8)), batch_size=8)
    told = change(tuned, 64)
    assert any("warm up" in each for each in told.warnings)
    assert "samples_per_epoch" not in "\n".join(told.code)
    assert told.schedule.points == ()
    paste(told.code, torch.optim.SGD(parameters(), lr=0.1))


def test_what_nobody_told_is_said_to_be_assumed():
    tuned = Tuned(optimizer="sgd", batch_size=8, sample_count=COUNT)
    told = change(tuned, 16)
    assert ASSUMED_NOTE in told.code
    assert told.schedule.is_assumed
    own = change(Tuned(optimizer="sgd", schedule=STEP, batch_size=8, sample_count=COUNT), 16)
    assert ASSUMED_NOTE not in own.code
    assert not own.schedule.is_assumed


def test_a_plateau_has_code_and_no_curve():
    """Its warm-up from the old rate is in it."""
    tuned = Tuned(optimizer="sgd", schedule=Plateau(patience=2), batch_size=8, sample_count=COUNT)
    told = change(tuned, 32)
    assert told.schedule.points == ()
    scope = paste(told.code, torch.optim.SGD(parameters(), lr=0.1))
    assert has_warm_up(scope["schedule"])
    assert any("scheduler.step(metric)" in line for line in told.code)


def test_accumulation_ranks_and_noise_scale_are_counted():
    """Effective 2 x 8 x 4 becomes 2 x 32 x 4; the pasted code gives the rate that was told."""
    noise = NoiseScaleEstimate(samples=200.0, is_lower_bound=False)
    tuned = Tuned(
        optimizer="sgd", learning_rate=0.1, batch_size=8, accumulation_steps=2, world_size=4, sample_count=COUNT,
        noise_scale=noise, schedule=Constant(),
    )  # fmt: skip
    told = change(tuned, 32, 2)
    assert told.factor == pytest.approx(4 * (64 + 200) / (4 * 64 + 200))
    optimizer = torch.optim.SGD(parameters(), lr=0.1)
    scope = paste(told.code, optimizer)
    assert scope["scheduler"].samples_per_step == 2 * 32 * 4
    assert optimizer.param_groups[0]["initial_lr"] == pytest.approx(told.rate)


def follow(scope: dict[str, object], optimizer, steps: int) -> list[float]:
    """Return the rate before each step and after the last."""
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        optimizer.step()
        scope["scheduler"].step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_the_schedule_of_several_ranks_ends_when_they_have_seen_all():
    """Eight ranks of 1000 samples, batches of 16: 63 steps an epoch on each, and the rate is 0 after two epochs."""
    tuned = Tuned(optimizer="sgd", learning_rate=0.1, batch_size=8, world_size=8, sample_count=8 * COUNT, epochs=2)
    optimizer = torch.optim.SGD(parameters(), lr=0.1)
    scope = paste(change(tuned, 16).code, optimizer)
    rates = follow(scope, optimizer, 2 * 63)
    assert rates[-1] == 0.0
    assert min(rates[:-1]) > 0.0
    assert rates[63] == pytest.approx(0.2 * 0.5**0.9)


def test_what_is_dropped_is_not_counted():
    """Of 1000 samples a batch of 512 leaves one step an epoch: four epochs are four steps."""
    tuned = Tuned(optimizer="sgd", learning_rate=0.1, batch_size=256, sample_count=COUNT, drop_last=True, epochs=4)
    optimizer = torch.optim.SGD(parameters(), lr=0.1)
    told = change(tuned, 512)
    rates = follow(paste(told.code, optimizer), optimizer, 4)
    assert rates == pytest.approx([0.2 * (1 - step / 4) ** 0.9 for step in range(5)])
    assert told.schedule.points[-1][0] == 4 * 512


def test_a_scheduler_stepped_each_epoch_still_is_where_another_number_is_dropped():
    """Three epochs of 768 samples at a batch of 256 are three of 512, one step each, at a batch of 512."""
    schedule = StepDecay(every=3, gamma=0.5, unit=epochs(768, is_stepped=True))
    tuned = Tuned(
        optimizer="sgd", learning_rate=0.1, schedule=schedule, batch_size=256, sample_count=COUNT, drop_last=True
    )
    optimizer = torch.optim.SGD(parameters(), lr=0.1)
    rates = follow(paste(change(tuned, 512).code, optimizer), optimizer, 4)
    assert rates == pytest.approx([0.2, 0.2, 0.2, 0.1, 0.1])


def test_epochs_are_changed_wherever_they_are_and_nothing_else():
    step = StepDecay(every=3, unit=epochs(768))
    kept = (Cosine(total=5, unit=epochs(700)), Cosine(total=5, unit=iterations(768)), Constant())
    changed = StepDecay(every=3, unit=epochs(512))
    assert change_epoch((Product(curves=(step, *kept)), step), 768, 512) == (
        Product(curves=(changed, *kept)),
        changed,
    )
    assert change_epoch(Plateau(curve=step), 768, 512) == Plateau(curve=changed)
    assert change_epoch(step, None, 512) is change_epoch(step, 768, None) is change_epoch(step, 768, 768) is step
    assert change_epoch(None, 768, 512) is None


@given(st.integers(1, 10_000), st.integers(1, 600), st.integers(1, 16), st.booleans())
def test_an_epoch_holds_whole_batches_where_the_rest_is_dropped(samples, batch_size, world_size, drop_last):
    """As torch's own samplers deal them out: equal shares, filled up."""
    counted = count_epoch(samples, batch_size, world_size=world_size, drop_last=drop_last)
    share = len(DistributedSampler(range(samples), num_replicas=world_size, rank=0))
    batches = len(BatchSampler(range(share), batch_size, drop_last))
    steps = 0 if counted is None else -(-counted // (batch_size * world_size))
    assert steps == batches
    assert drop_last or counted == samples
    assert count_epoch(None, batch_size, world_size=world_size, drop_last=drop_last) is None


def test_a_lower_bound_leaves_the_rate_linear():
    noise = NoiseScaleEstimate(samples=20.0, is_lower_bound=True)
    told = change(Tuned(optimizer="sgd", batch_size=8, sample_count=COUNT, noise_scale=noise), 16)
    assert told.factor == 2.0
    assert "noise_scale" not in "\n".join(told.code)
    assert any("lower bound" in each for each in told.warnings)


def test_the_same_batch_needs_no_code():
    """Fewer accumulation steps of larger batches are the same batch."""
    told = change(Tuned(optimizer="sgd", batch_size=8, accumulation_steps=4, sample_count=COUNT), 16, 2)
    assert (told.code, told.schedule) == ((), None)


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(["sgd", "adam", "adamw"]),
    st.integers(2, 64),
    st.integers(2, 512),
    st.integers(1, 40),
    st.sampled_from([STEP, Cosine(total=10, unit=epochs(COUNT)), None]),
)
def test_the_points_are_the_old_rate_times_the_factor_after_the_warm_up(optimizer, base, new, length, schedule):
    """Before it they lie between the old rate and the new one."""
    tuned = Tuned(optimizer=optimizer, schedule=schedule, batch_size=base, sample_count=COUNT, epochs=length)
    told = change(tuned, new)
    if base == new:
        assert told.schedule is None
        return
    warm_samples = min(5 * COUNT, length * COUNT // 10 + 1) if new > 2 * base else 0
    for at, before, after in told.schedule.points:
        if at >= warm_samples:
            assert after == pytest.approx(told.factor * before, rel=1e-12)
        else:
            assert before * (1 - 1e-12) <= after <= told.factor * before * (1 + 1e-12)
    places = [at for at, _, _ in told.schedule.points]
    assert (places[0], places[-1]) == (0, length * COUNT)
    assert places == sorted(set(places))
