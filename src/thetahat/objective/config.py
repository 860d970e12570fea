"""What is maximised: which questions a text is turned into, and what each of them counts for."""

from typing import Annotated, Literal

from msgspec import Meta

from thetahat.core.config import Config
from thetahat.core.errors import ConfigError

Normalization = Literal["token", "sequence", "turn", "dialogue", "length", "sum"]
Share = Annotated[float, Meta(gt=0, lt=1)]


class Causal(Config, kw_only=True, tag="causal", tag_field="kind"):
    """Each token after those before it: decoders, on texts, prompts with completions and dialogues."""


class Prefix(Config, kw_only=True, tag="prefix", tag_field="kind"):
    """As causal, but all of the prompt is seen from everywhere; of a text alone a prefix of random length is one."""


class Masked(Config, kw_only=True, tag="masked", tag_field="kind"):
    """Some tokens given all others: encoders. Which ones is a function of (seed, epoch, sequence)."""

    rate: Share = 0.3  # of the tokens that may be masked
    replace: Literal["mask", "80-10-10"] = "mask"  # always <|mask|>; or 80 % of it, 10 % any token, 10 % the same
    unit: Literal["token", "word", "span"] = "token"
    mean_span: Annotated[float, Meta(ge=1, le=100)] = 3.0  # tokens, of the unit `span`


class Conditional(Config, kw_only=True, tag="conditional", tag_field="kind"):
    """A completion given its prompt: encoder-decoders."""


class Spans(Config, kw_only=True, tag="spans", tag_field="kind"):
    """The spans that were left out of a text, given the rest: encoder-decoders on texts (T5)."""

    rate: Share = 0.15
    mean_span: Annotated[float, Meta(ge=1, le=100)] = 3.0  # tokens


class Labels(Config, kw_only=True, tag="labels", tag_field="kind"):
    """The label of a text, by a head over the declared labels: encoders."""


Factorization = Causal | Prefix | Masked | Conditional | Spans | Labels


class ObjectiveConfig(Config, kw_only=True):
    """What is maximised, and in which portions it is computed."""

    factorization: Factorization = Causal()
    normalization: Normalization = "token"
    length_exponent: Annotated[float, Meta(ge=0, le=1)] = 0.5  # of the normalization `length`
    kernel: Literal["auto", "reference", "chunked", "fused"] = "auto"  # auto: fused where compile=true, else reference
    chunk_size: Annotated[int, Meta(ge=0)] = 0  # tokens whose logits exist at once; 0: all of a micro-batch

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
