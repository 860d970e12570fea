"""A tokenizer of one's own."""

from collections.abc import Mapping
from pathlib import Path

from thetahat.core import store
from thetahat.core.errors import ConfigError
from thetahat.data.config import OnBadRecord
from thetahat.data.read.texts import read_records
from thetahat.data.tokens.tokenizer import Tokenizer, train_tokenizer


def train(
    data: list[str], vocab_size: int, out: Path, on_bad: OnBadRecord = "error", columns: Mapping[str, str] | None = None
) -> Tokenizer:
    """Trains byte-level BPE on every record of `data` and writes it where `data.tokenizer=PATH` can name it.

    `columns` says which fields of a record are read, as `data.columns` does.
    """
    if not 257 <= vocab_size <= 2**24:
        raise ConfigError(
            f"a vocabulary of {vocab_size} pieces", allowed="257 (the bytes and <|endoftext|>) to 16,777,216"
        )
    store.check_target(out)
    texts = (text for record in read_records(data, on_bad=on_bad, columns=columns) for text in record.texts)
    tokenizer = train_tokenizer(texts, vocab_size)
    store.write_text(out, tokenizer.to_json())
    return tokenizer
