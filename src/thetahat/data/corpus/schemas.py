"""The tables of a corpus."""

import pyarrow as pa

SCHEMAS = {
    "documents": pa.schema(
        {
            "id": pa.string(),
            "document": pa.string(),
            "source": pa.string(),
            "weight": pa.float64(),
            "tokens_cut": pa.int64(),  # asked for, and left out before it came here; of prompts:
            "prompt_cut": pa.int64(),
            "notes": pa.string(),  # what a person should know about it, a line each
            "read_as": pa.dictionary(pa.int32(), pa.string()),  # in which form it was written
            "unread": pa.dictionary(pa.int32(), pa.string()),  # names of what else was written there, a line each
            "digest": pa.binary(16),
            "folded": pa.binary(8),  # a digest of what is asked first, without case and blanks
        }
    ),
    "parts": pa.schema(
        {
            "document": pa.int64(),
            "name": pa.dictionary(pa.int32(), pa.string()),
            "role": pa.dictionary(pa.int32(), pa.string()),
            "weight": pa.float64(),
            "is_prompt": pa.bool_(),
            "num_bytes": pa.int64(),  # of its tokens; a prompt's too
            "is_lossless": pa.bool_(),  # whether its tokens tell its text, to the byte
        }
    ),
    "spans": pa.schema(
        {
            "document": pa.int64(),
            "sequence": pa.int64(),
            "parent": pa.int64(),
            "position": pa.int64(),
            "length": pa.int64(),
        }
    ),
    "segments": pa.schema({"start": pa.int64(), "part": pa.int64()}),
}
"""A record is a row of `documents`, and has parts, which get rows in a ledger, and sequences, each of which lies in one
row of a batch. A sequence is one span or a tree of them; `parent` says how many spans before it the parent stands, 0:
none. A segment is a run of tokens of one part; it starts at a place in the tokens of the whole corpus."""
