"""How does what a trial trains come back as it was, bit for bit? Needed where trials run in the caller's own process.

What is put back: parameters, buffers, gradients, modes and devices of every module, the state of every optimizer,
scheduler, scaler and other object with a state_dict that can be reached from what was handed over, random-number
generators, thread count and environment. What is not: Python attributes that user code changes by itself.
"""

import os
import random
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from loadtune.fingerprint import PLAIN, inside

DEPTH_MAX = 12
"""Levels looked into: a module of a module of a trainer in a closure has eight. What lies deeper is not put back."""
TRAINED = ("model", "loss", "train_step", "val_step")
"""Names of what may be trained. The data set is read, not changed."""

Restore = Callable[[], None]


def keep(objects: Mapping[str, Any]) -> Restore:
    """Note the state of everything trainable within some objects, and of this process; return what puts it back.

    Args:
        objects: As handed over, by name.
    """
    found = _find([objects[name] for name in TRAINED if name in objects])
    restores = [_keep_one(each) for each in found]
    restores.append(_keep_process())

    def restore() -> None:
        for each in restores:
            each()

    return restore


def _find(roots: list[Any]) -> list[Any]:
    """Return the modules, optimizers, free parameters and other keepers of state that can be reached."""
    found: list[Any] = []
    covered: set[int] = set()
    seen: dict[int, Any] = {}  # the values too, so that no id is given twice
    queue = deque((each, 0) for each in roots)
    while queue:
        value, depth = queue.popleft()
        if isinstance(value, PLAIN) or id(value) in seen:
            continue
        seen[id(value)] = value
        if id(value) not in covered and _holds_state(value):
            found.append(value)
        if isinstance(value, nn.Module):
            covered.update(map(id, (*value.modules(), *value.parameters(), *value.buffers())))
        if depth < DEPTH_MAX and not isinstance(value, Tensor):
            with suppress(Exception):  # an object of the user's that cannot be looked into
                queue.extend((each, depth + 1) for each in inside(value))
    return found


def _holds_state(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_leaf and value.requires_grad
    is_object = not isinstance(value, type)
    return (
        is_object and callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))
    )


def _keep_one(value: Any) -> Restore:
    if isinstance(value, Tensor):
        return _keep_tensor(value)
    if isinstance(value, nn.Module):
        return _keep_module(value)
    if isinstance(value, torch.optim.Optimizer):
        return _keep_optimizer(value)
    state = deepcopy(value.state_dict())
    return lambda: value.load_state_dict(state)


def _keep_tensor(tensor: Tensor) -> Restore:
    """Keep content, device and gradient. The copy lies on the host: a GPU may have no room for a second model."""
    device, content = tensor.device, tensor.detach().to("cpu", copy=True)
    grad = tensor.grad
    grad_content = None if grad is None else grad.detach().to("cpu", copy=True)

    def restore() -> None:
        with torch.no_grad():
            if tensor.device == device and tensor.dtype == content.dtype:
                tensor.data.copy_(content)
            else:
                tensor.data = content.to(device)
            tensor.grad = grad
            if grad is not None and grad_content is not None:
                grad.copy_(grad_content)

    return restore


def _keep_module(module: nn.Module) -> Restore:
    """Keep the module's own parameters and buffers, and those of the modules in it, with the mode of each."""
    modes = [(each, each.training) for each in module.modules()]
    tensors = [_keep_tensor(each) for each in module.parameters()]
    buffers = [
        (each, name, buffer, None if buffer is None else _keep_tensor(buffer))
        for each in module.modules()
        for name, buffer in each.named_buffers(recurse=False)
    ]

    def restore() -> None:
        for each, training in modes:
            each.training = training
        for put_back in tensors:
            put_back()
        for each, name, buffer, put_back_buffer in buffers:
            if put_back_buffer is not None:
                put_back_buffer()
            each.register_buffer(name, buffer, persistent=name not in each._non_persistent_buffers_set)  # noqa: SLF001

    return restore


def _keep_optimizer(optimizer: torch.optim.Optimizer) -> Restore:
    """Keep state and groups by hand: `load_state_dict` casts what it loads to the parameter's type."""
    groups = [
        {name: value if name == "params" else deepcopy(value) for name, value in group.items()}
        for group in optimizer.param_groups
    ]
    state = {parameter: deepcopy(entries) for parameter, entries in optimizer.state.items()}

    def restore() -> None:
        for group, before in zip(optimizer.param_groups, groups, strict=True):
            group.clear()
            group.update(before)
        optimizer.state.clear()
        optimizer.state.update(state)

    return restore


def _keep_process() -> Restore:
    """Keep random-number generators, torch's thread count and the environment."""
    numpy = sys.modules.get("numpy")
    own, torch_state, threads = random.getstate(), torch.get_rng_state(), torch.get_num_threads()
    numpy_state = None if numpy is None else numpy.random.get_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    environ = dict(os.environ)

    def restore() -> None:
        random.setstate(own)
        torch.set_rng_state(torch_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
        torch.set_num_threads(threads)
        if dict(os.environ) != environ:
            os.environ.clear()
            os.environ.update(environ)

    return restore
