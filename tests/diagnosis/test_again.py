"""A step that is made again is compared with what was logged of it, and the first difference is an alarm."""

import math

import pytest

from thetahat.diagnosis.alarms.again import ROUNDING, SAME, Again

LINE = {"step": 7, "batch": "abc", "log_likelihood_per_token": -2.5, "gradient_norm": 1.25}


def found(before, line=LINE, is_exact=True, is_same=False):
    again = Again({7: LINE | before}, is_exact=is_exact, is_same=is_same)
    return [(alarm.severity, alarm.step) for alarm in again(line)]


def test_the_alarm_says_how_to_make_the_step_once_more():
    (alarm,) = Again({7: LINE | {"batch": "x"}}, is_exact=True)(LINE)
    assert alarm.advice == ("thetahat replay RUN --step 7",)
    assert str(alarm).endswith("; try: thetahat replay RUN --step 7")


def test_the_same_is_no_alarm_and_neither_is_a_step_that_was_not_made():
    assert found({}) == []
    assert list(Again({}, is_exact=True)(LINE)) == []


@pytest.mark.parametrize(
    ("before", "severity"),
    [
        ({"batch": "abd"}, "critical"),
        ({"gradient_norm": 1.25 * (1 + 2 * ROUNDING)}, "critical"),
        ({"log_likelihood_per_token": -2.5 * (1 - 2 * ROUNDING)}, "critical"),
        ({"log_likelihood_per_token": "nan"}, "critical"),
        ({"gradient_norm": math.nextafter(1.25, 2)}, "note"),
    ],
)
def test_each_difference_has_its_severity(before, severity):
    assert found(before) == [(severity, 7)]


def test_on_the_machine_of_before_a_small_difference_is_no_rounding():
    small = {"gradient_norm": 1.25 * (1 + 2 * SAME)}
    assert found(small) == [("note", 7)]
    assert found(small, is_same=True) == [("critical", 7)]
    assert found({"gradient_norm": 1.25 * (1 + SAME / 2)}, is_same=True) == [("note", 7)]
    assert found(small, is_exact=False, is_same=True) == []


def test_where_sums_have_no_order_rounding_is_expected():
    assert found({"gradient_norm": math.nextafter(1.25, 2)}, is_exact=False) == []
    assert found({"gradient_norm": 2.5}, is_exact=False) == [("critical", 7)]


def test_after_the_first_difference_nothing_is_compared():
    again = Again({7: LINE | {"batch": "x"}, 8: LINE | {"batch": "y"}}, is_exact=True)
    assert len(list(again(LINE))) == 1
    assert list(again(LINE | {"step": 8})) == []
