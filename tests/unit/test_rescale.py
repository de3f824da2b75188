"""Another batch size: what every hyperparameter becomes, by which rule, and where the rules end."""

import math
import subprocess
import sys
from types import SimpleNamespace

import msgspec
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from loadtune.errors import UsageError
from loadtune.schedule.batch_growth import NoiseScaleEstimate
from loadtune.schedule.curve import Plateau, StepDecay, epochs, iterations
from loadtune.schedule.rescale import (
    LINEAR_RULE,
    SQUARE_ROOT_RULE,
    UNCHANGED_RULE,
    rescale,
    rescale_learning_rate,
)
from loadtune.schedule.rescaled import WarmUp


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


SGD = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 1e-4, "nesterov": False}
ADAMW = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
RMSPROP = {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "weight_decay": 1e-4, "momentum": 0.0}
NAMED = {"sgd": SGD, "adam": ADAMW, "adamw": ADAMW, "radam": ADAMW, "rmsprop": RMSPROP}
BATCHES = st.integers(1, 4096)


def figures(group):
    """Every number of a group, with betas apart."""
    plain = {name: value for name, value in group.items() if not isinstance(value, tuple)}
    return plain | dict(enumerate(group.get("betas", ())))


def held(*groups, name="AdamW", bases=()):
    """An optimizer as rescale reads it: a class's name and its groups."""
    return type(name, bases, {"param_groups": [dict(group) for group in groups]})()


@given(st.sampled_from(sorted(NAMED)), BATCHES, st.floats(0.5, 0.9999), st.floats(0.001, 0.9))
def test_same_batch_is_the_identity(name, batch, average, momentum):
    """Nothing changes, nothing is warned of, and the averages are the same to the last bit or nearly."""
    told = rescale(name, batch, batch, ema_decay=average, batch_norm_momentum=momentum, noise_scale=7.0, **NAMED[name])
    assert figures(told.groups[0]) == pytest.approx(figures(NAMED[name] | told.groups[0]), rel=1e-15)
    assert told.groups[0]["lr"] == NAMED[name]["lr"]
    assert (told.factor, told.warm_up, told.warnings, told.ema_decay) == (1.0, None, (), average)
    assert told.batch_norm_momentum == pytest.approx(momentum, rel=1e-12)
    assert "lr" not in {change.name for change in told.changes}


@given(st.sampled_from(sorted(NAMED)), BATCHES, BATCHES, BATCHES, st.none() | st.floats(1.0, 1e6), st.booleans())
def test_two_steps_are_one(name, first, second, third, noise_scale, keep):
    """B to B' to B'' is B to B'', unless an average became shorter than a step on the way, which is not undone."""
    extra = {"noise_scale": noise_scale, "keep_momentum_memory": keep and name == "sgd"}
    own = NAMED[name]
    shrink = max(
        [1 - beta for beta in own.get("betas", ())] + [1 - own.get("alpha", 1.0), 1 - own.get("momentum", 1.0)]
    )
    assume(max(second, third) / first * shrink < 0.99)
    near = rescale(name, first, second, ema_decay=0.999, batch_norm_momentum=0.1, **extra, **own)
    group = {key: value for key, value in near.groups[0].items() if key in own}
    far = rescale(
        name, second, third, ema_decay=near.ema_decay, batch_norm_momentum=near.batch_norm_momentum, **extra, **group
    )
    whole = rescale(name, first, third, ema_decay=0.999, batch_norm_momentum=0.1, **extra, **own)
    assert figures(far.groups[0]) == pytest.approx(figures(whole.groups[0]), rel=1e-6)
    assert near.factor * far.factor == pytest.approx(whole.factor, rel=1e-9)
    assert (far.ema_decay, far.batch_norm_momentum) == pytest.approx((whole.ema_decay, whole.batch_norm_momentum))


@given(st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=4), BATCHES, BATCHES)
def test_every_group_by_the_same_factor(rates, base, new):
    """A backbone at a tenth of the head's rate stays at a tenth."""
    told = rescale(held(*({**SGD, "lr": rate} for rate in rates), name="SGD"), base, new)
    assert [group["lr"] for group in told.groups] == pytest.approx([rate * told.factor for rate in rates])


