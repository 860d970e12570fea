"""A template writes text and does nothing else, however it tries."""

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import thetahat.data.chat.sandbox
from thetahat.core.errors import DataError
from thetahat.data.chat.rendering import Limits, Refusal, Rendered, Renderer, Scene, shared

HELLO = [{"role": "user", "content": "Hello"}]
GOOD = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def renderer():
    with Renderer(Limits(cpu_seconds=1, seconds=120.0, memory=1 << 28, characters=1 << 20)) as one:
        yield one


def rendered(renderer, source, **given):
    ((answer,),) = texts(renderer.render([(Scene("d:1", source, HELLO, given), [(False, (0, 1))])]))
    return answer


def texts(answers):
    return [[one.text if isinstance(one, Rendered) else one for one in some] for some in answers]


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''['__class__']['__base__'] }}",
    "{{ cycler.__init__.__globals__.os.system('touch MARK') }}",
    "{{ joiner.__init__.__globals__['os'].popen('touch MARK').read() }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].system('touch MARK') }}",
    "{{ raise_exception.__globals__['sys'].modules['os'].system('touch MARK') }}",
    "{{ strftime_now.__self__.__class__ }}",
    "{{ self.__init__.__globals__.__builtins__.open('MARK', 'w') }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{{ '{0.__class__}'|attr('format')(messages) }}",
    "{{ ('{0.__class__}'|string).format_map({'0': messages}) }}",
    "{% set f = '{0.__class__.__base__}'.format %}{{ f(messages) }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ [messages]|sum(attribute='__class__.__base__', start=[]) }}",
    "{{ (messages|groupby('__class__'))|list }}",
    "{{ range.__init__.__self__ }}",
    "{{ tojson.__globals__ }}",
    "{% include '/etc/passwd' %}",
    "{% extends '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('touch MARK') }}",
    "{% from 'os' import system %}{{ system('touch MARK') }}",
    "{{ open('/etc/passwd').read() }}",
    "{{ __import__('os').system('touch MARK') }}",
    "{{ config }}{{ request }}{{ get_flashed_messages.__globals__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='x') }}",
    "{{ messages[0].pop('role') }}",
    "{% do messages.clear() %}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_a_template_cannot_leave_its_sandbox(renderer, source, tmp_path):
    mark = tmp_path / "mark"
    answer = rendered(renderer, source.replace("MARK", str(mark)))
    assert isinstance(answer, Refusal) or not any(word in answer for word in ("class", "root:", "/", "0x", "module"))
    assert not mark.exists()
    assert rendered(renderer, "{{ messages[0].role }}{{ messages|length }}") == "user1"


@pytest.mark.parametrize("change", ["append(1)", "clear()", "pop()", "[0].update(role='x')", "[0].pop('role')"])
def test_a_template_does_not_change_what_the_next_rendering_is_given(renderer, change):
    source = "{% if add_generation_prompt %}{{ messages" + ("" if change[0] == "[" else ".") + change + " }}{% endif %}"
    scene = Scene("d", source + "{{ messages[0].role }}{{ messages | length }}", HELLO)
    ((changing, after),) = texts(renderer.render([(scene, [(True, (0, 1)), (False, (0, 1))])]))
    assert isinstance(changing, Refusal)
    assert after == "user1"


ENDLESS = {
    "loop": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "more than 1 seconds"),
    "power": ("{{ 9 ** (9 ** 9) }}", "more than 1 seconds|memory"),
    "strings": ("{% set n = namespace(s='a') %}{% for i in range(99) %}{% set n.s = n.s * 2 %}{% endfor %}", "memory"),
    "gigabytes": ("{{ 'x' * 10 ** 10 }}", "memory"),
    "many": ("{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}", "more than 1,048,576 characters"),
    "padding": ("{{ '%9999999999d' % 1 }}", "memory"),
    "calls": ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError"),
    "nesting": ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "RecursionError|its process ended|too many"),
    "range": ("{{ range(10 ** 9) | list }}", "Range too big"),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDLESS)
def test_a_template_that_does_not_end_is_one_clear_error(renderer, case):
    source, message = ENDLESS[case]
    try:
        answer = rendered(renderer, source)
        why = answer.why if isinstance(answer, Refusal) else answer[:100]
    except DataError as error:
        why = str(error)
        assert why.startswith("d:1: the chat template cannot be used")
    assert re.search(message, why), why
    assert rendered(renderer, GOOD) == "Hello"


def test_the_clock_on_the_wall_ends_what_the_other_limits_do_not():
    with Renderer(Limits(cpu_seconds=100, seconds=0.5)) as one:
        for _ in range(2):
            with pytest.raises(DataError, match=r"d:1: .*did not end within 0\.5 seconds"):
                rendered(one, ENDLESS["loop"][0])
    with Renderer() as one:
        assert rendered(one, GOOD) == "Hello"


