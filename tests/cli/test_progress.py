"""How far a command is: lines in their time, a bar that fits, rates of the last seconds."""

import io
import sys
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, strategies as st
from rich.text import Text

from thetahat.cli import progress as module
from thetahat.cli.progress import LARGE, Rate, Standing, duration, progress, token_progress
from thetahat.cli.show import TrainingProgress
from thetahat.cli.words import emit, folded, say
from thetahat.core.total import Total
from thetahat.core.work.phases import Phase
from thetahat.recipes.quickstart import quickstart
from thetahat.run.log.report import Report
from thetahat.run.step import StepReport


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    with ticking() as now:
        yield now


@contextmanager
def ticking():
    """A clock that goes when it is told to."""
    now = [100.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.time, "monotonic", lambda: now[0])
        yield now


def test_elsewhere_than_on_a_terminal_a_line_comes_every_ten_seconds_and_for_news(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress("step", shown=True, stays=True) as shows:
        for step in range(1, 31):
            clock[0] += 1.0
            shows(Standing(step, 1030, 1, 2000, known="log-likelihood -2.000/token", is_news=step == 3))
    assert sys.stderr.getvalue().splitlines() == [
        f"step {step}/1,030  log-likelihood -2.000/token  2,000 tokens/s  {left} left"
        for step, left in ((3, "17 min 7 s"), (13, "16 min 57 s"), (23, "16 min 47 s"))
    ]


def test_what_an_evaluation_takes_is_in_no_rate_and_what_the_others_will_take_is_in_the_time_left(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress("step", shown=True, stays=True) as shows:
        for step in range(1, 11):
            clock[0] += 1.0
            shows(Standing(step, 110, 1, 2000, later=60.0))
        for done in range(1, 31):
            clock[0] += 1.0
            shows.aside("held-out tokens", done * 100, 3000)
        clock[0] += 1.0
        shows(Standing(11, 110, 1, 2000, is_news=True, paused=30.0, later=30.0))
    assert sys.stderr.getvalue().splitlines() == [
        "step 10/110  2,000 tokens/s  2 min 40 s left",
        "  held-out tokens 1,000/3,000  20 s left",
        "  held-out tokens 2,000/3,000  10 s left",
        "step 11/110  2,000 tokens/s  2 min 9 s left",
    ]


def test_no_time_left_is_told_before_it_is_known_nor_at_the_end_and_what_came_before_the_first_step_is_in_no_rate(
    clock, monkeypatch
):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress("step", shown=True, stays=True) as shows:
        clock[0] += 3600.0  # of preparation
        for step in (1, 2, 3, 4):
            shows(Standing(step, 4, 1, 2000, is_news=True))
            clock[0] += 1.0
    assert sys.stderr.getvalue().splitlines() == [
        "step 1/4",
        "step 2/4  2,000 tokens/s",
        "step 3/4  2,000 tokens/s  1 s left",
        "step 4/4  2,000 tokens/s",
    ]


def test_before_the_first_evaluation_nothing_is_said_of_it(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    done = StepReport(1, Total(torch.tensor(-8.0), torch.tensor(4.0)), 4, torch.tensor(1.0), 1.0)
    with progress("step", shown=True, stays=True) as display:
        shows = TrainingProgress(display, quickstart(), shown=True)
        assert shows._standing(Report(done, 9, 1.0, 4, None, None), done).known == "log-likelihood -2.000/token"


@pytest.mark.parametrize(("total", "lines"), [(None, 1), (LARGE - 1, 1), (LARGE, 13)])
def test_phases_of_large_data_are_told_each_second_or_two_and_others_as_everything_is(clock, monkeypatch, total, lines):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress("step", shown=True, stays=True) as shows:
        for one in (Phase("reading", total, started=100.0), Phase("planning", started=110.0)):
            for _ in range(39):
                clock[0] += 0.25
                one.advance(10**6)
                shows.phase(one)
    told = sys.stderr.getvalue().splitlines()
    assert len(told) == lines
    assert (total == LARGE) == told[0].startswith("reading  6/67 MB")


def test_on_a_terminal_a_phase_of_unknown_size_is_shown(clock, monkeypatch):
    for name, value in {"COLUMNS": "80", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    with progress("step", shown=True, stays=True) as shows:
        for one in (Phase("planning", started=60.0), Phase("encoding", 10**8, 10**6, started=100.0)):
            shows.phase(one)
            shows.bar.refresh()
        shows.phase(None)
    said = Text.from_ansi(screen.getvalue().replace("\r", "\n")).plain
    assert "planning 40 s so far" in said
    assert "1/100 MB encoding" in said


def test_on_a_terminal_an_evaluation_has_a_bar_of_its_own_until_it_is_done(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Screen())
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")
    with progress("step", shown=True, stays=True) as shows:
        shows(Standing(1, 10, 1, 10))
        for done in (100, 200):
            clock[0] += 1.0
            shows.aside("held-out tokens", done, 300)
        assert [task.description or task.fields["said"] for task in shows.bar.tasks][1:] == ["held-out tokens"]
        shows.aside("held-out tokens", 300, 300)
        assert len(shows.bar.tasks) == 1


@pytest.mark.parametrize(("columns", "expected"), [(80, "-2.000/token"), (120, "log-likelihood -2.000/token")])
def test_a_bar_fits_into_its_terminal(clock, monkeypatch, columns, expected):
    monkeypatch.setattr(sys, "stderr", Screen())
    for name, value in {"COLUMNS": str(columns), "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    bits = "/token held-out 2.057 bits/byte"
    with progress("step", shown=True, stays=True) as shows:
        for step in (12_000, 12_001):
            clock[0] += 3.0
            standing = Standing(step, 50_000, 1, 10**6, known=f"log-likelihood -2.000{bits}", brief=f"-2.000{bits}")
            shows(standing)
    lines = [Text.from_ansi(line).plain.rstrip() for line in sys.stderr.getvalue().replace("\r", "\n").splitlines()]
    (last,) = {line for line in lines if "12,001/50,000" in line}
    assert expected in last
    assert "2.057 bits/byte" in last
    assert last.endswith("left")
    assert len(last) <= columns


def test_where_nothing_else_is_known_the_bar_says_what_is_counted(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Screen())
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    with progress("tokens", shown=True, stays=False) as shows:
        shows(Standing(12, 50, 12, 12))
    assert "12/50 tokens" in Text.from_ansi(sys.stderr.getvalue()).plain


@given(st.text("ab \u20ac", max_size=300), st.integers(20, 90))
def test_on_a_terminal_lines_end_between_words_and_no_word_is_lost(text, columns):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", Screen())
        patch.setenv("COLUMNS", str(columns))
        found = folded(text)
        assert found.split() == text.split()
        assert all(len(line) <= columns or " " not in line or line.startswith(" ") for line in found.splitlines())
        for copied in (f"{start} {' '.join(('thetahat', *text.split()))}" for start in ("  try:", "Next:")):
            assert folded(copied) == copied
            said = folded(f"{copied}    what it is for, in words").split("\n")
            assert said[0] in {copied, f"{copied}    what it is for, in words"}
            assert len(said[-1]) <= max(columns, len(said[0]))
        listed = folded(f"    {text}").splitlines()
        assert all(len(line) <= columns or " " not in line.strip() for line in listed)
    assert folded(text) == text


def test_where_nothing_is_to_be_shown_nothing_is(capsys):
    with progress("step", shown=False, stays=True) as shows:
        shows(Standing(1, 1, 1, 1, is_news=True))
    assert capsys.readouterr() == ("", "")


@given(st.lists(st.floats(0.001, 30), min_size=1), st.integers(1, 10**6))
def test_an_even_rate_is_found_whatever_the_times_between_calls(times, number):
    with ticking() as now:
        rate = Rate()
        rate(12)  # which starts the clock
        for seconds in times:
            now[0] += seconds
            found = rate(round(number * seconds))
    assert found == pytest.approx(number, rel=0.01, abs=len(times) / sum(times))  # counts are whole


def test_a_rate_follows_a_change_within_a_minute(clock):
    rate = Rate()
    for number in [1000] * 600 + [10] * 90:
        clock[0] += 1.0
        found = rate(number)
    assert 10 <= found < 30


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (60.0, "1 min"),
        (200.4, "3 min 20 s"),
        (18_420.0, "5 h 7 min"),
        (86_399.0, "23 h 59 min"),
        (183_600.0, "2 d 3 h"),
        (86_400 * 3 + 59.0, "3 d"),
    ],
)
def test_a_time_is_told_in_two_units(seconds, said):
    assert duration(seconds) == said


def test_texts_are_counted_a_second_and_not_called_tokens(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with token_progress(shown=True, unit="texts") as shows:
        for done in range(1, 31):
            clock[0] += 2.0
            shows(done, 90)
    lines = sys.stderr.getvalue().splitlines()
    assert lines[-1] == "texts 30/90  0.5/s  2 min left"
    assert "tok" not in "".join(lines)


def test_words_do_not_stand_behind_half_a_line_of_text(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    emit("half a line", end="")
    say("a word")
    emit("a whole line")
    say("another")
    assert screen.getvalue() == "half a line\na word\na whole line\nanother\n"
    monkeypatch.setattr(sys, "stdout", data := io.StringIO())
    emit("data", end="")
    say("a word")
    assert (data.getvalue(), screen.getvalue()[-8:]) == ("data", "\na word\n")  # nothing is added to a file
