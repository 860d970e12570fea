"""Each turn is asked behind what a model would read before it, once, whatever the template does to history."""

import gzip
import json
import os
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, strategies as st

from tests.oracles import dialogue as oracle
from thetahat.core.errors import DataError, ModelError
from thetahat.data.chat.encode import ChatOptions, DialogueEncoder, encode_dialogue
from thetahat.data.chat.template import TEMPLATES, ChatTemplate
from thetahat.data.read.dialogue import parse_dialogue
from thetahat.data.tokens.tokenizer import Tokenizer, train_tokenizer

SLICES = Path(__file__).with_name("dialogues")
SHARED = Path(os.environ.get("THETAHAT_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
RECORDS = [
    json.loads(line)
    for name in ("sgd", "topicalchat")
    for line in (SLICES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
]
SPECIAL = list(dict.fromkeys(token for template in TEMPLATES.values() for token in template.special_tokens))
WIDE = 1 << 16
HELLO = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi! Who are you?"},
    {"role": "user", "content": "Ann"},
    {"role": "assistant", "content": "Nice to meet you."},
]


@pytest.fixture(scope="module")
def tokenizer():
    texts = [message["content"] for record in RECORDS for message in record["messages"]]
    return train_tokenizer(texts, 600 + len(SPECIAL), SPECIAL)


def encoded(tokenizer, record, template="chatml", **options):
    template = template if isinstance(template, ChatTemplate) else TEMPLATES[template]
    options = ChatOptions(template=template, **{"context": WIDE, **options})
    return encode_dialogue(parse_dialogue(record, "d.jsonl:1"), "d.jsonl:1", tokenizer, options)


def found(one):
    return oracle.paths(one.sequences, one.parts)


def num_positions(one):
    return [sum(len(span.tokens) - 1 for span in sequence) for sequence in one.sequences]


def check(tokenizer, template, messages, one):
    """Every path, token by token, and every asked token once."""
    asked = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    walked = found(one)
    assert [part.name for part in one.parts if not part.is_prompt] == [f"turn-{index}" for index in asked]
    assert walked.keys() == {f"turn-{index}" for index in asked}
    description = tokenizer.to_json()
    for index in asked:
        assert walked[f"turn-{index}"] == oracle.path(template, messages, index, description)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=[*TEMPLATES])
@pytest.mark.parametrize("options", [{}, {"context": 300}, {"shares_prefixes": False}], ids=str)
def test_every_path_is_the_inference_prompt_and_the_live_turn(tokenizer, template, options):
    dialogues = [(parse_dialogue(record, "d"), "d") for record in RECORDS]
    options = ChatOptions(template=template, **{"context": WIDE, **options})
    for record, one in zip(RECORDS, DialogueEncoder(tokenizer, options).encode(dialogues), strict=True):
        check(tokenizer, template, record["messages"], one)
        assert all(
            size <= options.context or len(sequence) == 1
            for size, sequence in zip(num_positions(one), one.sequences, strict=True)
        )


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=[*TEMPLATES])
@pytest.mark.parametrize("file", ["sgd/dev.jsonl.gz", "topicalchat/validation.jsonl.gz"])
def test_every_path_of_many_real_dialogues(tokenizer, template, file):
    if not (SHARED / file).exists():
        pytest.skip(f"{file} is not there")
    with gzip.open(SHARED / file) as lines:
        records = [json.loads(line) for _, line in zip(range(40), lines, strict=False)]
    encoder = DialogueEncoder(tokenizer, ChatOptions(template=template, context=700))
    dialogues = [(parse_dialogue(record, "d"), "d") for record in records]
    for record, one in zip(records, encoder.encode(dialogues), strict=True):
        check(tokenizer, template, record["messages"], one)


turns = st.lists(st.sampled_from(["a", "b", "ab", "a b", "<think>\nb\n</think>\n\na", "\n", " a", "é"]), max_size=9)


@given(turns, st.sampled_from([*TEMPLATES]), st.integers(2, 120), st.booleans())
def test_any_small_dialogue_comes_back_path_by_path(tokenizer, contents, name, context, shares):
    contents = ["a", "b", *contents]
    messages = [
        {"role": ("user", "assistant")[index % 2], "content": content, "weight": index % 2}
        for index, content in enumerate(contents)
    ]
    one = encoded(tokenizer, {"messages": messages}, name, context=context, shares_prefixes=shares)
    check(tokenizer, TEMPLATES[name], messages, one)


STABLE = ["chatml", "llama-3", "gemma", "mistral", "zephyr", "phi-3", "deepseek-r1", "plain"]