@given(
    st.sampled_from(sorted(NAMED)),
    st.tuples(st.floats(0.0, 0.9999), st.floats(0.0, 0.999999)),
    st.floats(1e-6, 0.999999),
    BATCHES,
    BATCHES,
)
def test_nothing_leaves_its_legal_range(name, betas, decay, base, new):
    """Whatever the ratio: decays in [0, 1), momentum of BatchNorm in (0, 1], all else finite and not negative."""
    changed = {"betas": betas, "alpha": decay, "momentum": decay}
    own = {key: changed.get(key, value) for key, value in NAMED[name].items()}
    keep = name == "sgd"
    told = rescale(name, base, new, ema_decay=decay, batch_norm_momentum=decay, keep_momentum_memory=keep, **own)
    group = told.groups[0]
    decays = [*group.get("betas", ()), group.get("alpha", 0.0), group.get("momentum", 0.0), told.ema_decay]
    assert all(0.0 <= each < 1.0 for each in decays)
    assert 0.0 < told.batch_norm_momentum <= 1.0
    assert all(0.0 <= value < math.inf for value in figures(group).values())
    assert told.factor > 0.0


def test_the_adam_family_as_malladi_has_it():
    """Four times the batch: the rate doubles, 1 - beta grows fourfold, eps halves, decoupled decay doubles."""
    group = rescale("adamw", 16, 64, **ADAMW).groups[0]
    assert group["betas"] == pytest.approx((0.6, 0.996))
    assert (group["lr"], group["eps"], group["weight_decay"]) == pytest.approx((2e-3, 5e-9, 0.02))


def test_decay_through_the_gradient_stays():
    """Adam's weight decay is part of the loss, unless it is decoupled by option."""
    coupled = rescale("adam", 16, 64, **ADAMW).groups[0]
    decoupled = rescale("adam", 16, 64, **ADAMW, decoupled_weight_decay=True).groups[0]
    assert (coupled["weight_decay"], decoupled["weight_decay"]) == pytest.approx((0.01, 0.02))


