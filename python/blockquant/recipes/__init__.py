"""Recipes: which format each tensor of a model gets, as llama-quantize chooses for each of its file types.

`table` holds the recipes as data, `rules` what the rules in it mean, `tensors` which tensors they are about, and
`planner` applies them. `custom` reads and writes recipes as TOML files.
"""

from .custom import dump, load
from .planner import Choice, explain, get, names, plan
from .rules import Model
from .table import Recipe

__all__ = ["Choice", "Model", "Recipe", "dump", "explain", "get", "load", "names", "plan"]
