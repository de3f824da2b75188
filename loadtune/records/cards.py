"""How long would a step of DeepLabv3+ take on a card that was never measured? By arithmetic, and called estimated.

    seconds of a sample = operations of a training step / (peak rate of the card * share of it that training reaches)

- Operations: counted by torch.utils.flop_counter over a forward pass of loadtune's own network at 513 px and 21
  classes, times 3. The backward pass costs two forward passes, one for the gradients of the inputs and one for those
  of the weights. The counter's own figure for it is not used: it counts a depthwise convolution's gradients as a full
  one's.
- Peak rates and memory bandwidth: NVIDIA's datasheets of each card, and for GeForce the GA102 and Ada architecture
  whitepapers; dense, with accumulation in float32. Where a datasheet states rates with sparsity (H100, H200, L4, L40S),
  half of them.
- Share: ResNet-50 v1.5 in PyTorch as NVIDIA published it (DeepLearningExamples, PyTorch/Classification/ConvNets/
  resnet50v1.5, "Training performance", container 21.03), one GPU: A100 80GB 2470 images/s in mixed precision and 938 in
  TF32, V100 16GB 1200 and 367, each of 24.3e9 operations by the same counter. Training convolutions is limited by
  memory as much as by arithmetic, so a card whose memory is slower by its peak than the reference's reaches less of its
  peak, in that proportion.

What is left out is worth a factor of up to two either way: depthwise and atrous convolutions reach less than ResNet's,
and memory formats, clocks and power limits differ. The memory that a step takes is not estimated.
"""

import re
from typing import Annotated

from msgspec import Meta

from loadtune.records.profile import ProfilePoint, ReplayProfile
from loadtune.records.record import Record
from loadtune.records.settings import Backbone, Precision

ESTIMATED_CROP_PX = 513
"""Side of the crop that the operations are counted at. They grow with its square, to 5 % at half of it."""
FORWARD_OPERATIONS: dict[tuple[Backbone, int], float] = {
    ("resnet18", 16): 40.5e9,
    ("resnet18", 8): 111.7e9,
    ("resnet34", 16): 68.5e9,
    ("resnet34", 8): 198.9e9,
    ("resnet50", 16): 79.1e9,
    ("resnet50", 8): 231.9e9,
    ("resnet101", 16): 120.4e9,
    ("resnet101", 8): 392.0e9,
}
"""Of one sample by backbone and output stride; a multiplication and an addition are two. A test counts them again."""
TRAINING_BY_FORWARD = 3.0
"""Operations of a training step by a forward pass's. ResNet-50's, which the counter counts whole, are 2.97."""
RESNET50_TRAINING_OPERATIONS = 24.3e9
"""Of one image of 224 px, by the same counter: what the published images a second are turned into operations with."""
HOST_CPU_S = 0.02
"""CPU seconds of the host for a step, whatever its batch: eager DeepLabv3+ takes 10 to 30 ms. With less, small batches
would look faster than their launches allow."""
SAMPLE_BYTES_PER_PIXEL = 20
"""Three channels of float32 and a label of int64."""
LINK_RATIO = 0.8
"""Share of a link's nominal rate that a pinned copy reaches; the rest is its packets' heads."""
PCIE3_X16_BYTES_PER_S = 15.75e9
"""Nominal, one direction (PCI Express base specification 3.0); every generation doubles it."""
POINTS = (2, 64)
"""Batches of an estimated profile: all is linear in the batch but the host's part, so two say it all."""


class Card(Record, frozen=True, kw_only=True):
    """A GPU as its maker's datasheet describes it. Rates are dense, of operations a second."""

    name: Annotated[str, Meta(description="As people call it; its words, without RTX, are looked for in a GPU's name.")]
    half_per_s: Annotated[float, Meta(gt=0, description="float16 and bfloat16 on tensor cores, summed in float32.")]
    single_per_s: Annotated[
        float, Meta(gt=0, description="float32 convolutions as torch runs them by default: TF32 where there is one.")
    ]
    memory_bytes_per_s: Annotated[float, Meta(gt=0, description="Memory bandwidth.")]
    pcie_generation: Annotated[int, Meta(ge=3, description="Of its link, taken to have 16 lanes.")] = 4
    has_bf16: Annotated[bool, Meta(description="Whether bfloat16 runs on tensor cores; TF32 came with it.")] = True

    @property
    def words(self) -> frozenset[str]:
        """The words that a GPU's name must hold."""
        return split_name(self.name)


