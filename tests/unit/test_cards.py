"""Is a card's estimate the arithmetic that it says, and does a name find the right card?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtune.records.cards import (
    CARDS,
    FORWARD_OPERATIONS,
    PUBLISHED,
    RESNET50_TRAINING_OPERATIONS,
    default_precision,
    estimate_profile,
    find_card,
    reached_ratio,
)

A100 = next(card for card in CARDS if card.name == "A100 80GB")


@pytest.mark.parametrize(("backbone", "output_stride"), [("resnet18", 8), ("resnet50", 16)])
def test_operations_are_those_of_our_own_network(backbone, output_stride):
    """Counted again by torch, without computing anything."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from loadtune.workload.deeplab import deeplabv3plus

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        deeplabv3plus(backbone, output_stride, 21)(torch.zeros(2, 3, 513, 513))
    counted = counter.get_total_flops() / 2
    assert FORWARD_OPERATIONS[backbone, output_stride] == pytest.approx(counted, rel=2e-3)


def test_published_images_are_of_a_counted_network():
    """ResNet-50 at 224 px, forward and backward, which holds no depthwise convolution."""
    import torch
    import torchvision
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        torchvision.models.resnet50()(torch.zeros(2, 3, 224, 224)).sum().backward()
    assert counter.get_total_flops() / 2 == pytest.approx(RESNET50_TRAINING_OPERATIONS, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("A100", "A100"),
        ("a100", "A100"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("A1000", None),
        ("RTX", None),
        ("", None),
    ],
)
def test_a_name_finds_its_card_and_no_other(name, found):
    card = find_card(name)
    assert (None if card is None else card.name) == found


def test_a_reference_card_reaches_what_was_published():
    """2470 images/s of 24.3e9 operations are 19.2 % of 312e12 a second."""
    assert reached_ratio(A100, is_half=True) == pytest.approx(2470 * 24.3e9 / 312e12)
    assert reached_ratio(A100, is_half=False) == pytest.approx(938 * 24.3e9 / 156e12)
    assert {name for name, _, _ in PUBLISHED.values()} <= {card.name for card in CARDS}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_card_reaches_a_share(card):
    """No more than the reference's, and the less the slower its memory is by its peak."""
    reference = next(each for each in CARDS if each.name == PUBLISHED[card.has_bf16][0])
    for is_half in (True, False):
        assert 0.02 < reached_ratio(card, is_half=is_half) <= reached_ratio(reference, is_half=is_half)
    assert default_precision(card) == ("bf16" if card.has_bf16 else "fp32")
    assert find_card(card.name) == card


def test_a_step_is_operations_by_peak_and_share():
    """Three forward passes of 79.1e9 at 19.2 % of 312e12: 3.95 ms a sample."""
    profile = estimate_profile(A100, "resnet50", 16, "bf16", 513)
    assert profile.origin == "estimated"
    assert profile.name == "A100 80GB, DeepLabv3+ resnet50, 513 px, bf16"
    assert profile.at(16).device_s == pytest.approx(16 * 3 * 79.1e9 / (2470 * 24.3e9))
    assert profile.at(16).copy_s == pytest.approx(16 * 20 * 513**2 / (0.8 * 2 * 15.75e9))
    assert profile.at(2).host_cpu_s == profile.at(256).host_cpu_s == pytest.approx(0.02)
    assert profile.device_memory_bytes is None


@given(
    st.sampled_from(CARDS), st.sampled_from(sorted(FORWARD_OPERATIONS)), st.sampled_from(["fp32", "bf16", "fp16"]),
    st.integers(33, 2049), st.integers(1, 512),
)  # fmt: skip
def test_time_grows_with_batch_and_pixels(card, network, precision, crop_px, batch_size):
    """In proportion, and single precision is never faster."""
    profile = estimate_profile(card, *network, precision, crop_px)
    one = profile.at(2).device_s / 2
    assert profile.at(batch_size).device_s == pytest.approx(batch_size * one)
    larger = estimate_profile(card, *network, precision, 2 * crop_px)
    assert larger.at(2).device_s == pytest.approx(4 * profile.at(2).device_s)
    assert estimate_profile(card, *network, "fp32", crop_px).at(2).device_s >= profile.at(2).device_s
