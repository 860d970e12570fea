"""The name under which lm-eval finds us: what every start of Python pays for it, and that it is there."""

import subprocess
import sys
from importlib.metadata import files

PRINTS = "import sys; print(*sorted(sys.modules), sep='\\n')"


def modules(*options: str) -> set[str]:
    done = subprocess.run([sys.executable, *options, "-c", PRINTS], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_start_of_python_imports_one_module_and_nothing_of_ours_or_its():
    found = modules()
    assert "_thetahat_lm_eval" in found
    assert not {name for name in found if name.split(".")[0] in {"thetahat", "lm_eval", "torch"}}


def test_it_comes_with_the_package_and_goes_with_it():
    names = {file.name for file in files("thetahat") or ()}
    assert {"thetahat_lm_eval.pth", "_thetahat_lm_eval.py"} <= names
