"""Pages: one HTML file with its figures, which loads nothing and runs no script but its own."""

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bokeh.resources import Resources
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from thetahat.figures.interactive import Embedded

_FOLDER = Path(__file__).parent / "pages"


def render(name: str, figures: Embedded, filters: dict[str, Callable[..., Any]], **values: Any) -> str:
    """A page of pages/NAME. All text is escaped, and by its own policy the browser runs the page's own scripts alone.

    They are named by their digests (Content Security Policy, level 3), so that no text of the data can be one.
    """
    loader = FileSystemLoader(_FOLDER)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= filters
    own = (_FOLDER / "page.js").read_text(encoding="utf-8")
    scripts = [*Resources(mode="inline", components=["bokeh"]).js_raw, figures.script, own]
    scripts = [script.replace("</script", "<\\/script").replace("<!--", "<\\!--") for script in scripts]
    return environment.get_template(name).render(
        scripts=[Markup(script) for script in scripts],
        digests=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        places={place: Markup(element) for place, element in figures.places.items()},
        **values,
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def printable(text: object) -> str:
    """The text with control characters, and marks that turn the direction of writing, spelled out."""
    return "".join(
        character
        if character in "\n\t" or character.isprintable()
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in str(text)
    )
