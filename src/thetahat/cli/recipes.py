"""`thetahat recipes`."""

from thetahat.cli.words import Json, emit, emit_json, say


def recipes(json: bool = Json) -> None:
    """List the recipes to start from."""
    from thetahat.recipes.catalogue import describe_recipes

    known = describe_recipes()
    if json:
        emit_json({"recipes": known})
        return
    width = max(len(recipe["name"]) for recipe in known)
    for recipe in known:
        emit(f"{recipe['name']:<{width}}  {recipe['what']}")
    say(f"\nNext: thetahat train {known[0]['name']}")
