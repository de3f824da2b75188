"""What tells one object from another: structure and settings, not weights, and alike in every process."""

import importlib.util
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2

from loadtune.fingerprint import NotDescribableError, fingerprint


class Images:
    """A data set with settings."""

    def __init__(self, root="a", size=256, names=("1", "2")):
        self.root = Path(root)
        self.transform = v2.Compose([v2.Resize(size), v2.RandomHorizontalFlip()])
        self.names = list(names)

    def __len__(self):
        return len(self.names)


def make_step(model, scale=1.0):
    def step(batch):
        return scale * model(batch)

    return step


SAME = [
    Images,
    lambda: DataLoader(Images(), batch_size=2),
    lambda: nn.Linear(3, 2),
    lambda: make_step(nn.Linear(3, 2)),
    lambda: partial(make_step, nn.Linear(3, 2), scale=2.0),
    lambda: (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    lambda: {"a", "b", "c"},
]


@pytest.mark.parametrize("make", SAME)
def test_what_is_made_alike_is_alike_whatever_its_weights(make):
    assert fingerprint(make()) == fingerprint(make())


DIFFERENT = [
    (Images, lambda: Images(size=1024)),
    (Images, lambda: Images(root="b")),
    (Images, lambda: Images(names=("1", "3"))),
    (lambda: DataLoader(Images(), batch_size=2), lambda: DataLoader(Images(size=1024), batch_size=2)),
    (lambda: DataLoader(Images(), batch_size=2), lambda: DataLoader(Images(), batch_size=4)),
    (lambda: DataLoader(Images(), collate_fn=len), lambda: DataLoader(Images(), collate_fn=list)),
    (lambda: Subset(Images(), [0]), lambda: Subset(Images(), [1])),
    (lambda: nn.Linear(3, 2), lambda: nn.Linear(3, 4)),
    (lambda: nn.Linear, lambda: nn.Conv2d),
    (lambda: make_step(nn.Linear(3, 2)), lambda: make_step(nn.Linear(3, 4))),
    (lambda: make_step(nn.Linear(3, 2)), lambda: make_step(nn.Linear(3, 2), scale=2.0)),
    (lambda: lambda batch: batch + 1, lambda: lambda batch: batch + 2),
    (lambda: partial(print, 1), lambda: partial(print, 2)),
    (lambda: (torch.optim.SGD, {"lr": 0.1}), lambda: (torch.optim.SGD, {"lr": 0.2})),
    (lambda: "1", lambda: 1),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_differs_is_told_apart(one, other):
    assert fingerprint(one()) != fingerprint(other())


def test_circles_end_and_crowds_are_refused():
    circle = []
    circle.append(circle)
    assert fingerprint(circle)
    with pytest.raises(NotDescribableError, match="parts"):
        fingerprint(list(range(300_000)))


def test_what_raises_when_it_is_looked_at_is_refused():
    class Shy:
        def __getattribute__(self, name):
            raise RuntimeError("not now")

    with pytest.raises(NotDescribableError):
        fingerprint(Shy())


def test_another_process_finds_the_same(tmp_path):
    """Sets have another order there, and objects other addresses; classes are the script's own."""
    script = tmp_path / "script.py"
    script.write_text(
        "from loadtune.fingerprint import fingerprint\n"
        "class Data:\n"
        "    def __init__(self): self.kinds = {'cat', 'dog', 'emu'}\n"
        "    def __getitem__(self, number): return number in (1, 2) and 'x' in {'x', 'y', 'z'}\n"
        "print(fingerprint(Data()))\n"
    )
    root = Path(__file__).resolve().parents[2]
    found = {
        subprocess.run(
            [sys.executable, str(script)],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
    script.write_text(script.read_text().replace("(1, 2)", "(1, 3)"))
    changed = subprocess.run(
        [sys.executable, str(script)], env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=True
    )
    assert changed.stdout not in found


def test_a_module_of_ones_own_counts_by_its_code(tmp_path, monkeypatch):
    """A data set's class mostly lies in a file beside the script; its base class may lie in another."""
    found = []
    for number, (base, own) in enumerate([("1", "2"), ("1", "2"), ("1", "3"), ("4", "2")]):
        path = tmp_path / f"own_{number}.py"
        path.write_text(
            "class Base:\n    def load(self): return " + base + "\n"
            "class Data(Base):\n    def __getitem__(self, n): return self.load() + " + own + "\n"
        )
        spec = importlib.util.spec_from_file_location("own", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "own", module)
        spec.loader.exec_module(module)
        found.append(fingerprint(module.Data()))
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_an_attribute_is_no_global_of_the_same_name(monkeypatch):
    """`self.names` has nothing to do with a variable `names` of the module."""
    before = fingerprint(Images())
    monkeypatch.setitem(globals(), "names", 0.5)
    assert fingerprint(Images()) == before
