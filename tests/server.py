"""A process that has imported torch and run no operation of it: each attempt at a run is forked from here in no time.

Reads one JSON object a line, answers one. `start`: forks, gives the pid. `wait`: reaps, gives the exit code (null: it
still runs). A child whose `trap` is [FUNCTION, CALL, OPERATION] kills itself just before that operation on the
operating system, counted from 0 within the call of that number of the function of that name. `sets` are constants of
modules that have other values in the child: [MODULE, NAME, VALUE].
"""

import importlib
import json
import os
import resource
import signal
import sys
import time

OPERATIONS = ("posix", "io", "_io", "fcntl")
IMPORTED = (
    "torch",
    "torch._dynamo",
    "pyarrow.parquet",
    "scipy.special",
    "pydantic.type_adapter",  # which typer asks what a word is
    "thetahat.cli.main",
    "thetahat.cli.show",
    "thetahat.recipes.catalogue",
    "thetahat.run.train",
    "thetahat.verbs.score",
)


def main():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.fsync = os.fstat  # as in conftest.py: an operation on the file, which waits for no disk
    for name in IMPORTED:
        importlib.import_module(name)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        answer = start(order) if order["do"] == "start" else wait(order["pid"], order["seconds"])
        print(json.dumps(answer), flush=True)


def start(order):
    child = os.fork()
    if child == 0:
        try:
            become(order)
            end_child(0)
        except SystemExit as end:
            end_child(end.code if isinstance(end.code, int) else 0)
        except KeyboardInterrupt:  # before there is a `main` to catch it: as the interpreter ends then
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            end_child(99)
    return child


def end_child(code):
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def become(order):
    """What a shell does for a command."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(order["folder"])
    os.environ |= order["environment"]
    for name, descriptor in (("out", 1), ("err", 2)):
        file = os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    os.dup2(os.open(order["in"] or os.devnull, os.O_RDONLY), 0)
    for name, value in order["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, resource.getrlimit(getattr(resource, name))[1]))
    for module, constant, value in order["sets"]:
        setattr(importlib.import_module(module), constant, value)
    if order["trap"]:
        set_trap(*order["trap"])
    sys.argv = ["thetahat", *order["arguments"]]
    importlib.import_module("thetahat.cli.main").main()


def set_trap(function, call, operation, what="kill"):
    """Dies before an operation, or falls asleep for long where the call begins; or `what` is called there, once."""
    depth, calls, operations = 0, 0, 0

    def watch(frame, event, called):
        nonlocal depth, calls, operations
        if event == "call" and frame.f_code.co_name == function:
            calls, depth = calls + (depth == 0), depth + 1
            while what == "hang" and calls == call + 1:
                time.sleep(0.01)
            if callable(what) and depth == 1 and calls == call + 1:
                what()
        elif event == "return" and frame.f_code.co_name == function:
            depth -= 1
        elif event == "c_call" and depth and calls == call + 1:
            owner = getattr(called, "__module__", None) or type(getattr(called, "__self__", None)).__module__
            if owner in OPERATIONS and what == "kill":
                if operations == operation:
                    os.kill(os.getpid(), signal.SIGKILL)
                operations += 1

    sys.setprofile(watch)


def wait(child, seconds):
    end = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.002)


if __name__ == "__main__":
    main()
