"""How fast does a training script run that is not measured? The loop that everyone writes, and a clock after each step.

It shares data, device and step with `loop`, and nothing else: no stamps in the batches, no marks around the steps, no
windows. Set against `loop` by turns it shows what measuring costs.
"""

import time
from collections import deque
from typing import Any

from loadtune.errors import TargetError
from loadtune.measure.leg import Leg
from loadtune.measure.loop import BEAT_S, Tell, warm_device_up
from loadtune.records.messages import Phase, StepsDone

WARM_BATCHES = 10
"""Batches, or two from each worker, before it counts as running; the first hold the start of workers and data set."""


def run_plain(leg: Leg, tell: Tell) -> None:
    """Train for ever; it is ended from outside.

    Raises:
        TargetError: The data set yields no batch.
    """
    warm_device_up(leg, tell)
    settings, device = leg.spec.settings, leg.accelerator
    wanted = max(WARM_BATCHES, 2 * settings.num_workers)
    queued: deque[Any] = deque()
    finished_s: list[float] = []
    done = 0
    began_s = told_s = time.monotonic()
    while leg.loader is not None:
        done_before = done
        for batch in leg.loader:
            if device.run_ahead_steps is not None:  # a device whose own queue sets no bound
                if len(queued) >= device.run_ahead_steps:
                    device.wait(queued.popleft())
                device.step(device.upload(batch))
                queued.append(device.record())
            else:
                device.step(device.upload(batch))
            now_s = time.monotonic()
            finished_s.append(now_s)
            done += 1
            if now_s - told_s >= BEAT_S:
                tell(StepsDone(finished_s=tuple(finished_s), samples=(settings.batch_size,) * len(finished_s)))
                finished_s, told_s = [], now_s
            if wanted and (done >= wanted or now_s - began_s > leg.spec.measure.warm_up_s):
                tell(Phase(name="running", at_s=now_s))
                wanted = 0
        if done == done_before:
            raise TargetError(
                "the data set yields no batch", "its samples must fill one batch: try a smaller batch size"
            )
