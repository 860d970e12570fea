r"""A model of ours in the tasks of lm-eval (the harness), scored by `score_corpus`.

    thetahat lm-eval --model thetahat --model_args model=runs/NAME --tasks hellaswag
    lm_eval.simple_evaluate(model=HarnessModel("runs/NAME"), tasks=[...])

The harness (0.4.13) finds models by name in a list of its own, to which `run_harness` adds this one. `--model_args`
takes what `thetahat score` takes as KEY=VALUE, and `over_long`.

- Beginning: every text begins with exactly one `<|endoftext|>`, which is read and no target, in the first window of a
  long text alone; a literal `<|endoftext|>` in a text is text. The end of a text is no target.
- Tokens: context and continuation are tokenised once, joined; a token that straddles counts with the continuation, as
  those of the choices beside it from there on do. How many straddle is logged.
- Dialogues: with `--apply_chat_template` a context is what `thetahat chat` reads before an answer, token by token.
  The continuation behind it is tokenised alone, as a reply is in training.
- What is too long is an error, or with over_long=truncate-left cut at the beginning and counted.
- Rolling: windows of the whole context, disjoint as the harness has them, unless evaluation.stride says otherwise.
"""

import hashlib
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from logging import getLogger
from typing import Any, Literal

from thetahat.core.config import from_plain
from thetahat.core.errors import ConfigError, DataError
from thetahat.data.chat.template import ChatTemplate, load_template
from thetahat.data.corpus.choice import CHOICE, EncodedQuestions, encode_questions
from thetahat.data.read.prompt import unanswered
from thetahat.data.read.question import Question, question
from thetahat.data.read.record import Record
from thetahat.generation.sample import Sampling
from thetahat.ledger.ledger import LedgerRow
from thetahat.run.writing.dialogue import check_talks
from thetahat.run.writing.prompt import Prompt, text_prompts
from thetahat.run.writing.write import write
from thetahat.verbs.chat import question_prompts
from thetahat.verbs.choose import question_encoding, score_questions
from thetahat.verbs.load import Loaded, load

logger = getLogger("thetahat")

_CURE = 'pip install "thetahat[eval]"'
_CUT = "--model_args ...,over_long=truncate-left"
_IS_THERE = find_spec("lm_eval") is not None
_Base: Any = import_module("lm_eval.api.model").LM if _IS_THERE else object


def run_harness(words: Sequence[str]) -> None:
    """Runs the harness's own command line, with the model `thetahat` registered, and exits as it does."""
    if not _IS_THERE:
        raise ConfigError("lm-eval is not installed", cure=_CURE)
    import_module("lm_eval.api.registry").model_registry.register("thetahat", target=f"{__name__}:HarnessModel")
    sys.argv = ["lm-eval", *words]  # it reads its words there
    import_module("lm_eval.__main__").cli_evaluate()


class Rendered(str):
    """A dialogue in its template, as the harness shows it, with the tokens that it stands for."""

    prompt: Prompt