def walk(group, batch, samples=2048, weights=2000):
    """Return how far AdamW drifts in pure noise of unit spread a sample: mean square over many weights."""
    import numpy as np

    generator = np.random.default_rng(1)
    place, first, second = (np.zeros(weights) for _ in range(3))
    beta1, beta2 = group["betas"]
    for step in range(1, samples // batch + 1):
        gradient = generator.normal(0.0, 1 / math.sqrt(batch), weights)
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        update = first / (1 - beta1**step) / (np.sqrt(second / (1 - beta2**step)) + group["eps"])
        place -= group["lr"] * update
    return float(np.mean(place**2))


def test_adam_walks_as_far_in_noise_at_either_batch():
    """By simulation and not by the formula: after as many samples the spread is the same; unrescaled it is not."""
    base = {"lr": 1e-3, "betas": (0.95, 0.999), "eps": 0.05}
    rescaled = rescale("adam", 1, 4, **base).groups[0]
    assert walk(rescaled, 4) / walk(base, 1) == pytest.approx(1.0, abs=0.15)
    assert walk(base, 4) / walk(base, 1) < 0.5


def test_decoupled_decay_shrinks_as_much_a_sample():
    """With no gradient at all, the weights left after 64,000 samples agree to a hundredth of the shrinking."""
    new = rescale("adamw", 16, 64, **ADAMW).groups[0]
    old_left = (1 - ADAMW["lr"] * ADAMW["weight_decay"]) ** 4000
    new_left = (1 - new["lr"] * new["weight_decay"]) ** 1000
    assert 1 - new_left == pytest.approx(1 - old_left, rel=0.01)


def test_averages_forget_as_much_a_sample():
    """What is left of the old after 640 samples is the same: of an EMA, and of BatchNorm's statistics."""
    told = rescale("sgd", 16, 64, ema_decay=0.999, batch_norm_momentum=0.1, lr=0.1)
    assert told.ema_decay**10 == pytest.approx(0.999**40)
    assert (1 - told.batch_norm_momentum) ** 10 == pytest.approx(0.9**40)


def test_batch_norm_follows_the_forward_passes_and_the_average_the_steps():
    """Accumulation makes steps rarer, not forward passes; more GPUs make both rarer."""
    accumulated = rescale("sgd", 16, 16, accumulation_steps=4, ema_decay=0.9, batch_norm_momentum=0.1, lr=0.1)
    assert (accumulated.ema_decay, accumulated.batch_norm_momentum) == pytest.approx((0.9**4, 0.1))
    spread = rescale("sgd", 16, 16, world_size=4, ema_decay=0.9, batch_norm_momentum=0.1, lr=0.1)
    assert (spread.ema_decay, spread.batch_norm_momentum) == pytest.approx((0.9**4, 1 - 0.9**4))


@pytest.mark.parametrize("noise_scale", [3.0, 100.0, 1e5])
def test_the_noise_limited_factor_is_the_ratio_of_best_steps(noise_scale):
    """Brute force on the expected loss of one step of a quadratic, |G|^2 = 1, tr(Sigma) = Bn, curvature 1."""

    def best_rate(batch):
        rates = [number / 20000 for number in range(1, 20001)]
        return min(rates, key=lambda rate: -rate + rate**2 / 2 * (1 + noise_scale / batch))

    told = rescale("sgd", 512, 2048, lr=0.1, noise_scale=noise_scale)
    assert told.factor == pytest.approx(best_rate(2048) / best_rate(512), rel=0.01)


def test_a_lower_bound_does_not_hold_the_rate_down():
    """An untrained network's noise scale warns, and leaves the linear rule."""
    bound = NoiseScaleEstimate(samples=20.0, low=10.0, high=40.0, is_lower_bound=True)
    sure = msgspec.structs.replace(bound, is_lower_bound=False)
    assert rescale("sgd", 16, 64, lr=0.1, noise_scale=bound).factor == 4.0
    assert rescale("sgd", 16, 64, lr=0.1, noise_scale=sure).factor == pytest.approx(4 * 36 / 84)


def test_momentum_memory_in_samples():
    """1 - m grows fourfold and the rate sixteenfold, so that a constant gradient moves the weights as fast."""
    told = rescale("sgd", 16, 64, lr=0.01, momentum=0.9, keep_momentum_memory=True)
    group = told.groups[0]
    assert (group["momentum"], group["lr"]) == pytest.approx((0.6, 0.16))
    assert group["lr"] / (1 - group["momentum"]) == pytest.approx(4 * 0.01 / 0.1)
    dropped = rescale("sgd", 16, 512, lr=0.01, momentum=0.9, keep_momentum_memory=True)
    assert (dropped.groups[0]["momentum"], dropped.groups[0]["lr"]) == (0.0, pytest.approx(32 * 0.01 / 0.1))
    assert any("momentum = 0.9" in warning for warning in dropped.warnings)


def test_all_samples_behind_a_step_count():
    """Four GPUs with two micro-batches of 8 are 64 samples, and BatchNorm sees 8 of them."""
    told = rescale("sgd", 16, 8, accumulation_steps=2, world_size=4, lr=0.1)
    assert (told.base_batch_size, told.batch_size, told.factor) == (16, 64, 4.0)
    assert not any("BatchNorm" in warning for warning in told.warnings)
    assert any("BatchNorm sees 4" in each for each in rescale("sgd", 16, 4, world_size=16, lr=0.1).warnings)


def test_schedulers_of_torch_come_back_as_functions_of_samples():
    """What counted steps at batch 16 counts 16 samples a step, whatever the batch is then."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    told = rescale(optimizer, 16, 64, schedule=torch.optim.lr_scheduler.StepLR(optimizer, 30, gamma=0.5))
    assert told.schedule == StepDecay(every=30, gamma=0.5, unit=iterations(16))
    assert told.groups[0]["lr"] == pytest.approx(0.4)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=3)
    found = rescale(optimizer, 16, 64, schedule=plateau).schedule
    assert isinstance(found, Plateau)
    assert found.patience == 3


def test_a_scheduler_stepped_by_epochs_says_so():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    told = rescale(optimizer, 16, 64, schedule=scheduler, schedule_unit=epochs(1000)).schedule
    assert told.ratio_at(2000) == pytest.approx(0.81)


def test_a_schedule_stays_and_the_base_rate_is_read():
    """A scheduler keeps the base rate aside; the curve that it makes is unchanged."""

    class Curve(msgspec.Struct, frozen=True):
        power: float = 0.9

    told = rescale(held({**SGD, "lr": 0.02, "initial_lr": 0.1}, name="SGD"), 16, 64, schedule=Curve())
    assert (told.groups[0]["lr"], told.schedule) == (pytest.approx(0.4), Curve())
    with pytest.raises(UsageError, match="schedule"):
        rescale("sgd", 16, 64, schedule="cosine", lr=0.1)


def test_the_warm_up_is_five_epochs_or_a_tenth_of_the_run():
    """From the old rate to the new, in samples, and in steps of the new batch."""
    long = rescale("sgd", 16, 64, sample_count=6400, lr=0.1)
    short = rescale("adamw", 16, 64, sample_count=6400, epochs=20, lr=0.1)
    assert long.warm_up == WarmUp(start_ratio=0.25, samples=32000, steps=500)
    assert short.warm_up == WarmUp(start_ratio=0.5, samples=12800, steps=200)
    assert [short.warm_up.ratio_at(seen) for seen in (0, 6400, 12800, 99999)] == [0.5, 0.75, 1.0, 1.0]
    assert any("12800 samples (200 steps)" in warning for warning in short.warnings)
    assert rescale("sgd", 16, 32, sample_count=6400, lr=0.1).warm_up is None
    with pytest.raises(ValueError, match="not known"):
        rescale("sgd", 16, 64, lr=0.1).warm_up.ratio_at(0)


@pytest.mark.parametrize(
    ("name", "base", "new", "extra", "words"),
    [
        ("sgd", 16, 8, {}, []),
        ("sgd", 64, 16, {}, ["shrinks 4 times"]),
        ("sgd", 64, 16, {"noise_scale": 40.0}, []),
        ("adamw", 64, 16, {}, []),
        ("sgd", 8, 16, {"noise_scale": 1000.0}, []),
        ("sgd", 8, 16, {"noise_scale": 40.0}, []),
        ("sgd", 8, 16, {"noise_scale": 20.0}, ["not small beside the noise scale"]),
        ("sgd", 8, 16, {"batch_norm_momentum": 0.1}, ["over 16 samples instead of 8"]),
        ("sgd", 8, 16, {"noise_scale": 12.0}, ["beyond the noise scale"]),
        (
            "adamw",
            8,
            16,
            {"noise_scale": NoiseScaleEstimate(samples=12.0, low=9.5)},
            ["of 12 [9.5 no bound], a lower bound:"],
        ),
        ("sgd", 8, 16, {"noise_scale": NoiseScaleEstimate(samples=None, reason="too few")}, ["(too few)"]),
        ("adamw", 8, 80, {}, ["warm up", "beta1 = 0.9"]),
        ("rmsprop", 8, 1600, {}, ["warm up", "alpha = 0.99"]),
    ],
)
def test_what_is_warned_of(name, base, new, extra, words):
    """Each limit has its sentence, and nothing else is said."""
    warnings = rescale(name, base, new, **extra, **NAMED[name]).warnings
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True))


@pytest.mark.parametrize(
    ("optimizer", "given", "words"),
    [
        ("lion", {"lr": 0.1}, "lion"),
        (held(SGD, name="Muon"), {}, "Muon"),
        (SimpleNamespace(), {}, "SimpleNamespace"),
        ("sgd", {}, "without lr"),
        ("sgd", {"lr": 0.1, "betas": (0.9, 0.99)}, "no hyperparameter betas"),
        (held(SGD, name="SGD"), {"lr": 0.1}, "beside an optimizer"),
        ("sgd", {"lr": 0.0}, "lr=0.0"),
        ("sgd", {"lr": "fast"}, "lr='fast'"),
        ("sgd", {"lr": math.nan}, "lr=nan"),
        ("adam", {"lr": 0.1, "betas": (0.9, 1.0)}, "betas"),
        ("adam", {"lr": 0.1, "keep_momentum_memory": True}, "keep_momentum_memory"),
        ("sgd", {"lr": 0.1, "world_size": 0}, "world size"),
        ("sgd", {"lr": 0.1, "accumulation_steps": 1.5}, "accumulation steps"),
        ("sgd", {"lr": 0.1, "ema_decay": 1.0}, "ema_decay"),
        ("sgd", {"lr": 0.1, "noise_scale": -1.0}, "noise_scale"),
        ("sgd", {"lr": 0.1, "sample_count": 0}, "sample_count"),
    ],
)
def test_what_cannot_be_is_refused(optimizer, given, words):
    """With the value in one line and what to do in another."""
    with pytest.raises(UsageError) as refused:
        rescale(optimizer, 16, 64, **given)
    assert words in refused.value.what
    assert refused.value.hint


def test_a_subclass_is_said_to_be_treated_as_its_base():
    """A wrapper that keeps torch's class is rescaled as that, and the text says so."""
    wrapper = held(SGD, name="Careful", bases=(type("SGD", (), {}),))
    assert rescale(wrapper, 16, 16).warnings == ("Careful is treated as SGD, from which it derives.",)


def test_the_text_has_what_changed_why_and_what_to_paste():
    """One line a change with its source, the warnings, and code."""
    text = repr(rescale("adamw", 16, 64, lr=1e-3, ema_decay=0.999, sample_count=640))
    assert text.splitlines()[0] == "AdamW from 16 to 64 samples a step (4 times)"
    assert "0.001 -> 0.002" in text
    assert "Malladi et al. 2022" in text
    assert "torch.optim.AdamW(params, lr=0.002, betas=(0.6, 0.996), eps=5e-09, weight_decay=0.02)" in text
    assert "LinearLR(optimizer, start_factor=0.5, total_iters=50)" in text
    groups = repr(rescale(held({**ADAMW, "lr": 1e-4}, ADAMW), 16, 64))
    assert "0.0001, 0.001 -> 0.0002, 0.002" in groups
    assert groups.count("(0.9, 0.999) -> (0.6, 0.996)") == 1
    assert "nothing changes" in repr(rescale("sgd", 16, 16, lr=0.1))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RAdam", "RMSprop"])
def test_torch_optimizers_are_read_set_and_pasted(name):
    """What apply sets, what the pasted code makes, and what the record says are one."""
    import torch

    params = [torch.nn.Parameter(torch.zeros(2))]
    optimizer = getattr(torch.optim, name)(params, lr=0.01, weight_decay=1e-3)
    told = rescale(optimizer, 16, 64)
    told.apply(optimizer)
    # Two groups are pasted in another form.
    scope = {"torch": torch, "params": [torch.nn.Parameter(torch.zeros(2))]}
    exec(told.code, scope)  # noqa: S102 - the record's own code
    for made in (optimizer, scope["optimizer"]):
        assert type(made) is getattr(torch.optim, name)
        for key, value in told.groups[0].items():
            assert made.param_groups[0][key] == pytest.approx(value, rel=1e-5)


def test_two_groups_are_pasted_as_two():
    """Each with its own rate and decay."""
    import torch

    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.001}, {"params": [], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)
    told = rescale(optimizer, 8, 32, batch_norm_momentum=0.1)
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3))
    scope = {"torch": torch, "model": model, "params_0": [torch.nn.Parameter(torch.zeros(1))], "params_1": []}
    exec(told.code, scope)  # noqa: S102 - the record's own code
    made = scope["optimizer"].param_groups
    assert [(group["lr"], group["weight_decay"]) for group in made] == [(0.002, 0.2), (0.02, 0.0)]
    assert model[0].momentum == pytest.approx(1 - 0.9**4)


