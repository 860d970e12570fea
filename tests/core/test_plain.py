import json
import math
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, strategies as st

from thetahat.core.plain import as_json, counted, unescaped

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda below: st.lists(below) | st.tuples(below, below) | st.dictionaries(st.text(), below),
)


@given(values)
def test_whatever_is_printed_is_json(value):
    json.dumps(as_json(value), allow_nan=False)


def test_numbers_that_are_not_finite_become_text_and_others_stay():
    value = {"a": (1.5, math.inf, [math.nan, -math.inf]), "b": "nan", "c": None, "d": True}
    assert as_json(value) == {"a": [1.5, "inf", ["nan", "-inf"]], "b": "nan", "c": None, "d": True}


def test_escapes_of_an_option_are_read_once():
    assert unescaped(r"\n\t\r") == "\n\t\r"
    assert unescaped(r"\\n") == r"\n"
    assert unescaped(r"\d \x41") == r"\d \x41"


@dataclass
class Told:
    where: Path
    share: float


@dataclass
class Renamed:
    told: Told

    def to_dict(self):
        return {"another": [self.told]}


def test_a_dataclass_is_its_fields_unless_it_says_another_thing():
    told = Told(Path("a/b"), math.nan)
    assert as_json({"found": (told,)}) == {"found": [{"where": "a/b", "share": "nan"}]}
    assert as_json(Renamed(told)) == {"another": [{"where": "a/b", "share": "nan"}]}


def test_only_one_is_singular():
    assert [counted(number, "row") for number in (0, 1, 2, 1200)] == ["0 rows", "1 row", "2 rows", "1,200 rows"]
    assert [counted(number, "query", "queries") for number in (1, 2)] == ["1 query", "2 queries"]
