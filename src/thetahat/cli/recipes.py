"""`thetahat recipes`."""

from thetahat.cli.table import show_values
from thetahat.cli.words import Json, emit_json, say


def recipes(json: bool = Json) -> None:
    """List the recipes to start from."""
    from thetahat.recipes.catalogue import describe_recipes

    known = describe_recipes()
    if json:
        emit_json({"recipes": known})
        return
    show_values({recipe["name"]: recipe["what"] for recipe in known})
    say(f"\nNext: thetahat train {known[0]['name']}")
