"""Chat templates: how messages become text, by name, from a file, or as a model brought it."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from thetahat.core.errors import ConfigError
from thetahat.data.config import ChatConfig, Plain


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A Jinja template, and what it is given beside the messages."""

    name: str
    source: str
    special_tokens: tuple[str, ...] = ()  # what it writes that is one id and no text
    ends_turn: tuple[str, ...] = ()  # of these, what ends a turn of the assistant; none: the last one that it writes
    bos_token: str = ""
    eos_token: str = ""
    variables: Mapping[str, Plain] = field(default_factory=dict[str, Plain])
    date: str | None = None  # what `strftime_now` tells

    @property
    def digest(self) -> str:
        """A short name for exactly this rendering."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def given(self, tools: Sequence[Any] = ()) -> dict[str, Any]:
        """What it is given beside the messages."""
        tokens = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        return {"tools": list(tools) or None, "documents": None, **tokens, **self.variables}


def load_template(config: ChatConfig) -> ChatTemplate:
    """The template that a config names, with what the config says about it."""
    template = TEMPLATES.get(config.template) or _read(Path(config.template), config.named)
    special = (*template.special_tokens, *config.special_tokens, *config.ends_turn)
    template = replace(
        template,
        special_tokens=tuple(dict.fromkeys(special)),
        ends_turn=config.ends_turn or template.ends_turn,
        variables=config.variables,
        date=config.date,
    )
    named = {"bos_token": config.bos_token, "eos_token": config.eos_token}
    return replace(template, **{name: token for name, token in named.items() if token is not None})


def _read(path: Path, named: str | None) -> ChatTemplate:
    """The template of a .jinja file, or of the folder of a model or its tokenizer_config.json."""
    if path.suffix == ".jinja" and path.is_file():
        folder = path.parent.parent if path.parent.name == _OTHERS else path.parent
        return _with_tokens(str(path), _text(path), _object(folder / _CONFIG))
    if path.is_dir():
        return template_of(_object(path / _CONFIG), str(path), path, named)
    if path.suffix != ".json":
        return ChatTemplate(str(path), _text(path))
    return template_of(_object(path), str(path), path.parent, named)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # a byte order mark is not part of any prompt
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"template={str(path)!r} is neither a known template nor a file that can be read",
            allowed=f"{', '.join(TEMPLATES)}, or the path of a .jinja file, of a tokenizer_config.json or of a folder",
        ) from error


def _object(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(_text(path)) if path.name != _CONFIG or path.exists() else {}
    except ValueError as error:
        raise ConfigError(f"template={str(path)!r} is not JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def templates_in(
    folder: Path | None, tokenizer_config: Mapping[str, Any], read: Callable[[Path], str] = _text
) -> dict[str, str]:
    """The templates in the folder of a model by name; the one that is used without a name is "default".

    A file of its own comes before tokenizer_config.json, as in transformers; `read` gives the text of one.
    """
    source = tokenizer_config.get("chat_template")
    if isinstance(source, list):  # several, by name
        source = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}
    listed = source if isinstance(source, dict) else {"default": source}
    found = {str(name): text for name, text in listed.items() if isinstance(text, str)}
    if folder is None:
        return found
    found |= {path.stem: read(path) for path in sorted((folder / _OTHERS).glob("*.jinja"))}
    return found | ({"default": read(folder / _OWN)} if (folder / _OWN).is_file() else {})


def template_of(
    tokenizer_config: Mapping[str, Any], name: str, folder: Path | None = None, named: str | None = None
) -> ChatTemplate:
    """One of the templates of a model, with the special tokens that its tokenizer_config.json names."""
    templates, wanted = templates_in(folder, tokenizer_config), named or "default"
    if wanted not in templates:
        of_name = f" of the name {wanted!r}" if templates else ""
        raise ConfigError(
            f"template={name!r} holds no chat_template{of_name}",
            allowed=", ".join(templates) or f"{', '.join(TEMPLATES)}, or a .jinja file",
            cure=f"data.chat.named={next(iter(templates))}" if templates else "",
        )
    return _with_tokens(name, templates[wanted], tokenizer_config)


def _with_tokens(name: str, source: str, tokenizer_config: Mapping[str, Any]) -> ChatTemplate:
    added = cast("Mapping[str, Any]", tokenizer_config.get("added_tokens_decoder") or {})
    tokens = [token for token in added.values() if isinstance(token, dict)] if isinstance(added, dict) else []
    special = [_content(token) for token in tokens if token.get("special")]
    bos, eos = _content(tokenizer_config.get("bos_token")), _content(tokenizer_config.get("eos_token"))
    special = [token for token in (*special, bos, eos) if token]
    return ChatTemplate(name, source, tuple(dict.fromkeys(special)), bos_token=bos, eos_token=eos)


_CONFIG, _OWN, _OTHERS = "tokenizer_config.json", "chat_template.jinja", "additional_chat_templates"


def _content(token: Any) -> str:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else ""


def _known(name: str, special: str, *, bos: str = "", eos: str = "", ends: Sequence[str] = ()) -> ChatTemplate:
    source = Path(__file__).with_name("templates").joinpath(f"{name}.jinja").read_text(encoding="utf-8")
    return ChatTemplate(name, source, tuple(special.split()), tuple(ends) or (eos,), bos, eos)


_IM = "<|im_start|> <|im_end|>"
_LLAMA = "<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>"
_PHI = "<|system|> <|user|> <|assistant|> <|end|> <|endoftext|>"
_MISTRAL = "<s> </s> [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [INST] [/INST]"
_DEEPSEEK = "<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜> <｜User｜> <｜Assistant｜>"
_HARMONY = "<|start|> <|message|> <|channel|> <|end|> <|return|>"
_TEMPLATES = (
    _known("chatml", _IM, eos="<|im_end|>"),
    _known("llama-3", _LLAMA, bos="<|begin_of_text|>", eos="<|eot_id|>"),
    _known("gemma", "<bos> <start_of_turn> <end_of_turn>", bos="<bos>", eos="<end_of_turn>"),
    _known("mistral", _MISTRAL, bos="<s>", eos="</s>"),
    _known("zephyr", "</s>", eos="</s>"),
    _known("phi-3", _PHI, eos="<|endoftext|>", ends=["<|end|>"]),
    _known("qwen3", _IM, eos="<|im_end|>"),
    _known("deepseek-r1", _DEEPSEEK, bos="<｜begin▁of▁sentence｜>", eos="<｜end▁of▁sentence｜>"),
    _known("gpt-oss", _HARMONY, eos="<|return|>"),
    _known("plain", "<|endoftext|>", eos="<|endoftext|>"),
)
TEMPLATES: Mapping[str, ChatTemplate] = {template.name: template for template in _TEMPLATES}
