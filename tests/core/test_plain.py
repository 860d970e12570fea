import json
import math

from hypothesis import given, strategies as st

from thetahat.core.plain import finite_or_text, unescaped

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda below: st.lists(below) | st.tuples(below, below) | st.dictionaries(st.text(), below),
)


@given(values)
def test_whatever_is_printed_is_json(value):
    json.dumps(finite_or_text(value), allow_nan=False)


def test_numbers_that_are_not_finite_become_text_and_others_stay():
    value = {"a": (1.5, math.inf, [math.nan, -math.inf]), "b": "nan", "c": None, "d": True}
    assert finite_or_text(value) == {"a": [1.5, "inf", ["nan", "-inf"]], "b": "nan", "c": None, "d": True}


def test_escapes_of_an_option_are_read_once():
    assert unescaped(r"\n\t\r") == "\n\t\r"
    assert unescaped(r"\\n") == r"\n"
    assert unescaped(r"\d \x41") == r"\d \x41"
