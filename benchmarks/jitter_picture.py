"""What do NVML and the three rules show? One picture of the rows that `jitter` wrote."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jitter_worlds import PATTERNS, SIGHTS, STEPS_S, look, make_world
from benchmarks.record import Row

SHOWN = ("1/6 s, buffered", "1 s, polled")
"""The kinds of NVML with the most and the least to tell; the other two lie between."""

EXAMPLES = ("stalled every step", "in bursts of 16", "launch-bound")
EXAMPLE_STEP_S, EXAMPLE_SHARE, EXAMPLE_S, EXAMPLE_SEED = 0.1, 0.5, 12.0, 3
"""Three worlds that are half busy, seen for twelve seconds."""


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the picture as PNG: three worlds as NVML shows them, then how often each rule is right."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rules = list(dict.fromkeys(row["quantity"] for row in rows if "pattern" in row))
    figure, axes = plt.subplots(
        1 + len(SHOWN), len(rules), figsize=(13, 10.5), layout="constrained", height_ratios=[0.7, 1, 1]
    )
    for axis, pattern in zip(axes[0], EXAMPLES, strict=True):
        _draw_example(axis, pattern)
    axes[0][0].set_ylabel("GPU utilisation, %")
    axes[0][-1].legend(loc="lower right", fontsize=8)
    image = None
    for line, sight in zip(axes[1:], SHOWN, strict=True):
        for axis, rule in zip(line, rules, strict=True):
            image = _draw_heat(axis, rows, sight, rule)
        for axis in line[1:]:
            axis.set_yticklabels([])
    figure.colorbar(image, ax=axes[1:], label="names the remedy, % of worlds", shrink=0.7)
    figure.suptitle(
        "Can it be seen in nvidia-smi? Three trainings that are half busy, and how often each rule is right"
    )
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _draw_example(axis: Any, pattern: str) -> None:
    rng = np.random.default_rng(EXAMPLE_SEED)
    world = make_world(pattern, EXAMPLE_STEP_S, rng, EXAMPLE_SHARE)
    for sight, color in zip((SIGHTS[0], SIGHTS[1]), ("tab:blue", "tab:orange"), strict=True):
        seen = look(world, sight, rng)[: int(EXAMPLE_S / sight.window_s)]
        edges_s = np.arange(len(seen) + 1) * sight.window_s
        name = f"window of {sight.name.partition(',')[0]}"
        axis.stairs(100 * seen, edges_s, label=name, color=color, baseline=None, linewidth=1.4)
    axis.set(ylim=(-4, 104), xlim=(0, EXAMPLE_S), xlabel="s", title=f"{pattern}: {PATTERNS[pattern]}")


def _draw_heat(axis: Any, rows: Sequence[Row], sight: str, rule: str) -> Any:
    """Draw patterns by step lengths, with the per cent in each cell, so that no colour need be read."""
    shares = np.array([[_share(rows, sight, rule, pattern, step_s) for step_s in STEPS_S] for pattern in PATTERNS])
    image = axis.imshow(100 * shares, vmin=0, vmax=100, cmap="cividis", aspect="auto")
    for (line, place), share in np.ndenumerate(shares):
        axis.text(place, line, f"{100 * share:.0f}", ha="center", va="center", fontsize=9,
                  color="black" if share > 0.55 else "white")  # fmt: skip
    axis.set_xticks(range(len(STEPS_S)), [f"{step_s:g}" for step_s in STEPS_S])
    axis.set_yticks(range(len(PATTERNS)), list(PATTERNS))
    axis.set(title=f"{rule}, window of {sight}", xlabel="step, s")
    return image


def _share(rows: Sequence[Row], sight: str, rule: str, pattern: str, step_s: float) -> float:
    keys = {"sight": sight, "quantity": rule, "pattern": pattern, "step_s": step_s}
    return next(row["value"] for row in rows if keys.items() <= row.items())