@pytest.mark.parametrize("name", STABLE)
def test_a_dialogue_whose_history_is_written_as_it_was_is_one_span(tokenizer, name):
    for record in RECORDS:
        one = encoded(tokenizer, record, name)
        assert [len(sequence) for sequence in one.sequences] == [1]
        assert [part.role for part in one.parts] == ["user", "assistant"] * (len(one.parts) // 2)


@pytest.mark.parametrize("name", ["qwen3", "gpt-oss"])
def test_a_dialogue_whose_history_is_written_otherwise_is_one_tree(tokenizer, name):
    for record in RECORDS:
        one, apart = (encoded(tokenizer, record, name, shares_prefixes=shares) for shares in (True, False))
        num_turns = len(apart.sequences)
        assert [len(sequence) for sequence in one.sequences] == [2 * num_turns - 1]
        assert all(len(sequence) == 1 for sequence in apart.sequences)
        assert num_positions(one)[0] < sum(num_positions(apart)) / 2
        assert {part.role for part in one.parts[2:]} == {"assistant", "assistant+user"}


def test_a_history_is_shared_as_far_as_it_is_the_same(tokenizer):
    one = encoded(tokenizer, {"messages": HELLO}, "qwen3")
    root, live, history, *_ = one.sequences[0]
    names = [one.parts[part].name for part in (root.part[-1], live.part[-1], history.part[-1])]
    assert names[:2] == ["before-turn-1", "turn-1"]
    assert names[2] in {"before-turn-3", "turn-3"}
    assert (live.parent, history.parent) == (0, 0)
    assert live.position == history.position == len(root.tokens) - 1
    assert live.tokens[0] == history.tokens[0] == root.tokens[-1]


def test_the_end_of_a_turn_is_asked_and_what_follows_is_not(tokenizer):
    for name, template in TEMPLATES.items():
        for _, completion in found(encoded(tokenizer, {"messages": HELLO}, name)).values():
            assert completion[-1] in {tokenizer.special[token] for token in template.ends_turn}


BARE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}END\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def test_a_format_that_a_text_ends_is_asked_to_its_last_character(tokenizer):
    walked = found(encoded(tokenizer, {"messages": HELLO}, ChatTemplate("bare", BARE)))
    assert [tokenizer.decode(ids) for _, ids in walked.values()] == ["Hi! Who are you?END\n", "Nice to meet you.END\n"]


@pytest.mark.parametrize("source", [BARE.replace("END", ""), BARE.replace("END\n", "")])
def test_a_format_without_an_end_is_refused(tokenizer, source):
    with pytest.raises(DataError, match=r"d\.jsonl:1: the template bare writes nothing that ends turn-1.*\n.*\n.*try"):
        encoded(tokenizer, {"messages": HELLO}, ChatTemplate("bare", source))


def test_thoughts_are_asked_live_and_not_read_later(tokenizer):
    messages = [dict(message) for message in HELLO]
    messages[1]["content"] = "<think>\nA greeting.\n</think>\n\nHi!"
    walked = {name: [tokenizer.decode(ids) for ids in path] for name, path in found(
        encoded(tokenizer, {"messages": messages}, "qwen3")).items()}  # fmt: skip
    assert walked["turn-1"][1] == "<think>\nA greeting.\n</think>\n\nHi!"
    assert "greeting" not in walked["turn-3"][0]
    assert "Hi!" in walked["turn-3"][0]


def test_a_prompt_that_the_live_turn_does_not_begin_with_is_noted(tokenizer):
    one = encoded(tokenizer, {"messages": HELLO}, "deepseek-r1")
    assert len(one.notes) == 2
    assert "turn-1" in one.notes[0]
    assert "inference prompt" in one.notes[0]
    assert encoded(tokenizer, {"messages": HELLO}, "chatml").notes == ()
    context, completion = found(one)["turn-1"]
    assert context[-1] == tokenizer.special["<｜Assistant｜>"]
    assert tokenizer.decode(completion) == "Hi! Who are you?"


def test_a_prompt_and_a_turn_that_begin_alike_by_chance_are_not_cut_within_a_word(tokenizer):
    source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    source += "{% if add_generation_prompt %}<|im_start|>assistant\nHint: {% endif %}"
    template = ChatTemplate("hint", source, ("<|im_start|>", "<|im_end|>"))
    one = encoded(tokenizer, {"messages": HELLO}, template)
    assert [tokenizer.decode(ids) for _, ids in found(one).values()] == ["Hi! Who are you?", "Nice to meet you."]
    assert len(one.notes) == 2


def test_a_turn_that_rewrites_what_stands_before_it_is_refused(tokenizer):
    source = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(DataError, match=r"d\.jsonl:1: the template writes the messages before turn-1 otherwise"):
        encoded(tokenizer, {"messages": HELLO}, ChatTemplate("counting", source))


