"""What is one training step? Forward, loss, backward, optimizer as a plain loop does them, or the user's own.

Nothing here waits for the device but what such a loop waits for: no loss is read, no time is taken.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from loadtune.errors import TargetError
from loadtune.records.settings import WorkloadSpec
from loadtune.workload.deeplab import deeplabv3plus
from loadtune.workload.masks import IGNORE_LABEL
from loadtune.workload.target import import_target, load_target

TrainStep = Callable[[Any], None]
"""Trains on one batch that already lies on the device."""

Loss = Callable[[Any, Any], Tensor]
"""Gives the mean loss of a model's output and the targets."""

OptimizerParts = tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]
"""An optimizer's class, and what it was made with: its parameters belong to another copy of the model."""

LEARNING_RATES = {"sgd": 0.007, "adam": 0.001, "adamw": 0.001}
"""DeepLab's for SGD (arXiv 1706.05587, section 4), torch's defaults for the others. They cost no time; larger
ones may end in NaN."""

MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4
"""SGD's settings in DeepLab's training. Without momentum the optimizer would look quicker than it is."""

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

OWN_STEP_HINT = "give your own step: --train-step package.module:function, called with each batch"


def build_step(
    spec: WorkloadSpec,
    device: torch.device,
    accumulation_steps: int = 1,
    *,
    model: nn.Module | None = None,
    loss: Loss | None = None,
    optimizer: OptimizerParts | None = None,
    train_step: TrainStep | None = None,
    val_step: TrainStep | None = None,
) -> TrainStep:
    """Return the step of this workload, its model on the device and in training mode.

    With `train_step_target` that function is returned as it is. It is called as `function(batch)` with the
    batch on the device, and brings its own model, optimizer, precision and accumulation. Otherwise it is a
    `BuiltInStep`, or where the purpose is to evaluate an `EvaluationStep`.

    Args:
        spec: The workload.
        device: Where the batches will be.
        accumulation_steps: Batches to one optimizer step.
        model: A model handed over, or a function that makes one; it comes before `model_target`.
        loss: A function of the model's output and the targets, instead of cross entropy.
        optimizer: Class and options of an optimizer handed over, instead of the one that the spec names.
        train_step: A step handed over; it comes before everything else.
        val_step: The same for validation.

    Raises:
        TargetError: The user's model or step cannot be loaded, or is of another kind.
    """
    is_evaluation = spec.purpose == "evaluate"
    handed = val_step if is_evaluation else train_step
    if handed is not None:
        return handed
    if not is_evaluation and spec.train_step_target is not None:
        step = import_target(spec.train_step_target, spec.import_limit_s)
        if not callable(step) or isinstance(step, type):
            raise TargetError(
                f"{spec.train_step_target} is a {type(step).__qualname__}, not a function of a batch",
                "give a function that takes one batch: def train_step(batch): ...",
            )
        own_step: TrainStep = step
        return own_step
    made = build_model(spec) if model is None else as_model(model, "the model that you handed over")
    if is_evaluation:
        return EvaluationStep(made, spec, device, loss=loss)
    return BuiltInStep(made, spec, device, accumulation_steps, loss=loss, optimizer=optimizer)


def build_model(spec: WorkloadSpec) -> nn.Module:
    """Return the user's model, or DeepLabv3+ with random weights, on the CPU.

    Raises:
        TargetError: `model_target` cannot be loaded or gives no nn.Module.
    """
    if spec.model_target is None:
        return deeplabv3plus(spec.backbone, spec.output_stride, spec.class_count)
    return as_model(load_target(spec.model_target, spec.import_limit_s), spec.model_target)


def as_model(found: Any, told: str) -> nn.Module:
    """Return a module as it is, or what a function or class gives.

    Args:
        found: What was handed over or named.
        told: How an error begins.

    Raises:
        TargetError: It is no module, and gives none.
    """
    made = found if isinstance(found, nn.Module) or not callable(found) else found()
    if not isinstance(made, nn.Module):
        raise TargetError(
            f"{told} gives a {type(made).__qualname__}, not a torch.nn.Module",
            "give a module, its class, or a function that returns one",
        )
    return made


class _ForwardPass:
    """What training and evaluating share: model and loss on the device, precision and memory format."""

    def __init__(self, model: nn.Module, spec: WorkloadSpec, device: torch.device, loss: Loss | None) -> None:
        self._loss = loss.to(device) if isinstance(loss, nn.Module) else loss
        self.model = model.to(device)
        self._device_type = device.type
        self._is_channels_last = spec.channels_last
        if spec.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self._autocast_dtype = AUTOCAST_DTYPES.get(spec.precision)

    def _compute_loss(self, batch: Any) -> Tensor:
        """Return the loss of one batch.

        Raises:
            TargetError: The batch, or the model's output, is nothing that cross entropy takes.
        """
        images, targets = _images_and_targets(batch) if self._loss is None else _two_parts(batch)
        if self._is_channels_last and isinstance(images, Tensor) and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        is_mixed = self._autocast_dtype is not None
        with torch.autocast(self._device_type, dtype=self._autocast_dtype, enabled=is_mixed):
            return (self._loss or compute_loss)(self.model(images), targets)


