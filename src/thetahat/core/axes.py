"""One alphabet of axes for the whole package.

Shapes are written in signatures with jaxtyping, `Float[Tensor, "B T D"]`, and inside a function a suffix says the
shape where a name changes it, `logits_NV`. The letters mean the same in every file.
"""

from types import MappingProxyType

AXES = MappingProxyType(
    {
        "B": "rows of a batch",
        "T": "positions of a row",
        "S": "source positions: the keys that a query may see",
        "D": "width of the residual stream",
        "H": "query heads",
        "G": "key and value heads (H is a multiple of G)",
        "K": "width of a head",
        "F": "inner width of the feed-forward network",
        "V": "vocabulary",
        "E": "width of the embeddings, where it is not that of the residual stream",
        "N": "flat tokens, rows and positions joined",
        "P": "pieces: contiguous spans of sequences, laid into rows",
        "L": "layers",
        "M": "matrices of one shape, stacked",
        "R": "rows of a matrix",
        "C": "columns of a matrix",
        "U": "chunks of pieces, of all rows joined",
        "W": "positions of a chunk",
        "O": "width of a head's values, where it is not that of the head",
        "X": "channels of a convolution",
        "J": "pairs of a head's dimensions that are rotated together",
    }
)
