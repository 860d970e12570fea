"""The next turn of a dialogue."""

from collections.abc import Mapping, Sequence
from typing import Any

from thetahat.core.errors import ConfigError
from thetahat.data.chat import ChatOptions, encode_dialogue
from thetahat.data.dialogue import parse_dialogue
from thetahat.data.template import load_template
from thetahat.evaluation.generate import Sampling, generate_batch
from thetahat.model.encoder import Encoder
from thetahat.model.encoder_decoder import EncoderDecoder
from thetahat.verbs.load import Loaded


def answer(loaded: Loaded, messages: Sequence[Mapping[str, Any]], sampling: Sampling) -> str:
    """What the model says after these messages, in the words of the template that it was trained with.

    The prompt is made by the code that made those of training, and the answer ends where a turn of training did.
    """
    data, model = loaded.config.data, loaded.model
    if data.chat is None or isinstance(model, Encoder):
        raise ConfigError(f"{loaded.folder} was not trained on dialogues", cure="thetahat generate continues a text")
    streams = 2 if isinstance(model, EncoderDecoder) else 1
    options = ChatOptions(load_template(data.chat), 1 << 30, shares_prefixes=False, streams=streams)
    asked = parse_dialogue({"messages": [*messages, {"role": "assistant", "content": "x"}]}, "the dialogue")
    encoded = encode_dialogue(asked, "the dialogue", loaded.tokenizer, options)
    first, *others = encoded.sequences[-1]
    prompt = [
        token for token, part in zip(first.tokens, first.part, strict=True) if encoded.parts[part].is_prompt or others
    ]
    end = (others[0] if others else first).tokens[-1]
    start = loaded.tokenizer.end_of_text if others else None
    (ids,) = generate_batch(model, [prompt], sampling, context=data.context, end=end, start=start)
    return loaded.tokenizer.decode(ids)
