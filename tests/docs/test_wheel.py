"""The wheel and the sdist are whole: they install, and run outside a clone."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(source, out, *kinds):
    command = [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", out, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def contents(wheel):
    with zipfile.ZipFile(wheel) as files:
        return {file.filename: file.CRC for file in files.infolist()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel of the clone, and its sdist unpacked."""
    folder = build(ROOT, tmp_path_factory.mktemp("dist"), "--wheel", "--sdist")
    (archive,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    return wheel, folder / archive.name.removesuffix(".tar.gz")


def test_the_sdist_has_what_the_clone_has_and_builds_the_same_wheel(built, tmp_path):
    wheel, unpacked = built
    files = ("tests/docs/test_wheel.py", "docs/index.md", "docs/theme/math.woff2", "mkdocs.yml", "Makefile", "LICENSE")
    for name in files:
        assert (unpacked / name).is_file(), name
    there, here = (sorted(path.name for path in (root / "examples").iterdir()) for root in (unpacked, ROOT))
    assert there == [name for name in here if name[0] not in "._"]
    (again,) = build(unpacked, tmp_path, "--wheel").glob("*.whl")
    assert contents(again) == contents(wheel)


def test_the_wheel_has_every_file_of_the_package_and_says_what_it_is(built):
    files = contents(built[0])
    package = ROOT / "src" / "thetahat"
    ours = {f"thetahat/{path.relative_to(package).as_posix()}" for path in package.rglob("*") if path.is_file()}
    assert {name for name in ours if "__pycache__" not in name} <= set(files)
    with zipfile.ZipFile(built[0]) as opened:
        (name,) = (name for name in files if name.endswith("METADATA"))
        said = Parser().parsestr(opened.read(name).decode())
    assert said["License-Expression"] == "Apache-2.0"
    assert said["Description-Content-Type"] == "text/markdown"
    assert said.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_wheel_runs_outside_a_clone(built, tmp_path):
    """In an environment of its own, to which the dependencies of this one are lent."""
    environment, away = tmp_path / "env", tmp_path / "away"
    away.mkdir()
    venv.create(environment, with_pip=False)
    paths = {"base": str(environment), "platbase": str(environment)}
    site = Path(sysconfig.get_path("purelib", scheme="venv", vars=paths))
    with zipfile.ZipFile(built[0]) as files:
        files.extractall(site)
    lent = [path for path in sys.path if path.endswith("site-packages")]
    (site / "lent.pth").write_text("\n".join(lent), encoding="utf-8")
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    quiet = plain | {"THETAHAT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def run(*words):
        command = [environment / "bin" / "python", *words]
        return subprocess.run(command, cwd=away, env=quiet, capture_output=True, text=True, check=True).stdout

    assert str(site) in run("-c", "import thetahat; print(thetahat.__file__)")
    assert run("-m", "thetahat", "--version").strip() in built[0].name
    assert "quickstart" in run("-m", "thetahat", "recipes")
    small = ("max_steps=2", "model.num_layers=1", "model.width=32", "data.context=32", "batch_size=2", "threads=1")
    assert '"step": 2' in run("-m", "thetahat", "train", *small, "data.vocab_size=300", "--quiet", "--json")
