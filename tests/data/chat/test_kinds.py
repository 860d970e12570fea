"""Dialogues under tokenizers of others: a path of a turn is what the library makes of all that was rendered."""

import pytest
from hypothesis import given, strategies as st

from tests.data.tokens.kinds import folder_of, library_of
from thetahat.data.chat.encode import ChatOptions, encode_dialogue
from thetahat.data.chat.template import ChatTemplate
from thetahat.data.read.dialogue import parse_dialogue
from thetahat.data.tokens.tokenizer import load_tokenizer

OPENED = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
PLAIN = ChatTemplate("plain", OPENED + "{% if add_generation_prompt %}<s>assistant\n{% endif %}", ("<s>", "</s>"))
PHI = ChatTemplate(
    "phi",
    "{% for m in messages %}<|{{ 'user' if m.role == 'user' else 'left' }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|left|>\n{% endif %}",
    ("<|user|>", "<|left|>", "<|end|>"),
)
WORDS = st.lists(
    st.sampled_from(["To be", "\u4e2d", "or", " not", "  ", "caf\u00e9", "\n", "\u2581"]), min_size=1, max_size=5
)
SAID = WORDS.map(lambda words: " ".join(words)).filter(lambda text: text.strip())


@pytest.fixture(scope="module", params=[("llama", PLAIN), ("gemma", PLAIN), ("phi", PLAIN), ("phi", PHI)])
def how(request, tmp_path_factory):
    kind, template = request.param
    folder = folder_of(kind, tmp_path_factory.mktemp("kind"))
    library = library_of(folder)
    library.encode_special_tokens = False
    return load_tokenizer(folder), template, library


def rendered(template, said):
    """The dialogue up to the end of its last turn, as a reader would write it down."""
    names = {"plain": ("<s>{}\n{}</s>\n", "<s>{}\n{}</s>"), "phi": ("<|{}|>\n{}<|end|>\n", "<|{}|>\n{}<|end|>")}
    roles = {"plain": ("user", "assistant"), "phi": ("user", "left")}[template.name]
    whole, last = names[template.name]
    lines = [whole.format(roles[index % 2], text) for index, text in enumerate(said[:-1])]
    return "".join(lines) + last.format(roles[1], said[-1])


@given(said=st.lists(SAID, min_size=2, max_size=4).filter(lambda said: len(said) % 2 == 0))
def test_a_turn_is_read_and_asked_as_the_library_tokenises_all_of_it(how, said):
    tokenizer, template, library = how
    messages = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(said)]
    dialogue = parse_dialogue({"messages": messages}, "d")
    encoded = encode_dialogue(dialogue, "d", tokenizer, ChatOptions(template, shares_prefixes=False))
    *_, ((span),) = encoded.sequences
    text = rendered(template, said)
    assert list(span.tokens) == library.encode(text, add_special_tokens=False).ids
    part = encoded.parts[span.part[-1]]
    sizes = part.sizes or [
        tokenizer.sizes[id] for id, one in zip(span.tokens, span.part, strict=True) if one == span.part[-1]
    ]
    assert sum(sizes) == len(said[-1].encode())
    assert part.is_lossless or template is PHI or "\u2581" in said[-1]