class BuiltInStep(_ForwardPass):
    """Cross entropy on a batch of (images, targets), and an optimizer step every few batches.

    The gradients of accumulation_steps batches are averaged, so with a model without batch statistics they
    are those of one larger batch. A model with BatchNorm may refuse a batch of 1, as DeepLabv3+ does.

    Args:
        model: Maps images to logits (batch_size, class_count, ...), or to {"out": logits}.
        spec: optimizer, learning_rate, precision and channels_last are used.
        device: Where the batches will be.
        accumulation_steps: Batches to one optimizer step.
        loss: Of output and targets; None: `compute_loss`.
        optimizer: Class and options; None: what the spec names.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: WorkloadSpec,
        device: torch.device,
        accumulation_steps: int = 1,
        *,
        loss: Loss | None = None,
        optimizer: OptimizerParts | None = None,
    ) -> None:
        super().__init__(model, spec, device, loss)
        self.model.train()
        self._optimizer = _optimizer(self.model, spec, optimizer)
        is_scaled = spec.precision == "fp16" and device.type == "cuda"  # float16 gradients underflow unscaled
        self._scaler = torch.amp.GradScaler(device.type, enabled=is_scaled)
        self._accumulation_steps = accumulation_steps
        self._batches = 0

    def __call__(self, batch: Any) -> None:
        """Train on one batch.

        Raises:
            TargetError: The batch, or the model's output, is nothing that cross entropy takes.
        """
        self._scaler.scale(self._compute_loss(batch) / self._accumulation_steps).backward()
        self._batches += 1
        if self._batches % self._accumulation_steps == 0:
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._optimizer.zero_grad(set_to_none=True)


class EvaluationStep(_ForwardPass):
    """The forward pass and the loss of a batch of (images, targets), without gradients, in evaluation mode.

    Args:
        model: Maps images to logits (batch_size, class_count, ...), or to {"out": logits}.
        spec: precision and channels_last are used.
        device: Where the batches will be.
        loss: Of output and targets; None: `compute_loss`.
    """

    def __init__(self, model: nn.Module, spec: WorkloadSpec, device: torch.device, *, loss: Loss | None = None) -> None:
        super().__init__(model, spec, device, loss)
        self.model.eval()

    @torch.no_grad()
    def __call__(self, batch: Any) -> None:
        """Evaluate one batch.

        Raises:
            TargetError: The batch, or the model's output, is nothing that cross entropy takes.
        """
        self._compute_loss(batch)


def compute_loss(output: Any, targets: Tensor) -> Tensor:
    """Return the mean cross entropy; in masks, pixels labelled 255 do not count.

    Args:
        output: Logits (batch_size, class_count, ...), or {"out": logits}, as torchvision's models give.
        targets: (batch_size, ...) integers: one class an image, or one a pixel.

    Raises:
        TargetError: Output and targets do not fit.
    """
    logits = output.get("out") if isinstance(output, dict) else output
    if not isinstance(logits, Tensor):
        raise TargetError(f"the model's output is {_describe(output)}, not logits", OWN_STEP_HINT)
    if logits.ndim < 2 or (logits.shape[0], *logits.shape[2:]) != tuple(targets.shape):
        raise TargetError(f"logits {_describe(logits)} do not fit targets {_describe(targets)}", OWN_STEP_HINT)
    if targets.ndim == 1:  # one class an image: 255 is a class there
        return F.cross_entropy(logits, targets.long())
    return F.cross_entropy(logits, targets.long(), ignore_index=IGNORE_LABEL)


def synthetic_batch(spec: WorkloadSpec, batch_size: int) -> tuple[Tensor, Tensor]:
    """Return a batch as SegmentationDataset's are, on the CPU: the same noise and random labels every time.

    Returns:
        Images (batch_size, 3, crop_px, crop_px) float32 and labels (batch_size, crop_px, crop_px) int64.
    """
    generator = torch.Generator().manual_seed(0)
    side = spec.crop_px
    images = torch.randn(batch_size, 3, side, side, generator=generator)
    return images, torch.randint(spec.class_count, (batch_size, side, side), generator=generator)


def _optimizer(
    model: nn.Module, spec: WorkloadSpec, handed_over: OptimizerParts | None = None
) -> torch.optim.Optimizer:
    rate = LEARNING_RATES[spec.optimizer] if spec.learning_rate is None else spec.learning_rate
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if handed_over is not None:
        made, defaults = handed_over
        return made(parameters, **defaults)
    if spec.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    return (torch.optim.Adam if spec.optimizer == "adam" else torch.optim.AdamW)(parameters, lr=rate)


def _two_parts(batch: Any) -> tuple[Any, Any]:
    """Take a pair apart, whatever its parts are: the loss that was handed over knows them."""
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    raise TargetError(f"a loss takes (inputs, targets), and the batch is {_describe(batch)}", OWN_STEP_HINT)


def _images_and_targets(batch: Any) -> tuple[Tensor, Tensor]:
    """Take a pair of floating-point images and integer targets apart."""
    if isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch):
        images, targets = batch
        if images.is_floating_point() and not targets.is_floating_point() and not targets.is_complex():
            return images, targets
    raise TargetError(f"the built-in step takes (float images, integer targets), not {_describe(batch)}", OWN_STEP_HINT)


def _describe(value: Any) -> str:
    """Name a structure of tensors in one line: "(float32 2x3x65x65, int64 2x65x65)"."""
    if isinstance(value, Tensor):
        return f"{value.dtype}".removeprefix("torch.") + " " + "x".join(map(str, value.shape))
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_describe, value))})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_describe(part)}" for key, part in value.items()) + "}"
    return type(value).__qualname__
