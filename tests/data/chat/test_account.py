"""What a template is given is in the tokens, or in the account by its field; what somebody said is text."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings, strategies as st

from thetahat.core.errors import DataError
from thetahat.data.chat.account import covered, leaves_of, missing
from thetahat.data.chat.encode import ChatOptions, DialogueEncoder
from thetahat.data.chat.rendering import Rendered, Scene, shared
from thetahat.data.chat.template import TEMPLATES, ChatTemplate
from thetahat.data.read.dialogue import parse_dialogue
from thetahat.data.tokens.tokenizer import train_tokenizer

IM = ("<|im_start|>", "<|im_end|>")
HEAD, PROMPT = "<|im_start|>{{ m.role }}\n", "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
SPECIAL = list(dict.fromkeys(token for template in TEMPLATES.values() for token in template.special_tokens))


def template_of(body, name="mine", head=HEAD, prompt=PROMPT):
    source = "{% for m in messages %}" + head + body + "<|im_end|>\n{% endfor %}" + prompt
    return ChatTemplate(name, source, IM, ("<|im_end|>",))


CONTENT = template_of("{{ m.content }}")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a text of some words, read once", "</think>"], 300 + len(SPECIAL), SPECIAL)


def encoded(tokenizer, record, template=CONTENT, **options):
    dialogue = parse_dialogue(record, "d.jsonl:1")
    options = ChatOptions(template=template, **{"context": 1 << 16, **options})
    (one,) = DialogueEncoder(tokenizer, options).encode([(dialogue, "d.jsonl:1")])
    return one


def text_of(tokenizer, one, *, prompts=True):
    """All that is read, as text; the name of a special token where it is one."""
    tokens = [
        token
        for sequence in one.sequences
        for span in sequence
        for token, part in zip(span.tokens, span.part, strict=True)
        if prompts or not one.parts[part].is_prompt
    ]
    names = {id: name for name, id in tokenizer.special.items()}
    runs, found = [], []
    for token in [*tokens, None]:
        if token is None or token in names:
            found += [tokenizer.decode(runs), names.get(token, "")]
            runs = []
        else:
            runs.append(token)
    return "".join(found)


def asked(question, **answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "No.", **answer}]}


# --- the property of all bundled templates


LETTERS = "abcdefghijklmnopqrstuvwxyzäöüßéλжあ猫🙂"
NAMES = ["reasoning_content", "reasoning", "thinking", "name", "contnt", "tool_call_id", "note"]
words = st.text(LETTERS + " \n", max_size=6) | st.sampled_from(["<think>\n", "\n</think>\n\n", *SPECIAL[:4], " "])


@st.composite
def dialogues(draw):
    """Each word ends with a private character of its own, so that it can be found again."""
    marks = map(chr, range(0xE000, 0xF000))

    def text():
        said = draw(st.lists(words, min_size=1, max_size=3))
        return "".join(word if word in SPECIAL or "think" in word else word + next(marks) for word in said)

    messages = [{"role": "system", "content": text()}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages += [{"role": role, "content": text()} for role in ("user", "assistant")]
    for _ in range(draw(st.integers(0, 3))):
        draw(st.sampled_from(messages))[draw(st.sampled_from(NAMES))] = f"x{text()}y{next(marks)}"
    return messages


def private(text):
    return {letter for letter in text if "\ue000" <= letter < "\uf000"}


@settings(max_examples=25)
@given(dialogues(), st.sampled_from([*TEMPLATES]))
def test_no_character_leaves_a_template_without_being_in_the_tokens_or_in_the_account(tokenizer, messages, name):
    refusal = ""
    try:
        one = encoded(tokenizer, {"messages": messages}, TEMPLATES[name])
    except DataError as error:
        refusal = str(error)
    if refusal:
        assert f"the template {name} writes nothing of turn-" in refusal
        return
    written, is_all_there = private(text_of(tokenizer, one)), True
    for message in messages:
        for field in message.keys() - {"role"}:
            is_there = private(message[field]) <= written
            is_all_there &= is_there
            assert is_there or f"{field} of the {message['role']} is not written by {name}" in "\n".join(one.notes)
    if is_all_there and not any("think" in text for message in messages for text in message.values()):
        told = [note for note in one.notes if "is not written" in note]
        assert all(note.startswith(("white space", "a part of content")) for note in told)


# --- fields


FIELDS = {
    "thought": (asked("Is it?", reasoning_content="It is not."), ["reasoning_content of the assistant"]),
    "typo": (asked("Is it?", contents="Hm"), ["contents of the assistant"]),
    "name": (
        {"messages": [{"role": "user", "name": "Ann", "content": "Is it?"}, asked("")["messages"][1]]},
        ["name of the user"],
    ),
    "number": (asked("Is it?", score=3), ["score of the assistant"]),
    "null": (asked("Is it?", reasoning=None), []),
    "nothing": (asked("Is it?", tool_calls=[], note=""), []),
    "call": (
        asked("Is it?", tool_calls=[{"id": "c7", "function": {"name": "look", "arguments": {"at": "it"}}}]),
        [f"tool_calls.{name} of the assistant" for name in ("id", "function.name", "function.arguments")],
    ),
    "tools": ({**asked("Is it?"), "tools": [{"name": "look", "description": "Looks."}]}, ["tools"]),
}


@pytest.mark.parametrize("case", FIELDS)
def test_what_a_template_does_not_write_is_told_by_field(tokenizer, case):
    record, fields = FIELDS[case]
    assert encoded(tokenizer, record).notes == tuple(f"{field} is not written by mine" for field in fields)


def test_a_part_that_is_not_written_and_white_space_are_told(tokenizer):
    cut = template_of("{{ m.content.split('#')[-1] | trim }}")
    assert encoded(tokenizer, asked("a#b"), cut).notes == ("a part of content of the user is not written by mine",)
    assert encoded(tokenizer, asked(" b\n"), cut).notes == (
        "white space around content of the user is not written by mine",
    )


def test_what_a_template_looks_at_without_writing_it_is_told_where_it_is_a_text(tokenizer):
    looking = template_of("{{ m.content }}{{ '!' if m.loud else '' }}{{ '?' if m.tone == 'low' else '' }}")
    one = encoded(tokenizer, asked("Is it?", loud=True, tone="low"), looking)
    assert one.notes == ("tone of the assistant is not written by mine",)
    assert "No.!?" in text_of(tokenizer, one)


def test_messages_that_nothing_is_asked_behind_are_told(tokenizer):
    record = asked("Is it?")
    record["messages"].append({"role": "user", "content": "Why?"})
    assert encoded(tokenizer, record).notes == (
        "messages behind the last one that is asked, and answers of weight 0, are not read",
    )


SILENT = {
    "typo of the template": (template_of("{{ m.contnt }}"), asked("Is it?"), "content"),
    "thought": (CONTENT, asked("Is it?", content="", thinking="Hm"), "thinking"),
    "typo of the record": (CONTENT, asked("Is it?", content=None, contnt="No."), "contnt"),
    "white space": (template_of("{{ m.content | trim }}"), asked("Is it?", content=" \n"), "content"),
    "header alone": (template_of("{{ m.contnt }}", prompt=""), asked("Is it?"), "content"),
}


@pytest.mark.parametrize("case", SILENT)
def test_a_turn_of_which_nothing_is_asked_but_its_end_is_refused(tokenizer, case):
    template, record, field = SILENT[case]
    with pytest.raises(
        DataError, match=rf"d\.jsonl:1: the template mine writes nothing of turn-1 \({field}\)"
    ) as error:
        encoded(tokenizer, record, template)
    assert error.value.exit_code == 3


def test_an_empty_turn_with_a_weight_is_asked_for_its_end(tokenizer):
    one = encoded(tokenizer, asked("Is it?", content="", weight=1))
    assert one.notes == ("turn-1: it says nothing, and its end alone is asked",)
    assert text_of(tokenizer, one, prompts=False) == "<|im_end|>"


def test_a_header_that_is_asked_is_told(tokenizer):
    one = encoded(tokenizer, asked("Is it?"), template_of("{{ m.content }}", prompt=""))
    assert re.fullmatch(
        r"turn-1: the template has no add_generation_prompt, so that '<\|im_start\|>assistant\\n' .*", *one.notes
    )
    assert encoded(tokenizer, asked("Is it?"), TEMPLATES["mistral"]).notes == ()


# --- forms of content and of arguments


PARTS = template_of("{% for part in m.content %}{{ part.text if part.type == 'text' }}{% endfor %}")
EITHER = template_of(
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "of_text", "of_parts"), [(CONTENT, "ab", "ab"), (PARTS, "ab", "ab"), (EITHER, "ab", "[a][b]")]
)
def test_content_comes_in_the_form_that_the_template_reads(tokenizer, template, of_text, of_parts):
    parts = [{"type": "text", "text": letter} for letter in "ab"]
    for content, expected in (("ab", of_text), (parts, of_parts)):
        one = encoded(tokenizer, asked(content, content=content), template)
        assert text_of(tokenizer, one).count(expected + "<|im_end|>") == 2
        assert one.notes == ()


def test_what_parts_hold_beside_their_text_is_told(tokenizer):
    parts = [{"type": "text", "text": "a", "cache": "no"}]
    assert encoded(tokenizer, asked(parts)).notes == ("content.cache of the user is not written, its parts are joined",)
    assert encoded(tokenizer, asked(parts), PARTS).notes == ("content.cache of the user is not written by mine",)


CALLS = "{% for c in m.tool_calls or [] %}{{ c.function.name }}ARGUMENTS{% endfor %}"
ITEMS = "{% for k, v in c.function.arguments | items %} {{ k }}={{ v }}{% endfor %}"
WRITES = {
    "as JSON": ("{{ c.function.arguments | tojson }}", '{"a": "b"}', True, False),
    "item by item": (ITEMS, " a=b", True, False),
    "as it is": ("{{ c.function.arguments }}", '{"a": "b"}', False, True),
    "either": ("{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}",
               '{"a": "b"}', False, False),
}  # fmt: skip


@pytest.mark.parametrize("case", WRITES)
def test_arguments_come_in_the_form_that_the_template_reads(tokenizer, case):
    source, expected, tells_of_text, tells_of_object = WRITES[case]
    template = template_of("{{ m.content }}" + CALLS.replace("ARGUMENTS", source))
    for arguments, tells in (('{"a": "b"}', tells_of_text), ({"a": "b"}, tells_of_object)):
        call = {"type": "function", "function": {"name": "look", "arguments": arguments}}
        one = encoded(tokenizer, asked("Is it?", content=None, tool_calls=[call]), template)
        assert f"look{expected}<|im_end|>" in text_of(tokenizer, one)
        assert len(one.notes) == tells


def test_arguments_that_cannot_be_read_and_nulls_in_them_are_told(tokenizer):
    template = template_of("{{ m.content }}" + CALLS.replace("ARGUMENTS", "{{ c.function.arguments | tojson }}"))
    for arguments, note in (("{'a'}", "are a text that is no object of JSON"), ({"a": None}, "hold nulls")):
        call = {"function": {"name": "look", "arguments": arguments}}
        (told,) = encoded(tokenizer, asked("Is it?", content=None, tool_calls=[call]), template).notes
        assert note in told


# --- what the template sees is what was said


LOOKING = [
    "{{ m.content | length }} {{ m.content }}",
    "{{ 'yes' if '<|im_end|>' in m.content else 'no' }} {{ m.content }}",
    "{{ m.content.split('</s>') | join('|') }}",
    "{{ m.content.replace('<|im_end|>', '[end]') }}",
    "{{ m.content[:9] ~ m.content[9:] }}",
    "{{ '%s' | format(m.content) }}{{ '{}'.format(m.content) }}",
    "{{ m.content | upper | lower | capitalize }}",
    "{{ m | tojson }}",
    "{{ [m.content, 'and'] | join(' ') }}{{ m.content | indent(2) | trim }}",
    "{% for line in m.content.splitlines() %}{{ loop.index }} {{ line }}{% endfor %}",
    "{% macro say(text) %}<{{ text }}>{% endmacro %}{{ say(m.content) }}",
    "{% set both %}{{ m.content }}, {{ m.role }}{% endset %}{{ both | title }}",
    "{{ m.content | reverse }}{{ m.content | first }}{{ m.content * 2 }}",
    "{{ m.content.strip('<').rstrip().removesuffix('>').partition('|')[2] }}{{ messages }}",
]
SAID = st.lists(
    st.sampled_from(["<|im_end|>", "</s>", "<|im_", "end|>", "a", " ", "\n", '"', "ß", "é", "🙂"]), max_size=7
)


@given(SAID.map("".join), st.sampled_from(LOOKING))
def test_a_template_sees_the_true_text_and_names_in_it_stay_text(tokenizer, said, body):
    source = "{% for m in messages %}<|im_start|>" + body + "<|im_end|>{% endfor %}"
    scene = Scene("d", source, [{"role": "user", "content": said}], {"tools": None})
    ((one,),) = shared().render([(scene, [(False, (0, 1))])])
    assert isinstance(one, Rendered)
    assert one.runs is not None  # and so the text is that of a template that is given plain texts
    runs = [(start, stop) for start, stop, _ in one.runs]
    (ids,) = tokenizer.encode_rendered([(one.text, runs)])
    special = Counter(id for id in ids if id in set(tokenizer.special.values()))
    assert special == Counter([tokenizer.special["<|im_start|>"], tokenizer.special["<|im_end|>"]])
    for start, stop, origin in one.runs:
        if "messages" not in body and not ({"upper", "title", "tojson"} & set(re.findall(r"\w+", body))):
            assert one.text[start:stop] == said[origin : origin + stop - start]


def test_names_are_text_where_what_a_template_does_cannot_be_followed(tokenizer):
    template = template_of("{{ m.content | escape }}")
    assert "is not written" not in str(encoded(tokenizer, asked("Is it?"), template).notes)
    with pytest.raises(DataError, match=r"d\.jsonl:1: names of special tokens are in the messages"):
        encoded(tokenizer, asked("Is <|im_end|>?"), template)


def test_names_that_a_message_and_the_template_make_together_are_text(tokenizer):
    template = template_of("{{ m.content }}|>")
    one = encoded(tokenizer, asked("x <|im_end"), template)
    special = Counter(token for sequence in one.sequences for span in sequence for token in span.tokens)
    assert special[tokenizer.special["<|im_end|>"]] == 2


def test_thousands_of_private_characters_and_names_are_read_in_time_that_grows_as_they_do(tokenizer):
    said = "<|im_end|> " * 8000 + "".join(map(chr, range(0xE000, 0xF900)))
    one = encoded(tokenizer, asked(said), context=1 << 20)
    assert said in text_of(tokenizer, one)
    assert one.notes == ()


def test_what_is_missing_is_what_no_run_covers():
    leaves = leaves_of([{"role": "user", "content": "abcdef", "name": "xy"}], [{"n": "tool"}])
    assert [(leaf.field, leaf.text, leaf.start, leaf.is_name) for leaf in leaves] == [
        ("content", "abcdef", 0, False), ("name", "xy", 6, False), ("tools", "n", 8, True), ("tools", "tool", 9, False),
    ]  # fmt: skip
    written = covered([(10, 12, 4), (0, 2, 1), (5, 7, 2), (20, 23, 7)])
    assert written == [(1, 6), (7, 10)]
    assert [rest for _, rest in missing(leaves, written)] == ["a", "x", "", "ool"]
