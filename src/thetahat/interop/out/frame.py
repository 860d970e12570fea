"""A tokenizer.json that puts around a text what the model was trained to read around it."""

import json

import tokenizers
from tokenizers.processors import PostProcessor, Sequence as Chain, TemplateProcessing

from thetahat.core.special import Frame

_PROBE = "a"


def with_frame(tokenizer: str, frame: Frame) -> str:
    """The text of a tokenizer.json whose post-processor puts this frame around a text.

    One that puts anything there already is left as it is. Two texts read one behind the other, the second without a
    beginning of its own.
    """
    inner = tokenizers.Tokenizer.from_str(tokenizer)
    adds = inner.encode(_PROBE, add_special_tokens=True).ids != inner.encode(_PROBE, add_special_tokens=False).ids
    if adds or not (frame.before or frame.after):
        return tokenizer
    names = {token: inner.id_to_token(token) for token in frame.around(())}
    first, last = ([f"{names[token]}:0" for token in ids] for ids in (frame.before, frame.after))
    template = TemplateProcessing(
        single=[*first, "$A:0", *last],
        pair=[*first, "$A:0", *last, "$B:1", *(f"{names[token]}:1" for token in frame.after)],
        special_tokens=[(name, token) for token, name in names.items()],
    )
    inner.post_processor = _behind(inner.post_processor, template)
    described = json.loads(tokenizer)
    described["post_processor"] = json.loads(inner.to_str())["post_processor"]
    return json.dumps(described, indent=2, ensure_ascii=False) + "\n"


def _behind(given: PostProcessor | None, template: TemplateProcessing) -> PostProcessor:
    return template if given is None else Chain([given, template])
