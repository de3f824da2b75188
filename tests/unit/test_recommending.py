"""What a training script hands over and gets back, without measuring."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from loadtune import LoadtuneError, recommend
from loadtune.advised import Advice
from loadtune.errors import UsageError
from loadtune.recommending import describe_optimizer, todays_settings
from loadtune.records.settings import Settings
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
        (DataLoader([1, 2], batch_size=None), None, None, Settings(num_workers=0, batch_size=1)),
    ],
)  # fmt: skip
def test_what_is_run_today_is_known(data, batch_size, num_workers, expected):
    assert todays_settings(data, batch_size, num_workers) == expected


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
