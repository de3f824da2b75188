"""How fast is the loop that everyone writes? A plain PyTorch training loop that uses nothing of loadtune.

    python -m benchmarks.plain_loop WORKLOAD NUM_WORKERS

It runs until it is ended, and writes two float64 of time.monotonic() a step to stdout: batch in hand, step done.
"""

import array
import sys
import time

from torch.utils.data import DataLoader, RandomSampler

from benchmarks.workloads import WORKLOADS

ENDLESS = 1 << 40
"""Samples in an epoch: none ends while it is watched."""


def train(name: str, num_workers: int) -> None:
    """Train for ever."""
    workload = WORKLOADS[name]
    dataset, step = workload.make_dataset(), workload.make_step()
    loader = DataLoader(
        dataset,
        batch_size=workload.batch_size,
        sampler=RandomSampler(dataset, replacement=True, num_samples=ENDLESS),
        num_workers=num_workers,
        drop_last=True,
    )
    out = sys.stdout.buffer
    for batch in loader:
        taken_s = time.monotonic()
        step(batch)
        out.write(array.array("d", (taken_s, time.monotonic())).tobytes())
        out.flush()


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]))
