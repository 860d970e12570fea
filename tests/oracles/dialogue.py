"""What a dialogue asks, turn by turn: every history is rendered and tokenised again, nothing is shared.

The library finds the special tokens itself here, so no message may contain their names.
"""

import functools
import json

import jinja2
import tokenizers


@functools.cache
def compiled(source):
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)

    def refuse(message):
        raise ValueError(message)

    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(source)


def render(template, messages, add_generation_prompt):
    return compiled(template.source).render(
        messages=messages,
        tools=None,
        add_generation_prompt=add_generation_prompt,
        bos_token=template.bos_token,
        eos_token=template.eos_token,
    )


def texts(template, messages, index):
    """The inference prompt of a turn, and what the live rendering adds behind it up to the end of the turn."""
    prompt = render(template, messages[:index], messages[index]["role"] == "assistant")
    live = render(template, messages[: index + 1], False)
    if template.name == "deepseek-r1":  # asks the model to think, and then drops what it thought
        prompt = prompt.removesuffix("<think>\n")
    assert live.startswith(prompt)
    completion = live[len(prompt) :]
    ends = [completion.rfind(token) + len(token) for token in template.ends_turn if token in completion]
    return prompt, completion[: max(ends)]


@functools.cache
def library_of(tokenizer_json):
    return tokenizers.Tokenizer.from_str(tokenizer_json)


def path(template, messages, index, tokenizer_json):
    """P_k and C_k as ids."""
    library = library_of(tokenizer_json)
    return tuple(library.encode(text, add_special_tokens=False).ids for text in texts(template, messages, index))


def paths(sequences, parts):
    """For each part that is asked, its context and its tokens, read off the spans one token at a time."""
    found = {}
    for sequence in sequences:
        whole = []  # of each span, the tokens from the beginning of its path, with the part of each; None: not asked
        for span in sequence:
            before = [] if span.parent < 0 else whole[span.parent]
            assert span.position == max(len(before) - 1, 0)
            if before:
                assert before[-1][0] == span.tokens[0]
            own = [(token, part) for token, part in zip(span.tokens, span.part, strict=True)]
            whole.append(before + own[1:] if before else [(own[0][0], None), *own[1:]])
            for depth in range(len(before) or 1, len(whole[-1])):
                token, part = whole[-1][depth]
                if parts[part].is_prompt:
                    continue
                context = tuple(token for token, _ in whole[-1][:depth])
                found.setdefault(part, []).append((context, token))
    joined = {}
    for part, asked in found.items():
        context, completion = asked[0][0], [token for _, token in asked]
        for i, (seen, _) in enumerate(asked):  # each token sees the context and the ones before it
            assert seen == context + tuple(completion[:i])
        joined[parts[part].name] = (list(context), completion)
    return joined
