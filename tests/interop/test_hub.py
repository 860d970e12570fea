"""A model of the hub by name, from the hub's own cache; there is no network here."""

import hashlib
import http.server
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import huggingface_hub.constants
import pytest

from thetahat.core.errors import ConfigError, ModelError
from thetahat.interop.hub import FILES, hub_name, local_folder, pinned, tell_pinned
from thetahat.run.folder.stored import find_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The hub's cache, empty and without a network."""
    tell_pinned.cache_clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def model(cache, folder):
    """A model in it."""
    place = cache / "models--somebody--model"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    (place / "snapshots").mkdir()
    folder.rename(place / "snapshots" / COMMIT)
    return place / "snapshots" / COMMIT


@pytest.mark.parametrize("revision", ["", f"@{COMMIT}", "@main"])
def test_a_model_of_the_hub_is_a_folder_of_its_cache(model, revision):
    assert local_folder(f"hf:somebody/model{revision}") == model
    stored = find_model(f"hf:somebody/model{revision}")
    assert (stored.folder, stored.card.num_rows) == (model, 11)
    assert pinned(f"hf:somebody/model{revision}") == f"hf:somebody/model@{COMMIT}"


def test_the_commit_that_a_name_means_is_said(model, caplog):
    with caplog.at_level(logging.INFO, "thetahat"):
        local_folder(f"hf:somebody/model@{COMMIT}")
        assert caplog.messages == []
        local_folder("hf:somebody/model")
        local_folder("hf:somebody/model")
    assert caplog.messages == [f"hf:somebody/model is hf:somebody/model@{COMMIT} today; that name stays what it is"]


@pytest.mark.parametrize("revision", ["", f"@{COMMIT}"])
def test_what_is_not_in_the_cache_asks_for_a_network(revision):
    with pytest.raises(ModelError, match="is not in the cache, and the hub cannot be reached") as error:
        find_model(f"hf:somebody/model{revision}")
    assert "hf download somebody/model" in error.value.cure


def test_a_fetch_that_was_broken_off_is_not_taken_for_the_model(model):
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors, on the hub"):
        find_model(f"hf:somebody/model@{COMMIT}")


@pytest.mark.parametrize("name", ["hf:", "hf:a/b/c", "hf:some body/model", "hf:../model@main@main"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ConfigError, match="is no name of a model on the hub"):
        hub_name(name)


def test_without_the_package_the_command_that_installs_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match="is not installed") as error:
        find_model("hf:somebody/model")
    assert "pip install 'thetahat[hf]'" in error.value.cure


def test_no_code_and_no_pickle_is_fetched():
    assert all(name.endswith((".json", ".safetensors", ".jinja")) for name in FILES)


class Hub(http.server.BaseHTTPRequestHandler):
    """What the hub answers about one model, of which it has more files than are wanted."""

    folder, asked = None, []

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        self.asked.append(path)
        if "/somebody/model" not in path:
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        if path.startswith("/api/"):
            names = ["code.py", "pytorch_model.bin", *(file.name for file in self.folder.iterdir() if file.is_file())]
            listed = [{"type": "file", "path": name, "size": 1, "oid": "a" * 40} for name in names]
            told = listed if "/tree/" in path else {"id": "somebody/model", "sha": COMMIT}
            return self.answer(200, json.dumps(told).encode(), {"Content-Type": "application/json"})
        body = (self.folder / path.rpartition("/")[2]).read_bytes()
        return self.answer(200, body, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_what_is_fetched_is_pinned_and_holds_no_code(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Hub, "folder", folder)
    monkeypatch.setattr(Hub, "asked", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "home")}
        names = f"'hf:somebody/model', 'hf:somebody/model@{COMMIT}'"
        code = f"from thetahat.interop.hub import local_folder\nfor name in [{names}]: print(local_folder(name))"
        env = {**os.environ, **place, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
        said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
        server.shutdown()
    first, second = map(Path, said.split())
    assert (first, first.name) == (second, COMMIT)
    assert sorted(path.name for path in first.iterdir()) == sorted(
        path.name for path in folder.iterdir() if path.is_file() and path.name != "MANIFEST.json"
    )
    assert len([path for path in Hub.asked if "/tree/" in path]) == 1  # the pinned name asks for nothing
    assert not [path for path in Hub.asked if path.endswith((".py", ".bin"))]
