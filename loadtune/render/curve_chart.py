"""How are curves drawn in a terminal? As lines of text: no colour is needed, and any width will do."""

from collections.abc import Callable, Sequence

MARKS = "*o"
"""What draws the first and the second curve."""
BOTH_MARK = "#"
"""Where the two meet."""
HEIGHT = 14
"""Lines of the chart. With fewer a decay to a tenth is a single step down; with more, chart and table no longer fit on
one screen."""
MARGIN = 8
"""Room for the numbers of the vertical axis, such as 1.23e-05."""
LEAST_COLUMNS = 20
"""Below this no shape can be told; in a narrower terminal the lines wrap."""


def draw_curves(
    curves: Sequence[Callable[[float], float]], end: float, width: int, *, end_label: str, height: int = HEIGHT
) -> list[str]:
    """Return lines of text that show one or two curves from 0 to `end`, on a vertical axis that begins at 0.

    Args:
        curves: Each gives a value that is not negative.
        end: Where the horizontal axis ends.
        width: Columns to fill.
        end_label: What stands below the end of the axis.
        height: Lines, without the axis and its labels.
    """
    columns = max(width - MARGIN - 2, LEAST_COLUMNS)
    values = [[curve(end * index / (columns - 1)) for index in range(columns)] for curve in curves]
    top = max(max(line) for line in values) or 1.0
    grid = [[" "] * columns for _ in range(height)]
    for mark, line in zip(MARKS, values, strict=False):
        _draw_curve(grid, [round(value / top * (height - 1)) for value in line], mark)
    labels = {0: "0", height // 2: f"{top * (height // 2) / (height - 1):.3g}", height - 1: f"{top:.3g}"}
    rows = [
        f"{labels.get(level, ''):>{MARGIN}} |{''.join(grid[level])}".rstrip() for level in range(height - 1, -1, -1)
    ]
    axis = " " * (MARGIN + 1) + "+" + "-" * columns
    return [*rows, axis, " " * (MARGIN + 2) + "0" + end_label.rjust(columns - 1)]


def _draw_curve(grid: list[list[str]], levels: list[int], mark: str) -> None:
    """Mark each column at its level, and where the curve jumps, everything between the two levels."""
    before = levels[0]
    for column, level in enumerate(levels):
        step = 1 if level >= before else -1
        for place in range(before + step, level + step, step) if level != before else [level]:
            is_taken = grid[place][column] not in {" ", mark}
            grid[place][column] = BOTH_MARK if is_taken else mark
        before = level
