"""Does a training step wait for the device? One step under torch's own debug mode, which warns where it does."""

import warnings
from collections.abc import Callable

import torch

SYNCHRONISED = "called a synchronizing CUDA operation"
"""What torch warns (`warn_or_error_on_sync` in c10/cuda). Where the words change, nothing is counted."""


def count_synchronisations(train: Callable[[], None]) -> int:
    """Return how often a step waits for the device, as torch tells; collectives and sparse operations it does not.

    The mode is the whole process's and is put back. What the step itself warns of is not shown this once.

    Args:
        train: Runs one step, warm already: the first ones wait for allocations and autotuning.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            train()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum(SYNCHRONISED in str(each.message) for each in seen)
