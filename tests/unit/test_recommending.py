"""What a training script hands over and gets back, without measuring."""

import random
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from loadtune import LoadtuneError, NoiseScale, anneal, recommend
from loadtune.advised import Advice
from loadtune.errors import UsageError
from loadtune.options import check, parse_schedule
from loadtune.preparing import _is_of_script
from loadtune.recommending import _unwrap, describe_optimizer, todays_settings
from loadtune.records.settings import Settings
from loadtune.schedule.batch_growth import NoiseScaleEstimate
from loadtune.schedule.curve import Polynomial, epochs
from tests.examples import EXAMPLES

PARAMETERS = [nn.Parameter(torch.zeros(2))]


@pytest.mark.parametrize(
    ("optimizer", "rule"),
    [
        (torch.optim.SGD(PARAMETERS, lr=0.1, momentum=0.9, nesterov=True), "sgd"),
        (torch.optim.RMSprop(PARAMETERS, lr=0.1), "adam"),
        (torch.optim.Adagrad(PARAMETERS, lr=0.1), "sgd"),
        (torch.optim.Adam(PARAMETERS, lr=0.1), "adam"),
        (torch.optim.NAdam(PARAMETERS, lr=0.1), "adam"),
        (torch.optim.AdamW(PARAMETERS, lr=0.1, weight_decay=0.3), "adamw"),
    ],
)
def test_an_optimizer_is_made_again_with_its_own_options(optimizer, rule):
    found, parts, rate = describe_optimizer(optimizer)
    assert (found, rate) == (rule, 0.1)
    made, options = parts
    again = made([nn.Parameter(torch.zeros(2))], **options)
    assert type(again) is type(optimizer)
    assert again.defaults == optimizer.defaults


def test_the_rate_is_that_of_the_first_group():
    """Where a schedule warms it up, what was tuned counts, not what it is now."""
    optimizer = torch.optim.SGD(PARAMETERS, lr=0.1)
    optimizer.param_groups[0]["lr"] = 0.025
    assert describe_optimizer(optimizer)[2] == 0.025
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.0)
    assert optimizer.param_groups[0]["lr"] == 0.0
    assert describe_optimizer(optimizer)[2] == 0.025


@pytest.mark.parametrize("wrong", ["sdg", None, 3, nn.Linear(1, 1)])
def test_what_is_no_optimizer_is_refused(wrong):
    with pytest.raises(UsageError, match="optimizer"):
        describe_optimizer(wrong)


@pytest.mark.parametrize(
    ("data", "batch_size", "num_workers", "expected"),
    [
        ([1, 2], 8, 3, Settings(num_workers=3, batch_size=8)),
        ([1, 2], None, None, Settings(num_workers=0, batch_size=1)),
        (DataLoader([1, 2], batch_size=2, pin_memory=True), None, None,
         Settings(num_workers=0, batch_size=2, pin_memory=True)),
        (DataLoader([1, 2], num_workers=2, prefetch_factor=4, persistent_workers=True, in_order=False), 8, None,
         Settings(num_workers=2, batch_size=8, prefetch_factor=4, persistent_workers=True, in_order=False)),
        (DataLoader([1, 2], batch_size=None), None, None, Settings(num_workers=0, batch_size=1)),
    ],
)  # fmt: skip
def test_what_is_run_today_is_known(data, batch_size, num_workers, expected):
    assert todays_settings(data, batch_size, num_workers) == expected


@pytest.mark.filterwarnings("ignore:loadtune measured nothing")
@pytest.mark.parametrize(
    ("made", "kwargs"),
    [
        ({"batch_size": None}, {"batch_size": None, "num_workers": 0}),
        ({"batch_sampler": [[0, 1]]}, {"num_workers": 0}),
        ({"batch_size": 2}, {"batch_size": 2, "num_workers": 0}),
    ],
)
def test_what_the_loader_decides_itself_is_not_given_another_value(made, kwargs):
    """torch refuses batch_size beside a batch_sampler; batches that are ready are not batched again."""
    advice = recommend(DataLoader([1, 2], **made), budget="1s", on_error="defaults", quiet=True)
    assert advice.report is None
    assert advice.dataloader_kwargs == kwargs


class DistributedDataParallel(nn.Module):
    """As torch's, by name, which needs a process group."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_a_trial_trains_the_network_and_not_what_spreads_it():
    """A process group does not travel."""
    net = nn.Linear(1, 1)
    assert _unwrap(DistributedDataParallel(net)) is net
    assert _unwrap(nn.DataParallel(net)) is net
    named = nn.Sequential()
    named.module = net
    assert _unwrap(named) is named
    assert _unwrap(None) is None


class OfScript(list):
    """As a class that a script defines."""


OfScript.__module__ = "__main__"


class Selfish(list):
    """A data set that names itself as the one within."""

    @property
    def dataset(self):
        return self


def test_what_a_script_defines_is_found_within_a_loader():
    """In a Subset too, and as a function; a data set that names itself ends the looking."""

    def collate(items):
        return items

    assert not _is_of_script(DataLoader(Subset([1, 2], [0])))
    assert _is_of_script(DataLoader(Subset(OfScript([1, 2]), [0])))
    collate.__module__ = "__main__"
    assert _is_of_script(DataLoader([1, 2], collate_fn=collate))
    assert not _is_of_script(Selfish([1]))


def test_a_job_that_must_not_stop_gets_what_it_runs(tmp_path):
    with pytest.warns(RuntimeWarning, match="measured nothing"):
        advice = recommend(tmp_path / "missing", batch_size=4, num_workers=2, on_error="defaults", quiet=True)
    assert advice.report is None
    assert advice.dataloader_kwargs == {"batch_size": 4, "num_workers": 2}
    assert (advice.batch_size, advice.lr, advice.findings) == (4, None, ())
    assert advice.to_frame().empty
    assert "does not exist" in str(advice)
    assert advice._repr_html_().startswith("<pre>")
    with pytest.raises(LoadtuneError):
        recommend(tmp_path / "missing", quiet=True)


@pytest.mark.parametrize("budget", ["5s", 5, "soon"])
def test_budgets_are_read_as_the_command_does(tmp_path, budget):
    with pytest.raises(UsageError):
        recommend(tmp_path, budget=budget, quiet=True)


def test_a_notebook_shows_the_page_apart():
    """Nothing of the report can act on the notebook's own page: it is in a frame, escaped."""
    for make in EXAMPLES.values():
        shown = Advice(make())._repr_html_()
        assert shown.startswith('<iframe srcdoc="')
        assert shown.count('"') == 8
        assert "<script" not in shown
        assert "allow-same-origin" not in shown


