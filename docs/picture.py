"""Draws docs/quickstart.svg: a real run in a real terminal, as it looks at its end.

    python docs/picture.py [KEY=VALUE ...]        for example max_steps=20, for a quick one

`thetahat train KEY=VALUE ...` runs on a pseudo-terminal in an empty folder, and what it leaves on the screen is drawn.
"""

import codecs
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).with_name("quickstart.svg")
COLUMNS, ROWS = 110, 50
_CONTROL = re.compile(r"(\x1b\[[0-?]*[ -/]*[@-~]|\r|\n)")


def screen(output: str) -> list[str]:
    """The lines that a terminal shows after `output`, colours kept: what was erased or written over is gone."""
    lines, row, is_fresh = [""], 0, False
    for part in _CONTROL.split(output):
        if part == "\n":
            row, is_fresh = row + 1, False
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            is_fresh = True  # what comes next is written over the line
        elif move := re.fullmatch(r"\x1b\[(\d*)A", part):
            row = max(0, row - int(move[1] or 1))
        elif re.fullmatch(r"\x1b\[[02]?K", part):
            lines[row] = ""
        elif part and (not part.startswith("\x1b") or part.endswith("m")):
            lines[row] = part if is_fresh else lines[row] + part
            is_fresh = False
    return lines


def record(command: list[str], folder: Path) -> str:
    """Everything that a command writes to a terminal of COLUMNS columns."""
    ours, theirs = pty.openpty()
    size = {"COLUMNS": str(COLUMNS), "LINES": str(ROWS), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    size["PATH"] = f"{Path(command[0]).parent}{os.pathsep}{os.environ['PATH']}"  # as in an activated environment
    quiet = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    process = subprocess.Popen(command, cwd=folder, env=quiet | size, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    decoder, output = codecs.getincrementaldecoder("utf-8")("replace"), ""
    try:
        while data := os.read(ours, 1 << 16):
            output += decoder.decode(data)
    except OSError:  # what a closed terminal reads as on Linux
        pass
    if process.wait():
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{output}")
    return output


def draw(title: str, lines: list[str]) -> str:
    """The lines as an SVG that needs no font from elsewhere."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor")
        for line in lines:
            console.print(Text.from_ansi(line), soft_wrap=True)
        svg = console.export_svg(title=title, unique_id="quickstart")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    return re.sub(r"font-family: Fira Code, monospace", "font-family: ui-monospace, monospace", svg)


def main(pairs: list[str]) -> None:
    """Runs, draws and writes."""
    executable = Path(sys.executable).with_name("thetahat")
    with TemporaryDirectory() as folder:
        output = record([str(executable), "train", *pairs], Path(folder))
    shown = " ".join(["thetahat", "train", *pairs])
    lines = [f"$ {shown}", *(line for line in screen(output))]
    while lines and not lines[-1].strip():
        lines.pop()
    PICTURE.write_text(draw("thetahat", lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
