"""What runs the trials of `benchmarks.gpu`? One process, one task after another, its CUDA context kept.

A trial of loadtune's has a process of its own. On a card that is lent for minutes, the context, cuDNN and the libraries
would take longer than what is measured. So tasks come in on stdin, a line each, and events go out on what was stdout;
building and measuring are loadtune's own. What one trial leaves behind in the device's memory is freed before the next.
"""

import gc
import os
import sys
import time
import traceback

import msgspec
import torch

from loadtune.engine.child import do
from loadtune.engine.failures import classify_exception
from loadtune.measure.accelerator import Accelerator
from loadtune.measure.leg import read_payload
from loadtune.measure.loop import Tell
from loadtune.records.messages import CudaCheckTask, DeviceInUse, Event, Sources, Task


def main() -> None:
    """Do tasks until stdin ends."""
    events_fd = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever is printed goes to the log

    def tell(event: Event) -> None:
        content = msgspec.json.encode(event) + b"\n"
        while content:
            content = content[os.write(events_fd, content) :]

    for line in iter(sys.stdin.buffer.readline, b""):
        if line.strip():
            run(msgspec.json.decode(line, type=Task), tell)
            free_memory()


def run(task: Task, tell: Tell) -> None:
    """Do one task; every exception becomes an event."""
    accelerators: list[Accelerator] = []

    def note(accelerator: Accelerator) -> None:
        accelerators.append(accelerator)
        tell(DeviceInUse(uuid=accelerator.uuid))

    sources = Sources() if isinstance(task, CudaCheckTask) else task.sources
    try:
        do(task, read_payload(sources), tell, note, _wait_for_parent, time.monotonic())
    except Exception as error:  # noqa: BLE001 - a trial that fails is a result
        traceback.print_exc()
        is_device_memory = any(each.is_out_of_memory(error) for each in accelerators)
        tell(classify_exception(error, is_device_memory=is_device_memory))


def free_memory() -> None:
    """Give the last trial's memory back, so that the next one's peak is its own."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _wait_for_parent() -> None:
    sys.stdin.buffer.readline()


if __name__ == "__main__":
    main()
