"""The pages of the Python API and of the keys are made from the text in the code as it is."""

import re
import runpy
from pathlib import Path

import thetahat as th
from thetahat.core.schema import known_keys

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_the_api_is_that_of_the_code():
    made = runpy.run_path(str(DOCS / "reference.py"))["page"]()
    assert (DOCS / "api.md").read_text(encoding="utf-8") == made, "type: python docs/reference.py"


def test_the_page_of_the_api_has_every_name():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    assert [name for name in th.__all__ if name != "__version__" and f"th.{name}`" not in text] == []


def test_the_page_of_the_keys_is_that_of_the_code():
    made = runpy.run_path(str(DOCS / "keys.py"))["page"]()
    assert (DOCS / "keys.md").read_text(encoding="utf-8") == made, "type: python docs/keys.py"


def test_the_page_of_the_keys_has_every_key_and_no_other():
    text = (DOCS / "keys.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([\w.\[\]]+)`", text, re.MULTILINE))
    known = {*known_keys(th.RunConfig), *known_keys(th.ExportConfig)}
    assert known - listed == set()
    assert {key for key in listed - known if "[]." not in key} == set()