CARDS = (
    Card(name="A10", half_per_s=125e12, single_per_s=62.5e12, memory_bytes_per_s=600e9),
    Card(name="A40", half_per_s=149.7e12, single_per_s=74.8e12, memory_bytes_per_s=696e9),
    Card(name="A100", half_per_s=312e12, single_per_s=156e12, memory_bytes_per_s=1555e9),
    Card(name="A100 80GB", half_per_s=312e12, single_per_s=156e12, memory_bytes_per_s=2039e9),
    Card(name="H100", half_per_s=989.4e12, single_per_s=494.7e12, memory_bytes_per_s=3350e9, pcie_generation=5),
    Card(name="H100 PCIe", half_per_s=756e12, single_per_s=378e12, memory_bytes_per_s=2000e9, pcie_generation=5),
    Card(name="H200", half_per_s=989.4e12, single_per_s=494.7e12, memory_bytes_per_s=4800e9, pcie_generation=5),
    Card(name="L4", half_per_s=121e12, single_per_s=60e12, memory_bytes_per_s=300e9),
    Card(name="L40S", half_per_s=362e12, single_per_s=183e12, memory_bytes_per_s=864e9),
    Card(name="RTX 3090", half_per_s=71e12, single_per_s=35.6e12, memory_bytes_per_s=936e9),
    Card(name="RTX 4090", half_per_s=165.2e12, single_per_s=82.6e12, memory_bytes_per_s=1008e9),
    Card(
        name="T4", half_per_s=65e12, single_per_s=8.1e12, memory_bytes_per_s=320e9, pcie_generation=3, has_bf16=False
    ),
    Card(
        name="V100", half_per_s=125e12, single_per_s=15.7e12, memory_bytes_per_s=900e9, pcie_generation=3,
        has_bf16=False,
    ),
)  # fmt: skip
"""The cards that are common in clouds and under desks."""

PUBLISHED: dict[bool, tuple[str, float, float]] = {True: ("A100 80GB", 2470.0, 938.0), False: ("V100", 1200.0, 367.0)}
"""By whether a card has bfloat16: the reference card, and its images a second in half and in single precision."""

OTHER_CARDS = frozenset({"laptop", "max", "mig", "ti", "super", "nvl", "d"})
"""Words with which a name means another card than the one it seems to."""
MAKERS_WORDS = frozenset({"nvidia", "geforce", "rtx", "tesla", "gpu"})
"""Words that tell no card from another."""


def split_name(name: str) -> frozenset[str]:
    """Return the words of a GPU's name that tell it from others, in lower case.

    >>> sorted(split_name("NVIDIA A100-SXM4-80GB"))
    ['80gb', 'a100', 'sxm4']
    """
    return frozenset(re.findall(r"[a-z0-9]+", name.lower())) - MAKERS_WORDS


def find_card(name: str) -> Card | None:
    """Return the card that a name means, as typed or as the driver gives it; of several, the one of most words."""
    words = split_name(name)
    if words & OTHER_CARDS:
        return None
    known = [card for card in CARDS if card.words <= words]
    return max(known, key=lambda card: len(card.words), default=None)


def default_precision(card: Card) -> Precision:
    """Return what loadtune trains with on a card where nothing was asked for."""
    return "bf16" if card.has_bf16 else "fp32"


def reached_ratio(card: Card, *, is_half: bool) -> float:
    """Return the share of the card's peak that training is taken to reach."""
    name, half_images, single_images = PUBLISHED[card.has_bf16]
    reference = next(each for each in CARDS if each.name == name)
    images_per_s = half_images if is_half else single_images
    published = images_per_s * RESNET50_TRAINING_OPERATIONS / _peak_per_s(reference, is_half=is_half)
    bytes_by_operation, reference_bytes = (
        each.memory_bytes_per_s / _peak_per_s(each, is_half=is_half) for each in (card, reference)
    )
    return published * min(1.0, bytes_by_operation / reference_bytes)


def estimate_profile(
    card: Card, backbone: Backbone, output_stride: int, precision: Precision, crop_px: int
) -> ReplayProfile:
    """Return the profile of a card that was not measured.

    Args:
        card: Which.
        backbone: ResNet under DeepLabv3+.
        output_stride: 8 or 16.
        precision: fp32 means torch's default, TF32 in convolutions where the card has it.
        crop_px: Side of the crop.
    """
    is_half = precision != "fp32"
    operations = TRAINING_BY_FORWARD * FORWARD_OPERATIONS[backbone, output_stride]
    operations *= (crop_px / ESTIMATED_CROP_PX) ** 2
    sample_s = operations / (_peak_per_s(card, is_half=is_half) * reached_ratio(card, is_half=is_half))
    link_per_s = LINK_RATIO * PCIE3_X16_BYTES_PER_S * 2 ** (card.pcie_generation - 3)
    return ReplayProfile(
        name=f"{card.name}, DeepLabv3+ {backbone}, {crop_px} px, {precision}",
        origin="estimated",
        points=tuple(
            ProfilePoint(
                batch_size=batch_size,
                device_s=batch_size * sample_s,
                host_cpu_s=HOST_CPU_S,
                copy_s=batch_size * SAMPLE_BYTES_PER_PIXEL * crop_px**2 / link_per_s,
            )
            for batch_size in POINTS
        ),
    )


def _peak_per_s(card: Card, *, is_half: bool) -> float:
    return card.half_per_s if is_half else card.single_per_s