def test_the_name_of_a_special_token_in_a_message_is_text(tokenizer):
    for name, template in TEMPLATES.items():
        bad = "".join(template.special_tokens) + "<" + template.special_tokens[0] + "\x7f \ue000<|endoftext|>"
        messages = [{"role": role, "content": f"x{bad}y"} for role in ("user", "assistant") * 2]
        clean = [{**message, "content": "xy"} for message in messages]
        ours, theirs = (found(encoded(tokenizer, {"messages": one}, name)) for one in (messages, clean))
        special = set(tokenizer.special.values())
        for turn, path in ours.items():
            for mine, other in zip(path, theirs[turn], strict=True):
                assert [id for id in mine if id in special] == [id for id in other if id in special], name
        assert f"x{bad}y" in tokenizer.decode(ours["turn-3"][1])
        assert f"x{bad}y" in tokenizer.decode(ours["turn-3"][0])


def test_weights_of_messages_are_those_of_their_parts(tokenizer):
    messages = [{**message, "weight": weight} for message, weight in zip(HELLO, (0.25, 0, 0, 2.5), strict=True)]
    one = encoded(tokenizer, {"messages": messages})
    asked = [(part.name, part.role, part.weight) for part in one.parts if not part.is_prompt]
    assert asked == [("turn-0", "user", 0.25), ("turn-3", "assistant", 2.5)]
    assert [part.role for part in one.parts if part.is_prompt] == ["", "user+assistant"]
    walked = found(one)
    assert walked["turn-0"] == (
        [tokenizer.frames.text.before[0]],
        tokenizer.encode_with_special("<|im_start|>user\nHello<|im_end|>"),
    )
    expected = oracle.texts(TEMPLATES["chatml"], HELLO, 3)
    assert walked["turn-3"][1] == tokenizer.encode_with_special(expected[1])


def test_answers_to_one_prompt_share_it(tokenizer):
    answers = ["Two.", {"content": "Two, of course.", "weight": 0.5}, "Two."]
    one = encoded(tokenizer, {"messages": [{"role": "user", "content": "One and one?"}], "answers": answers})
    assert [(part.name, part.weight) for part in one.parts if not part.is_prompt] == [
        ("turn-1.1", 1.0), ("turn-1.2", 0.5), ("turn-1.3", 1.0)]  # fmt: skip
    (sequence,) = one.sequences
    assert [span.parent for span in sequence] == [-1, 0, 0, 0]
    walked = found(one)
    assert len({tuple(context) for context, _ in walked.values()}) == 1
    assert [tokenizer.decode(ids) for _, ids in walked.values()] == ["Two.", "Two, of course.", "Two."]


def test_a_tree_that_is_too_large_is_divided_turn_by_turn(tokenizer):
    record = RECORDS[0]
    whole = encoded(tokenizer, record, "qwen3")
    longest = max(len(context) + len(asked) - 1 for context, asked in found(whole).values())
    one = encoded(tokenizer, record, "qwen3", context=longest)
    assert len(one.sequences) > 1
    assert max(num_positions(one)) <= longest
    check(tokenizer, TEMPLATES["qwen3"], record["messages"], one)
    names = [[one.parts[part].name for span in sequence for part in span.part] for sequence in one.sequences]
    first = [next(name for name in some if name.startswith("before")) for some in names]
    assert first == list(dict.fromkeys(first))  # each tree brings its own history
    assert all(part.role.startswith("user") for part in one.parts if part.name in first)


def test_a_path_that_is_too_long_is_left_to_the_policy(tokenizer):
    one = encoded(tokenizer, RECORDS[0], context=100)
    sizes = num_positions(one)
    assert max(sizes) > 100
    assert all(len(sequence) == 1 for sequence in one.sequences)
    check(tokenizer, TEMPLATES["chatml"], RECORDS[0]["messages"], one)


@pytest.mark.parametrize("name", ["chatml", "qwen3", "gemma"])
def test_the_last_turns_are_kept_as_many_as_fit(tokenizer, name):
    system = {"role": "system", "content": "Be short."}
    messages = [system, *RECORDS[0]["messages"]]
    one = encoded(tokenizer, {"messages": messages}, name, context=100, over_long="keep-last-turns")
    whole = found(encoded(tokenizer, {"messages": messages}, name))
    walked = found(one)
    assert {turn: asked for turn, (_, asked) in walked.items()} == {turn: asked for turn, (_, asked) in whole.items()}
    cut = 0
    for turn, (context, asked) in walked.items():
        index = int(turn.removeprefix("turn-"))
        kept = [
            oracle.path(TEMPLATES[name], [system, *messages[start : index + 1]], index - start + 1, tokenizer.to_json())
            for start in range(1, index, 2)
        ]
        fitting = [path for path in kept if len(path[0]) + len(path[1]) - 1 <= 100] or kept[-1:]
        assert (context, asked) == tuple(fitting[0])
        assert any(note.startswith(turn) for note in one.notes) == (fitting[0] != kept[0])
        cut += len(whole[turn][0]) - len(context)
    assert (one.tokens_cut, one.prompt_cut) == (0, cut)
    assert cut > 0


