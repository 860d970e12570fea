"""A tokenizer of one's own."""

from pathlib import Path

from thetahat.core import store
from thetahat.core.errors import ConfigError
from thetahat.data.config import OnBadRecord, ReadOptions
from thetahat.data.read.texts import read_records
from thetahat.data.tokens.tokenizer import Tokenizer, train_tokenizer


def train(
    data: list[str], vocab_size: int, out: Path, on_bad: OnBadRecord = "error", options: ReadOptions | None = None
) -> Tokenizer:
    """Trains byte-level BPE on every record of `data` and writes it where `data.tokenizer=PATH` can name it.

    `options` say how records are taken from the files, as `data.columns` and its like do for a run.
    """
    if not 257 <= vocab_size <= 2**24:
        raise ConfigError(
            f"a vocabulary of {vocab_size} pieces", allowed="257 (the bytes and <|endoftext|>) to 16,777,216"
        )
    store.check_target(out)
    texts = (text for record in read_records(data, options or ReadOptions(), on_bad) for text in record.texts)
    tokenizer = train_tokenizer(texts, vocab_size)
    store.write_text(out, tokenizer.to_json())
    return tokenizer
