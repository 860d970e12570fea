"""What ends a turn is known from the template: every token that may, never one of a text, and else a text."""

import pytest

from thetahat.core.errors import DataError
from thetahat.data.chat.encode import ChatOptions, DialogueEncoder, encode_dialogue
from thetahat.data.chat.ends import TurnEnds
from thetahat.data.chat.template import TEMPLATES, ChatTemplate
from thetahat.data.read.dialogue import parse_dialogue
from thetahat.data.tokens.tokenizer import train_tokenizer

SPECIAL = list(dict.fromkeys(token for template in TEMPLATES.values() for token in template.special_tokens))
HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "one\ntwo<|im_end|>"}]
WRITES = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
    "{% endfor %}END{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a text of some words"], 300 + len(SPECIAL), [*SPECIAL, "<eom>", "<eot>"])


def ends_of(tokenizer, template):
    found = DialogueEncoder(tokenizer, ChatOptions(template)).turn_ends()
    names = {id: name for name, id in tokenizer.special.items()}
    return {names[id] for id in found.tokens}, found.text


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_turn_of_a_known_template_ends_with_its_token(tokenizer, name):
    assert ends_of(tokenizer, TEMPLATES[name]) == (set(TEMPLATES[name].ends_turn), "")


def test_every_token_that_may_end_a_turn_does(tokenizer):
    either = WRITES.replace("END", "{{ '<eom>' if m.tool_calls else '<eot>' }}")
    assert ends_of(tokenizer, ChatTemplate("two", either, ("<eom>", "<eot>"))) == ({"<eom>", "<eot>"}, "")
    told = ChatTemplate("told", either, ("<eom>", "<eot>", "</s>"), ("<eom>", "<eot>", "</s>"))
    assert ends_of(tokenizer, told) == ({"<eom>", "<eot>", "</s>"}, "")


def test_a_text_ends_turns_where_no_token_does_and_that_is_told(tokenizer):
    template = ChatTemplate("text", WRITES.replace("END", "</end>\n"))
    assert ends_of(tokenizer, template) == (set(), "</end>")
    dialogue = parse_dialogue({"messages": HELLO}, "d")
    one = encode_dialogue(dialogue, "d", tokenizer, ChatOptions(template))
    assert one.notes == ("turn-1: no special token ends it, but the text '</end>' does",)


def test_nothing_ends_turns_where_a_template_writes_nothing_behind_them(tokenizer):
    template = ChatTemplate("none", WRITES.replace("END", "\n"))
    assert DialogueEncoder(tokenizer, ChatOptions(template)).turn_ends() == TurnEnds(frozenset())
    with pytest.raises(DataError, match="writes nothing that ends turn-1"):
        encode_dialogue(parse_dialogue({"messages": HELLO}, "d"), "d", tokenizer, ChatOptions(template))
