r"""A model of ours under the harness's tasks: `lm_eval` asks, `score_corpus` answers.

    lm_eval --model thetahat --model_args model=runs/NAME --tasks hellaswag
    lm_eval.simple_evaluate(model=HarnessModel("runs/NAME"), tasks=[...])

The harness (0.4.13) finds models by name in a list of its own, to which `_thetahat_lm_eval` adds this one.
`--model_args` takes what `thetahat score` takes as KEY=VALUE, and `over_long`.

- Beginning: every text begins with exactly one `<|endoftext|>`, which is read and never asked, in the first window of a
  long text alone; a literal `<|endoftext|>` in a text is text. The end of a text is not asked.
- Tokens: context and continuation are tokenised once, joined; a token that straddles counts with the continuation, as
  those of the choices beside it from there on do. How many straddle is logged.
- What is too long is an error, or with over_long=truncate-left cut at the beginning and counted.
- Rolling: windows of the whole context, disjoint as the harness has them, unless evaluation.stride says otherwise.
"""

import itertools
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from logging import getLogger
from typing import Any, Literal

from thetahat.core.config import from_plain
from thetahat.core.errors import ConfigError, DataError
from thetahat.data.corpus.choice import CHOICE, AskedQuestions, ask_questions
from thetahat.data.read.question import Question, question
from thetahat.data.read.record import Record
from thetahat.generation.sample import Sampling
from thetahat.ledger.ledger import LedgerRow
from thetahat.verbs.choose import asking_of, score_questions
from thetahat.verbs.generate import answer
from thetahat.verbs.load import Loaded, load

logger = getLogger("thetahat")

_CURE = 'pip install "thetahat[eval]"'
_IS_THERE = find_spec("lm_eval") is not None
_Base: Any = import_module("lm_eval.api.model").LM if _IS_THERE else object


class HarnessModel(_Base):
    """What the harness asks of a model: log-likelihoods of continuations and of whole texts, and texts."""

    def __init__(
        self,
        model: str | Loaded,
        over_long: Literal["error", "truncate-left"] = "error",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,  # the harness's, of a search that is not made here
        device: str | None = None,
        **settings: Any,
    ) -> None:
        if not _IS_THERE:
            raise ConfigError("lm-eval is not installed", cure=_CURE)
        super().__init__()
        if isinstance(batch_size, int) or (batch_size or "").isdecimal():
            settings["batch_size"] = batch_size
        if device:  # cuda:0 is what the harness says where nobody has said anything, with and without a GPU
            settings["device"] = "auto" if device == "cuda:0" else device
        pairs = tuple(f"{key}={_plain(value)}" for key, value in settings.items())
        self.loaded = load(model, pairs) if isinstance(model, str) else model
        self.over_long: Literal["error", "truncate-left"] = over_long
        self.has_stride = "evaluation.stride" in settings

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The log-probability of each continuation behind its context, and whether no other token was likelier."""
        if empty := [f"{one.task_name} {one.doc_id}" for one in requests if not one.args[1]]:
            raise DataError(f"nothing is asked, the continuation is empty: {', '.join(empty[:8])}")
        groups = [list(some) for _, some in itertools.groupby(requests, _question_of)]
        questions = [
            _question(str(index), [one.args[0] for one in some], [one.args[1] for one in some])
            for index, some in enumerate(groups)
        ]
        found = self._score(questions, over_long=self.over_long)
        return [
            found[str(index), CHOICE.format(place)] for index, some in enumerate(groups) for place in range(len(some))
        ]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, every token once; 0 of an empty one."""
        texts = {str(index): one.args[0] for index, one in enumerate(requests) if one.args[0]}
        found = self._score([_question(id, [""], [text]) for id, text in texts.items()], over_long="window")
        return [found[str(index), CHOICE.format(0)][0] if one.args[0] else 0.0 for index, one in enumerate(requests)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to the first of the texts that end it."""
        texts: dict[int, str] = {}
        by_settings = sorted(range(len(requests)), key=lambda index: repr(requests[index].args[1]))
        for _, some in itertools.groupby(by_settings, key=lambda index: repr(requests[index].args[1])):
            group = list(some)
            settings = import_module("lm_eval.models.utils").normalize_gen_kwargs(requests[group[0]].args[1])
            ends, sampling = settings.pop("until"), _sampling(settings)
            prompts = [self._fitting(requests[index].args[0]) for index in group]
            for index, text in zip(group, answer(self.loaded, prompts, sampling), strict=True):
                texts[index] = _until(text, ends)
        return [texts[index] for index in range(len(requests))]

    def _score(self, questions: Sequence[Question], **choices: Any) -> dict[tuple[str, str], tuple[float, bool]]:
        if not questions:
            return {}
        asking = asking_of(self.loaded, delimiter="", alone=False, **choices)
        asked = ask_questions(questions, self.loaded.tokenizer, asking)
        stride = self.loaded.card.context if choices["over_long"] == "window" and not self.has_stride else None
        likelihoods, rows = score_questions(self.loaded, asked, stride=stride)
        _say(asked, rows)
        pairs = zip(rows, likelihoods.is_greedy, strict=True)
        return {(row.id, row.part): (row.log_prob, bool(is_greedy)) for row, is_greedy in pairs}

    def _fitting(self, prompt: str) -> str:
        """A prompt that is read whole, or what is left of it."""
        tokenizer, card = self.loaded.tokenizer, self.loaded.card
        has_source = card.factorization.layout.has_source
        context = card.source_room if has_source else card.context
        (ids,) = tokenizer.encode([prompt])
        if (over := len(ids) + 1 - context) <= 0:
            return prompt
        if self.over_long == "error":
            raise ConfigError(
                f"a prompt of {len(ids) + 1} tokens, where the model reads {context}",
                cure="--model_args ...,over_long=truncate-left leaves out the beginning of prompts",
            )
        logger.warning("%d tokens at the beginning of a prompt are not read", over)
        return tokenizer.decode(ids[over:])


def _question_of(request: Any) -> tuple[Any, ...]:
    """What choices of one question have in common, as the harness lists them one after the other."""
    return request.task_name, request.doc_id, request.args[0]


def _question(id: str, contexts: Sequence[str], choices: Sequence[str]) -> Question:
    return question(contexts, choices, 0, Record("", id, id, "", where=f"request {id}"))


def _sampling(settings: dict[str, Any]) -> Sampling:
    """From what the harness has made of a task's generation_kwargs: its number of tokens is `max_gen_toks`."""
    draws, max_tokens = settings.pop("do_sample", False), settings.pop("max_gen_toks")
    chosen = {name: value for name, value in settings.items() if value is not None and (draws or name != "temperature")}
    return from_plain({"temperature": 1.0 if draws else 0.0, **chosen, "max_tokens": max_tokens}, Sampling)


def _until(text: str, ends: Sequence[str]) -> str:
    return text[: min((place for end in ends if end and (place := text.find(end)) >= 0), default=len(text))]


def _say(asked: AskedQuestions, rows: Sequence[LedgerRow]) -> None:
    """What a person should know about how these were asked."""
    straddling, cut = sum(asked.straddling), int(asked.corpus.column["documents.prompt_cut"].sum())
    if straddling:
        logger.info("%d tokens of %d continuations straddle the end of the context", straddling, len(rows))
    if cut:
        logger.warning("%d tokens at the beginning of contexts are not read", cut)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
