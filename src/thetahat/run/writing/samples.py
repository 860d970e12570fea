"""Texts that a run writes while it trains, and samples.jsonl, which keeps them."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import final

from thetahat.core.errors import ConfigError
from thetahat.core.special import MASK
from thetahat.core.work.eager import eagerly
from thetahat.data.read.prompt import unanswered
from thetahat.data.tokens.tokenizer import Tokenizer
from thetahat.distribution.pieces import is_sharded, reading
from thetahat.generation.sample import Sampling
from thetahat.model.attention.kernels import kernels_of_any_shape
from thetahat.model.build import LanguageModel
from thetahat.model.encoder import Encoder
from thetahat.model.precision import computing_in
from thetahat.run.card import Card, card_of
from thetahat.run.log.lines import append_line
from thetahat.run.log.samples import SAMPLES, Sample, cut_samples
from thetahat.run.prepare import Prepared
from thetahat.run.state import State
from thetahat.run.writing.dialogue import dialogue_prompts
from thetahat.run.writing.prompt import Prompt, fitted, text_prompts
from thetahat.run.writing.write import fill, write


@dataclass(frozen=True)
class _Speaker:
    """The model of a run as it stands."""

    model: LanguageModel
    tokenizer: Tokenizer
    card: Card
    folder: Path


@final
class Samples:
    """Writes behind each prompt of `samples.prompts`, on the first rank. It draws from generators of its own.

    On resume the file keeps what was written up to the step of the checkpoint. A rank that is only needed to read the
    model writes the same, and `keeps` nothing.
    """

    def __init__(self, prepared: Prepared, state: State, folder: Path, *, keeps: bool = True) -> None:
        self._state, self._config = state, state.config.samples
        self._speaker = _Speaker(state.model, prepared.tokenizer, card_of(state.config, prepared.labels), folder)
        self._path = folder / SAMPLES
        if self._config.prompts:
            self._check()
        self._keeps = keeps
        self._done = cut_samples(folder, state.step) if keeps else set[int]()

    def _check(self) -> None:
        """Raises ConfigError or DataError for a prompt that this model cannot read, before any training."""
        if isinstance(self._state.model, Encoder):
            mask = self._speaker.tokenizer.named.get(MASK)
            name = MASK if mask is None else self._speaker.tokenizer.piece(mask)
            for prompt in self._config.prompts:
                if name not in prompt:
                    raise ConfigError(f"samples.prompts: {prompt!r} has nothing to fill", cure=f"a prompt with {name}")
        else:
            _ = self._prompts

    @cached_property
    def _prompts(self) -> list[Prompt]:
        """As the model reads them."""
        texts = self._config.prompts
        places = [f"prompt {number} of samples.prompts" for number in range(1, len(texts) + 1)]
        if self._speaker.card.chat is None:
            return fitted(self._speaker, text_prompts(self._speaker, texts), places)
        messages = [unanswered({"messages": [{"role": "user", "content": text}]}, "samples.prompts") for text in texts]
        return dialogue_prompts(self._speaker, list(zip(messages, places, strict=True)))

    def __call__(self) -> tuple[Sample, ...]:
        """Writes if it is due after this step and was not done. No parameter and no draw of the training changes."""
        state = self._state
        if state.step in self._done or not state.config.watch.writes(state.step, state.num_steps):
            return ()
        state.model.eval()
        try:
            with _as_when_asked(state):
                found = tuple(self._write())
        finally:
            state.model.train()
        for sample in found if self._keeps else ():
            append_line(self._path, sample.to_dict(), flush=True)
        self._done.add(state.step)
        return found if self._keeps else ()

    def _write(self) -> Iterator[Sample]:
        step, config = self._state.step, self._config
        if isinstance(self._state.model, Encoder):
            for prompt in config.prompts:
                yield Sample(step, prompt, fill(self._speaker, prompt), "end")
            return
        how = Sampling(temperature=config.temperature, max_tokens=config.max_tokens, seed=self._state.config.seed)
        for prompt, answer in zip(config.prompts, write(self._speaker, self._prompts, how), strict=True):
            yield Sample(step, prompt, answer.text, answer.ended)


@contextmanager
def _as_when_asked(state: State) -> Generator[None]:
    """In float32, but where matrices in pieces are gathered in a narrower dtype: there in the dtype of the run.

    Blocks are not compiled again for each length of a text.
    """
    dtype = state.config.dtype if is_sharded(state.model) else "float32"
    shapes = eagerly(state.device) if state.config.compile else kernels_of_any_shape(state.device)
    with shapes, computing_in(dtype, state.device), reading(state.model):
        yield
