"""How large is the gradient noise scale in this training loop?

The torch face of `batch_growth`: it collects the norms that the estimate is made of. It never changes gradients,
random numbers, or what the model holds, and it makes the device wait for nothing until `estimate` is called.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from loadtune.errors import UsageError
from loadtune.schedule.batch_growth import GradientNorms, NoiseScaleEstimate, estimate_noise_scale

WINDOW_STEPS = 256
"""Steps that an estimate is made of, the latest. With many more, it mixes what the noise scale was with what it is."""

LOWER_BOUND = (
    "The noise scale grows as the loss falls (McCandlish et al. 2018): measured in a network that is not trained, "
    "it is a lower bound only."
)
BATCH_NORM_TRAINED = (
    "BatchNorm was training, so samples of a micro-batch depend on each other: it holds for more micro-batches or GPUs "
    "of the same size, not for larger ones. `measure` freezes BatchNorm."
)
BATCH_NORM_BARE = "BatchNorm without running statistics cannot be frozen: its samples depend on each other."


class NoiseScale:
    """Measures the gradient noise scale B_simple (McCandlish et al. 2018, appendix A.1) of a model in training.

    It compares the gradients of micro-batches with that of all of them together, so it needs two at least: micro-
    batches of gradient accumulation, processes of DistributedDataParallel, or both. They are watched as the loop
    computes them, at the cost of one norm a parameter and backward pass::

        with loadtune.NoiseScale(model, batch_size=8) as noise:
            for step in range(200):
                optimizer.zero_grad()
                for _ in range(4):
                    loss(model(next(batches))).backward()
                noise.step()                # after the last backward pass, before gradients are clipped or unscaled
                optimizer.step()
        print(noise.estimate())

    `loadtune.recommend(..., noise_scale=noise)` then judges larger batches by their speed to the same loss, and
    `loadtune.rescale(..., noise_scale=noise.estimate())` the rate, unless it is a lower bound only.

    A loop without either calls `measure` now and then, with micro-batches of its own. Sharded gradients (FSDP,
    tensor parallel) are not supported: no process holds a whole one.

    Args:
        model: The network; within DistributedDataParallel or not.
        batch_size: Samples of one micro-batch on one GPU. All must be as large: use drop_last=True.
        is_trained: Whether training is far on. If not, the estimate says that it is a lower bound only.
    """

    def __init__(self, model: nn.Module, batch_size: int, *, is_trained: bool = False) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise UsageError(f"no noise scale with batch_size={batch_size!r}", "Give the samples of a micro-batch.")
        self._model = model
        self._parameters = [each for each in model.parameters() if each.requires_grad]
        if not self._parameters:
            raise UsageError("no noise scale: no parameter of the model requires a gradient", "Unfreeze some of it.")
        self._batch_size = batch_size
        self._is_trained = is_trained
        self._norms: deque[tuple[Tensor, Tensor, int]] = deque(maxlen=WINDOW_STEPS)
        self._notes: dict[str, None] = {}
        self._handles: list[RemovableHandle] = []
        self._is_measuring = False
        self._forget()

    def __enter__(self) -> Self:
        if self._handles:
            raise UsageError("this NoiseScale watches already", "Enter it once; leave it before entering again.")
        for number, parameter in enumerate(self._parameters):
            self._handles.append(parameter.register_hook(self._watch(number)))
        return self

    def __exit__(self, *failure: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._forget()

    def step(self) -> None:
        """Note the gradients of this optimizer step: after its last backward pass, before clipping or unscaling.

        Gradients must have been zero before its first. Under torch.distributed every process must call it.

        Raises:
            UsageError: There was no backward pass, or only one on one process, which is nothing to compare.
        """
        passes = max(self._passes)
        world_size = _world_size()
        if passes == 0:
            raise UsageError(
                "no backward pass since the last step",
                "Call step() within `with NoiseScale(...)`, after backward() and before zero_grad().",
            )
        if passes * world_size < 2:
            raise UsageError(
                "one micro-batch on one process has nothing to be compared with",
                "Accumulate over two or more, or call measure() with micro-batches.",
            )
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        small, big = _sum(self._squares) / passes, _squared_norm(gradients) / passes**2
        if world_size > 1:
            # Each process saw its own micro-batches; what the parameters hold is the mean over all.
            torch.distributed.all_reduce(small)
            small /= world_size
        self._norms.append((small, big, passes * world_size))
        if any(module.training for module in self._batch_norms()):
            self._notes[BATCH_NORM_TRAINED] = None
        self._forget()

    def measure(self, loss_of: Callable[[Any], Tensor], micro_batches: Sequence[Any]) -> None:
        """Compute the gradients of some micro-batches at the weights as they are, and note them as one step.

        It costs a forward and a backward pass for each and, while it runs, the memory of two further gradients.
        BatchNorm uses its running statistics meanwhile. Afterwards gradients, buffers, BatchNorm's mode and torch's
        random numbers are as they were. Under torch.distributed it is this process alone.

        Args:
            loss_of: Returns the mean loss of a micro-batch.
            micro_batches: Two or more, each of `batch_size` samples that no other one holds.

        Raises:
            UsageError: There are fewer than two.
        """
        if len(micro_batches) < 2:
            raise UsageError(
                f"{len(micro_batches)} micro-batches have nothing to be compared with", "Give two or more."
            )
        squares, total = [], [torch.zeros_like(each) for each in self._parameters]
        with self._undisturbed(), torch.enable_grad():
            for batch in micro_batches:
                found = torch.autograd.grad(loss_of(batch), self._parameters, allow_unused=True)
                gradients = [each for each in found if each is not None]
                squares.append(_squared_norm(gradients))
                for place, gradient in zip(total, found, strict=True):
                    if gradient is not None:
                        place.add_(gradient)
        count = len(micro_batches)
        self._norms.append((_sum(squares) / count, _squared_norm(total) / count**2, count))

    def estimate(self) -> NoiseScaleEstimate:
        """Return the noise scale over the latest steps, with its 95 % interval. The device is waited for here.

        Steps whose gradients overflowed, as GradScaler lets them at times, are left out.
        """
        steps, overflowed = [], 0
        for small, big, batches in self._norms:
            values = float(small), float(big)
            if not all(map(_is_finite, values)):
                overflowed += 1
                continue
            steps.append(
                GradientNorms(
                    small_squared=values[0],
                    big_squared=values[1],
                    small_batch=self._batch_size,
                    big_batch=self._batch_size * batches,
                )
            )
        notes = list(self._notes)
        if overflowed:
            notes.append(f"{overflowed} steps whose gradients overflowed are left out.")
        if not self._is_trained:
            notes.append(LOWER_BOUND)
        return estimate_noise_scale(steps, is_lower_bound=not self._is_trained, notes=tuple(notes))

    def _watch(self, number: int) -> Callable[[Tensor], None]:
        """Return the hook of one parameter: it sees the gradient of one backward pass before that is accumulated."""

        def note(gradient: Tensor) -> None:
            if not self._is_measuring:
                self._passes[number] += 1
                self._squares.append(_squared_norm([gradient]))

        return note

    def _forget(self) -> None:
        self._squares: list[Tensor] = []
        self._passes = [0] * len(self._parameters)

    def _batch_norms(self) -> list[_BatchNorm]:
        return [module for module in self._model.modules() if isinstance(module, _BatchNorm)]

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Let the block run the model with BatchNorm frozen, and put back what it touches."""
        norms = self._batch_norms()
        modes = [module.training for module in norms]
        if any(module.running_mean is None for module in norms):
            self._notes[BATCH_NORM_BARE] = None
        held = [
            (module, name, buffer, buffer.clone(), buffer._version)  # noqa: SLF001 - torch has no other name for it
            for module in self._model.modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]
        devices = {each.device for each in self._parameters if each.device.type != "cpu"}
        kind = next(iter(devices)).type if devices else "cuda"
        indices = [device.index for device in devices]
        # DistributedDataParallel would wait for the other processes at the end of a backward pass.
        no_sync = getattr(self._model, "no_sync", nullcontext)
        self._is_measuring = True
        try:
            for module in norms:
                module.training = False
            with torch.random.fork_rng(devices=indices, device_type=kind), no_sync():
                yield
        finally:
            self._is_measuring = False
            for module, training in zip(norms, modes, strict=True):
                module.training = training
            with torch.no_grad():
                for owner, name, buffer, value, version in held:
                    if buffer._version != version:  # noqa: SLF001 - writing at all would break a pending backward pass
                        buffer.copy_(value)
                    owner._buffers[name] = buffer  # noqa: SLF001 - a module may have put another tensor in its place


def _squared_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the squared norm of all tensors together, in single precision at least, on the first one's device."""
    return _sum([_square(each) for each in tensors])


def _square(tensor: Tensor) -> Tensor:
    values = tensor.detach()
    values = values.coalesce().values() if values.is_sparse else values
    precision = torch.float64 if values.dtype == torch.float64 else torch.float32
    norm: Tensor = torch.linalg.vector_norm(values, dtype=precision)
    return norm.square()


def _sum(scalars: Sequence[Tensor]) -> Tensor:
    device = scalars[0].device
    return torch.stack([each.to(device) for each in scalars]).sum()


def _world_size() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")
