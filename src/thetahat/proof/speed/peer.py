"""The same model and the same steps as a plain loop over Hugging Face's transformers."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from thetahat.core.batch import Batch
from thetahat.core.errors import ConfigError, ModelError
from thetahat.interop.around import Around
from thetahat.interop.config import family_for
from thetahat.interop.write import WriteConfig, write_folder
from thetahat.model.config import DecoderConfig, Dtype
from thetahat.model.precision import computing_in
from thetahat.objective.objective import log_likelihood
from thetahat.run.config import RunConfig
from thetahat.run.state import State

ALIKE: dict[Dtype, float] = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 2e-2}
"""The largest relative difference of two likelihoods of one batch that rounding explains."""


def check_peer(config: RunConfig) -> str:
    """The family as which transformers knows the model; raises ConfigError or ModelError where it cannot run it."""
    if find_spec("transformers") is None:
        raise ConfigError("--peer runs transformers, which is not installed", cure="pip install transformers")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("--peer is one process, and there are several ranks", cure="the same without torchrun")
    asked = config.objective.factorization
    if not asked.is_left_to_right or asked.opens_prompts or not isinstance(config.model, DecoderConfig):
        raise ConfigError(
            "--peer reads from left to right alone",
            allowed="model.kind=decoder with objective.factorization.kind=causal",
            cure="thetahat bench quickstart --peer",
        )
    if config.adapter or config.frozen or config.model.dropout:
        named = "adapter" if config.adapter else "frozen" if config.frozen else "model.dropout"
        raise ConfigError(f"--peer trains all parameters without dropout, and the config has {named}")
    return family_for(config.model).model_type


def check_rows(batches: Sequence[Batch]) -> None:
    """Raises ConfigError where a row holds several documents: a plain loop would let them see each other."""
    if not all(batch.inputs.visibility.is_plain for batch in batches):
        raise ConfigError(
            "--peer reads one document a row, and rows here hold several, which a plain loop would let see each other",
            cure="data.packing=none",
        )


@final
class Peer:
    """A model of transformers with the parameters of a state, and its plain step: AdamW, fused, with clipping."""

    def __init__(self, state: State) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        config = self.config = state.config
        self.device = state.device
        self.dtype: Dtype = config.dtype
        kept = "float64" if config.dtype == "float64" else "float32"
        with TemporaryDirectory(prefix="thetahat-peer-") as name:
            folder = Path(name) / "model"
            parameters = {name: one.detach() for name, one in state.model.named_parameters()}
            write_folder(folder, parameters, config.model, Around(), how=WriteConfig(dtype=kept))
            self.model: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, kept), attn_implementation="sdpa", local_files_only=True
            )
        self.model.to(self.device).train()
        if config.compile:
            self.model.compile()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Minus the weighted log-likelihood of a batch, in nats."""
        with computing_in(self.dtype, self.device):
            logits = self.model(input_ids=batch.inputs.tokens, use_cache=False).logits
            each = cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten(), reduction="none")
        return (each * batch.weights.flatten()).sum()

    def step(self, batches: Sequence[Batch]) -> None:
        """One update."""
        weight = float(sum(float(batch.weight()) for batch in batches))
        self.optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            (self.loss(batch.to(self.device)) / weight).backward()
        if self.config.optimization.clip is not None:
            clip_grad_norm_(self.model.parameters(), self.config.optimization.clip)
        self.optimizer.step()

    @torch.no_grad()
    def check(self, state: State, batch: Batch) -> tuple[float, float]:
        """The likelihood of a batch in nats a target, ours and theirs; raises ModelError where they are not alike."""
        batch, was_training = batch.to(self.device), state.model.training
        state.model.eval()
        self.model.eval()
        with computing_in(self.dtype, self.device):
            total = log_likelihood(state.model, batch)
        weight = float(total.weight)
        ours, theirs = float(total.log_prob) / weight, -float(self.loss(batch)) / weight
        state.model.train(was_training)
        self.model.train()
        if not abs(ours - theirs) <= ALIKE[self.dtype] * abs(ours):
            raise ModelError(
                f"transformers computes another likelihood of the same text, {theirs:.6f} and not {ours:.6f} nats a "
                "target: there is nothing to compare"
            )
        return ours, theirs
