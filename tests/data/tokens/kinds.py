"""Tokenizers as others make them, small: every kind of model, normalizer and frame that folders of models have."""

import json
from collections.abc import Callable
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from thetahat.data.read.files import find_files

TEXT = find_files("bundled:tinyshakespeare")[0].read_text(encoding="utf-8")[:40_000]
LINES = [*TEXT.split("\n"), *["na\u00efve caf\u00e9 \u4e2d\u6587\u5b57 \U0001f600 \u00fcber \ufb01ne"] * 20]
ALPHABET = pre_tokenizers.ByteLevel.alphabet()
Library = tokenizers.Tokenizer


def special(*names: str, **kwargs: bool) -> list[AddedToken]:
    return [AddedToken(name, special=True, normalized=False, **kwargs) for name in names]


def byte_level(names: list[str], *, prefix: bool = False, vocab_size: int = 500) -> Library:
    inner = Library(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    inner.decoder = decoders.ByteLevel()
    kwargs = {"initial_alphabet": ALPHABET, "special_tokens": names, "show_progress": False}
    inner.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=vocab_size, **kwargs))
    return inner


def nfc() -> tuple[Library, dict[str, dict]]:
    """As Qwen: NFC, and several ends of what is generated."""
    inner = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    inner.normalizer = normalizers.NFC()
    config = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "bos_token": None}
    return inner, {"tokenizer_config.json": config, "generation_config.json": {"eos_token_id": [2, 0]}}


def roberta() -> tuple[Library, dict[str, dict]]:
    inner = byte_level(["<s>", "<pad>", "</s>", "<unk>"], prefix=True)
    inner.add_special_tokens(special("<mask>", lstrip=True))
    inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    named = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "cls_token": "<s>", "mask_token": "<mask>"}
    return inner, {"special_tokens_map.json": named}


def bert() -> tuple[Library, dict[str, dict]]:
    inner = Library(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    inner.train_from_iterator(
        TEXT.split("\n"), trainers.WordPieceTrainer(vocab_size=500, special_tokens=names, show_progress=False)
    )
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    inner.enable_truncation(8)
    inner.enable_padding(length=8)
    named = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    return inner, {"tokenizer_config.json": named}


def t5() -> tuple[Library, dict[str, dict]]:
    """Unigram with a lossy normalizer, sentinels, and a decoder that starts from the padding."""
    inner = Library(models.Unigram())
    inner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), "\u2581")])
    inner.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", "always")
    inner.decoder = decoders.Metaspace("\u2581", "always")
    kwargs = {"special_tokens": ["<pad>", "</s>", "<unk>"], "unk_token": "<unk>", "show_progress": False}
    inner.train_from_iterator(LINES, trainers.UnigramTrainer(vocab_size=400, **kwargs))
    inner.add_special_tokens(special(*(f"<extra_id_{number}>" for number in range(20))))
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    named = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    generation = {"decoder_start_token_id": 0, "eos_token_id": 1}
    return inner, {"tokenizer_config.json": named, "generation_config.json": generation}


def byte_fallback() -> Library:
    """Pieces of characters as in SentencePiece, with a token for every byte."""
    inner = Library(models.BPE())
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=names, show_progress=False)
    inner.train_from_iterator(TEXT.split("\n"), trainer)
    model = json.loads(inner.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    inner = Library(models.BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.add_special_tokens(special("<unk>", "<s>", "</s>"))
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return inner


NAMED = {"tokenizer_config.json": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}}
BLANKS = decoders.Replace("\u2581", " ")


def llama() -> tuple[Library, dict[str, dict]]:
    """A blank before every text and behind every special token."""
    inner = byte_fallback()
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    inner.decoder = decoders.Sequence([BLANKS, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return inner, NAMED


def phi() -> tuple[Library, dict[str, dict]]:
    """A blank before the first word alone, and special tokens that take the blanks beside them."""
    inner = byte_fallback()
    inner.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", "first", False)
    inner.decoder = decoders.Sequence([BLANKS, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    inner.add_special_tokens([*special("<|user|>", "<|end|>", rstrip=True), *special("<|left|>", lstrip=True)])
    return inner, NAMED


def gemma() -> tuple[Library, dict[str, dict]]:
    inner = byte_fallback()
    inner.normalizer = normalizers.Replace(" ", "\u2581")
    inner.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    inner.decoder = decoders.Sequence([BLANKS, decoders.ByteFallback(), decoders.Fuse()])
    return inner, NAMED


def words() -> tuple[Library, dict[str, dict]]:
    inner = Library(models.WordLevel(unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=300, special_tokens=["[UNK]", "[EOS]"], show_progress=False)
    inner.train_from_iterator(LINES, trainer)
    return inner, {"tokenizer_config.json": {"eos_token": "[EOS]"}}


KINDS: dict[str, Callable[[], tuple[Library, dict[str, dict]]]] = {
    kind.__name__: kind for kind in (nfc, roberta, bert, t5, llama, phi, gemma, words)
}


def folder_of(kind: str, above: Path) -> Path:
    """The folder of a tokenizer, as it would lie beside a model."""
    folder = above / kind
    folder.mkdir()
    inner, beside = KINDS[kind]()
    inner.save(str(folder / "tokenizer.json"))
    for name, content in beside.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def library_of(folder: Path) -> Library:
    """The library's own reading of it, to judge by: names of special tokens in a text are text, nothing is cut."""
    inner = Library.from_file(str(folder / "tokenizer.json"))
    inner.no_truncation()
    inner.no_padding()
    inner.encode_special_tokens = True
    return inner
