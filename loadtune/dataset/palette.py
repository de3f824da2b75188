"""Which class has which colour? Read from a class file that lies beside colour-coded masks, if there is one.

Several tools write such a file: `class_dict.csv` (name, r, g, b), `label_colors.txt` (r g b name), `labelmap.txt`
(name:r,g,b::). What they agree on is enough: a class a line, in the order of the classes, with three numbers.
"""

import re

from loadtune.dataset.leftout import Tally, join
from loadtune.dataset.lists import read_lines
from loadtune.dataset.matching import Group
from loadtune.dataset.tree import Tree

CLASSES_MAX = 4096
"""Most classes taken from a file: a longer one is no class file, and its colours would be searched for every pixel."""

_NAME = re.compile(
    rb"(?i)^(?:class|classes|label|labels)?[-_ ]?"
    rb"(?:dict|colou?rs?|map|palette|colou?r[-_]?map)[-_a-z0-9]*\.(?:csv|txt)$"
    rb"|^classes\.(?:csv|txt)$"
)
_NUMBER = re.compile(rb"(?<![\w.])\d{1,3}(?![\w.])")


def find_palette(tree: Tree, groups: list[Group]) -> tuple[int, ...]:
    """Return the colour of each class as 0xRRGGBB, from the class file nearest to the masks; empty without one.

    Args:
        tree: The data set's folder.
        groups: The pairs. Only the first folder of masks and what it lies in are looked at.
    """
    place = groups[0].mask_folder if groups else b""
    while True:
        for name in sorted(tree.folder(place).files):
            if _NAME.match(name) and (palette := _read(tree, join(place, name))):
                return palette
        if not place:
            return ()
        place = place.rpartition(b"/")[0]


def _read(tree: Tree, path: bytes) -> tuple[int, ...]:
    """Return the colours of a class file; empty where it names fewer than two, or one twice."""
    colours = []
    for line in read_lines(tree, path, Tally()):
        numbers = [int(text) for text in _NUMBER.findall(line)]
        if len(numbers) >= 3 and max(numbers[-3:]) <= 255:
            red, green, blue = numbers[-3:]
            colours.append(red << 16 | green << 8 | blue)
    is_palette = 2 <= len(colours) <= CLASSES_MAX and len(set(colours)) == len(colours)
    return tuple(colours) if is_palette else ()
