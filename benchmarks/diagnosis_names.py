"""How is a recipe of `diagnosis` called? By its faults, strength and seed, so that anybody can probe it again.

`pinned__material__103`, two faults `pinned__copy__material__103`; any other recipe is `recipe_` and what differs from
the defaults, as JSON in hexadecimal. Trial processes import this, so it imports nothing of the project but the recipes.
"""

import json
from dataclasses import asdict
from typing import cast

from benchmarks.diagnosis_faults import Strength, make
from benchmarks.diagnosis_recipe import Recipe


def name_recipe(recipe: Recipe) -> str:
    """Return the attribute of this module that builds a recipe."""
    default = asdict(Recipe())
    changed = {name: value for name, value in asdict(recipe).items() if value != default[name]}
    return "recipe_" + json.dumps(changed).encode().hex()


def parse_name(name: str) -> Recipe:
    """Return the recipe that an attribute stands for.

    Raises:
        AttributeError: There is no such recipe.
    """
    try:
        if name.startswith("recipe_"):
            return Recipe(**json.loads(bytes.fromhex(name.removeprefix("recipe_"))))
        *kinds, strength, seed = name.split("__")
        return make(tuple(kinds), int(seed), cast(Strength, strength))
    except (ValueError, KeyError, TypeError) as error:
        raise AttributeError(f"no recipe is called {name!r}") from error
