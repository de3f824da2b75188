"""Which profile stands for a GPU that is named and not at hand? A measured one that ships, else an estimate.

Measured profiles lie in `profiles/`, as `python -m benchmarks.gpu profile` writes them: one a GPU, backbone, precision
and memory format. Their names say which, and are what is looked for.
"""

from collections.abc import Iterator
from importlib import resources

import msgspec

from loadtune.errors import DeviceError
from loadtune.records.cards import CARDS, default_precision, estimate_profile, find_card, split_name
from loadtune.records.profile import ReplayProfile
from loadtune.records.settings import Backbone, Precision

MEASURED_STRIDE = 16
"""Output stride of the profiles that ship."""


def find_profile(
    gpu: str, backbone: Backbone, output_stride: int, precision: Precision | None, crop_px: int, *, channels_last: bool
) -> ReplayProfile:
    """Return what stands for DeepLabv3+ on a GPU.

    Args:
        gpu: Its name, as people or the driver call it.
        backbone: ResNet under DeepLabv3+.
        output_stride: 8 or 16.
        precision: None: what loadtune trains with on that card.
        crop_px: Side of the crop.
        channels_last: Memory format; an estimate does not tell them apart.

    Raises:
        DeviceError: No such GPU is known.
    """
    card = find_card(gpu)
    trained = precision or ("bf16" if card is None else default_precision(card))
    wanted = describe_training(backbone, crop_px, trained, channels_last=channels_last)
    if output_stride == MEASURED_STRIDE:
        for profile in measured_profiles():
            name, _, training = profile.name.partition(", ")
            is_it = find_card(name) == card if card is not None else split_name(gpu) == split_name(name)
            if is_it and training == wanted:
                return profile
    if card is None:
        raise DeviceError(
            f"{gpu!r} is no profile, and no GPU that one ships for",
            f"give a file that `loadtune profile` wrote, --step-time SECONDS, or one of {', '.join(known_names())}",
        )
    if trained == "bf16" and not card.has_bf16:
        raise DeviceError(f"the {card.name} has no bfloat16", "give --precision fp16 or fp32")
    return estimate_profile(card, backbone, output_stride, trained, crop_px)


def describe_training(backbone: Backbone, crop_px: int, precision: Precision, *, channels_last: bool) -> str:
    """Return what follows the GPU in a profile's name."""
    memory_format = ", channels-last" if channels_last else ""
    return f"DeepLabv3+ {backbone}, {crop_px} px, {precision}{memory_format}"


def known_names() -> tuple[str, ...]:
    """Return the GPUs that may be named."""
    measured = (profile.name.partition(", ")[0] for profile in measured_profiles())
    others = (name for name in measured if find_card(name) is None)
    return tuple(dict.fromkeys((*(card.name for card in CARDS), *others)))


def measured_profiles() -> Iterator[ReplayProfile]:
    """Yield the measured profiles that ship, in the order of their files' names."""
    folder = resources.files("loadtune") / "profiles"
    if folder.is_dir():
        for entry in sorted(folder.iterdir(), key=lambda each: each.name):
            if entry.name.endswith(".json"):
                yield msgspec.json.decode(entry.read_bytes(), type=ReplayProfile)
