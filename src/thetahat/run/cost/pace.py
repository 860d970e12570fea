"""How long a step takes: its operations and the bytes that it moves, over the rates of a device."""

from dataclasses import dataclass

from thetahat.core.plain import fields_as_json
from thetahat.model.memory import logit_bytes
from thetahat.run.config import RunConfig
from thetahat.run.cost.devices import Rates
from thetahat.run.cost.operations import Operations
from thetahat.run.diagnosis.needed import Training

FUSED, EAGER = 3.0, 13.0
"""How often each byte that is kept for the backward pass is read or written by what is no product: with compiled
blocks, and without. Chosen by GPT-2 124M and a Llama of 1B on one H100 (docs/12-what-it-costs.md).
"""
UPDATE = 10
"""Numbers read or written for each trained one by clipping and the update: gradient twice, parameter, two moments."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of a step of one process, by what takes them."""

    products: int | float
    attention: int | float
    memory: int | float  # everything that waits for the memory: norms, activations, casts, logits
    update: int | float
    num_tokens: int  # positions that it reads

    @property
    def seconds(self) -> int | float:
        """Of the step."""
        return self.products + self.attention + self.memory + self.update

    @property
    def tokens_per_second(self) -> int | float:
        """Positions a second."""
        return self.num_tokens / self.seconds

    def to_dict(self) -> dict[str, int | float]:
        """What `--json` prints."""
        return fields_as_json(self) | {"seconds": self.seconds, "tokens_per_second": self.tokens_per_second}


def pace_of(config: RunConfig, operations: Operations, memory: Training, num_outputs: int, rates: Rates) -> Pace:
    r"""Of a step on one device: $\text{products}/r_p + \text{attention}/r_a + \text{bytes}/b$, one after the other.

    The kernels of a GPU run one after another, so times add: products that wait for the arithmetic, and all else, which
    waits for the memory. Attention is forward and backward; how it is cut into micro-batches changes nothing.
    """
    attention = 3 * operations.attention
    num_micro_batches = -(-config.batch_size // memory.num_rows)
    factorization = config.objective.factorization
    targets = min(factorization.expected_targets(config.batch_size, config.data.context), operations.num_tokens)
    passes = FUSED if config.compile else EAGER
    moved = passes * memory.activations * num_micro_batches + 4 * logit_bytes(num_outputs, targets, config.dtype)
    trained = memory.gradients
    return Pace(
        products=(operations.total - attention - operations.update) / rates.products,
        attention=attention / rates.attention,
        memory=moved / rates.bandwidth,
        update=UPDATE * trained / rates.bandwidth + operations.update / rates.products,
        num_tokens=operations.num_tokens,
    )
