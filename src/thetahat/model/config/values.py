"""Types of the values of a model's config."""

from typing import Annotated, Literal

from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
Dtype = Literal["float32", "bfloat16", "float64"]
