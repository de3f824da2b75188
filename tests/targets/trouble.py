"""Data sets that go wrong in every way a trial must survive, each a factory without arguments."""

import contextlib
import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from loadtune.errors import TooManyBadSamplesError
from loadtune.workload.segmentation import Faults

GOOD_SAMPLES = 24
"""Samples that are fine before trouble starts, so that it strikes a loop under way."""


class Troubled(Dataset[Tensor]):
    """Good samples at first, then what `strike` does; with `where`, only in a worker or only in the main process."""

    def __init__(self, strike: Callable[[], None], *, good: int = GOOD_SAMPLES, where: str = "anywhere") -> None:
        self._strike = strike
        self._good = good
        self._where = where
        self._taken = 0

    def __len__(self) -> int:
        return 64

    def __getitem__(self, number: int) -> Tensor:
        self._taken += 1
        info = get_worker_info()
        is_here = self._where == "anywhere" or (self._where == "worker 0" and info is not None and info.id == 0)
        if self._taken > self._good and is_here:
            self._strike()
        time.sleep(0.001)
        return torch.full((8,), float(number))


def _raise_value_error() -> None:
    raise ValueError("the annotation of this sample is empty")


def _raise_two_lines() -> None:
    raise ValueError("the annotation\nof this sample is empty")


def _raise_memory_error() -> None:
    raise MemoryError


def _raise_open_files() -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "photo.png")


def _raise_full_shared_memory() -> None:
    raise RuntimeError("unable to write to file </torch_48151_2342_0>: No space left on device (28)")


def _raise_broken_pipe() -> None:
    raise BrokenPipeError(errno.EPIPE, "the decoder's pipe broke")


def _raise_odd_name() -> None:
    raise ValueError("no mask for " + os.fsdecode(b"photo-\xff.png"))


def _raise_bad_samples() -> None:
    raise TooManyBadSamplesError("64 samples in a row cannot be read, the last a.png: cut off", "repair or remove them")


def _exit() -> None:
    sys.exit("goodbye")


def _segfault() -> None:
    ctypes.string_at(0)


def _hang() -> None:
    time.sleep(3600)


def _hang_deaf() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(3600)


def _hang_with_a_child() -> None:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    time.sleep(3600)


def raises() -> Troubled:
    return Troubled(_raise_value_error)


def raises_two_lines() -> Troubled:
    return Troubled(_raise_two_lines)


def raises_memory_error() -> Troubled:
    return Troubled(_raise_memory_error)


def raises_open_files() -> Troubled:
    return Troubled(_raise_open_files)


def raises_full_shared_memory() -> Troubled:
    return Troubled(_raise_full_shared_memory)


def raises_broken_pipe() -> Troubled:
    return Troubled(_raise_broken_pipe)


def raises_odd_name() -> Troubled:
    return Troubled(_raise_odd_name)


def raises_bad_samples() -> Troubled:
    return Troubled(_raise_bad_samples)


def interrupts_itself() -> Troubled:
    return Troubled(lambda: os.kill(os.getpid(), signal.SIGINT))


def calls_sys_exit() -> Troubled:
    return Troubled(_exit)


def segfaults() -> Troubled:
    return Troubled(_segfault)


def kills_itself() -> Troubled:
    return Troubled(lambda: os.kill(os.getpid(), signal.SIGKILL))


def exits_7() -> Troubled:
    return Troubled(lambda: os._exit(7))


def worker_exits() -> Troubled:
    return Troubled(lambda: os._exit(5), where="worker 0")


def worker_kills_itself() -> Troubled:
    return Troubled(lambda: os.kill(os.getpid(), signal.SIGKILL), where="worker 0")


def worker_segfaults() -> Troubled:
    return Troubled(_segfault, where="worker 0")


def worker_kills_its_parent() -> Troubled:
    return Troubled(lambda: os.kill(os.getppid(), signal.SIGKILL), where="worker 0")


def hangs() -> Troubled:
    return Troubled(_hang)


def hangs_at_once() -> Troubled:
    return Troubled(_hang, good=0)


def hangs_deaf() -> Troubled:
    return Troubled(_hang_deaf)


def hangs_with_a_child() -> Troubled:
    return Troubled(_hang_with_a_child)


def refuses_to_be_made() -> Troubled:
    raise LookupError("no annotations here")


class _Slow(Dataset[Tensor]):
    """Samples that take most of a second, and so give signs of life far apart."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, number: int) -> Tensor:
        time.sleep(0.05)
        return torch.zeros(8)


def slow() -> _Slow:
    return _Slow()


class _Chatty(Dataset[Tensor]):
    """Prints what could be taken for our own events, and bytes that are no text."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, number: int) -> Tensor:
        print(json.dumps({"type": "failed", "state": "failed", "cause": "user code", "message": "not ours"}))
        print('{"type": "measured"', file=sys.stderr)
        print("\x00\x1b[31m \udcff ünïcode")
        os.write(1, b"\xff\xfe\x00 raw\n{}\n[]\n")
        os.write(2, b'{"type":"phase","name":"measured","at_s":0}\n')
        time.sleep(0.001)
        return torch.zeros(8)


def chatty() -> _Chatty:
    return _Chatty()


class _Broken(Dataset[Tensor]):
    """Good samples beside two that are recorded as broken, as the built-in data set does."""

    def __init__(self) -> None:
        self._bad: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return 16

    def __getitem__(self, number: int) -> Tensor:
        if number in {3, 5}:
            self._bad.append((f"photo-{number}.png", "cut off"))
        time.sleep(0.001)
        return torch.zeros(8)

    def take_faults(self) -> Faults:
        faults = Faults(tuple(self._bad), 10, 1)
        self._bad.clear()
        return faults


def broken_samples() -> _Broken:
    return _Broken()


class _Greedy(Dataset[Tensor]):
    """Takes 8 MB a sample, touches it and keeps it, in its worker."""

    def __init__(self) -> None:
        self._kept: list[bytearray] = []

    def __len__(self) -> int:
        return 64

    def __getitem__(self, number: int) -> Tensor:
        if get_worker_info() is not None or Path("/never/there").exists():
            self._kept.append(bytearray(os.urandom(1 << 20) * 8))
        time.sleep(0.002)
        return torch.zeros(8)


def eats_memory() -> _Greedy:
    return _Greedy()


class _Large(Dataset[Tensor]):
    """Samples of 4 MB, to fill a small /dev/shm."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, number: int) -> Tensor:
        return torch.zeros(1 << 20)


def large() -> _Large:
    return _Large()


def kills_at_once() -> _Large:
    os.kill(os.getpid(), signal.SIGKILL)
    return _Large()


def writes_everywhere() -> _Slow:
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"\xff\xfe no event\n{}\n")
    return _Slow()
