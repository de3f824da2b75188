"""What did the user ask for? The words of a probe, as given on the command line or in a call, read but not resolved.

Reading refuses what cannot work before anything is started. What depends on the machine or the data is settled in
`planning`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import msgspec

from loadtune.advice.axes import parse_axis
from loadtune.errors import DeviceError, UsageError
from loadtune.holding import Held
from loadtune.records.profile import PROFILE_SCHEMA_VERSION, ProfilePoint, ReplayProfile
from loadtune.records.settings import (
    Augment,
    Backbone,
    DeviceChoice,
    DeviceKind,
    Optimizer,
    Precision,
    Purpose,
    SearchKind,
    Settings,
)
from loadtune.schedule.batch_growth import NoiseScaleEstimate
from loadtune.schedule.curve import epochs, iterations
from loadtune.schedule.optimizers import Held as HandedOptimizer
from loadtune.schedule.pasting import Schedules
from loadtune.schedule.rescale import counts_by_step, read_schedule
from loadtune.shipped import find_profile

DEFAULT_BUDGET_S = 120.0
BUDGET_MAX_S = 86400.0
"""A day; more is a slip of the keyboard."""
BUDGET_MIN_S = 20.0
"""Below this nothing but starting the processes fits; an answer would rest on nothing."""
DEFAULT_BATCH_SIZES: dict[DeviceKind, int] = {"cuda": 16, "replay": 16, "cpu": 2}
"""DeepLab's own batch of 16; on a CPU the smallest that BatchNorm takes, since a step there takes seconds."""
SETTINGS_BESIDE = ("prefetch_factor", "pin_memory", "persistent_workers", "in_order", "main_threads")
"""Names that --baseline takes beside num_workers and batch_size."""
WORKERS_OWN = ("prefetch_factor", "persistent_workers")
"""Of these, what a loader without workers is refused with."""
DEFAULT_CROP_PX = 513
"""DeepLab's crop."""
CPU_CROP_PX = 129
"""On a CPU one whose step takes under a second a thread."""
STEP_HOST_CPU_RATIO, STEP_HOST_CPU_MAX_S = 0.1, 0.02
"""Host CPU that `--step-time` assumes a step burns: eager DeepLabv3+ takes 10 to 30 ms for launches and optimizer.
With 0, a machine of few cores would look faster than it is."""
GPU_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,60}")
"""What may be a GPU's name, and is no path."""
PROFILE_LIMIT_BYTES = 1 << 20
"""Largest profile that is read; a real one has a few kilobytes."""

