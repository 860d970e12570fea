"""Which of several choices is the likeliest under a model: multiple choice, minimal pairs and clozes."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from thetahat.core import store
from thetahat.core.errors import DataError
from thetahat.data.corpus.choice import CHOICE, EncodedQuestions, QuestionEncoding, encode_questions
from thetahat.data.read.question import Question, read_questions
from thetahat.distribution.world import join_world
from thetahat.ledger.ledger import LedgerRow, write_ledger
from thetahat.ledger.pairing import CHOICES
from thetahat.ledger.policy import Policy
from thetahat.ledger.summary import Summary, summarize
from thetahat.run.writing.dialogue import check_talks
from thetahat.scoring.choice import Accuracy, ScoredQuestion, accuracies, by_source, macro_interval, scored_questions
from thetahat.scoring.likelihood import Likelihoods, ledger_rows, score_corpus
from thetahat.statistics.interval import Interval
from thetahat.verbs.chat import question_prompts
from thetahat.verbs.load import Loaded, load
from thetahat.verbs.score import computed_on

OverLong = Literal["error", "truncate-left"]


@dataclass(frozen=True, slots=True)
class Choices:
    """How often the right choice was the likeliest, with the questions behind these counts."""

    questions: list[ScoredQuestion]
    overall: dict[str, Accuracy]  # by rule, every question alike
    sources: dict[str, dict[str, Accuracy]]
    macro: dict[str, Interval]  # by rule, every source alike
    gold: Summary  # how likely the right choices are
    tokens_straddling: int  # that hold the end of a context and the start of a choice; they count with the choice
    context_tokens_counted: int  # whole tokens of a context that count with the choice, since one beside it straddles
    context_tokens_cut: int  # left out, where over_long says so
    contexts_cut: int
    choice_tokens_cut: int  # likewise, of choices that alone are longer than what the model reads
    choices_cut: int  # questions with such a choice
    policy: str
    rows: list[LedgerRow]

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        overall, sources = _plain(self.overall), {name: _plain(found) for name, found in self.sources.items()}
        macro = {rule: {"accuracy": mean, "ci95": [low, high]} for rule, (mean, low, high) in self.macro.items()}
        counts = ("tokens_straddling", "context_tokens_counted", "context_tokens_cut", "contexts_cut")
        counts += ("choice_tokens_cut", "choices_cut", "policy")
        return {
            "num_questions": len(self.questions),
            "overall": overall,
            "macro": macro,
            "sources": sources,
            "gold": self.gold.to_dict(),
            **{name: getattr(self, name) for name in counts},
        }


def choose(
    model: Loaded | str,
    data: Sequence[str],
    *,
    out: Path | None = None,
    delimiter: str = " ",
    over_long: OverLong = "error",
    chat: bool = False,
) -> Choices:
    r"""How often the right choice of the questions of `data` is the likeliest under a model, by each rule.

    Decoders and encoder-decoders by $\log \Pr(\text{choice} \mid \text{context})$; encoders by the
    pseudo-log-likelihood of the choice's tokens, each masked alone (Salazar et al., Masked Language Model Scoring,
    2020). `delimiter` stands between a context and a choice that bring no blank. With `chat` a
    context is what a user says, in the template that the model was trained with, and a choice what it answers.
    """
    if out:
        store.check_target(out)
    loaded = load(model) if isinstance(model, str) else model
    encoding = question_encoding(loaded, delimiter=delimiter, over_long=over_long)
    if chat:
        check_talks(loaded, cure="leave --chat out")
    questions = _in_template(
        loaded, read_questions(data, loaded.on_bad_record, loaded.card.columns, chat=chat), over_long
    )
    encoded = encode_questions(questions, loaded.tokenizer, encoding)
    likelihoods, rows = score_questions(loaded, encoded)
    together = encoded.corpus.reads_parts_together
    asked = {"delimiter": delimiter, "over_long": over_long, "chat": chat}
    policy = replace(_policy_of(loaded), reads_parts_together=together, **asked)
    found = _choices(encoded, likelihoods, rows, policy.words())
    if out and join_world(loaded.inference.device).is_first:
        write_ledger(out, rows, _metadata(loaded, encoded, policy.to_json()))
    return found


def _in_template(loaded: Loaded, questions: Sequence[Question], over_long: OverLong) -> list[Question]:
    """The questions, those of dialogues with what the model reads before it answers one."""
    asked = [
        (dialogue, question.record.where or question.record.id)
        for question in questions
        for dialogue in question.dialogues.values()
    ]
    read = iter(question_prompts(loaded, asked, over_long))
    found: list[Question] = []
    for question in questions:
        prompts = {context: tuple(next(read).tokens) for context in question.dialogues}
        by_choice = tuple(prompts[context] for context in question.contexts) if prompts else ()
        found.append(dataclasses.replace(question, prompts=by_choice))
    return found


def question_encoding(loaded: Loaded, **choices: Any) -> QuestionEncoding:
    """How questions are encoded for this model: in the layout that it was trained on, with its context length."""
    factorization, card = loaded.card.factorization, loaded.card
    if factorization.is_sample:
        raise DataError("a model that fills spans has no likelihood of a choice", cure="a decoder or an encoder")
    shares = factorization.shares_prefixes
    return QuestionEncoding(factorization.layout, card.context, card.source_room, shares=shares, **choices)


def score_questions(
    loaded: Loaded, encoded: EncodedQuestions, stride: int | None = None
) -> tuple[Likelihoods, list[LedgerRow]]:
    """The log-probability of every choice, and a row for each; `stride` is for texts longer than the context."""
    world = join_world(loaded.inference.device)
    policy = replace(loaded.policy, stride=stride) if stride else _policy_of(loaded)
    likelihoods = score_corpus(loaded.model, encoded.corpus, policy, world, loaded.device)
    return likelihoods, ledger_rows(likelihoods, encoded.corpus)


def _policy_of(loaded: Loaded) -> Policy:
    """The policy for questions: a masked model masks each token alone, even if its run scores otherwise."""
    return replace(loaded.policy, passes=0)


def _choices(encoded: EncodedQuestions, likelihoods: Likelihoods, rows: list[LedgerRow], policy: str) -> Choices:
    listed = scored_questions(encoded, likelihoods, rows)
    sources = by_source(listed)
    overall, column = accuracies(listed), encoded.corpus.column
    cut, choice_cut = column["documents.prompt_cut"], column["documents.tokens_cut"]
    gold = {(question.record.id, CHOICE.format(question.gold)) for question in encoded.questions}
    return Choices(
        questions=listed,
        overall=overall,
        sources=sources,
        macro={rule: macro_interval(one[rule] for one in sources.values() if rule in one) for rule in overall},
        gold=summarize([row for row in rows if (row.id, row.part) in gold]),
        tokens_straddling=sum(encoded.straddling),
        context_tokens_counted=sum(encoded.counted_context),
        context_tokens_cut=int(cut.sum()),
        contexts_cut=int((cut > 0).sum()),
        choice_tokens_cut=int(choice_cut.sum()),
        choices_cut=int((choice_cut > 0).sum()),
        policy=policy,
        rows=rows,
    )


def _plain(found: Mapping[str, Accuracy]) -> dict[str, Any]:
    return {rule: accuracy.to_dict() for rule, accuracy in found.items()}


def _metadata(loaded: Loaded, encoded: EncodedQuestions, policy: str) -> dict[str, str]:
    return {
        "model": loaded.stored.name,
        "model_sha256": loaded.stored.digest,
        "tokenizer_sha256": loaded.tokenizer.digest,
        "data": encoded.corpus.fingerprint,
        "policy": policy,
        "computed_on": computed_on(loaded),
        "unit": "nats",
        "rows": CHOICES,
    }
