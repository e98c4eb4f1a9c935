"""`blockquant recipes`: llama.cpp's file types, and what one of them does."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

from blockquant._text import printable

EPILOG = """Examples:

`blockquant recipes Q4_K_M`

`blockquant recipes Q4_K_M --toml > mine.toml`
"""


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A recipe, or a file of your own; all of them without it.")
    ] = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print it as a file that can be changed and used.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """List the recipes, or show which format one gives to each kind of tensor."""
    import blockquant as bq
    from blockquant.recipes import custom
    from blockquant.recipes.table import ROLES

    if toml and json:
        raise typer.BadParameter("--toml and --json are two forms: name one of them", param_hint="--json")
    if name is None:
        if toml:
            raise typer.BadParameter("name the recipe to print", param_hint="--toml")
        rows = [
            {
                "name": recipe.name,
                "file_type": recipe.file_type,
                "base": recipe.base,
                "bits_per_weight": bq.formats[recipe.base].bits_per_weight,
            }
            for recipe in map(bq.recipes.get, bq.recipes.names())
        ]
        if json:
            print(json_module.dumps(rows, indent=1))
            return
        print(f"{'recipe':<10} {'file type':>9}  {'base':<8} {'bits':>7}")
        for row in rows:
            print(f"{row['name']:<10} {row['file_type']:>9}  {row['base']:<8} {row['bits_per_weight']:>7}")
        return
    recipe = bq.recipes.get(name)
    if toml:
        print(custom.dump(recipe), end="")
        return
    by_role = {role: list(recipe.rules_for(role)) for role in ROLES}
    if json:
        fields = {
            "name": recipe.name,
            "file_type": recipe.file_type,
            "base": recipe.base,
            "roles": by_role,
            "tensors": [{"name": pattern, "format": list(rules)} for pattern, rules in recipe.tensors],
        }
        print(json_module.dumps(fields, indent=1))
        return
    bits = bq.formats[recipe.base].bits_per_weight
    print(f"{printable(recipe.name)}: {recipe.base}, {bits:g} bits, unless a rule says else")
    for pattern, rules in recipe.tensors:
        print(f"  names that match {pattern!r}: {', else '.join(rules)}")
    for role, choices in by_role.items():
        if choices and choices != [recipe.base]:
            print(f"  {role:<12} {', else '.join(choices)}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="recipes", epilog=EPILOG)(recipes)