Stepped = Literal["iteration", "epoch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOptions:
    """Everything a probe can be told. None: to be chosen from the machine and the data."""

    dataset: str
    layout: str | None = None
    split: str | None = None
    device: str = "auto"
    step_time_s: float | None = None
    num_workers: str | None = None
    batch_size: str | None = None
    baseline: str | None = None
    budget_s: float = DEFAULT_BUDGET_S
    crop_px: int | None = None
    cpu_crop_px: int = CPU_CROP_PX
    """The crop where a CPU trains and none was asked for."""
    base_size_px: int | None = None
    augment: Augment = "deeplab"
    class_count: int | None = None
    backbone: Backbone = "resnet50"
    output_stride: int = 16
    precision: Precision | None = None
    channels_last: bool = False
    accumulate: int = 1
    model: str | None = None
    train_step: str | None = None
    optimizer: Optimizer = "sgd"
    learning_rate: float | None = None
    base_batch_size: int | None = None
    noise_scale: NoiseScaleEstimate | None = None
    """The gradient noise scale of the training: what a larger batch is worth."""
    handed_optimizer: HandedOptimizer | str | None = None
    """What the optimizer that was handed over holds, or its class where there is no rule for it; None: only named."""
    scheduler: Any = None
    """A schedule of `loadtune.schedule.curve`, or one of torch's schedulers; None: not known."""
    stepped: Stepped | None = None
    """How often torch's scheduler is stepped; None: not one of torch's."""
    epochs: int = 30
    ranks_per_node: int = 1
    max_bad_ratio: float = 0.01
    cold: bool = False
    search: SearchKind = "guided"
    seed: int = 0
    import_limit_s: float = 60.0
    purpose: Purpose = "train"
    held: Held = Held()
    ranks: int = 1
    """Processes that wait for this answer, this one included."""
    resume: str | None = None
    """The saved report of a probe to go on with."""
    may_recall: bool = False
    """Whether an answer kept from before will do. FASTER and SAME are kept either way."""
    command: tuple[str, ...] = ()
    began_s: float | None = None
    """time.monotonic() at which the budget began to run; None: when the probe starts."""
    objects: Mapping[str, Any] = field(default_factory=dict)
    """Handed over by value: "dataset", "model", "loss", "optimizer" (class and options), "train_step", "val_step"."""

    @property
    def world_size(self) -> int:
        """How many ranks train together, as far as was said."""
        return max(self.ranks, self.ranks_per_node)

    def crop_on(self, device: DeviceKind) -> int:
        """Return the side of the training crop."""
        return self.crop_px or (self.cpu_crop_px if device == "cpu" else DEFAULT_CROP_PX)


def check(options: ProbeOptions) -> None:
    """Refuse what cannot work, before anything is started.

    Raises:
        UsageError: An option, or a combination of them, that cannot work.
        DeviceError: A profile that cannot be read.
    """
    if not BUDGET_MIN_S <= options.budget_s <= BUDGET_MAX_S:
        told = "too short" if options.budget_s < BUDGET_MIN_S else "no budget"
        raise UsageError(
            f"--budget {options.budget_s:g}s is {told}", f"give it {BUDGET_MIN_S:g} to {BUDGET_MAX_S:g} seconds"
        )
    if options.step_time_s is not None and not 1e-6 <= options.step_time_s <= 3600:
        raise UsageError(f"--step-time {options.step_time_s:g} is no time of a step", "give seconds, such as 0.21")
    if options.step_time_s is not None and options.device != "auto":
        raise UsageError("--step-time and --device exclude each other", "--step-time replays a device by itself")
    _check_numbers(options)
    _check_words(options)
    _check_schedule(options)
    parse_workers(options)
    batch_sizes = parse_batches(options)
    trains_deeplab = options.model is None and options.train_step is None and not options.objects
    asked_for = set(batch_sizes or ())
    if options.baseline is not None:
        asked_for.add(parse_settings(options.baseline, batch_size=(batch_sizes or (2,))[0]).batch_size)
    if asked_for and min(asked_for) < 2 and trains_deeplab:
        raise UsageError(
            "batch_size=1 cannot train BatchNorm: DeepLabv3+ refuses it", "use at least 2, or your own --model"
        )
    parse_device(options, 1)


def _check_numbers(options: ProbeOptions) -> None:
    if options.crop_px is not None and options.crop_px < 33:
        raise UsageError(f"--crop {options.crop_px} is too small for the network", "give at least 33 pixels")
    if not 0 <= options.max_bad_ratio <= 1:
        raise UsageError(f"--max-bad {options.max_bad_ratio:g} is no share", "give a percentage, such as 1%")
    if options.accumulate < 1 or options.epochs < 1 or options.ranks_per_node < 1:
        raise UsageError("--accumulate, --epochs and --ranks-per-node are at least 1", "leave them out for 1")
    if options.learning_rate is not None and not 0 < options.learning_rate < math.inf:
        raise UsageError(f"--lr {options.learning_rate:g} is not positive", "give the rate that you train with")
    for name, value, least in (
        ("--classes", options.class_count, 2),
        ("--base-size", options.base_size_px, 1),
        ("--base-batch-size", options.base_batch_size, 1),
    ):
        if value is not None and value < least:
            raise UsageError(f"{name} {value} is too small", f"give at least {least}")
    if not 0 < options.import_limit_s <= BUDGET_MAX_S:
        raise UsageError(f"--import-limit {options.import_limit_s:g} is no time limit", "give seconds, such as 60")


def _check_words(options: ProbeOptions) -> None:
    for name, word, known in (
        ("optimizer", options.optimizer, get_args(Optimizer)),
        ("precision", options.precision or "fp32", get_args(Precision)),
        ("augment", options.augment, get_args(Augment)),
        ("backbone", options.backbone, get_args(Backbone)),
        ("search", options.search, get_args(SearchKind)),
        ("output stride", options.output_stride, (8, 16)),
    ):
        if word not in known:
            raise UsageError(f"{name} {word!r} is unknown", f"use one of {', '.join(map(str, known))}")


def _check_schedule(options: ProbeOptions) -> None:
    scheduler, stepped = options.scheduler, options.stepped
    read_schedule(scheduler, iterations(1))
    counts_steps = counts_by_step(scheduler)
    if counts_steps and stepped not in get_args(Stepped):
        raise UsageError(
            f"stepped={stepped!r} does not say how often torch's scheduler is stepped",
            'give stepped="iteration" or stepped="epoch"',
        )
    if not counts_steps and stepped is not None:
        raise UsageError(f"stepped={stepped!r} is for a scheduler of torch's that counts its steps", "leave it out")


def parse_schedule(options: ProbeOptions, samples_per_step: int, sample_count: int | None) -> Schedules | None:
    """Return what the scheduler that was handed over follows, in samples; None without one, or where that is not told.

    Args:
        options: What was asked.
        samples_per_step: Of one rank, behind one optimizer step of the baseline.
        sample_count: Of an epoch; None: not known, and a scheduler stepped each epoch cannot be followed.

    Raises:
        UsageError: It cannot be read.
    """
    samples = (options.base_batch_size or samples_per_step) * options.world_size
    if options.stepped != "epoch":
        return cast("Schedules | None", read_schedule(options.scheduler, iterations(samples)))
    if not sample_count:
        return None
    return cast("Schedules | None", read_schedule(options.scheduler, epochs(sample_count, is_stepped=True)))


def warn_of_schedule(options: ProbeOptions, sample_count: int | None) -> tuple[str, ...]:
    """Say, as what and hint, where the scheduler that was handed over cannot be followed for want of a length."""
    if options.stepped != "epoch" or sample_count:
        return ()
    told = "the data have no length, so a scheduler stepped each epoch cannot be followed in samples"
    return (f"{told}\nhand over one stepped each iteration, or a schedule of loadtune.schedule.curve",)


def parse_workers(options: ProbeOptions) -> tuple[int, ...] | None:
    """Return the worker counts asked for."""
    return None if options.num_workers is None else parse_axis(options.num_workers, "--num-workers")


def parse_batches(options: ProbeOptions) -> tuple[int, ...] | None:
    """Return the batch sizes asked for."""
    return None if options.batch_size is None else parse_axis(options.batch_size, "--batch-size", minimum=1)


def parse_settings(text: str, batch_size: int, base: Settings | None = None) -> Settings:
    """Parse `num_workers=2,batch_size=16,pin_memory=true`; a batch size that is not named is `batch_size`.

    Args:
        text: The settings.
        batch_size: Of the run.
        base: What else is set where the text does not name it; None: torch's defaults.

    Raises:
        UsageError: An unknown name, a wrong value, or a combination that DataLoader refuses.
    """
    hint = f"write it as num_workers=2,batch_size=16; also {', '.join(SETTINGS_BESIDE)}"
    named: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (part.strip() for part in item.partition("="))
        if name not in {"num_workers", "batch_size", *SETTINGS_BESIDE}:
            raise UsageError(f"--baseline: {item!r} is no setting", hint)
        if value.lower() in {"true", "false"}:
            named[name] = value.lower() == "true"
        elif re.fullmatch(r"\d{1,6}", value):
            named[name] = int(value)
        else:
            raise UsageError(f"--baseline: {value!r} is no value for {name}", hint)
    if "num_workers" not in named:
        raise UsageError("--baseline names no num_workers", hint)
    kept = [name for name in SETTINGS_BESIDE if named["num_workers"] or name not in WORKERS_OWN]
    beside = {} if base is None else {name: getattr(base, name) for name in kept}
    try:
        return msgspec.convert({"batch_size": batch_size, **beside, **named}, Settings)
    except (ValueError, msgspec.ValidationError) as error:
        raise UsageError(f"--baseline {text}: {error}", hint) from error


def parse_device(options: ProbeOptions, batch_size: int) -> DeviceChoice | None:
    """Return the device asked for; None for "auto", which the machine decides.

    Args:
        options: What was asked.
        batch_size: The user's own, for which `--step-time` is stated.

    Raises:
        UsageError: No such kind of device.
        DeviceError: The profile cannot be read.
    """
    if options.step_time_s is not None:
        return DeviceChoice(kind="replay", profile=profile_from_step_time(options.step_time_s, batch_size))
    if options.device.startswith("replay:"):
        return DeviceChoice(kind="replay", profile=_named_profile(options.device.removeprefix("replay:"), options))
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d{1,3}))?", options.device)
    if match is None:
        raise UsageError(
            f"--device {options.device!r} is unknown", "use auto, cuda, cuda:N, cpu, replay:FILE, or replay:A100"
        )
    if options.device == "auto":
        return None
    return DeviceChoice(kind="cpu") if options.device == "cpu" else DeviceChoice(kind="cuda", index=int(match[1] or 0))


