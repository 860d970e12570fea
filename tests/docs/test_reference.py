"""The page of the Python API is made from the docstrings as they are."""

import runpy
from pathlib import Path

import thetahat as th

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_the_api_is_that_of_the_code():
    made = runpy.run_path(str(DOCS / "reference.py"))["page"]()
    assert (DOCS / "api.md").read_text(encoding="utf-8") == made, "type: python docs/reference.py"


def test_the_page_of_the_api_has_every_name():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    assert [name for name in th.__all__ if name != "__version__" and f"th.{name}`" not in text] == []
