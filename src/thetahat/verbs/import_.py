"""A folder of Hugging Face's transformers as a model folder of ours: the same numbers, bit for bit."""

from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from thetahat.core import store
from thetahat.core.config import to_toml
from thetahat.core.errors import ConfigError
from thetahat.data.chat.template import load_template
from thetahat.data.config import ChatConfig
from thetahat.interop.made import metas
from thetahat.interop.origin import origin_of, write_origin
from thetahat.run.card import Card
from thetahat.run.folder.files import CARD, MODEL
from thetahat.run.folder.stored import Foreign, find_model
from thetahat.run.folder.tensors import write_tensors

TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True, slots=True)
class Imported:
    """What was read and written."""

    folder: Path
    family: str
    dtype: str
    num_parameters: int
    num_tokens: int  # of the tokenizer; the table of embeddings may have more rows
    passengers: list[str] = field(default_factory=list[str])  # tensors that are kept and not used


def import_(name: str, out: Path) -> Imported:
    """Writes a model that transformers wrote as a folder of ours, which every command takes.

    Its tensors have our names and the bits that they had; a card says what it is. The tokenizer, the templates, and
    what is not used of the folder are kept, so that `export` gives it back. Raises ModelError for what is not
    supported.
    """
    store.check_target(out, "OUT")
    stored = find_model(name)
    if not isinstance(stored, Foreign):
        raise ConfigError(f"{name} is a model of ours already", cure=f"thetahat score {name}")
    origin, tokenizer = origin_of(stored.hub), stored.tokenizer()
    tensors = stored.parameters()
    with store.alone(out), store.publishing(out) as folder:
        write_tensors({MODEL: tensors}, folder)
        store.write_text(folder / CARD, to_toml(_kept_template(stored.card, folder)))
        for file, text in tokenizer.files().items():
            store.write_text(folder / file, text)
        write_origin(folder, origin)
    return Imported(
        folder=out,
        family=stored.hub.family,
        dtype=str(stored.hub.dtype).removeprefix("torch."),
        num_parameters=sum(tensor.numel() for tensor in metas(tensors).values()),
        num_tokens=tokenizer.vocab_size,
        passengers=sorted(origin.passengers),
    )


def _kept_template(card: Card, folder: Path) -> Card:
    """The card with its chat template beside it, and with what that one is given."""
    if card.chat is None:
        return card
    template = load_template(card.chat)
    store.write_text(folder / TEMPLATE, template.source)
    chat = ChatConfig(
        template=TEMPLATE,
        special_tokens=template.special_tokens,
        ends_turn=template.ends_turn,
        bos_token=template.bos_token,
        eos_token=template.eos_token,
    )
    return replace(card, chat=chat)
