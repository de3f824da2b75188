"""What tests of schedulers train with: an optimizer whose steps change nothing, and the habits of a training loop."""

import io
from typing import Any

import torch


def make_optimizer(*rates: float) -> torch.optim.SGD:
    """Return an SGD with a parameter group for each rate, whose steps change nothing."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or (0.1,)]
    return torch.optim.SGD(groups, lr=1.0)


def rates_of(optimizer: Any) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def step(scheduler: Any, **given: Any) -> None:
    """Do as a training loop does."""
    scheduler.optimizer.step()
    scheduler.step(**given)


def step_thrice(scheduler: Any) -> None:
    for _ in range(3):
        step(scheduler)


def save_and_load(state: dict[str, Any]) -> dict[str, Any]:
    """Send a state through a file that holds nothing but plain values."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
