"""What is maximised: which tokens of a text are targets, given what, and with which loss weights.

Everything that the rest of the package must know about a factorization is a class variable or a method here.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from thetahat.core.config import Config
from thetahat.core.errors import ConfigError
from thetahat.core.layout import LABEL, PAIR, STREAM, WHOLE, Layout
from thetahat.core.schema import tag, variants
from thetahat.core.special import MASK, SENTINEL

Normalization = Literal["token", "sequence", "turn", "dialogue", "length", "sum"]
INFILLING = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")  # each stands before its part of a text
Share = Annotated[float, Meta(gt=0, lt=1)]
Weight = Annotated[float, Meta(ge=0)]


class Variant(Config):
    """What the rest of the package asks of a factorization, with the usual values."""

    layout: ClassVar[Layout] = STREAM
    model_kind: ClassVar[Literal["decoder", "encoder", "encoder-decoder"]] = "decoder"
    is_likelihood: ClassVar[bool] = True  # its score is log Pr of the targets, each given all tokens before it
    is_pseudo: ClassVar[bool] = False  # its score is a pseudo-likelihood: each token given all others, in passes
    is_sample: ClassVar[bool] = False  # only some tokens are scored, drawn from the seed: the same for every model
    is_left_to_right: ClassVar[bool] = True  # in training, too, a target is predicted after all tokens before it
    hides_targets: ClassVar[bool] = False  # something else is read in place of a target
    opens_prompts: ClassVar[bool] = False  # all of a prompt sees all of it
    shares_prefixes: ClassVar[bool] = False  # a beginning that two texts share can be read once for both

    @property
    def reads_source(self) -> bool:
        """Whether an encoder reads something before a decoder predicts."""
        return self.model_kind == "encoder-decoder"

    def special_tokens(self, context: int) -> Sequence[str]:
        """The special tokens that it needs beside <|endoftext|>, where pieces have up to `context` tokens."""
        return ()

    def expected_targets(self, num_rows: int, context: int) -> int:
        """How many targets full rows of so many positions have, in the mean."""
        return num_rows * context

    def prompt(self, text: str) -> Sequence[str]:
        """A text to continue, as it is read: texts and, at odd places between them, names of special tokens."""
        return (text,)

    def scored_as(self, passes: int) -> tuple[Sequence[str], Sequence[str]]:
        """The words of a policy for what is scored (as a rule the kind comes first), and for its settings."""
        return (tag(type(self)),), ()


class Causal(Variant, kw_only=True, tag="causal", tag_field="kind"):
    """Each token after those before it: decoders, on texts, prompts with completions and dialogues."""

    shares_prefixes = True

    def scored_as(self, passes: int) -> tuple[Sequence[str], Sequence[str]]:
        """None: causal is meant where nothing is said."""
        return (), ()


class Prefix(Variant, kw_only=True, tag="prefix", tag_field="kind"):
    """As causal, but every position sees the whole prompt; of a text alone a prefix of random length serves as one."""

    opens_prompts = True


class FillInTheMiddle(Variant, kw_only=True, tag="fill-in-the-middle", tag_field="kind"):
    """As causal, but in some texts the middle comes last, after what stands on both sides of it: decoders.

    The order is PSM: prefix, suffix, middle. SPM would put the suffix first, and the middle right behind the prefix.
    Scoring reads every text from the left, so scores are those of a causal model, and comparable with them.
    """

    layout = Layout("stream", num_added=len(INFILLING))
    is_left_to_right, shares_prefixes = False, True

    rate: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """The share of texts without a prompt that are read this way."""

    def special_tokens(self, context: int) -> Sequence[str]:
        """The three sentinels."""
        return INFILLING

    def prompt(self, text: str) -> Sequence[str]:
        """For PREFIX<|fim_suffix|>SUFFIX the middle is written; any other text is continued."""
        before, suffix, after = text.partition(INFILLING[1])
        return ("", INFILLING[0], before, suffix, after, INFILLING[2], "") if suffix else (text,)


class Masked(Variant, kw_only=True, tag="masked", tag_field="kind"):
    """Some tokens given all others: encoders. Which ones is a function of (seed, epoch, sequence)."""

    layout = WHOLE
    model_kind = "encoder"
    is_likelihood, is_pseudo, is_left_to_right, hides_targets = False, True, False, True

    rate: Share = 0.3
    """The share of tokens that are masked, of those that may be."""
    replace: Literal["mask", "80-10-10"] = "mask"
    """What is read in place of a masked token: always <|mask|>, or that in 80 %, any token in 10 % and the same in
    10 %.
    """
    unit: Literal["token", "word", "span"] = "token"
    """What is masked as a whole."""
    mean_span: Annotated[float, Meta(ge=1, le=100)] = 3.0
    """Mean length in tokens of what is masked under unit=span."""

    def special_tokens(self, context: int) -> Sequence[str]:
        """The mask."""
        return (MASK,)

    def expected_targets(self, num_rows: int, context: int) -> int:
        """Those that are masked."""
        return round(self.rate * num_rows * context)

    def scored_as(self, passes: int) -> tuple[Sequence[str], Sequence[str]]:
        """It says that this is no likelihood, and how many tokens are hidden at once."""
        masks = f"1 in {passes} masked at once" if passes else "each token masked alone"
        return ("pseudo-likelihood", masks), ()


class Conditional(Variant, kw_only=True, tag="conditional", tag_field="kind"):
    """A completion given its prompt: encoder-decoders."""

    layout = PAIR
    model_kind = "encoder-decoder"


class Spans(Variant, kw_only=True, tag="spans", tag_field="kind"):
    """The spans that were left out of a text, given the rest: encoder-decoders on texts (T5)."""

    layout = WHOLE
    model_kind = "encoder-decoder"
    is_likelihood, is_sample, is_left_to_right, hides_targets = False, True, False, True

    rate: Share = 0.15
    """The share of tokens that are left out."""
    mean_span: Annotated[float, Meta(ge=1, le=100)] = 3.0
    """Mean length of a span, in tokens."""

    def counts(self, size: int) -> tuple[int, int]:
        r"""How many of `size` = n tokens are left out, and in how many spans.

        $m = \mathrm{round}(\mathrm{rate} \cdot n)$, from 1 to $n - 1$, in $\mathrm{round}(m / \mathrm{mean\_span})$
        spans, at least one and no more than there are tokens to stand before them. Of a single token it is that one.
        """
        if size < 1:
            return 0, 0
        num_left_out = min(max(round(self.rate * size), 1), max(size - 1, 1))
        return num_left_out, max(min(round(num_left_out / self.mean_span), size - num_left_out), 1)

    def special_tokens(self, context: int) -> Sequence[str]:
        """A sentinel for each span of the longest piece, which has the most spans."""
        return [SENTINEL.format(number) for number in range(self.counts(context - 1)[1])]

    def scored_as(self, passes: int) -> tuple[Sequence[str], Sequence[str]]:
        """Its settings are part of it, since they decide which tokens are scored."""
        return (tag(type(self)),), (f"rate={self.rate}", f"mean_span={self.mean_span}")


class Labels(Variant, kw_only=True, tag="labels", tag_field="kind"):
    """The label of a text, by a head over the declared labels: encoders."""

    layout = LABEL
    model_kind = "encoder"
    is_likelihood, is_left_to_right = False, False

    def expected_targets(self, num_rows: int, context: int) -> int:
        """One a row."""
        return num_rows


Factorization = Causal | Prefix | FillInTheMiddle | Masked | Conditional | Spans | Labels
FACTORIZATIONS: dict[str, type[Variant]] = {tag(kind): kind for kind in variants(Factorization)}  # pyright: ignore


class BalanceConfig(Config, kw_only=True):
    """How the load of experts is balanced. No value of it is part of a likelihood that is reported."""

    bias_rate: Weight = 0.001
    """By how much a step moves the bias of each expert, up where fewer positions than the mean of experts chose it and
    down where more did (model.experts.has_bias).
    """
    sequence: Weight = 0.0
    """The weight of the balance penalty, of each sequence by itself, in nats a position."""
    router_z: Weight = 0.0
    """The weight of the penalty on the square of the log-normalizer of routers, in nats a position."""


class ObjectiveConfig(Config, kw_only=True):
    """What is maximised, and how it is computed."""

    factorization: Factorization = Causal()
    """Which tokens are targets, and what each is given."""
    normalization: Normalization = "token"
    """What counts alike: each token, sequence, turn or dialogue; length: a sequence with n targets as
    n^length_exponent; sum: nothing is divided.
    """
    length_exponent: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """The exponent of the normalization `length`, from 0 (a sequence counts once) to 1 (a token does)."""
    kernel: Literal["auto", "reference", "chunked", "fused"] = "auto"
    """How log-probabilities are computed from hidden states; auto: fused where compile=true, else reference, or
    chunked with a chunk_size.
    """
    chunk_size: Annotated[int, Meta(ge=0)] = 0
    """Tokens whose logits exist at once, to save memory; 0: all of a micro-batch."""
    z_loss: Weight = 0.0
    """The weight of the penalty on the square of log Z, the log-normalizer of each target's distribution. It is summed
    and divided as the log-likelihood is, and no part of a likelihood that is reported; 0.0001 in PaLM.
    """
    future: tuple[Weight, ...] = ()
    """The weight of the tokens that are predicted 2, 3, ... ahead, one for each of model.num_future. It multiplies
    their log-probability in what is maximised; no likelihood that is reported has it.
    """
    balance: BalanceConfig = BalanceConfig()
    """How the load of experts is balanced, of a model that has any."""

    def __post_init__(self) -> None:
        if self.kernel == "chunked" and not self.chunk_size:
            raise ConfigError(
                "objective.kernel=chunked needs to know how many tokens are a chunk, and objective.chunk_size=0",
                cure="objective.chunk_size=4096",
            )
        if self.kernel == "reference" and self.chunk_size:
            raise ConfigError(
                f"objective.kernel=reference makes all logits at once, and objective.chunk_size={self.chunk_size}",
                cure="objective.kernel=chunked, or objective.chunk_size=0",
            )

    def step_divisor(self, weight: float) -> float:
        """Z of a step: the weight of its global batch, or 1 under the normalization `sum`."""
        return 1.0 if self.normalization == "sum" else weight
