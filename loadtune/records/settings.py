"""What is asked of a trial: the loader's settings, the device, the workload, and when to stop measuring."""

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from loadtune.records.profile import ReplayProfile
from loadtune.records.record import Record
from loadtune.records.stored import Masks, Stored

Feed = Literal["loader", "cached", "resident"]
Consume = Literal["device", "nothing"]
DeviceKind = Literal["cuda", "cpu", "replay"]
Precision = Literal["fp32", "bf16", "fp16"]
CacheState = Literal["warm", "partly warm", "streaming", "cold"]
"""warm: all the data lie in the page cache; partly warm: the first samples of the order do, where every trial begins;
streaming: every trial takes a fresh stretch; cold: the files are dropped before each trial."""
Augment = Literal["deeplab", "none"]
Optimizer = Literal["sgd", "adam", "adamw"]
Purpose = Literal["train", "evaluate"]
"""train: whole steps; evaluate: the model's forward pass and the loss, without gradients, as in validation."""
SearchKind = Literal["guided", "grid"]
"""guided: asks for what a model of the ceilings points to; grid: every setting, every round."""
Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet101"]

DEFAULT_PREFETCH_FACTOR = 2
"""torch's own default for num_workers > 0 (torch.utils.data.DataLoader, all versions supported here)."""


class Settings(Record, frozen=True, kw_only=True):
    """One point of the search space: what a user may change, in DataLoader's own words; `main_threads` is torch's."""

    num_workers: Annotated[int, Meta(ge=0, description="Worker processes; 0 loads in the main process.")]
    batch_size: Annotated[int, Meta(ge=1, description="Samples in one batch that the DataLoader yields.")]
    prefetch_factor: Annotated[
        int | None, Meta(description="Batches requested ahead by each worker; None at 0 workers.")
    ] = None
    pin_memory: Annotated[bool, Meta(description="Copy batches into page-locked memory before they are used.")] = False
    persistent_workers: Annotated[bool, Meta(description="Keep the workers alive between epochs.")] = False
    in_order: Annotated[bool, Meta(description="Yield batches in sampler order; False may yield them as ready.")] = True
    accumulation_steps: Annotated[
        int, Meta(ge=1, description="Batches whose gradients are summed before one optimizer step.")
    ] = 1
    main_threads: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="torch intra-op threads of the main process (torch.set_num_threads); None: as they are, and on "
            "device cpu as many as the workers leave cores."
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_workers < 0 or self.batch_size < 1 or self.accumulation_steps < 1:
            raise ValueError(f"not a setting: {self}")
        if self.prefetch_factor is not None and self.prefetch_factor < 1:
            raise ValueError("DataLoader needs a prefetch_factor of at least 1")
        if self.main_threads is not None and self.main_threads < 1:
            raise ValueError("torch.set_num_threads needs main_threads of at least 1")
        if self.num_workers == 0 and (self.prefetch_factor is not None or self.persistent_workers):
            raise ValueError("DataLoader refuses prefetch_factor and persistent_workers at num_workers=0")

    @property
    def batches_in_flight(self) -> int:
        """Batches that may be requested and not yet yielded: prefetch_factor * num_workers (0 without workers)."""
        return (self.prefetch_factor or DEFAULT_PREFETCH_FACTOR) * self.num_workers

    @property
    def effective_batch_size(self) -> int:
        """Samples behind one optimizer step on one rank."""
        return self.batch_size * self.accumulation_steps

    def dataloader_kwargs(self) -> dict[str, Any]:
        """Return keyword arguments that `torch.utils.data.DataLoader` accepts as they stand, at 0 workers too.

        `main_threads` is none of them.
        """
        kwargs: dict[str, Any] = {"batch_size": self.batch_size, "num_workers": self.num_workers}
        if self.pin_memory:
            kwargs["pin_memory"] = True
        if self.num_workers and self.prefetch_factor is not None:
            kwargs["prefetch_factor"] = self.prefetch_factor
        if self.num_workers and self.persistent_workers:
            kwargs["persistent_workers"] = True
        if not self.in_order:
            kwargs["in_order"] = False
        return kwargs


class DeviceChoice(Record, frozen=True, kw_only=True):
    """The device that trains, or the profile that plays its part."""

    kind: Annotated[DeviceKind, Meta(description="cuda, cpu, or replay (a profile played on a virtual timeline).")]
    index: Annotated[int | None, Meta(description="CUDA device index as torch counts; None for cpu and replay.")] = None
    profile: Annotated[ReplayProfile | None, Meta(description="What replay plays; None otherwise.")] = None

    @property
    def name(self) -> str:
        """The device as a user would type it."""
        if self.kind == "cuda":
            return "cuda" if self.index is None else f"cuda:{self.index}"
        return f"replay:{self.profile.name}" if self.profile is not None else self.kind