def test_among_many_records_the_guilty_one_is_named(renderer):
    guilty = "{% if messages[0].content == 'loop' %}" + ENDLESS["loop"][0] + "{% endif %}ok"
    asked = [
        (Scene(f"d:{i}", guilty, [{"role": "user", "content": "loop" if i == 3 else "x"}]), [(False, (0, 1))])
        for i in range(6)
    ]
    with pytest.raises(DataError, match=r"^d:3: "):
        renderer.render(asked)
    del asked[3]
    assert texts(renderer.render(asked)) == [["ok"]] * 5


def test_more_jobs_than_go_at_once_come_back_in_order(renderer):
    messages = [{"role": "user", "content": str(i)} for i in range(300)]
    jobs = [(False, (i, i + 1)) for i in range(300)]
    scenes = [(Scene("d", GOOD, messages[i:]), jobs[: 300 - i]) for i in (0, 7, 299)]
    assert texts(renderer.render(scenes)) == [[str(j) for j in range(i, 300)] for i in (0, 7, 299)]
    assert renderer.render([]) == []


def test_the_same_text_as_elsewhere(renderer):
    """The settings and functions that templates are written for."""
    assert rendered(renderer, "{% if true %}\n    {% set x = 1 %}\na\n{% endif %}\nb\n") == "a\nb"
    assert (
        rendered(renderer, "{{ {'b': '<é>', 'a': [1, none, true]} | tojson }}") == '{"b": "<é>", "a": [1, null, true]}'
    )
    assert rendered(renderer, "{{ {'b': 1} | tojson(indent=2) }}") == '{\n  "b": 1\n}'
    assert rendered(renderer, "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert rendered(renderer, "a{% generation %}b{{ 1 }}{% endgeneration %}c") == "ab1c"
    assert rendered(renderer, "{{ x }}{{ y }}", x="é\U0001f600") == "é\U0001f600"
    assert rendered(renderer, "{{ raise_exception('no ' + messages[0].role) }}") == Refusal(
        "no user (line 1 of the template)"
    )


def test_neither_chance_nor_the_clock_is_in_a_rendering(renderer):
    for source in ("{{ [1, 2] | random }}", "{{ lipsum() }}", "{{ strftime_now('%Y') }}"):
        assert isinstance(rendered(renderer, source), Refusal)
    scene = Scene("d", "{{ strftime_now('%d %b %Y') }}", HELLO, {}, "2024-07-26")
    assert texts(renderer.render([(scene, [(True, (0, 1))])])) == [["26 Jul 2024"]]


def test_half_a_surrogate_pair_is_refused(renderer):
    assert isinstance(rendered(renderer, "{{ '\\ud800' }}"), Refusal)


def test_the_process_that_renders_knows_no_other_part_of_the_package():
    code = f"import sys, runpy; runpy.run_path({thetahat.data.chat.sandbox.__file__!r}); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "jinja2" in loaded
    assert {"thetahat", "torch", "numpy", "tokenizers", "msgspec", "socket", "subprocess"} & set(loaded) == set()


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="needs /proc")
def test_the_process_that_renders_could_not_open_a_file_if_it_got_out(renderer):
    rendered(renderer, GOOD)
    limits = Path(f"/proc/{renderer._process.pid}/limits").read_text()
    found = {line[:25].strip(): line[25:].split()[:2] for line in limits.splitlines()}
    assert found["Max open files"] == ["3", "3"]
    assert found["Max file size"] == found["Max processes"] == ["0", "0"]
    assert found["Max address space"] == [str(1 << 28)] * 2
    environment = Path(f"/proc/{renderer._process.pid}/environ").read_bytes()
    assert b"HOME=" not in environment


def test_one_process_is_started_and_shared_by_threads():
    assert shared() is shared()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(rendered(shared(), GOOD))) for _ in range(4)]
    pids = set()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
        pids.add(shared()._process.pid)
    assert answers == ["Hello"] * 4
    assert len(pids) == 1


def test_a_process_that_was_ended_is_started_again(renderer):
    rendered(renderer, GOOD)
    renderer._process.send_signal(signal.SIGINT)  # Ctrl-C is not for it
    assert rendered(renderer, GOOD) == "Hello"
    renderer._process.kill()
    renderer._process.wait()
    assert rendered(renderer, GOOD) == "Hello"


def is_there(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] not in "ZX"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)"])
def test_the_process_ends_with_its_parent(end):
    code = (
        "import os, sys; from thetahat.data.chat.rendering import Scene, shared\n"
        "shared().render([(Scene('d', 'x', []), [(False,)])]); print(shared()._process.pid, flush=True)\n" + end
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env).stdout
    deadline = time.monotonic() + 10
    while is_there(int(output)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_there(int(output))


def test_nothing_is_left_to_the_limits_of_this_process():
    before = [resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_CPU)]
    assert rendered(shared(), GOOD) == "Hello"
    after = [resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_CPU)]
    assert before == after