def test_tensors_are_read_and_filled_in_place():
    """A capturable optimizer keeps its rate in a tensor, which a CUDA graph reads."""
    import torch

    rate = torch.tensor(0.01)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=rate, capturable=True)
    rescale(optimizer, 16, 64).apply(optimizer)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.02)


def test_apply_works_once_and_on_what_was_read():
    """A second time, another optimizer, or one with a scheduler: refused, and nothing is set."""
    optimizer = held(SGD, SGD, name="SGD")
    told = rescale(optimizer, 16, 64)
    told.apply(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.4]
    scheduled = held(*({**SGD, "initial_lr": 0.1},) * 2, name="SGD")
    for other, words in ((optimizer, "works once"), (held(SGD, name="SGD"), "was rescaled"), (scheduled, "scheduler")):
        with pytest.raises(UsageError) as refused:
            told.apply(other)
        assert words in refused.value.hint
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.4]
    assert scheduled.param_groups[0]["lr"] == 0.1


def test_rescaling_loads_no_torch():
    """Nor does importing the package."""
    code = "import sys, loadtune; loadtune.rescale('adamw', 8, 32, lr=0.1); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_rescaled_training_is_json_and_back():
    """As every record is."""
    told = rescale("adamw", 16, 64, sample_count=100, **ADAMW)
    assert msgspec.json.decode(msgspec.json.encode(told), type=type(told)).changes == told.changes
