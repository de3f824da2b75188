"""What a trial in the caller's own process trains is put back bit for bit."""

import copy
import os
import random
import threading

import numpy as np
import pytest
import torch
from torch import nn

from loadtune.workload.restoring import keep


def make_trainer():
    """A script's own step in a closure: model with BatchNorm, optimizer, schedule, average, a free parameter."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(2, 3, 4, 4))
    scale = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.AdamW([*model.parameters(), scale], lr=0.1, amsgrad=True)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    average = torch.optim.swa_utils.AveragedModel(model)
    lock = threading.Lock()

    def train_step(batch):
        with lock:
            optimizer.zero_grad()
            (model(batch).square().mean() * scale).backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)

    return train_step, model, optimizer, schedule, average, scale


def snapshot(model, optimizer, schedule, average, scale):
    return copy.deepcopy(
        (model.state_dict(), optimizer.state_dict(), schedule.state_dict(), average.state_dict(), scale.detach())
    )


def same(left, right):
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right) and left.dtype == right.dtype
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_step_in_a_closure_is_undone(steps_before):
    train_step, *parts = make_trainer()
    for _ in range(steps_before):
        train_step(torch.randn(2, 3, 4, 4))
    model = parts[0]
    before, identities = snapshot(*parts), [id(each) for each in model.parameters()]
    grads = [None if each.grad is None else each.grad.clone() for each in model.parameters()]
    restore = keep({"train_step": train_step})
    for _ in range(3):
        train_step(torch.randn(2, 3, 4, 4))
    model.eval()
    assert not same(before, snapshot(*parts))
    restore()
    assert same(before, snapshot(*parts))
    assert model.training
    assert [id(each) for each in model.parameters()] == identities
    for each, grad in zip(model.parameters(), grads, strict=True):
        assert (each.grad is None) == (grad is None)
        assert grad is None or torch.equal(each.grad, grad)
    train_step(torch.randn(2, 3, 4, 4))  # it still trains what it trained


def test_the_next_steps_are_what_they_would_have_been():
    """Two trainings, one of them interrupted by trials, end in the same weights."""
    ends = []
    for is_probed in (False, True):
        train_step, *parts = make_trainer()
        batches = [torch.full((2, 3, 4, 4), float(number)) + torch.arange(4.0) for number in range(6)]
        for batch in batches[:3]:
            train_step(batch)
        if is_probed:
            restore = keep({"train_step": train_step})
            train_step(torch.randn(2, 3, 4, 4))
            restore()
        for batch in batches[3:]:
            train_step(batch)
        ends.append(snapshot(*parts))
    assert same(*ends)


class Trainer:
    """A step as a method, its parts as attributes."""

    def __init__(self):
        self.model = nn.Linear(2, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.parts = {"scaler": torch.amp.GradScaler("cpu", init_scale=8.0)}

    def step(self, batch):
        scaler = self.parts["scaler"]
        scaler.scale(self.model(batch).mean()).backward()
        scaler.step(self.optimizer)
        scaler.update(new_scale=2.0)


def test_a_method_is_followed_to_its_object():
    trainer = Trainer()
    before = copy.deepcopy((trainer.model.state_dict(), trainer.parts["scaler"].state_dict()))
    restore = keep({"train_step": trainer.step})
    trainer.step(torch.ones(1, 2))
    restore()
    assert same(before, (trainer.model.state_dict(), trainer.parts["scaler"].state_dict()))
    assert not trainer.optimizer.state


def test_a_model_comes_back_to_its_device_and_type():
    model = nn.BatchNorm1d(2)
    buffer = model.running_mean
    restore = keep({"model": model})
    model.double()
    restore()
    assert model.weight.dtype == torch.float32
    assert model.weight.device.type == "cpu"
    assert model.running_mean is buffer
    assert set(model.state_dict()) == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


def test_generators_threads_and_environment_come_back(monkeypatch):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), torch.get_num_threads()
    environ = dict(os.environ)
    restore = keep({})
    random.random(), np.random.rand(), torch.rand(1)
    torch.set_num_threads(before[3] + 1)
    monkeypatch.setenv("LOADTUNE_TEST", "1")
    restore()
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert torch.get_num_threads() == before[3]
    assert dict(os.environ) == environ