class WorkloadSpec(Record, frozen=True, kw_only=True):
    """What is trained: where the samples come from, how they are prepared, and which network takes them."""

    dataset_target: Annotated[
        str | None,
        Meta(description="`package.module:factory` or `path/to/train.py:factory`; None: the listed image-mask pairs."),
    ] = None
    sample_count: Annotated[int | None, Meta(description="Samples in the data set; None where it cannot be known.")] = (
        None
    )
    crop_px: Annotated[int, Meta(ge=1, description="Side of the square training crop.")] = 513
    base_size_px: Annotated[int, Meta(ge=1, description="The short side is drawn from U(0.5, 2) times this.")] = 513
    augment: Annotated[Augment, Meta(description="deeplab: random scale, crop, flip; none: resize and crop.")] = (
        "deeplab"
    )
    class_count: Annotated[int, Meta(ge=2, description="Classes of the network's last layer.")] = 21
    is_binary_mask: Annotated[bool, Meta(description="Mask values lie within {0, 255} and 255 means class 1.")] = False
    masks: Annotated[Masks, Meta(description="How the masks of a data set on disk are to be read.")] = Masks()
    stored: Annotated[
        Stored | None, Meta(description="Tables or shards that hold the samples; None: files in pairs, or a target.")
    ] = None
    model_target: Annotated[
        str | None, Meta(description="The user's model as `package.module:factory`; None: DeepLabv3+.")
    ] = None
    backbone: Annotated[Backbone, Meta(description="torchvision ResNet under DeepLabv3+.")] = "resnet50"
    output_stride: Annotated[Literal[8, 16], Meta(description="DeepLab's output stride.")] = 16
    train_step_target: Annotated[
        str | None, Meta(description="The user's own `step(batch)` factory as `package.module:function`; None: ours.")
    ] = None
    optimizer: Annotated[Optimizer, Meta(description="Optimizer of the built-in step.")] = "sgd"
    learning_rate: Annotated[float | None, Meta(description="Rate of the built-in step; None: 0.007 (DeepLab).")] = None
    precision: Annotated[Precision, Meta(description="Autocast type of the built-in step.")] = "fp32"
    channels_last: Annotated[bool, Meta(description="Memory format of model and images.")] = False
    purpose: Annotated[
        Purpose, Meta(description="train: whole steps; evaluate: forward pass and loss without gradients.")
    ] = "train"
    import_limit_s: Annotated[
        float, Meta(description="Longest time that importing a user's module may take before it counts as a hang.")
    ] = 60.0


class MeasureOptions(Record, frozen=True, kw_only=True):
    """The stopping rule, in one place."""

    window_min_s: Annotated[
        float, Meta(description="Shortest window. Below 1 s a window holds under six NVML samples.")
    ] = 1.0
    windows_min: Annotated[int, Meta(ge=1, description="Windows after which a trial may stop.")] = 2
    measure_s: Annotated[float, Meta(description="Time to spend in windows; reached after windows_min windows.")] = 3.0
    warm_up_s: Annotated[float, Meta(description="Longest loader warm-up; past it, measuring starts.")] = 6.0
    cap_s: Annotated[
        float, Meta(description="Longest leg from loader start to result; past it, what there is counts.")
    ] = 30.0
    silence_s: Annotated[float, Meta(description="Longest time without any event before a trial counts as hung.")] = (
        60.0
    )


class TrialSpec(Record, frozen=True, kw_only=True):
    """All that the trial process needs. It is also the trial's key."""

    settings: Settings
    device: DeviceChoice
    workload: WorkloadSpec
    feed: Annotated[
        Feed, Meta(description="loader: the user's pipeline; cached: its first batches again; resident: one on device.")
    ] = "loader"
    consume: Annotated[Consume, Meta(description="device: training steps; nothing: batches are dropped.")] = "device"
    threads: Annotated[int | None, Meta(description="torch intra-op threads of the main process; None: leave.")] = None
    cache: Annotated[CacheState, Meta(description="State of the page cache that this trial is meant to see.")] = "warm"
    order_seed: Annotated[int, Meta(description="Seed of the sample order; the same in every trial of a probe.")] = 0
    first_sample: Annotated[int, Meta(ge=0, description="Position in that order to start from (streaming).")] = 0
    repeat: Annotated[int, Meta(ge=0, description="Which repetition of this setting.")] = 0
    epoch_batches: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Batches after which the loader is begun anew; None: it has no end."),
    ] = None
    measure: MeasureOptions = MeasureOptions()

    @property
    def key(self) -> str:
        """A short digest of everything that decides the outcome, the same in every process."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:16]
