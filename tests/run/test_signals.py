import os
import signal
import time

import pytest

from thetahat.run.signals import Interrupted, interrupting, listening


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupting("stopped", "go on"):
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_breaks_into_what_runs_and_is_said_when_that_has_cleaned_up(number):
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    done = []

    def work():
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        finally:
            os.kill(os.getpid(), number)  # passed on by the launcher, too: the same wish
            done.append("saved")

    with pytest.raises(Interrupted, match="stopped\n  try: go on") as error, interrupting("stopped", "go on"):
        work()
    assert done == ["saved"]
    assert error.value.exit_code == 128 + number
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_lost_connection_asks_to_save_unless_nohup_ignores_it():
    with listening() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.number == signal.SIGHUP
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listening() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)
