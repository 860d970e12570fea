"""`thetahat generate` and `thetahat chat`: the same options, and a text for every record of a file."""

import contextlib
import dataclasses
import io
import json
import sys

import pytest
import torch
import typer
from msgspec.structs import replace

from tests.cli.test_explain import DIALOGUES, PAIRS, SMALL
from thetahat.cli.decoding import Decoding, how_to_write
from thetahat.cli.main import app, main
from thetahat.core.errors import DataError
from thetahat.core.layout import PAIR
from thetahat.data.chat.encode import ChatOptions, encode_dialogue
from thetahat.data.chat.template import load_template
from thetahat.data.config import ChatConfig
from thetahat.data.corpus.encode import Encoding, encode_records
from thetahat.data.read.dialogue import parse_dialogue
from thetahat.data.read.prompt import unanswered
from thetahat.data.read.record import Record
from thetahat.generation.beam import Beam
from thetahat.generation.rows import begin_decoding
from thetahat.generation.sample import Sampling
from thetahat.run.writing.dialogue import dialogue_prompts
from thetahat.run.writing.prompt import fitted, text_prompts
from thetahat.verbs.answer import answer_records
from thetahat.verbs.chat import answer
from thetahat.verbs.choose import choose
from thetahat.verbs.generate import answer as write_texts, generate, with_policy
from thetahat.verbs.load import load

