"""How soon is each searcher's answer good? One picture of the rows that `tuning` wrote."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.record import Row
from benchmarks.tuning_rows import read_units
from benchmarks.tuning_scores import MEASURING, SHARE_MEDIAN_MIN, stood

END_S = 90
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
"""One a contestant, so that no colour need be read."""


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the picture as SVG: the median share of the oracle of what stood after each second."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "tuning"
    from matplotlib import pyplot as plt

    units = read_units(rows)
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, line in zip(MEASURING, LINES, strict=True):
        course = [stood(units, name, second) for second in range(END_S + 1)]
        if None not in course:
            axis.step(range(END_S + 1), course, where="post", label=name, linestyle=line, linewidth=1.6)
    axis.axhline(SHARE_MEDIAN_MIN, color="gray", linewidth=0.8)
    axis.set(xlim=(0, END_S), ylim=(0, 1.04), xlabel="seconds from Enter, importing torch included",
             ylabel="share of the oracle, median")  # fmt: skip
    axis.set_title(f"What stood when, over {len(units)} workloads and seeds; the line is {SHARE_MEDIAN_MIN:g}")
    axis.legend(loc="lower right")
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
