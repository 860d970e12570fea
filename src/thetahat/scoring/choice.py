"""Which of several choices is the likeliest, by four rules, and how often that is the right one."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thetahat.core.errors import NonFiniteError
from thetahat.data.corpus.choice import ALONE, CHOICE, EncodedQuestions
from thetahat.ledger.ledger import LedgerRow
from thetahat.scoring.likelihood import Likelihoods
from thetahat.statistics.interval import Interval
from thetahat.statistics.paired import effective_number, wilson_interval

RULES = ("sum", "per_token", "per_byte", "against_alone", "greedy")


@dataclass(frozen=True, slots=True)
class ScoredQuestion:
    """The scores of a question's choices, by each rule that applies to it."""

    id: str
    document: str  # the cluster of its question: those that share an id in one file
    source: str
    gold: int
    scores: Mapping[str, tuple[float, ...]]  # one for each choice, higher is better; of `greedy` a single 1.0 or 0.0

    def is_right(self, rule: str) -> bool:
        """Whether the right choice is the only best one; of a cloze, whether the model would write it."""
        return self.best(rule) == (self.gold,)

    def best(self, rule: str) -> tuple[int, ...]:
        """The choice with the highest score, or several where they tie."""
        scores = self.scores[rule]
        highest = max(scores)
        return tuple(index for index, score in enumerate(scores) if score == highest and (score or rule != "greedy"))


@dataclass(frozen=True, slots=True)
class Accuracy:
    """For how many of some questions the right choice was the best; a tie counts as wrong."""

    num_questions: int
    num_right: int
    tied: tuple[str, ...]  # ids of the questions in which several choices are best, the right one among them
    num_clusters: int | None = None  # of questions that share an id; None: each is its own
    effective: float | None = None  # as many independent questions say as much

    @property
    def interval(self) -> Interval:
        """The share, and Wilson's interval for it; questions that share an id count as far as they disagree."""
        return wilson_interval(self.num_right, self.num_questions, effective=self.effective)

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        share, low, high = self.interval
        counts = {"num_questions": self.num_questions, "num_right": self.num_right, "num_tied": len(self.tied)}
        clusters = self.num_clusters or self.num_questions
        return {"accuracy": share, "ci95": [low, high], **counts, "num_clusters": clusters}


def scored_questions(
    encoded: EncodedQuestions, likelihoods: Likelihoods, rows: Sequence[LedgerRow]
) -> list[ScoredQuestion]:
    r"""The scores of every choice, from the rows of its question.

    With $\ell_k = \log \Pr_\theta(\text{choice}_k \mid \text{context}_k)$ of $t_k$ tokens and $b_k$ bytes: `sum`
    $\ell_k$; `per_token` $\ell_k / t_k$; `per_byte` $\ell_k / b_k$; `against_alone` $\ell_k$ less the
    log-probability of the same tokens behind nothing but `<|endoftext|>` (Brown et al., Language Models are Few-Shot
    Learners, 2020, section 2.4; Holtzman et al., Surface Form Competition, 2021). Of a single choice: `greedy`, whether
    no other token was likelier at any of its tokens.
    """
    if sick := [row.id for row in rows if not math.isfinite(row.log_prob)]:
        raise NonFiniteError(f"the likelihood of {len(sick)} choices is not finite: {', '.join(sick[:8])}")
    found = {(row.id, row.part): row for row in rows}
    greedy = {(row.id, row.part): bool(flag) for row, flag in zip(rows, likelihoods.is_greedy, strict=True)}
    listed: list[ScoredQuestion] = []
    for question in encoded.questions:
        id = question.record.id
        texts = list(zip(question.contexts, question.choices, strict=True))
        first = [texts.index(text) for text in texts]  # the same text has the same score: it ties
        names = [(id, CHOICE.format(index)) for index in first]
        alone = [found.get((id, ALONE.format(index))) for index in first]
        if len(names) == 1:
            scores = {"greedy": (float(greedy[names[0]]),)}
        else:
            scores = _scores([found[name] for name in names], [row for row in alone if row])
        listed.append(ScoredQuestion(id, question.record.document, question.record.source, question.gold, scores))
    return listed


def _scores(rows: Sequence[LedgerRow], alone: Sequence[LedgerRow]) -> dict[str, tuple[float, ...]]:
    scores = {
        "sum": tuple(row.log_prob for row in rows),
        "per_token": tuple(row.log_prob / row.num_tokens for row in rows),
        "per_byte": tuple(row.log_prob / row.num_bytes for row in rows),
    }
    if alone:
        pairs = zip(rows, alone, strict=True)
        scores["against_alone"] = tuple(row.log_prob - without.log_prob for row, without in pairs)
    return scores


def accuracies(some: Sequence[ScoredQuestion]) -> dict[str, Accuracy]:
    """The accuracy by each rule, over the questions to which it applies."""
    found: dict[str, Accuracy] = {}
    for rule in RULES:
        judged = [one for one in some if rule in one.scores]
        if judged:
            tied = [one.id for one in judged if one.gold in (best := one.best(rule)) and len(best) > 1]
            clusters, is_right = [one.document for one in judged], [one.is_right(rule) for one in judged]
            effective = effective_number(clusters, is_right)
            found[rule] = Accuracy(len(judged), sum(is_right), tuple(tied), len(set(clusters)), effective)
    return found


def by_source(some: Sequence[ScoredQuestion]) -> dict[str, dict[str, Accuracy]]:
    """The accuracies of each source, in the order in which they come."""
    sources: dict[str, list[ScoredQuestion]] = {}
    for one in some:
        sources.setdefault(one.source, []).append(one)
    return {source: accuracies(members) for source, members in sources.items()}


def macro_interval(parts: Iterable[Accuracy]) -> Interval:
    r"""The mean of the sources' accuracies, each with the same weight, and an interval for these very sources.

    $\bar p = \frac1S \sum_s p_s$, low end $\bar p - \frac1S \sqrt{\sum_s (p_s - l_s)^2}$ and high end
    $\bar p + \frac1S \sqrt{\sum_s (u_s - p_s)^2}$ from Wilson's $l_s, u_s$. Zou & Donner, Construction of confidence
    limits about effect measures, 2008 (square and add).
    """
    intervals = [part.interval for part in parts]
    count = len(intervals)
    mean = math.fsum(share for share, _, _ in intervals) / count
    below = math.sqrt(math.fsum((share - low) ** 2 for share, low, _ in intervals)) / count
    above = math.sqrt(math.fsum((high - share) ** 2 for share, _, high in intervals)) / count
    return Interval(mean, mean - below, mean + above)
