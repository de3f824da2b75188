"""Which samples are the same, and which cannot be compared."""

import copy
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loadtune.measure.sample_prints import fingerprint


class Pair(NamedTuple):
    image: torch.Tensor
    label: int


class Lazy(dict):
    """Loads what it is asked for."""

    def __getitem__(self, name):
        raise RuntimeError("loaded")

    def values(self):
        raise RuntimeError("loaded")


def test_fingerprints_tell_samples_apart():
    """By contents, shape and type."""
    samples = [
        *({"x": torch.zeros(3), "y": number} for number in (1, 2)),
        *(torch.zeros(3), torch.zeros(3, 1), torch.zeros(3).bool(), np.zeros(3), np.zeros(3, dtype=np.int16)),
        *("a", b"a", 1, 1.0, True, None, "", b"x" * 5000, b"x" * 5001, [1], (1,), np.float32(1.0)),
        Pair(torch.ones(2), 4),
    ]
    assert len({fingerprint(each) for each in samples}) == len(samples)
    assert None not in {fingerprint(each) for each in samples}


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"x": torch.arange(9000), "y": ("one", [1, 2.5])},
        lambda: Pair(torch.ones(2), 4),
        lambda: Lazy(x=1),
        lambda: OrderedDict(x=np.arange(5000.0)),
        lambda: torch.arange(12).reshape(3, 4).t(),
        lambda: torch.tensor([1.0, float("nan")]),
    ],
)
def test_equal_samples_share_one(make):
    """Made anew each time; no method of a user's class is asked."""
    assert fingerprint(make()) == fingerprint(make()) is not None


@pytest.mark.parametrize(
    "sample",
    [
        object(),
        {1, 2},
        lambda: 0,
        np.array([object()]),
        torch.eye(2).to_sparse(),
        torch.zeros(2, device="meta"),
        (torch.zeros(2), object()),
        {"x": [object()]},
    ],
)
def test_what_is_more_than_its_contents_is_not_compared(sample):
    """Its repr would be an address, which forked workers share."""
    assert fingerprint(sample) is None


@given(st.dictionaries(st.text(max_size=3), st.integers() | st.text() | st.lists(st.binary(), max_size=3), max_size=3))
def test_a_fingerprint_depends_on_the_contents_alone(sample):
    assert fingerprint(copy.deepcopy(sample)) == fingerprint(sample)
