"""`thetahat`, one rank of which strikes itself, or its launcher, where a function is called for the nth time.

It waits for some signs of life before, so that the other ranks have heard where it is.

python struck.py RANK FUNCTION CALL SIGNAL self|launcher|sleep WORD...     # a restarted rank is left alone
"""

import os
import signal
import sys
import time
from pathlib import Path

from server import set_trap  # this folder is where Python looks first

from thetahat.cli.main import main
from thetahat.distribution.verdict import BEAT


def struck(rank, function, call, number, whom):
    """The rank notes the time and sends the signal, or sleeps for 20 seconds."""

    def strike():
        time.sleep(3 * BEAT)
        Path("struck").write_text(str(time.time()))
        if whom == "sleep":
            time.sleep(20)
        else:
            os.kill(os.getppid() if whom == "launcher" else os.getpid(), getattr(signal, number))

    if os.environ["RANK"] == rank and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        set_trap(function, int(call), 0, strike)


if __name__ == "__main__":
    Path(f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
    struck(*sys.argv[1:6])
    sys.argv[1:6] = []
    main()
