"""What does PyPI's package `loadtune` (0.3.0) answer on a world of `tuning`? Run by `tuning_unit` in that environment.

    PYTHON benchmarks/tuning_pypi.py WORLD_SEED '{"16": 0.01}'

It is another project's package, which has the name of this one, so nothing of this project may be on its path but the
worlds. The device's step is a sleep; of its batch sizes it knows the seconds.
"""

import json
import sys
import time
from typing import Any

import torch
import tuning_worlds

from loadtune import Workload, tune  # type: ignore[attr-defined]

MAX_TRIALS = 6
"""The package's own default."""
STEPS, WARM_UP_STEPS = 100, 10
"""The package's own defaults."""


def main() -> None:
    """Print ANSWER and [num_workers, batch_size]."""
    name, steps = sys.argv[1], {int(size): step_s for size, step_s in json.loads(sys.argv[2]).items()}

    def train_step(model: Any, optimizer: Any, batch: Any, device: Any) -> Any:
        del model, optimizer, device
        first = batch[0] if isinstance(batch, list | tuple) else batch
        size = len(first)
        known = max((each for each in steps if each <= size), default=min(steps))
        time.sleep(steps[known] * size / known)
        return torch.tensor(1.0)

    workload = Workload(
        name=name,
        make_dataset=getattr(tuning_worlds, name),
        make_model=lambda: torch.nn.Linear(1, 1),
        train_step=train_step,
        make_optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        default_batch_size=min(steps),
    )
    told = tune(workload, steps=STEPS, warmup=WARM_UP_STEPS, max_trials=MAX_TRIALS, auto_batch=len(steps) > 1)
    best = told.best
    if best is None or best.throughput <= told.baseline.throughput:  # it keeps the baseline, which is Knobs()
        answer = [0, min(steps)]
    else:
        answer = [best.knobs.num_workers, best.knobs.batch_size or min(steps)]
    print("ANSWER " + json.dumps(answer))


if __name__ == "__main__":
    main()
