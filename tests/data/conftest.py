"""What the tests of data share: a tokenizer in which a token is a byte, and a cache of their own."""

import json

import pytest

from thetahat.data.tokens.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def byte_tokenizer():
    """257 pieces: every byte, and <|endoftext|>; so a text of n bytes has n tokens."""
    return train_tokenizer(["-"], 257)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def write(tmp_path):
    """Writes a file into the test's folder: bytes, text, or a list of records as lines of JSON."""

    def _write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            content = "".join(json.dumps(record) + "\n" for record in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return _write
