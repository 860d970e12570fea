"""Going on from a model that exists, whatever made it."""

from typing import Any

from msgspec.structs import replace

from thetahat.core.config import kind_of
from thetahat.model.config import DecoderConfig
from thetahat.optimization.config import WSD, AdamW, OptimizationConfig
from thetahat.recipes.masked import masked
from thetahat.recipes.quickstart import quickstart
from thetahat.recipes.translation import translation
from thetahat.run.card import Card
from thetahat.run.config import RunConfig

CONTEXT = 1024
"""Positions that are read at once unless the model reads fewer: longer ones cost memory that few fine-tunings need."""

FUTURE = 0.3
"""The weight of each token behind the next one, of a model that has blocks for them: that of DeepSeek-V3."""

RECIPES = {"decoder": quickstart, "encoder": masked, "encoder-decoder": translation}


def fine_tuning(base: str, card: Card) -> RunConfig:
    """The config that goes on from a model: its shape, its objective, 300 steps of AdamW at a small rate.

    The learning rate, 2e-5, is the usual one of full fine-tuning (Devlin et al., BERT, 2018, arXiv 1810.04805, section
    A.3); an adapter asks for about ten times as much: optimization.matrices.learning_rate=2e-4.
    """
    recipe = RECIPES[kind_of(card.model)]()
    rule = AdamW(learning_rate=2e-5, weight_decay=0.01)
    context = min(card.context, CONTEXT)
    future = (FUTURE,) * (card.model.num_future if isinstance(card.model, DecoderConfig) else 0)
    changes: dict[str, Any] = {"chat": card.chat} if card.chat else {}
    data = replace(recipe.data, context=context, shifts_splits=False, held_out="hash:0.1", **changes)
    return replace(
        recipe,
        recipe="fine-tuning",
        device="auto",
        base=base,
        model=card.model,
        objective=replace(recipe.objective, future=future),
        data=data if data.source_context is None else replace(data, source_context=context),
        optimization=OptimizationConfig(
            matrices=rule,
            embeddings=replace(rule, weight_decay=0.0),
            vectors=replace(rule, weight_decay=0.0),
            schedule=WSD(warmup_steps=10, decay=0.6),
        ),
        batch_size=8,
        max_steps=300,
        prompt="",
    )
