"""What is refused before anything is started, and how are the words read?"""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtune.cli import main
from loadtune.errors import DeviceError, UsageError
from loadtune.options import (
    ProbeOptions,
    check,
    parse_batches,
    parse_device,
    parse_settings,
    parse_workers,
    profile_from_step_time,
    read_profile,
)
from loadtune.records.profile import ProfilePoint, ReplayProfile
from loadtune.records.settings import DeviceChoice, Settings
from loadtune.schedule.batch_growth import NoiseScaleEstimate


def make(**changes):
    return ProbeOptions(**({"dataset": "data"} | changes))


def test_the_plain_request_is_accepted():
    """Every default works."""
    check(make())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"budget_s": 19.9}, "--budget 19.9s is too short"),
        ({"budget_s": -1.0}, "--budget"),
        ({"step_time_s": 0.0}, "--step-time 0"),
        ({"step_time_s": -0.2}, "--step-time"),
        ({"step_time_s": 3601.0}, "--step-time 3601"),
        ({"step_time_s": float("nan")}, "--step-time nan"),
        ({"step_time_s": 0.2, "device": "cpu"}, "exclude each other"),
        ({"crop_px": 32}, "--crop 32"),
        ({"max_bad_ratio": 1.01}, "--max-bad"),
        ({"max_bad_ratio": -0.01}, "--max-bad"),
        ({"accumulate": 0}, "--accumulate"),
        ({"epochs": 0}, "--epochs"),
        ({"ranks_per_node": 0}, "--ranks-per-node"),
        ({"learning_rate": 0.0}, "--lr 0"),
        ({"learning_rate": float("nan")}, "--lr nan"),
        ({"num_workers": "2,x"}, "--num-workers: 'x'"),
        ({"num_workers": "8-4"}, "--num-workers: '8-4'"),
        ({"num_workers": ""}, "--num-workers"),
        ({"batch_size": "0"}, "--batch-size: '0'"),
        ({"batch_size": "-4"}, "--batch-size"),
        ({"baseline": "workers=2"}, "'workers=2' is no setting"),
        ({"baseline": "num_workers=two"}, "'two' is no value for num_workers"),
        ({"baseline": "num_workers=-1"}, "'-1' is no value"),
        ({"baseline": "num_workers"}, "'' is no value"),
        ({"baseline": "batch_size=4"}, "names no num_workers"),
        ({"baseline": ""}, "names no num_workers"),
        ({"baseline": "num_workers=true"}, "--baseline num_workers=true"),
        ({"baseline": "num_workers=2,pin_memory=1"}, "--baseline"),
        ({"baseline": "num_workers=0,prefetch_factor=2"}, "refuses prefetch_factor"),
        ({"baseline": "num_workers=0,persistent_workers=true"}, "persistent_workers"),
        ({"baseline": "num_workers=2,batch_size=0"}, "--baseline"),
        ({"baseline": "num_workers=2,batch_size=1"}, "BatchNorm"),
        ({"batch_size": "1", "baseline": "num_workers=2"}, "BatchNorm"),
        ({"device": "tpu"}, "--device 'tpu' is unknown"),
        ({"device": "cuda:"}, "is unknown"),
        ({"device": "cuda:x"}, "is unknown"),
        ({"device": ""}, "is unknown"),
    ],
)
def test_what_cannot_work_is_refused_with_its_value_and_a_way_out(changes, told):
    """One line what, one line what to do."""
    with pytest.raises(UsageError) as raised:
        check(make(**changes))
    assert told in raised.value.what
    assert raised.value.hint
    assert "\n" not in raised.value.what + raised.value.hint


def test_a_batch_of_one_is_fine_with_a_model_of_one_s_own():
    """Only BatchNorm needs two samples."""
    check(make(baseline="num_workers=2,batch_size=1", model="train.py:model"))
    check(make(baseline="num_workers=2,batch_size=1", train_step="train.py:step"))


def test_a_baseline_is_read_in_dataloader_s_words():
    """A batch size that is not named is the user's own."""
    assert parse_settings("num_workers=2", 16) == Settings(num_workers=2, batch_size=16)
    text = " num_workers = 4 ,batch_size=8, prefetch_factor=3,pin_memory=TRUE,persistent_workers=true,in_order=False,"
    assert parse_settings(text, 16) == Settings(
        num_workers=4, batch_size=8, prefetch_factor=3, pin_memory=True, persistent_workers=True, in_order=False
    )


def test_what_a_baseline_does_not_name_is_the_loader_s():
    """Of workers' own settings nothing is left without workers."""
    own = Settings(num_workers=2, batch_size=4, pin_memory=True, prefetch_factor=3, persistent_workers=True)
    assert parse_settings("num_workers=8", 16, own) == msgspec.structs.replace(own, num_workers=8, batch_size=16)
    assert parse_settings("num_workers=0", 16, own) == Settings(num_workers=0, batch_size=16, pin_memory=True)
    assert parse_settings("num_workers=1,pin_memory=false", 16, own).pin_memory is False
    with pytest.raises(UsageError, match="prefetch_factor"):
        parse_settings("num_workers=0,prefetch_factor=2", 16, own)


