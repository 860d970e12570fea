"""The card of a model, a file beside its weights: all that inference needs, and nothing about training."""

from typing import Annotated

from msgspec import Meta, field

from thetahat.core.config import Config
from thetahat.data.config import ChatConfig, OverLong, Preference, ReadOptions, Trees, Unsupervised
from thetahat.ledger.policy import Policy
from thetahat.model.config import ModelConfig
from thetahat.objective.config import Factorization
from thetahat.run.config import InferenceConfig, RunConfig

Positions = Annotated[int, Meta(ge=2, le=2**22)]


class Card(Config, kw_only=True):
    """What a model is, and how texts, dialogues and questions are encoded for it.

    Beside the weights of an adapter lies the config of its run, too, which names its base.
    """

    model: ModelConfig
    """The shape of the model."""
    factorization: Factorization
    """What it predicts, given what."""
    context: Positions
    """Positions that the model reads at once."""
    num_rows: Annotated[int, Meta(ge=1)] | None = None
    """Rows of its table of tokens; none: as many as the tokenizer has ids."""
    has_head: bool = True
    """Whether it has a head over its vocabulary; false: it gives hidden states, and no text has a likelihood under
    it.
    """
    source_context: Positions | None = None
    """Positions that an encoder reads for a decoder; none: as many as the context."""
    separator: str | None = None
    """What stands between the documents of a .txt; none: a file is one document."""
    columns: dict[str, str] = field(default_factory=dict[str, str])
    """Where a record has its text, prompt, and so on."""
    trees: Trees | None = None
    """Which replies of a tree of messages are read."""
    preference: Preference | None = None
    """Which answer of a preference is read."""
    chat: ChatConfig | None = None
    """How dialogues are written; none: there were none."""
    labels: tuple[str, ...] = ()
    """The labels of a classification, in the order of the head."""
    over_long: OverLong = "error"
    """What is done with longer texts."""
    unsupervised: Unsupervised = "error"
    """What is done with a record without targets."""

    @property
    def read_options(self) -> ReadOptions:
        """How records are taken from files."""
        return ReadOptions(self.separator, self.columns, self.trees, self.preference)

    @property
    def source_room(self) -> int:
        """Positions that an encoder reads for a decoder."""
        return self.source_context or self.context

    def policy(self, inference: InferenceConfig) -> Policy:
        """How this model scores text under these settings of inference."""
        scoring = inference.evaluation
        return Policy(
            context=self.context,
            stride=min(scoring.stride or max(self.context // 2, 1), self.context),
            batch_size=scoring.batch_size,
            dtype=inference.dtype,
            deterministic=inference.deterministic,
            factorization=self.factorization,
            passes=scoring.passes,
        )


def card_of(config: RunConfig, labels: tuple[str, ...]) -> Card:
    """The card of the model of a run; labels come from the data where the config has none."""
    data = config.data
    return Card(
        model=config.model,
        factorization=config.objective.factorization,
        context=data.context,
        num_rows=config.base_rows,
        source_context=data.source_context,
        separator=data.separator,
        columns=data.columns,
        trees=data.trees,
        preference=data.preference,
        chat=data.chat,
        labels=labels,
        over_long=data.over_long,
        unsupervised=data.unsupervised,
    )
