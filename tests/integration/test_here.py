"""Tasks in a thread of the caller's own process: heard, ended, and told apart from a hang."""

import os
import signal
import threading
import time

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from loadtune.advice.search import Leg
from loadtune.engine import here as here_module
from loadtune.engine.here import Here
from loadtune.engine.runner import Runner
from loadtune.errors import EngineError
from loadtune.monitor.nvml import Nvml
from loadtune.payload import find_homebound
from loadtune.records.measurement import Cause, TrialState
from loadtune.records.messages import InspectTask, Sources
from loadtune.records.settings import DeviceChoice, MeasureOptions, Settings, TrialSpec, WorkloadSpec
from tests.unit.test_feasibility import make_limits


class Locked(Dataset):
    """Holds what cannot be pickled."""

    def __init__(self):
        self.lock = threading.Lock()

    def __len__(self):
        return 32

    def __getitem__(self, number):
        with self.lock:
            return torch.zeros(2), torch.zeros((), dtype=torch.int64)


def spec(**measure) -> TrialSpec:
    options = {"window_min_s": 0.02, "windows_min": 2, "measure_s": 0.1, "warm_up_s": 0.2} | measure
    return TrialSpec(
        settings=Settings(num_workers=0, batch_size=4),
        device=DeviceChoice(kind="cpu"),
        workload=WorkloadSpec(),
        threads=1,
        measure=MeasureOptions(**options),
    )


def run(objects, trial: TrialSpec | None = None, deadline_s: float = 60.0):
    runner = Runner(Here(objects), Nvml(None, "not looked for"), make_limits(), Sources(), time.monotonic())
    trial = spec() if trial is None else trial
    return runner.run(trial, Leg(settings=trial.settings, role="grid"), 1, time.monotonic() + deadline_s)


def test_what_cannot_travel_is_named():
    found = find_homebound({"model": nn.Linear(2, 2), "dataset": Locked()})
    assert found.name == "dataset"
    assert "lock" in found.reason
    assert find_homebound({"model": nn.Linear(2, 2)}) is None


def test_a_trial_measures_and_leaves_the_model_alone():
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    result = run({"dataset": Locked(), "model": model})
    assert result.state is TrialState.COMPLETE
    assert result.rate_per_s > 0
    assert torch.equal(model.weight, before)
    assert model.weight.grad is None
    assert threading.active_count() == 1 or not any("trial" in each.name for each in threading.enumerate())


def test_what_the_step_raises_is_data():
    def fail(batch):
        raise ValueError("labels out of range")

    result = run({"dataset": Locked(), "train_step": fail})
    assert (result.state, result.failure.cause) == (TrialState.FAILED, Cause.USER_CODE)
    assert "labels out of range" in result.failure.message
    assert "in fail" in result.failure.log_tail


def test_a_slow_trial_is_ended_at_its_deadline():
    """It hears of it with its next step; user code's own handlers do not keep it."""

    def slow(batch):
        try:
            time.sleep(0.05)
        except Exception:
            time.sleep(0.05)

    result = run({"dataset": Locked(), "train_step": slow}, spec(cap_s=600.0, measure_s=600.0), deadline_s=0.5)
    assert (result.state, result.failure.cause) == (TrialState.TIMED_OUT, Cause.DEADLINE)


def test_a_step_that_hangs_is_an_error(monkeypatch):
    """Nothing can end it, and the script must know."""
    monkeypatch.setattr(here_module, "END_LIMIT_S", 0.2)
    goes_on = threading.Event()

    def hang(batch):
        goes_on.wait()

    with pytest.raises(EngineError, match="did not end"):
        run({"dataset": Locked(), "train_step": hang}, spec(silence_s=0.3), deadline_s=60.0)
    goes_on.set()


def test_the_data_are_looked_at_here():
    runner = Runner(
        Here({"dataset": Locked()}), Nvml(None, "not looked for"), make_limits(), Sources(), time.monotonic()
    )
    found = runner.inspect(InspectTask(workload=WorkloadSpec(), sources=Sources(), batch_size=4))
    assert found.sample_count == 32


def test_the_callers_own_group_is_never_signalled():
    running = Here({"dataset": Locked()}).start(InspectTask(workload=WorkloadSpec(), sources=Sources(), batch_size=4))
    running.close()
    assert running.pid == os.getpid()
    with pytest.raises(PermissionError):
        running.signal_group(signal.SIGTERM)


class Stubborn:
    """Gives its state and does not take it back."""

    def __call__(self, batch):
        del batch

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        raise ValueError("not twice")


def test_what_cannot_be_put_back_is_an_error():
    """The script must not train on as if nothing had happened."""
    with pytest.raises(EngineError, match="could not be put back: ValueError: not twice"):
        run({"dataset": Locked(), "train_step": Stubborn()})