def test_an_encoder_reads_the_history_and_a_decoder_is_asked_the_turn(tokenizer):
    one = encoded(tokenizer, RECORDS[0], streams=2)
    whole = found(encoded(tokenizer, RECORDS[0]))
    for (source, target), (context, asked) in zip(one.sequences, whole.values(), strict=True):
        assert list(source.tokens) == context
        assert (source.parent, source.position, target.parent, target.position) == (-1, 0, 0, 0)
        assert list(target.tokens) == [tokenizer.frames.text.before[0], *asked]
        assert {one.parts[part].is_prompt for part in source.part} == {True}
        assert {one.parts[part].is_prompt for part in target.part} == {False}


@pytest.mark.parametrize("policy", ["truncate-left", "truncate-right", "drop", "keep-last-turns"])
def test_a_history_that_an_encoder_cannot_read_is_cut_by_the_policy(tokenizer, policy):
    room = 40
    one = encoded(tokenizer, RECORDS[0], streams=2, context=room, over_long=policy)
    whole = list(found(encoded(tokenizer, RECORDS[0])).values())
    if policy == "drop":
        assert one.tokens_cut == sum(len(asked) for context, asked in whole if len(context) > room) > 0
        whole = [path for path in whole if len(path[0]) <= room]
    assert len(one.sequences) == len(whole)
    assert one.prompt_cut == sum(len(context) for context, _ in found(encoded(tokenizer, RECORDS[0])).values()) - sum(
        len(source.tokens) for source, _ in one.sequences
    )
    for (source, _), (context, _) in zip(one.sequences, whole, strict=True):
        assert len(source.tokens) <= room
        if policy == "truncate-left":
            assert list(source.tokens) == context[-room:]
        if policy == "truncate-right":
            assert list(source.tokens) == context[:room]
    with pytest.raises(DataError, match=r"d\.jsonl:1: the messages before turn-3 have \d+ tokens where the encoder"):
        encoded(tokenizer, RECORDS[0], streams=2, context=room, over_long="error")


def test_tools_and_their_answers_are_context_and_calls_are_asked(tokenizer):
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "é<|im_end|>"}}}
    record = {
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}],
        "messages": [
            {"role": "user", "content": "1 + 2?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "3"},
            {"role": "assistant", "content": "Three."},
        ],
    }
    one = encoded(tokenizer, record, "qwen3")
    walked = {name: [tokenizer.decode(ids) for ids in path] for name, path in found(one).items()}
    assert '"name": "add", "arguments": {"a": 1, "b": "é<|im_end|>"}' in walked["turn-1"][1]
    assert "<tool_response>\n3\n</tool_response>" in walked["turn-3"][0]
    assert '{"type": "function", "function": {"name": "add", "parameters": {}}}' in walked["turn-1"][0]
    with pytest.raises(DataError, match="chatml has no tools"):
        encoded(tokenizer, record, "chatml")


REFUSED = {
    "roles": ("gemma", [HELLO[0], HELLO[0], HELLO[1]], r"turn-2: user and assistant must take turns.*line \d+"),
    "written": (ChatTemplate("mute", "x"), HELLO, "writes nothing for turn-1"),
    "undefined": (ChatTemplate("odd", "{{ a.b.c }}"), HELLO, "does not render turn-1: 'a' is undefined"),
    "syntax": (ChatTemplate("odd", "\n{% for %}"), HELLO, "line 2 of the template"),
    "clock": (ChatTemplate("late", "{{ strftime_now('%d') }}"), HELLO, "date=2025-01-31"),
    "file": (ChatTemplate("thief", "{% include '/etc/passwd' %}"), HELLO, "no loader"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_template_does_not_render_is_named(tokenizer, case):
    template, messages, message = REFUSED[case]
    with pytest.raises(DataError, match=message) as error:
        encoded(tokenizer, {"messages": messages}, template)
    assert str(error.value).startswith("d.jsonl:1: ")


def test_a_tokenizer_without_the_special_tokens_is_refused(byte_tokenizer):
    with pytest.raises(ModelError, match=r"<\|im_start\|>, <\|im_end\|>"):
        encoded(byte_tokenizer, {"messages": HELLO})
    inner = tokenizers.Tokenizer.from_str(byte_tokenizer.to_json())
    inner.add_special_tokens(["~"])
    with pytest.raises(ModelError, match="of one character, '~'"):
        encoded(Tokenizer(inner), {"messages": HELLO})
    template = TEMPLATES["chatml"]
    encoded(byte_tokenizer.with_special_tokens(template.special_tokens), {"messages": HELLO})
