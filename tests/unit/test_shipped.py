"""Which profile stands for a named GPU: the measured one where it fits, an estimate elsewhere, an error for others?"""

import msgspec
import pytest

from loadtune import shipped
from loadtune.errors import DeviceError
from loadtune.options import ProbeOptions, check, parse_device
from loadtune.records.profile import ProfilePoint, ReplayProfile
from loadtune.shipped import find_profile, known_names, measured_profiles

H100, OTHER = "NVIDIA H100 80GB HBM3", "NVIDIA B300"


def measured(gpu, training):
    return ReplayProfile(
        name=f"{gpu}, {training}", origin="measured", points=(ProfilePoint(batch_size=2, device_s=1.0),)
    )


@pytest.fixture
def measured_ships(tmp_path, monkeypatch):
    """Two measured profiles, and a file that is none of them."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    training = "DeepLabv3+ resnet50, 513 px, bf16, channels-last"
    for number, gpu in enumerate((H100, OTHER)):
        (folder / f"{number}.json").write_bytes(msgspec.json.encode(measured(gpu, training)))
    (folder / "README").write_text("not a profile")
    monkeypatch.setattr(shipped.resources, "files", lambda package: tmp_path)


def find(gpu, precision=None, crop_px=513, backbone="resnet50", output_stride=16, *, channels_last=True):
    return find_profile(gpu, backbone, output_stride, precision, crop_px, channels_last=channels_last)


@pytest.mark.usefixtures("measured_ships")
@pytest.mark.parametrize("name", ["H100", H100, "b300", OTHER])
def test_a_measured_profile_comes_first(name):
    assert find(name).origin == "measured"
    assert find(name, "bf16").origin == "measured"


@pytest.mark.usefixtures("measured_ships")
@pytest.mark.parametrize(
    "other",
    [
        {"precision": "fp32"},
        {"crop_px": 257},
        {"backbone": "resnet101"},
        {"output_stride": 8},
        {"channels_last": False},
    ],
)
def test_what_was_measured_otherwise_is_estimated_or_unknown(other):
    """A card without a datasheet here has nothing but what was measured."""
    assert find("H100", **other).origin == "estimated"
    with pytest.raises(DeviceError, match="B300"):
        find("B300", **other)


@pytest.mark.usefixtures("measured_ships")
def test_known_names_are_cards_and_what_was_measured_beside_them():
    assert {"A100", "H100", OTHER} <= set(known_names())
    assert H100 not in known_names()


def test_what_ships_can_be_read_and_is_found():
    """Every file in the package is measured, and stands for what its name says."""
    for profile in measured_profiles():
        assert profile.origin == "measured"
        gpu, _, training = profile.name.partition(", ")
        assert training.startswith("DeepLabv3+ resnet")
        _, backbone, crop, _, precision, *rest = training.replace(",", "").split()
        assert find(gpu, precision, int(crop), backbone, channels_last=bool(rest)) == profile


def options(device, **words):
    return ProbeOptions(dataset="x", device=device, **words)


def test_a_gpu_is_a_device_by_its_name(tmp_path, monkeypatch):
    """Unless a file has that name. fp32 where the card has no bfloat16."""
    monkeypatch.chdir(tmp_path)
    assert parse_device(options("replay:A100"), 16).profile.name == "A100, DeepLabv3+ resnet50, 513 px, bf16"
    told = parse_device(options("replay:T4", backbone="resnet101", crop_px=257), 16).profile
    assert (told.name, told.origin) == ("T4, DeepLabv3+ resnet101, 257 px, fp32", "estimated")
    (tmp_path / "A100").write_bytes(msgspec.json.encode(measured("mine", "anything")))
    assert parse_device(options("replay:A100"), 16).profile.name == "mine, anything"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"device": "replay:Voodoo2"}, "no GPU that one ships for"),
        ({"device": "replay:a100.json"}, "is no profile"),
        ({"device": "replay:"}, "is no profile"),
        ({"device": "replay:T4", "precision": "bf16"}, "has no bfloat16"),
        ({"device": "replay:A100", "model": "train:Net"}, "not for a model of your own"),
        ({"device": "replay:A100", "train_step": "train:step"}, "not for a model of your own"),
        ({"device": "replay:A100", "objects": {"model": None}}, "not for a model of your own"),
    ],
)
def test_what_has_no_profile_is_refused_before_work_begins(words, told):
    with pytest.raises(DeviceError) as raised:
        check(options(**words))
    assert told in raised.value.what
    assert raised.value.hint


@pytest.mark.parametrize("batch_size", [64, 128, 256, 512])
def test_a_shipped_profile_never_launches_for_nothing(batch_size):
    """Beyond its largest batch a noisy fall of the host's cost is not carried on."""
    for profile in measured_profiles():
        assert profile.at(batch_size).host_cpu_s >= 0.9 * min(point.host_cpu_s for point in profile.points)