RUNS = {
    "talk": ["dialogue", "data.train=dialogues.jsonl"],
    "pairs": ["translation", "data.train=pairs.jsonl", "model.num_encoder_layers=1"],
    "both": ["translation", "data.train=dialogues.jsonl", "data.chat.template=chatml", "model.num_encoder_layers=1"],
    "masked": ["masked", "data.train=pairs.jsonl"],
}
SAID = [message for message in DIALOGUES[3]["messages"][:3]]
RECORDS = [
    {"id": "a", "prompt": "the number 7 and some more words, so that it is the longest", "completion": "sieben"},
    {"id": "b", "messages": [{"role": "user", "content": "say 9"}]},
    {"prompt": "the", "note": [1, {"x": None}]},
    {"id": "d", "messages": [*SAID, {"role": "assistant", "content": "number 3"}], "source": "s"},
    {"prompt": "the number 8"},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("generate")
    for name, records in {"dialogues": DIALOGUES, "pairs": PAIRS, "records": RECORDS}.items():
        write(place / f"{name}.jsonl", records)
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(place):
        patch.setenv("THETAHAT_CACHE", str(place / "cache"))
        for name, words in RUNS.items():
            thetahat("train", *words, *SMALL, "--out", f"runs/{name}", "-q")
        yield place


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def thetahat(*words, stdin="", code=0):
    """What a command says on stdout, or, where a code is given, on stderr."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["thetahat", *words])
        given = stdin.encode() if isinstance(stdin, str) else stdin
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            ended = 0
            try:
                main()
            except SystemExit as end:
                ended = end.code or 0
    assert ended == (code or 0), err.getvalue()
    return out.getvalue() if code == 0 else err.getvalue()


def answered(run, file, *words):
    lines = thetahat("generate", f"runs/{run}", "--prompts", str(file), "--max-tokens", "9", "-q", *words)
    return [json.loads(line) for line in lines.splitlines()]


def typed(**changes):
    """What is typed where nothing is, but for these options."""
    return Decoding(**{field.name: field.default.default for field in dataclasses.fields(Decoding)} | changes)


def test_both_commands_have_the_same_options_of_writing():
    commands = typer.main.get_command(app).commands
    known = {name: {option for one in commands[name].params for option in one.opts} for name in ("generate", "chat")}
    writing = {"--max-tokens", "--temperature", "--top-k", "--top-p", "--seed", "--beams", "--length-exponent"}
    writing.add("--stop")
    assert writing <= known["generate"] & known["chat"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temperature", "-1"], "temperature=-1.0 does not fit"),
        (["--top-k", "-1"], "top_k=-1 does not fit"),
        (["--top-p", "0"], "top_p=0.0 does not fit"),
        (["--beams", "-2"], "num_beams=-2 does not fit"),
        (["--beams", "2", "--length-exponent", "-1"], "length_exponent=-1.0 does not fit"),
        (["--beams", "2", "max_tokens=0"], "max_tokens=0 does not fit"),
        (["--beams", "2", "--top-k", "3", "seed=1"], "--top-k and --seed came with --beams, which draws nothing"),
        (["top_k=some"], "top_k='some' does not fit"),
        (["max_steps=4"], "max_steps does not change how a trained model is asked"),
    ],
)
def test_both_commands_refuse_the_same_values_with_the_same_words(place, words, message):
    said = [thetahat(command, "runs/talk", *words, code=2) for command in ("generate", "chat")]
    assert message in said[0]
    assert said[0] == said[1]


@pytest.mark.parametrize("run", ["talk", "both"])
def test_chat_searches_draws_and_takes_the_likeliest(place, run):
    talk = "say 3\nsay 4\n" if run == "talk" else "say 3\n"  # what an encoder cannot read at once is dropped

    def said(*words, stdin=talk):
        return thetahat("chat", f"runs/{run}", "--max-tokens", "9", "-q", *words, stdin=stdin)

    greedy = said("--temperature", "0")
    assert greedy == said("--beams", "1") == said("--top-k", "1") == said("top_k=1")
    drawn = {said(*words) for words in ([], ["--seed", "1"], ["--top-p", "0.05"], ["--temperature", "0.1"])}
    assert len(drawn) == 4
    first = said("--beams", "4", "--length-exponent", "0.5", stdin="say 3\n")
    beam = Beam(num_beams=4, length_exponent=0.5, max_tokens=9)
    messages = [{"role": "user", "content": "say 3"}]
    assert first == answer(load(f"runs/{run}"), messages, beam).text + "\n"


def test_every_record_gets_its_text_in_the_order_of_the_file(place):
    found = answered("talk", "records.jsonl", "--temperature", "0", "batch_size=2")
    said = {"generated", "ended", "prompt_tokens_cut"}
    assert [{name: one[name] for name in one if name not in said} for one in found] == RECORDS
    for record, one in zip(RECORDS, found, strict=True):
        if "prompt" in record:
            words = ["--prompt", record["prompt"], "--max-tokens", "9", "--temperature", "0", "--json"]
            alone = json.loads(thetahat("generate", "runs/talk", *words))
            assert alone == {
                "prompt": record["prompt"],
                "continuation": one["generated"],
                "ended": one["ended"],
                "prompt_tokens_cut": one["prompt_tokens_cut"],
            }
        else:
            alone = answer(load("runs/talk"), [*record["messages"]][:3], Beam(num_beams=1, max_tokens=9))
            assert (one["generated"], one["ended"]) == (alone.text, alone.ended)


@pytest.mark.parametrize(("run", "file"), [("talk", "dialogues"), ("pairs", "pairs")])
def test_a_text_depends_on_its_record_its_number_and_the_seed_alone(place, tmp_path, run, file):
    records = [json.loads(line) for line in (place / f"{file}.jsonl").read_text().splitlines()][:7]
    write(tmp_path / "some.jsonl", records)
    changed = [
        record if number % 2 else {"prompt": "another " * number + "one"} for number, record in enumerate(records)
    ]
    write(tmp_path / "changed.jsonl", changed)
    found = answered(run, tmp_path / "some.jsonl", "--seed", "5")
    assert found == answered(run, tmp_path / "some.jsonl", "--seed", "5", "batch_size=2")
    assert found[1::2] == answered(run, tmp_path / "changed.jsonl", "--seed", "5", "batch_size=3")[1::2]
    assert found != answered(run, tmp_path / "some.jsonl", "--seed", "6")
    assert len({one["generated"] for one in found}) == 7
    searched = answered(run, tmp_path / "some.jsonl", "--beams", "3")
    assert searched == answered(run, tmp_path / "some.jsonl", "--beams", "3", "batch_size=1")


@pytest.mark.parametrize(("run", "streams"), [("talk", 1), ("both", 2)])
def test_what_is_read_before_an_answer_is_what_training_read_and_the_answer_itself_is_not(place, run, streams):
    loaded = load(f"runs/{run}")
    template = load_template(loaded.card.chat)
    options = ChatOptions(template, shares_prefixes=False, streams=streams)
    for record in DIALOGUES[:3]:
        trained = encode_dialogue(parse_dialogue(record, "d"), "d", loaded.tokenizer, options)
        for turn, spans in zip((1, 3), trained.sequences, strict=True):
            (prompt,) = dialogue_prompts(loaded, [(unanswered({"messages": record["messages"][: turn + 1]}, "d"), "d")])
            asked = spans[-1].tokens if streams == 2 else spans[0].tokens[len(prompt.tokens) :]
            assert spans[0].tokens[: len(prompt.tokens)] == tuple(prompt.tokens)
            assert asked[-1] in prompt.end_tokens
            said = loaded.tokenizer.decode([*asked[streams - 1 : -1]])
            assert said == record["messages"][turn]["content"]


def test_a_history_that_is_too_long_is_read_as_in_training(place):
    loaded = load("runs/talk")
    card = loaded.card
    messages = [{"role": "system", "content": "say it"}]
    for number in range(40):
        messages += [{"role": "user", "content": f"say {number}"}, {"role": "assistant", "content": "x"}]
    options = ChatOptions(load_template(card.chat), card.context, shares_prefixes=False, over_long=card.over_long)
    trained = encode_dialogue(parse_dialogue({"messages": messages}, "d"), "d", loaded.tokenizer, options)
    (prompt,) = dialogue_prompts(loaded, [(unanswered({"messages": messages}, "d"), "d")])
    (span,) = trained.sequences[-1]
    read = [token for token, part in zip(span.tokens, span.part, strict=True) if trained.parts[part].is_prompt]
    assert prompt.tokens == read
    assert len(read) < card.context
    assert prompt.tokens_cut > 0
    text = "".join(map(loaded.tokenizer.piece, read))
    assert text.startswith("<|im_start|>system\nsay it<|im_end|>\n<|im_start|>user\nsay ")
    found = answer(loaded, messages[:-1], Sampling(max_tokens=300, seed=1))
    assert found.prompt_tokens_cut >= prompt.tokens_cut


def test_answers_go_to_a_file_that_is_not_there_yet(place, tmp_path):
    out = tmp_path / "new" / "answers.jsonl"
    said = answered("talk", "records.jsonl", "--out", str(out), "--json")
    assert said == [{"out": str(out), "num_texts": 5}]
    assert [json.loads(line) for line in out.read_text().splitlines()] == answered("talk", "records.jsonl")
    words = ["generate", "runs/talk", "--prompts", "records.jsonl", "--out", str(out)]
    assert "exists, and nothing is written over" in thetahat(*words, code=7)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": 3}', "bad.jsonl:2: the prompt is a number"),
        ('{"prompt": ""}', "bad.jsonl:2: the prompt is empty"),
        ('{"prompt": "a", "messages": []}', "bad.jsonl:2: a prompt and messages in one record"),
        ('{"text": "a"}', "bad.jsonl:2: a record without a prompt or messages; its keys: 'text'"),
        ('{"prompt": "a", "generated": "b"}', "bad.jsonl:2: it has 'generated', the key of what is written"),
        ('{"prompt": "a", "ended": "end"}', "bad.jsonl:2: it has 'ended', the key of what is written"),
        ("[1]", "bad.jsonl:2: the line holds a list"),
        ('{"prompt"', "bad.jsonl:2: not JSON"),
        ('{"prompt": null}', "bad.jsonl:2: a record without a prompt or messages"),
        ('{"messages": 3}', "bad.jsonl:2: messages: a number"),
        ('{"messages": []}', "bad.jsonl:2: no message that is to be answered"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "bad.jsonl:2: no message that is to be answered"),
        ('{"messages": [{"role": "user"}]}', "bad.jsonl:2: message 0: the content is missing or null"),
        ('{"messages": [{"role": "me", "content": "a"}]}', "bad.jsonl:2: message 0: the role is 'me'"),
        ('{"messages": ["a"]}', "bad.jsonl:2: message 0 is a string"),
    ],
)
def test_a_record_that_is_no_prompt_is_named_with_its_line(place, line, message):
    (place / "bad.jsonl").write_text(f'{{"prompt": "a"}}\n{line}\n')
    assert message in thetahat("generate", "runs/talk", "--prompts", "bad.jsonl", code=3)


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["runs/talk", "--prompts", "records.jsonl", "--prompt", "a"], "--prompt and --prompts came", 2),
        (["runs/talk", "--prompt", "a", "--out", "new.jsonl"], "--out new.jsonl without --prompts", 2),
        (["runs/talk", "--prompts", "nothing.jsonl"], "no such file or folder: nothing.jsonl", 3),
        (["runs/pairs", "--prompts", "dialogues.jsonl"], "was not trained on dialogues", 2),
        (["runs/masked", "--prompts", "pairs.jsonl"], "an encoder writes no text", 2),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(place, words, message, code):
    assert message in thetahat("generate", *words, code=code)
    assert not (place / "new.jsonl").exists()


def test_prompts_longer_than_the_context_are_counted(place, tmp_path, caplog):
    write(tmp_path / "long.jsonl", [{"prompt": "number " * 900}, {"prompt": "the"}])
    found = answered("talk", tmp_path / "long.jsonl")
    assert "1 of 2 prompts are too long: their end is read" in caplog.text
    cut = [one["prompt_tokens_cut"] for one in found]
    assert cut[0] > 800
    assert cut[1] == 0
    assert f"{cut[0]} tokens are not read" in caplog.text


def narrow(name, **changes):
    """The model of a run, read in a smaller context than it was trained with."""
    loaded = load(f"runs/{name}")
    return dataclasses.replace(loaded, card=replace(loaded.card, **({"context": 64} | changes)))


def test_a_text_that_outgrows_the_context_is_named(place, caplog):
    for how in (Sampling(max_tokens=70, temperature=9), Beam(num_beams=1, max_tokens=70)):
        caplog.clear()
        (found,) = write_texts(narrow("talk"), ["the"], how)
        assert found.ended == "length"
        assert "1 of 1 text outgrew the context of 64 tokens" in caplog.text
    stream = generate(narrow("talk"), "the", how=Sampling(max_tokens=70, temperature=9))
    caplog.clear()
    assert "".join(stream)
    assert stream.answer.ended == "length"
    assert "1 of 1 text outgrew" in caplog.text


@pytest.mark.parametrize("run", ["talk", "both"])
@pytest.mark.parametrize("how", [Sampling(max_tokens=200, temperature=9), Beam(num_beams=2, max_tokens=200)])
def test_an_answer_to_a_dialogue_ends_where_the_context_does(place, run, how):
    """What it would read from there on no turn of training has read."""
    found = answer(narrow(run), [{"role": "user", "content": "number 3"}], how)
    assert found.ended == "context"
    (prompt,) = dialogue_prompts(
        load("runs/talk"), [(unanswered({"messages": [{"role": "user", "content": "number 3"}]}, "d"), "d")]
    )
    assert found.num_tokens == 64 if run == "both" else found.num_tokens + len(prompt.tokens) - 1 == 64


def test_prompts_and_questions_stand_under_the_names_that_are_typed(place):
    for name, record in {"asked": {"question": "say 3", "prompt": "x"}, "own": {"prompt": "say 3"}}.items():
        (place / f"{name}.jsonl").write_text(json.dumps(record))
    words = ["--temperature", "0", "--max-tokens", "4"]
    asked, own = (
        answered("pairs", "asked.jsonl", *words, "data.columns.prompt=question"),
        answered("pairs", "own.jsonl", *words),
    )
    assert asked[0] == {"question": "say 3", **own[0], "prompt": "x"}
    (place / "choices.jsonl").write_text(json.dumps({"q": "say 3", "a": ["1", "2"], "right": 0}))
    columns = ["data.columns.query=q", "data.columns.choices=a", "data.columns.gold=right"]
    assert json.loads(thetahat("choose", "runs/pairs", "choices.jsonl", "--json", *columns))["num_questions"] == 1


@pytest.mark.parametrize("words", [["--temperature", "0"], ["--beams", "1"], ["--beams", "3"], ["--seed", "3"]])
@pytest.mark.parametrize("run", ["talk", "pairs"])
def test_a_stop_text_ends_every_kind_of_writing_before_it(place, run, words):
    file = "pairs.jsonl" if run == "pairs" else "records.jsonl"
    free = answered(run, file, *words)
    number = max(range(len(free)), key=lambda number: len(free[number]["generated"]))
    whole = free[number]["generated"]
    stop = whole[len(whole) // 2 :][:2]
    found = answered(run, file, *words, "--stop", "never this", "--stop", stop)
    if words != ["--beams", "3"]:  # which then find another text
        assert found[number]["generated"] == whole[: whole.index(stop)]
        assert (found[number]["ended"], found[number]["stop_text"]) == ("stop", stop)
    for one in found:
        assert stop not in one["generated"]
        assert ("stop_text" in one) == (one["ended"] == "stop")
    if "prompt" in free[number] and words != ["--seed", "3"]:  # a single text is drawn by another generator
        more = ["--max-tokens", "9", "--json", *words, "--stop", stop]
        alone = json.loads(thetahat("generate", f"runs/{run}", "--prompt", free[number]["prompt"], *more))
        assert (alone["continuation"], alone["ended"]) == (found[number]["generated"], found[number]["ended"])


def test_stop_texts_end_an_answer_of_a_chat_and_their_escapes_are_read(place):
    words = ["chat", "runs/talk", "--max-tokens", "9", "--temperature", "0"]
    free = thetahat(*words, "-q", stdin="say 3\n")[:-1]
    assert thetahat(*words, "-q", "--stop", free[3:5], stdin="say 3\n") == free[: free.index(free[3:5])] + "\n"
    how, _ = how_to_write(typed(stop=[r"\n", r"a\tb", r"\\n"]), [], 1.0)
    assert how.stop == ("\n", "a\tb", r"\n")
    assert "--stop is empty" in thetahat(*words, "--stop", "", code=2)


@pytest.mark.parametrize("stdin", [b"", b"say 3", b"say 3\r\nsay 4\r\n", b"\xef\xbb\xbfsay 3\n\nnot read\n"])
def test_a_chat_ends_with_its_input_whatever_ends_its_lines(place, stdin):
    plain = stdin.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    words = ["chat", "runs/talk", "--max-tokens", "3", "--temperature", "0", "-q"]
    assert thetahat(*words, stdin=stdin) == thetahat(*words, stdin=plain)


@pytest.mark.parametrize(
    ("words", "stdin", "message"),
    [
        (["chat", "runs/talk"], b"say 3\nsay \xff\n", "line 2 of standard input is not UTF-8: byte 4 is 0xff"),
        (["chat", "runs/talk", "--system", "a\udce9"], b"", "--system is not UTF-8: byte 1 is 0xe9"),
        (["generate", "runs/talk", "--prompt", "-"], b"\xc3", "the prompt is not UTF-8: byte 0 is 0xc3"),
        (["generate", "runs/talk", "--stop", "\udcff"], b"", "--stop is not UTF-8: byte 0 is 0xff"),
    ],
)
def test_what_is_not_unicode_is_an_error_of_the_data(place, words, stdin, message):
    assert message in thetahat(*words, "--max-tokens", "3", stdin=stdin, code=3)


def test_a_person_is_told_why_a_text_ended_and_a_pipe_is_not(place):
    words = ["generate", "runs/talk", "--prompt", "the", "--temperature", "0", "--max-tokens"]
    assert "ended: length, --max-tokens 4" in thetahat(*words, "4", code=None)
    assert "ended" not in thetahat(*words, "4", "-q", code=None)
    assert r"ended: stop, before '" in thetahat(*words, "9", "--stop", " ", "--stop", "e", "--stop", "t", code=None)


@torch.no_grad()
@pytest.mark.parametrize("run", ["talk", "both"])
def test_choices_behind_a_dialogue_are_asked_where_an_answer_is_written(place, tmp_path, run):
    messages, choices = SAID, ["number 3", "another", "n"]
    write(tmp_path / "asked.jsonl", [{"messages": messages, "choices": choices, "gold": 0}])
    loaded = load(f"runs/{run}", ("dtype=float64",))
    (found,) = choose(loaded, [str(tmp_path / "asked.jsonl")]).questions
    (prompt,) = dialogue_prompts(loaded, [(unanswered({"messages": messages}, "d"), "d")])
    for choice, score in zip(choices, found.scores["sum"], strict=True):
        rows, expected = (
            begin_decoding(loaded.model, [prompt.tokens], 1024, 99, loaded.tokenizer.frames.text.before),
            0.0,
        )
        for token in loaded.tokenizer.encode([choice])[0]:
            expected += rows.read()[0].log_softmax(-1)[token].item()
            rows.append([token])
        assert score == pytest.approx(expected, rel=1e-9)


def test_a_dialogue_is_no_question_for_other_models_nor_one_that_is_answered(place, tmp_path):
    asked = {"messages": [{"role": "user", "content": "say 3"}], "continuation": "number 3"}
    write(tmp_path / "asked.jsonl", [asked])
    assert "was not trained on dialogues" in thetahat("choose", "runs/pairs", str(tmp_path / "asked.jsonl"), code=2)
    asked["messages"].append({"role": "assistant", "content": "number 3"})
    write(tmp_path / "asked.jsonl", [asked])
    said = thetahat("choose", "runs/talk", str(tmp_path / "asked.jsonl"), code=3)
    assert "asked.jsonl:1: the last message is the assistant's" in said


LONG = [{"role": "system", "content": "Be brief."}]
LONG += [
    {"role": role, "content": f"{text} {n}"} for n in range(9) for role, text in (("user", "say"), ("assistant", "it"))
][:-1]


def test_of_a_long_dialogue_is_read_what_training_reads_and_there_is_room_for_the_answer(place, caplog):
    loaded = narrow("talk", over_long="keep-last-turns")
    dialogue = unanswered({"messages": LONG}, "d")
    options = ChatOptions(load_template(loaded.card.chat), 64, False, "keep-last-turns")
    (trained,) = encode_dialogue(dialogue, "d", loaded.tokenizer, options).sequences[-1]
    (prompt,) = dialogue_prompts(loaded, [(dialogue, "d")])
    assert tuple(prompt.tokens) == trained.tokens[: len(prompt.tokens)]
    assert "Be brief." in loaded.tokenizer.decode(prompt.tokens)
    assert prompt.tokens_cut > 0
    assert f"longer than the context: {prompt.tokens_cut} tokens of it are not read" in caplog.text
    for one in (loaded, narrow("talk")):
        found = answer(one, LONG, Sampling(max_tokens=20, temperature=9, seed=1))
        assert (found.ended, found.num_tokens) == ("length", 20)
        assert found.prompt_tokens_cut >= prompt.tokens_cut


TOO_LONG = r"has [\d,]+ tokens, where the model reads {}; in its training data.over_long={}"


@pytest.mark.parametrize("policy", ["error", "drop"])
def test_what_training_refused_or_left_out_is_refused_when_a_text_is_written(place, tmp_path, policy):
    draw = Sampling(max_tokens=2)
    loaded = narrow("talk", over_long=policy)
    with pytest.raises(DataError, match=TOO_LONG.format(64, policy)) as told:
        answer(loaded, LONG, draw)
    assert "--over-long keep-last-turns" in told.value.cure
    assert answer(with_policy(loaded, "keep-last-turns"), LONG, draw).prompt_tokens_cut > 0
    assert answer(loaded, LONG[:2], Sampling(max_tokens=200, temperature=9)).ended == "context"
    write(tmp_path / "some.jsonl", [{"prompt": "the"}, {"prompt": "number " * 90}])
    sourced = narrow("pairs", over_long=policy, source_context=32)
    for one, room in ((loaded, 64), (sourced, 32)):
        with pytest.raises(DataError, match=f"some.jsonl:2 {TOO_LONG.format(room, policy)}") as told:
            answer_records(one, str(tmp_path / "some.jsonl"), draw)
        assert "--over-long truncate-left" in told.value.cure


def test_how_many_texts_are_written_is_told_while_they_are(place, tmp_path):
    write(tmp_path / "some.jsonl", [{"prompt": "the " * (1 + number % 3)} for number in range(70)])
    told = []
    how = Sampling(max_tokens=3)
    answer_records(narrow("talk"), str(tmp_path / "some.jsonl"), how, lambda done, total: told.append((done, total)))
    assert {total for _, total in told} == {70}
    done = [done for done, _ in told]
    assert done == sorted(done)
    assert done[-1] == 70
    assert len(set(done)) > 2  # more often than once for all that are read together, and once at the end


@pytest.mark.parametrize("policy", ["truncate-left", "truncate-right", "keep-last-turns"])
def test_an_encoder_reads_of_a_long_prompt_what_it_read_in_training(place, caplog, policy):
    loaded = narrow("pairs", over_long=policy, source_context=16)
    text = "the number 1, 2 and 3, then again 4, 5 and 6, and 7, 8 and 9 at last"
    record = Record("sieben", "a", "a", "", prompt=text)
    (trained,) = encode_records([record], loaded.tokenizer, Encoding(PAIR, room=16, over_long=policy), [].append)
    (prompt,) = fitted(loaded, text_prompts(loaded, [text]), ["it"])
    assert tuple(prompt.tokens) == trained.sequences[0][0].tokens
    assert prompt.tokens_cut == trained.prompt_cut > 0
    (found,) = write_texts(loaded, [text], Sampling(max_tokens=2))
    assert found.prompt_tokens_cut == trained.prompt_cut
    end = "beginning" if policy == "truncate-right" else "end"
    assert f"their {end} is read, {trained.prompt_cut} tokens are not read" in caplog.text


def test_an_encoder_fills_no_text_longer_than_it_reads(place):
    with pytest.raises(DataError, match=r"the text has [0-9]+ tokens, where the model reads 64"):
        "".join(generate(narrow("masked"), "number <|mask|> " * 60, Sampling()))


def test_what_becomes_of_long_texts_can_be_said_where_they_are_written(place, tmp_path):
    write(tmp_path / "long.jsonl", [{"prompt": "number " * 900}])
    words = ["generate", "runs/talk", "--prompts", str(tmp_path / "long.jsonl"), "--max-tokens", "2", "--over-long"]
    assert "in its training data.over_long=error" in thetahat(*words, "error", code=3)
    assert json.loads(thetahat(*words, "truncate-left", "-q"))["prompt_tokens_cut"] > 0
    for command in ("generate", "chat"):
        assert "allowed: error, keep-last-turns" in thetahat(command, "runs/talk", "--over-long", "cut", code=2)


def test_a_model_that_knows_no_dialogues_says_so_before_anything_is_typed(place):
    assert "has no chat template" in thetahat("chat", "runs/pairs", stdin="", code=2)


def test_the_next_command_has_something_to_do(place, tmp_path):
    write(tmp_path / "open.jsonl", [RECORDS[1], RECORDS[2]])
    write(tmp_path / "full.jsonl", [RECORDS[0], RECORDS[3]])
    words = ["generate", "runs/talk", "--max-tokens", "2", "--prompts"]
    full, some = str(tmp_path / "full.jsonl"), str(tmp_path / "open.jsonl")
    assert f"Next: thetahat score runs/talk {full}" in thetahat(*words, full, code=None)
    assert "Next: the same with --out FILE.jsonl" in thetahat(*words, some, code=None)
    assert "Next: thetahat chat runs/talk" in thetahat(*words, some, "--out", str(tmp_path / "a.jsonl"), code=None)
    words = ["generate", "runs/pairs", "--max-tokens", "2", "--prompts"]
    write(tmp_path / "open.jsonl", [RECORDS[2]])
    said = thetahat(*words, some, "--out", str(tmp_path / "b.jsonl"), code=None)
    assert "Next: thetahat generate runs/pairs" in said


def test_a_context_may_be_what_a_user_says(place, tmp_path):
    choices = ["number 3", "another", "n"]
    plain = [
        {"id": "a", "query": "say 3", "choices": choices, "gold": 0},
        {"id": "b", "context": "say 3", "continuation": "number 3"},
        {"id": "c", "context_options": ["say 3", "say 4"], "continuation": "number 3", "gold": 0},
    ]
    said = {"messages": [{"role": "user", "content": "say 3"}]}
    asked = [
        {"id": "a", **said, "choices": choices, "gold": 0},
        {"id": "b", **said, "continuation": "number 3"},
        {"id": "c", "messages": [{"role": "user", "content": "say 4"}], "choices": choices, "gold": 0},
    ]
    write(tmp_path / "plain.jsonl", plain)
    write(tmp_path / "asked.jsonl", asked)
    loaded = load("runs/talk", ("dtype=float64",))
    told = choose(loaded, [str(tmp_path / "plain.jsonl")], chat=True)
    found, expected = told.questions, choose(loaded, [str(tmp_path / "asked.jsonl")], chat=True).questions
    assert found[:2] == [
        dataclasses.replace(one, source="plain.jsonl", document=f"plain.jsonl#{one.id}") for one in expected[:2]
    ]
    sums = [one.scores["sum"][0] for one in (expected[0], expected[2])]  # of one choice behind both contexts
    assert found[2].scores["sum"] == pytest.approx(sums, rel=1e-9)
    assert told.policy.endswith("contexts in the chat template")
    (tmp_path / "pair.jsonl").write_text('{"good": "number 3", "bad": "number"}\n')
    words = ["choose", "runs/talk", str(tmp_path / "pair.jsonl"), "--chat"]
    assert "pair.jsonl:1: no context, which a user would say under --chat" in thetahat(*words, code=3)
    assert "--delimiter came with --chat" in thetahat(*words, "--delimiter", "; ", code=2)
    assert "leave --chat out" in thetahat("choose", "runs/pairs", str(tmp_path / "plain.jsonl"), "--chat", code=2)


def test_a_dialogue_too_long_for_its_choices_is_cut_only_where_that_is_asked_for(place, tmp_path):
    long = [{"role": role, "content": "say it " * 120} for role in ("user", "assistant", "user")]
    write(tmp_path / "asked.jsonl", [{"messages": long, "choices": ["it 8", "x"], "gold": 0}])
    assert "--over-long truncate-left" in thetahat("choose", "runs/talk", str(tmp_path / "asked.jsonl"), code=3)
    for policy in ("error", "truncate-left"):
        loaded = with_policy(load("runs/talk"), policy)
        assert len(choose(loaded, [str(tmp_path / "asked.jsonl")], over_long="truncate-left").questions) == 1


@pytest.mark.parametrize(
    ("end", "tokens", "texts"),
    [
        ("[end]\n", [], ("[end]",)),
        ("<|im_end|>", ["<|im_end|>"], ()),
        ("{{ '<|im_start|>' if m.tool_calls else '<|im_end|>' }}", ["<|im_start|>", "<|im_end|>"], ()),
    ],
)
def test_a_turn_ends_with_the_special_tokens_of_its_template_or_else_with_their_text(
    place, tmp_path, caplog, end, tokens, texts
):
    source = "{% for m in messages %}{{ m.role }}: {{ m.content or 'calls' }}" + end + "{% endfor %}"
    (tmp_path / "mine.jinja").write_text(source + "{% if add_generation_prompt %}assistant: {% endif %}")
    special = ("<|im_start|>", "<|im_end|>")
    loaded = narrow("talk", chat=ChatConfig(template=str(tmp_path / "mine.jinja"), special_tokens=special))
    (prompt,) = dialogue_prompts(loaded, [(unanswered({"messages": LONG[:2]}, "d"), "d")])
    assert prompt.end_tokens == {loaded.tokenizer.special[name] for name in tokens}
    assert prompt.end_texts == texts
    assert "nothing in the template ends a turn" not in caplog.text