def test_random_generators_are_left_as_they_were(tmp_path):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    with pytest.raises(LoadtuneError):
        recommend(tmp_path / "missing", quiet=True)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.fixture
def asked(monkeypatch):
    """What a call asks a probe for; nothing is measured."""
    options = []

    def take(made, sink, progress):
        options.append(made)
        check(made)
        return EXAMPLES["faster"]()

    monkeypatch.setattr("loadtune.recommending.run_probe", take)
    return options


def test_optimizer_scheduler_and_noise_scale_reach_the_probe(asked):
    """As values: the trained objects themselves stay where they are."""
    optimizer = torch.optim.SGD(PARAMETERS, lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    noise = NoiseScaleEstimate(samples=300.0, low=250.0, high=400.0, steps=99, is_lower_bound=False)
    recommend([1, 2], optimizer=optimizer, lr=0.2, scheduler=scheduler, stepped="epoch", noise_scale=noise, quiet=True)
    (options,) = asked
    assert options.handed_optimizer.groups[0]["momentum"] == 0.9
    assert options.handed_optimizer.groups[0]["lr"] == pytest.approx(0.2)
    assert (options.noise_scale, options.scheduler, options.learning_rate) == (noise, scheduler, 0.2)


def test_a_noise_scale_object_is_asked_for_its_estimate(asked):
    model = nn.Linear(2, 1)
    watched = NoiseScale(model, 4, is_trained=True)
    for _ in range(9):
        watched.measure(lambda batch: model(batch).square().mean(), torch.randn(4, 4, 2))
    recommend([1, 2], noise_scale=watched, quiet=True)
    recommend([1, 2], noise_scale=1200, quiet=True)
    assert asked[0].noise_scale == watched.estimate()
    assert asked[1].noise_scale == NoiseScaleEstimate(samples=1200.0, is_lower_bound=False)


def test_the_validation_is_not_judged_by_the_training(asked):
    """It has no optimizer step."""
    schedule = Polynomial(total=3, unit=epochs(2))
    recommend([1, 2], scheduler=schedule, noise_scale=30, val_loader=[1, 2], model=nn.Linear(2, 1), quiet=True)
    trained, validated = asked
    assert (trained.scheduler, trained.noise_scale.samples) == (schedule, 30.0)
    assert (validated.scheduler, validated.noise_scale, validated.purpose) == (None, None, "evaluate")


def test_an_optimizer_without_a_rule_is_known_by_its_class(asked):
    recommend([1, 2], optimizer=torch.optim.NAdam(PARAMETERS, lr=0.1), quiet=True)
    recommend([1, 2], optimizer="adamw", quiet=True)
    assert [options.handed_optimizer for options in asked] == ["NAdam", None]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"noise_scale": 0}, "noise_scale=0"),
        ({"noise_scale": True}, "noise_scale=True"),
        ({"noise_scale": float("inf")}, "noise_scale=inf"),
        ({"noise_scale": "many"}, "noise_scale='many'"),
        ({"scheduler": "poly"}, "type str"),
        ({"scheduler": ()}, "type tuple"),
        ({"stepped": "epoch"}, "stepped='epoch' is for a scheduler of torch's"),
        ({"scheduler": Polynomial(total=3, unit=epochs(2)), "stepped": "iteration"}, "stepped='iteration'"),
    ],
)
def test_what_cannot_be_followed_is_refused_before_anything_is_measured(asked, changes, told):
    with pytest.raises(UsageError, match=re.escape(told)):
        recommend([1, 2], quiet=True, **changes)


def test_torch_s_schedulers_must_be_readable_and_say_how_often_they_step(asked):
    optimizer = torch.optim.SGD(PARAMETERS, lr=0.1)
    with pytest.raises(UsageError, match="how often"):
        recommend([1, 2], scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 3), quiet=True)
    hidden = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    with pytest.raises(UsageError, match="LambdaLR"):
        recommend([1, 2], scheduler=hidden, stepped="epoch", quiet=True)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    with pytest.raises(UsageError, match="leave it out"):
        recommend([1, 2], scheduler=plateau, stepped="epoch", quiet=True)
    recommend([1, 2], scheduler=plateau, quiet=True)


def test_a_scheduler_that_anneal_made_is_followed(asked):
    schedule = Polynomial(total=3, unit=epochs(2))
    optimizer = torch.optim.SGD(PARAMETERS, lr=0.1)
    recommend([1, 2], scheduler=anneal(optimizer, schedule, batch_size=1), quiet=True)
    assert parse_schedule(asked[0], 1, 2) == schedule
