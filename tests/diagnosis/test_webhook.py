"""Alarms arrive at a real server as they are in the file, and a dead one disturbs nothing."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from msgspec.structs import replace

from thetahat.core.errors import ConfigError
from thetahat.diagnosis.alarms.alarm import Alarm
from thetahat.diagnosis.config import DiagnosisConfig
from thetahat.run.diagnosis import webhook
from thetahat.run.diagnosis.watch import AlarmLog
from thetahat.run.diagnosis.webhook import Webhook
from thetahat.run.log.alarms import ALARMS


@pytest.fixture
def server():
    """A server that keeps what is posted; it answers by `code`, once `ready` is set."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.server.ready.wait(20)
            data = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.got.append((self.path, self.headers["Content-Type"], json.loads(data)))
            self.send_response(self.server.code)
            self.end_headers()

        def log_message(self, *words):
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    listening.got, listening.code, listening.ready = [], 200, threading.Event()
    listening.ready.set()
    listening.url = f"http://127.0.0.1:{listening.server_port}/a-secret"
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield listening
    listening.ready.set()
    listening.shutdown()
    thread.join()
    listening.server_close()


def alarm(step, **evidence):
    return Alarm("loss-spike", "warning", step, "what", evidence)


def test_every_alarm_is_posted_as_it_is_written(server, tmp_path):
    log = AlarmLog(tmp_path, 0, Webhook(server.url))
    log.append(alarm(1, nats=3.5))
    log.append(alarm(2, nats=float("nan")))
    log.close()
    lines = [json.loads(line) for line in (tmp_path / ALARMS).read_text().splitlines()]
    assert [told for _, _, told in server.got] == [{"run": tmp_path.name} | line for line in lines]
    assert server.got[0][:2] == ("/a-secret", "application/json")


def test_a_slow_server_is_not_waited_for_and_what_is_too_much_is_dropped(server, monkeypatch, caplog):
    monkeypatch.setattr(webhook, "MOST", 3)
    monkeypatch.setattr(webhook, "LAST", 0.05)
    server.ready.clear()
    hook = Webhook(server.url)
    for step in range(10):
        hook.post({"step": step})
    hook.close()  # gives up
    assert server.got == []
    assert caplog.text.count("could not be posted") == 1


@pytest.mark.parametrize("fault", ["refuses", "nobody"])
def test_a_failed_post_is_said_once_and_disturbs_nothing(server, caplog, fault):
    server.code = 500
    hook = Webhook(server.url if fault == "refuses" else "http://127.0.0.1:1/a-secret")
    for step in range(3):
        hook.post({"step": step})
    hook.close()
    assert caplog.text.count("could not be posted to 127.0.0.1") == 1
    assert "a-secret" not in caplog.text
    assert len(server.got) == (3 if fault == "refuses" else 0)


@pytest.mark.parametrize("url", ["ftp://host/x", "example.org/x", "https:///x", ""])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ConfigError, match="is no URL"):
        DiagnosisConfig(webhook=url)


def test_without_alarms_there_is_nothing_to_post():
    with pytest.raises(ConfigError, match="no effect"):
        DiagnosisConfig(webhook="https://example.org/x", alarms=False)
    assert replace(DiagnosisConfig(), webhook="https://example.org/x").webhook