class HarnessModel(_Base):
    """The harness's interface to a model: log-likelihoods of continuations and of whole texts, and writing."""

    def __init__(
        self,
        model: str | Loaded = "",
        over_long: str = "error",  # or truncate-left
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,  # the harness's, of a search that is not made here
        device: str | None = None,
        **settings: Any,
    ) -> None:
        if not _IS_THERE:
            raise ConfigError("lm-eval is not installed", cure=_CURE)
        super().__init__()
        if not (model := settings.pop("pretrained", model)):  # as other models of the harness have it
            raise ConfigError("no model came", cure="--model_args model=runs/NAME")
        if over_long != "error" and over_long != "truncate-left":
            raise ConfigError(f"over_long={over_long}", allowed="error, truncate-left")
        if isinstance(batch_size, int) or (batch_size or "").isdecimal():
            settings["batch_size"] = batch_size
        if device:  # cuda:0 is what the harness says where nobody has said anything, with and without a GPU
            settings["device"] = "auto" if device == "cuda:0" else device
        pairs = tuple(f"{key}={_plain(value)}" for key, value in settings.items())
        self.loaded = load(model, pairs) if isinstance(model, str) else model
        self.over_long: Literal["error", "truncate-left"] = over_long
        self.has_stride = "evaluation.stride" in settings

    @property
    def tokenizer_name(self) -> str:
        """The name under which the harness caches rendered requests: digests of the tokenizer and the template."""
        template = hashlib.sha256(repr(self._template()).encode()).hexdigest()
        return f"thetahat-{self.loaded.tokenizer.digest[:16]}-{template[:16]}"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The source of the template of training, which is the only one that there is."""
        if isinstance(chat_template, str) and chat_template != "default":
            raise ConfigError(f"--apply_chat_template {chat_template}", allowed="the template of training, by no name")
        return self._template().source

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> Rendered:
        """A dialogue as it is read before an answer, or up to within one where the answer is begun already."""
        *before, last = chat_history
        begun = "" if add_generation_prompt else str(last["content"])
        where = "a request of lm-eval"
        dialogue = unanswered({"messages": [*chat_history] if add_generation_prompt else before}, where)
        (prompt,) = question_prompts(self.loaded, [(dialogue, where)], self.over_long)
        (said,) = self.loaded.tokenizer.tokens([begun], goes_on=prompt.goes_on)
        tokens = [*prompt.tokens, *said.ids]
        rendered = Rendered(self.loaded.tokenizer.shown(tokens))
        rendered.prompt = replace(prompt, tokens=tokens, goes_on=prompt.goes_on or bool(said.ids))
        return rendered

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The log-probability of each continuation behind its context, and whether no other token was likelier."""
        if empty := [f"{one.task_name} {one.doc_id}" for one in requests if not one.args[1]]:
            raise DataError(f"the continuation is empty, so nothing is to be scored: {', '.join(empty[:8])}")
        groups = [list(some) for _, some in itertools.groupby(requests, _question_of)]
        questions = [_question(str(index), some) for index, some in enumerate(groups)]
        found = self._score(questions, over_long=self.over_long)
        return [
            found[str(index), CHOICE.format(place)] for index, some in enumerate(groups) for place in range(len(some))
        ]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, every token once; 0 of an empty one."""
        given = {str(index): one for index, one in enumerate(requests) if one.args[0]}
        questions = [
            question([""], [str(one.args[0])], 0, Record("", id, id, "", where=_where(one)))
            for id, one in given.items()
        ]
        found = self._score(questions, over_long="window")
        return [found[str(index), CHOICE.format(0)][0] if one.args[0] else 0.0 for index, one in enumerate(requests)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to the first of the texts that end it."""
        texts: dict[int, str] = {}
        by_settings = sorted(range(len(requests)), key=lambda index: repr(requests[index].args[1]))
        for _, some in itertools.groupby(by_settings, key=lambda index: repr(requests[index].args[1])):
            group = list(some)
            settings = import_module("lm_eval.models.utils").normalize_gen_kwargs(requests[group[0]].args[1])
            prompts = [self._fitting(requests[index]) for index in group]
            batch_size = self.loaded.inference.evaluation.batch_size
            for index, found in zip(group, write(self.loaded, prompts, _sampling(settings), batch_size), strict=True):
                texts[index] = found.text
        return [texts[index] for index in range(len(requests))]

    def _template(self) -> ChatTemplate:
        return load_template(check_talks(self.loaded, cure="thetahat lm-eval without --apply_chat_template"))

    def _score(self, questions: Sequence[Question], **choices: Any) -> dict[tuple[str, str], tuple[float, bool]]:
        if not questions:
            return {}
        encoding = question_encoding(self.loaded, delimiter="", alone=False, cut_option=_CUT, **choices)
        encoded = encode_questions(questions, self.loaded.tokenizer, encoding)
        stride = self.loaded.card.context if choices["over_long"] == "window" and not self.has_stride else None
        likelihoods, rows = score_questions(self.loaded, encoded, stride=stride)
        _say(encoded, rows)
        pairs = zip(rows, likelihoods.is_greedy, strict=True)
        return {(row.id, row.part): (row.log_prob, bool(is_greedy)) for row, is_greedy in pairs}

    def _fitting(self, request: Any) -> Prompt:
        """A prompt that is read whole, or what is left of it."""
        context, card = request.args[0], self.loaded.card
        room = card.source_room if card.factorization.layout.has_source else card.context
        prompt = context.prompt if isinstance(context, Rendered) else text_prompts(self.loaded, [context])[0]
        if (over := len(prompt.tokens) - room) <= 0:
            return prompt
        if self.over_long == "error":
            raise ConfigError(
                f"{_where(request)}: a prompt of {len(prompt.tokens)} tokens, where the model reads {room}",
                cure=f"{_CUT} leaves out the beginning of prompts",
            )
        logger.warning("%s: %d tokens at the beginning of the prompt are not read", _where(request), over)
        tokens = [prompt.tokens[0], *prompt.tokens[1 + over :]]  # it begins as it did
        return replace(prompt, tokens=tokens)


def _question_of(request: Any) -> tuple[Any, ...]:
    """What choices of one question have in common, as the harness lists them one after the other."""
    return request.task_name, request.doc_id, request.args[0]


def _where(request: Any) -> str:
    return f"task {request.task_name}, document {request.doc_id}"


def _question(id: str, requests: Sequence[Any]) -> Question:
    contexts, choices = [one.args[0] for one in requests], [one.args[1] for one in requests]
    made = question([*map(str, contexts)], choices, 0, Record("", id, id, "", where=_where(requests[0])))
    prompts = [tuple(context.prompt.tokens) for context in contexts if isinstance(context, Rendered)]
    return replace(made, prompts=tuple(prompts))


def _sampling(settings: dict[str, Any]) -> Sampling:
    """From what the harness has made of a task's generation_kwargs: its number of tokens is `max_gen_toks`."""
    draws, max_tokens = settings.pop("do_sample", False), settings.pop("max_gen_toks")
    stop = [text for text in settings.pop("until") if text]
    chosen = {name: value for name, value in settings.items() if value is not None and (draws or name != "temperature")}
    temperature = 1.0 if draws else 0.0
    return from_plain({"temperature": temperature, **chosen, "max_tokens": max_tokens, "stop": stop}, Sampling)


def _say(encoded: EncodedQuestions, rows: Sequence[LedgerRow]) -> None:
    """Logs how contexts and continuations were tokenised, where that matters."""
    straddling, cut = sum(encoded.straddling), int(encoded.corpus.column["documents.prompt_cut"].sum())
    if straddling:
        logger.info("%d tokens of %d continuations straddle the end of the context", straddling, len(rows))
    if cut:
        logger.warning("%d tokens at the beginning of contexts are not read", cut)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