def _named_profile(name: str, options: ProbeOptions) -> ReplayProfile:
    """Return the profile of a file, or of a GPU's name where there is no such file."""
    path = Path(name)
    if GPU_NAME.fullmatch(name) is None or path.suffix == ".json" or path.exists():
        return read_profile(path)
    if options.model is not None or options.train_step is not None or options.objects.keys() - {"dataset"}:
        raise DeviceError(
            f"--device replay:{name} stands for DeepLabv3+ on that GPU, not for a model of your own",
            "give --step-time SECONDS, or the file that `loadtune profile --model` wrote on such a GPU",
        )
    return find_profile(
        name,
        options.backbone,
        options.output_stride,
        options.precision,
        options.crop_on("replay"),
        channels_last=options.channels_last,
    )


def profile_from_step_time(step_s: float, batch_size: int) -> ReplayProfile:
    """Return a profile with one point; its name says what it assumes."""
    host_cpu_s = min(STEP_HOST_CPU_MAX_S, STEP_HOST_CPU_RATIO * step_s)
    return ReplayProfile(
        name=f"{step_s:g} s a step at batch_size={batch_size}, {1000 * host_cpu_s:.3g} ms of host CPU assumed",
        origin="estimated",
        points=(ProfilePoint(batch_size=batch_size, device_s=step_s, host_cpu_s=host_cpu_s),),
    )


