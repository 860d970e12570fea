"""What every test shares: one thread, one device, one stream of examples."""

import os
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

from tests.shapes import check_shapes

check_shapes()
os.fsync = os.fstat  # no power is cut here: an operation on the file as before, which waits for no disk

hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=30, database=None)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000, database=None)


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where tensors live: cpu (default), cuda, cuda:1, ...")


def pytest_configure(config):
    if not config.getoption("--hypothesis-profile"):
        hypothesis.settings.load_profile("default")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--device").startswith("cuda"):
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs --device=cuda"))


@pytest.fixture
def device(request):
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def browser():
    """A Chromium without a window; where there is none, the test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api")
    if (found := shutil.which("chromium") or shutil.which("google-chrome")) is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as started:
        shown = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield shown
        shown.close()


@pytest.fixture(autouse=True)
def _one_thread():
    """A run sets the number of threads, which is a property of the process; the next test starts from one again."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)