@given(st.text(max_size=40))
def test_no_text_of_a_baseline_raises_anything_but_a_usage_error(text):
    """Whatever is typed."""
    try:
        found = parse_settings(text, 4)
    except UsageError:
        return
    assert found.num_workers >= 0


@given(st.text(max_size=30))
def test_no_device_raises_anything_but_our_own_errors(text):
    """Whatever is typed; replay:FILE may not be a file."""
    try:
        parse_device(make(device=text), 4)
    except (UsageError, DeviceError):
        return


def test_axes_are_lists_and_ranges():
    """None where they are to be chosen."""
    assert (parse_workers(make()), parse_batches(make())) == (None, None)
    assert parse_workers(make(num_workers="0,2,4-8:2")) == (0, 2, 4, 6, 8)
    assert parse_batches(make(batch_size="16")) == (16,)


def test_devices_are_read():
    """cuda is cuda:0; auto is decided by the machine."""
    assert parse_device(make(), 1) is None
    assert parse_device(make(device="cpu"), 1) == DeviceChoice(kind="cpu")
    assert parse_device(make(device="cuda"), 1) == DeviceChoice(kind="cuda", index=0)
    assert parse_device(make(device="cuda:3"), 1) == DeviceChoice(kind="cuda", index=3)


def test_a_step_time_is_a_device_of_one_point_that_names_its_assumption():
    """A tenth of the step on the host, at most 20 ms."""
    device = parse_device(make(step_time_s=0.1), 16)
    (point,) = device.profile.points
    assert (device.kind, device.profile.origin) == ("replay", "estimated")
    assert (point.batch_size, point.device_s, point.host_cpu_s) == (16, 0.1, pytest.approx(0.01))
    assert device.profile.name == "0.1 s a step at batch_size=16, 10 ms of host CPU assumed"
    assert profile_from_step_time(2.0, 16).points[0].host_cpu_s == 0.02
    assert profile_from_step_time(0.1, 16).at(32).device_s == pytest.approx(0.2)


PROFILE = ReplayProfile(
    name="H200", origin="measured", points=(ProfilePoint(batch_size=16, device_s=0.2, memory_bytes=7),)
)


def test_a_profile_is_read_back(tmp_path):
    """As `loadtune profile` writes it."""
    path = tmp_path / "h200.json"
    path.write_bytes(msgspec.json.encode(PROFILE))
    assert read_profile(path) == PROFILE
    assert parse_device(make(device=f"replay:{path}"), 1) == DeviceChoice(kind="replay", profile=PROFILE)


POINT = b'{"batch_size": 1, "device_s": 1}'
TWICE = b'{"name": "x", "origin": "measured", "points": [' + POINT + b", " + POINT + b"]}"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no replay profile"),
        (b"{", "is no replay profile"),
        (b"\xff\xfe", "is no replay profile"),
        (b"[]", "is no replay profile"),
        (b"[" * 100_000, "is no replay profile"),
        (b'{"name": "x", "origin": "measured", "points": []}', "is no replay profile"),
        (b'{"name": "x", "origin": "guessed", "points": [{"batch_size": 1, "device_s": 1}]}', "is no replay profile"),
        (b'{"name": "x", "origin": "measured", "points": [{"batch_size": 1, "device_s": -1}]}', "is no replay profile"),
        (TWICE, "is no replay profile"),
        (
            b'{"schema_version": 99, "name": "x", "origin": "measured", "points": [{"batch_size": 1, "device_s": 1}]}',
            "has profile format 99",
        ),
        (b" " * (1 << 20) + b"{}", "is no profile"),
    ],
)
def test_a_file_that_is_no_profile_is_a_device_error(tmp_path, content, told):
    """Empty, cut off, no text, of another form, of a later version, too large."""
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    with pytest.raises(DeviceError) as raised:
        read_profile(path)
    assert told in raised.value.what


def test_a_profile_that_is_not_there_is_a_device_error(tmp_path):
    """A folder is none either."""
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(DeviceError, match="is no profile"):
            read_profile(path)
    with pytest.raises(DeviceError):
        check(make(device=f"replay:{tmp_path / 'none.json'}"))


def test_the_command_takes_a_noise_scale_and_refuses_what_is_none(monkeypatch, capsys):
    """Before anything is started."""
    asked = []

    def take(options, *_, **__):
        asked.append(options)
        return 0

    monkeypatch.setattr("loadtune.cli.probe_command.run_probe", take)
    assert main(["probe", "--dataset", "data", "--noise-scale", "1200"]) == 0
    assert asked[0].noise_scale == NoiseScaleEstimate(samples=1200.0, is_lower_bound=False)
    assert main(["probe", "--dataset", "data", "--noise-scale", "0"]) == 2
    assert "no noise scale" in capsys.readouterr().err
    assert len(asked) == 1