def read_profile(path: Path) -> ReplayProfile:
    """Read a replay profile.

    Raises:
        DeviceError: The file is missing, too large, or no profile of a version that can be read.
    """
    hint = "give a file that `loadtune profile` wrote, or see `loadtune schema --profile`"
    try:
        if not path.is_file() or path.stat().st_size > PROFILE_LIMIT_BYTES:
            raise DeviceError(f"{path} is no profile", hint)
        profile = msgspec.json.decode(path.read_bytes(), type=ReplayProfile)
    except OSError as error:
        raise DeviceError(f"cannot read {path}: {error.strerror or error}", hint) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DeviceError(f"{path} is no replay profile: {error}", hint) from error
    if profile.schema_version > PROFILE_SCHEMA_VERSION:
        raise DeviceError(
            f"{path} has profile format {profile.schema_version}, this loadtune reads {PROFILE_SCHEMA_VERSION}",
            "upgrade loadtune-probe",
        )
    return profile


def parse_seconds(text: str) -> float:
    """Parse `90`, `90s`, `5m` or `1h` as seconds."""
    match = re.fullmatch(r"\s*(\d{1,6}(?:\.\d+)?)\s*(s|m|min|h)?\s*", text)
    if match is None:
        raise UsageError(f"--budget {text!r} is no duration", "write it as 90s, 5m or 1h")
    return float(match[1]) * {"m": 60, "min": 60, "h": 3600}.get(match[2] or "s", 1)


def parse_share(text: str) -> float:
    """Parse `1%` or `0.01` as a share."""
    match = re.fullmatch(r"\s*(\d{1,3}(?:\.\d+)?)\s*(%)?\s*", text)
    share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"--max-bad {text!r} is no share", "write it as 1% or 0.01")
    return share
