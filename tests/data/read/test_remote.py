"""Object stores and web addresses, as real servers on this machine give them."""

import json
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
import requests

from tests.data.read.tables import write_parquet
from thetahat.core.errors import DataError
from thetahat.data.config import DataConfig, ReadOptions
from thetahat.data.read.files import find_files
from thetahat.data.read.remote import copy as of_copies
from thetahat.data.read.remote.place import Store, is_url
from thetahat.data.read.source import divide
from thetahat.data.read.texts import read_records

LINES = b"".join(json.dumps({"text": f"text {n}"}).encode() + b"\n" for n in range(50))


@contextmanager
def serving(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def s3():
    """A server of objects, with a bucket."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        files = fsspec.filesystem("s3", use_listings_cache=False)
        files.mkdir("bucket")
        yield files
        fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


@pytest.fixture
def reads(monkeypatch):
    """What is asked of stores, as (URL, bytes from)."""
    asked, own = [], of_copies._read

    def _read(place, one, arriving, told):
        asked.append((one.url, arriving.stat().st_size if arriving.exists() else 0))
        own(place, one, arriving, told)

    monkeypatch.setattr(of_copies, "_read", _read)
    return asked


def texts(spec, **options):
    return [record.text for record in read_records(spec, ReadOptions(**options))]


def test_objects_are_listed_and_read_again_only_where_they_changed(s3, reads, tmp_path):
    for name, data in {"a.jsonl": LINES, "sub/b.jsonl": LINES, "notes.pdf": b"%PDF", ".c.jsonl": LINES}.items():
        s3.pipe_file(f"bucket/data/{name}", data)
    whole = [f"text {n}" for n in range(50)]
    for _ in range(2):
        for spec in ("s3://bucket/data", "s3://bucket/data/"):
            files = find_files(spec)
            assert [path.as_posix().partition("/objects/")[2] for path in files] == [
                "s3/bucket/data/a.jsonl",
                "s3/bucket/data/sub/b.jsonl",
            ]
            assert texts(spec) == 2 * whole
    assert texts("s3://bucket/data/*.jsonl") == whole
    assert sorted(reads) == [("s3://bucket/data/a.jsonl", 0), ("s3://bucket/data/sub/b.jsonl", 0)]
    s3.pipe_file("bucket/data/a.jsonl", LINES[: LINES.index(b"\n") + 1])
    assert texts("s3://bucket/data/a.jsonl") == whole[:1]
    assert len(reads) == 3
    files[0].write_bytes(b'{"text": "somebody wrote here"}')
    assert texts("s3://bucket/data/a.jsonl") == whole[:1]
    assert len(reads) == 4


def test_a_split_of_a_store_is_named_like_every_place(s3, tmp_path):
    for split in ("train", "test"):
        path = write_parquet(tmp_path / f"{split}.parquet", [{"text": f"{split} {n}"} for n in range(5)])
        s3.put_file(str(path), f"bucket/set/{split}-00000-of-00001.parquet")
    with pytest.raises(DataError, match="holds several splits: train, test") as refused:
        find_files("s3://bucket/set")
    pairs = dict(pair.split("=") for pair in refused.value.cure.split())
    train, held_out = divide(DataConfig(train=pairs["data.train"], held_out=pairs["data.held_out"]))
    assert [one.text for one in train] == [f"train {n}" for n in range(5)]
    assert [one.text for one in held_out] == [f"test {n}" for n in range(5)]


class Files(SimpleHTTPRequestHandler):
    """A folder, as `python -m http.server` gives it: without parts."""

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("ending", ["", "?download=true"])
def test_a_web_address_is_read(tmp_path, reads, ending):
    (tmp_path / "a b.jsonl").write_bytes(LINES)
    with serving(lambda *given: Files(*given, directory=str(tmp_path))) as host:
        for _ in range(2):
            assert texts(f"{host}/a%20b.jsonl{ending}") == [f"text {n}" for n in range(50)]
        assert len(reads) == 1
        if not ending:
            assert len(texts(f"{host}/")) == len(texts(f"{host}/*.jsonl")) == 50


class Breaking(BaseHTTPRequestHandler):
    """Gives parts of DATA; the connection breaks in the middle of the first answer, or after it."""

    DATA = LINES * 20
    lost = 0
    asked = []

    def _head(self, status, size):
        self.send_response(status)
        self.send_header("Content-Length", str(size))
        self.send_header("ETag", '"v1"')
        self.end_headers()

    def do_HEAD(self):
        status = {"/refused.jsonl": 403, "/gone.jsonl": 404}.get(self.path, 200)
        self._head(status, len(self.DATA))

    def do_GET(self):
        if self.path != "/a.jsonl":
            return self.do_HEAD()
        first, last = (self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")
        part = self.DATA[int(first) : int(last or len(self.DATA)) + 1]
        type(self).asked.append(int(first))
        self._head(206, len(part))
        if len(self.asked) > 2 and type(self).lost:
            type(self).lost -= 1
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.connection.close()
            return None
        return self.wfile.write(part)

    def log_message(self, *_):
        pass


def test_a_connection_that_is_lost_in_the_middle_is_said_and_what_has_arrived_is_kept(monkeypatch):
    monkeypatch.setattr(of_copies, "_PART", 1000)
    Breaking.lost, Breaking.asked = 1, []
    with serving(Breaking) as host:
        with pytest.raises(
            DataError, match=r"a\.jsonl was not read to its end: 2,000 of 19,800 bytes have arrived"
        ) as lost:
            texts(f"{host}/a.jsonl")
        assert "the same command again" in lost.value.cure
        assert len(texts(f"{host}/a.jsonl")) == 50 * 20
    assert Breaking.asked[:4] == [0, 1000, 2000, 2000]


def test_each_thing_that_goes_wrong_has_one_error(s3, monkeypatch):
    with pytest.raises(DataError, match=r"^no such object: s3://bucket/none\.jsonl\n"):
        texts("s3://bucket/none.jsonl")
    with pytest.raises(DataError, match=r"^no such object: s3://bucket/none/\n"):
        texts("s3://bucket/none/")
    with pytest.raises(DataError, match=r"^no such object: s3://nobody/a\.jsonl\n"):
        texts("s3://nobody/a.jsonl")
    with serving(Breaking) as host:
        with pytest.raises(DataError, match=r"^access to http://.*/refused\.jsonl was refused\n  try: "):
            texts(f"{host}/refused.jsonl")
        with pytest.raises(DataError, match=r"^no such object: http://.*/gone\.jsonl\n"):
            texts(f"{host}/gone.jsonl")
    with pytest.raises(DataError, match=rf"^{host}/a\.jsonl cannot be read: .*\n  try: .*{host.split('/')[2]}"):
        texts(f"{host}/a.jsonl")
    with pytest.raises(DataError, match=r"gs:// needs gcsfs, which is not installed\n  try: pip install gcsfs"):
        texts("gs://bucket/a.jsonl")
    with pytest.raises(DataError, match=r"nothing here reads memory://\n  allowed: s3://"):
        texts("memory://a.jsonl")


def test_what_a_store_refuses_is_said_with_what_gives_access(s3):
    s3.pipe_file("bucket/kept.jsonl", LINES)
    requests.post(f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth", data="0", timeout=9)  # keys are looked at
    try:
        for spec in ("s3://bucket/kept.jsonl", "s3://bucket/*.jsonl", "s3://bucket/data/"):
            with pytest.raises(DataError) as refused:
                texts(spec)
            assert str(refused.value).startswith(f"access to {spec} was refused\n  try: credentials in AWS_PROFILE")
    finally:
        requests.post(f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth", data="inf", timeout=9)
    assert len(texts("s3://bucket/kept.jsonl")) == 50
    assert Store("s3://bucket/a.jsonl").told(KeyError("a fault of ours"), "s3://bucket/a.jsonl") is None


def test_what_is_a_url():
    assert all(map(is_url, ("s3://b/k", "https://x.org/a.jsonl?x=1", "S3://b")))
    assert not any(map(is_url, ("bundled:x", "-", "a/b.txt", "C:/x", "hf:name", "://x")))
