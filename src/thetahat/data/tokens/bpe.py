"""The training of byte-level BPE: bounded in time and length, with a word on how far it is, and Ctrl-C works."""

from collections.abc import Iterable, Iterator, Sequence
from logging import getLogger
from threading import Thread
from typing import final

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from thetahat.core.errors import DataError
from thetahat.core.work.phases import phase

ALPHABET = frozenset(pre_tokenizers.ByteLevel.alphabet())
LONGEST_PIECE = 128  # bytes; the longest of GPT-2's pieces has as many
_POLL = 0.1  # seconds between two looks at signals
logger = getLogger("thetahat")


def train_bpe(
    texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str], num_bytes: int | None = None
) -> tokenizers.Tokenizer:
    """Byte-level BPE with pieces of at most `LONGEST_PIECE` bytes.

    What the pattern finds (a word, a run of digits, of signs or of blanks) is cut after every `LONGEST_PIECE` bytes.
    Merges stay inside such a part: a merge costs the length of each part that it changes, so that uncut DNA or base64
    would take time quadratic in its size. Text without such long words trains the same tokenizer as without the cut,
    and only training cuts: the tokenizer itself encodes a word of any length as a whole, in time linear in it.
    """
    inner = tokenizers.Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    parts = pre_tokenizers.Split(tokenizers.Regex(f".{{{LONGEST_PIECE}}}"), "isolated")  # of a byte alphabet: of bytes
    inner.pre_tokenizer = pre_tokenizers.Sequence([words, parts])
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(ALPHABET),
        show_progress=False,
    )
    logger.info("training a tokenizer of at most %s pieces", f"{vocab_size:,}")
    _Training(inner, trainer, texts).finish(num_bytes)
    inner.pre_tokenizer = words
    return inner


@final
class _Training(Thread):
    """The library's training, which hears no signal, in a thread of its own: the one that waits for it hears them."""

    def __init__(self, inner: tokenizers.Tokenizer, trainer: trainers.BpeTrainer, texts: Iterable[str]) -> None:
        super().__init__(name="tokenizer", daemon=True)  # the process may end before it
        self._inner, self._trainer, self._texts = inner, trainer, texts
        self._vocab_size = trainer.vocab_size  # which cannot be asked while it trains
        self._num_texts = self._num_bytes = 0  # bytes: at least
        self._is_reading, self._is_given_up = True, False
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._inner.train_from_iterator(self._read(), self._trainer)
        except BaseException as error:  # noqa: BLE001 - raised again by `finish`
            self._error = error

    def finish(self, num_bytes: int | None) -> None:
        """Trains, in two phases that can be watched; raises what stopped it."""
        self.start()
        try:
            with phase("tokenizer: counting words", num_bytes) as counting:
                while self.is_alive() and self._is_reading:
                    self.join(_POLL)
                    counting.advance(self._num_bytes - counting.done)
            with phase(f"tokenizer: choosing {self._vocab_size:,} pieces"):
                while self.is_alive():
                    self.join(_POLL)
        except BaseException:
            self._is_given_up = True
            raise
        if self._error is not None:
            raise self._error

    def _read(self) -> Iterator[str]:
        for text in self._texts:
            if self._is_given_up:
                return
            self._num_texts += 1
            self._num_bytes += len(text)
            yield text
        if not self._num_texts:
            raise DataError("no text to train a tokenizer on")
        self._is_reading = False
