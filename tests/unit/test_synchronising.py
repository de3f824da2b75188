"""How often does a step wait for the device? Torch's own warnings, counted; the mode is put back whatever happens."""

import warnings

import pytest
import torch

from loadtune.measure.synchronising import SYNCHRONISED, count_synchronisations


class Mode:
    """torch.cuda's sync debug mode, scripted."""

    def __init__(self, monkeypatch):
        self.now = 0
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: self.now)
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", self.set)

    def set(self, mode):
        if mode == "warn":
            warnings.warn("Synchronization debug mode is a prototype feature", UserWarning, stacklevel=2)
        self.now = mode

    def item(self, count):
        for _ in range(count if self.now == "warn" else 0):
            warnings.warn(f"{SYNCHRONISED} (Triggered internally at x.cpp:1.)", UserWarning, stacklevel=2)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_each_wait_counts_and_no_other_warning(monkeypatch, count):
    """From the same line too, of which Python would warn once only."""
    mode = Mode(monkeypatch)
    assert count_synchronisations(lambda: mode.item(count)) == count
    assert mode.now == 0


def test_the_mode_is_put_back_where_the_step_fails(monkeypatch):
    mode = Mode(monkeypatch)
    with pytest.raises(ZeroDivisionError):
        count_synchronisations(lambda: 1 / 0)
    assert mode.now == 0


@pytest.mark.gpu
def test_an_item_on_a_gpu_is_a_wait():
    """And an addition is none."""
    tensor = torch.ones(4, device="cuda")
    assert count_synchronisations(lambda: tensor.sum().item()) == 1
    assert count_synchronisations(lambda: tensor.add_(1)) == 0
