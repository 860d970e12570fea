"""The nouns that every other layer speaks in.

docs/index.md defines them all; in short:

- record: one entry of the data; document: records that the statistics count as one; part: a stretch of a record with
  its own role and weight, such as a completion or a turn.
- sequence: the tokens of a record that are read together; span: contiguous tokens of a sequence; piece: contiguous
  tokens of a span, as they lie in a row; unit: pieces that must share a row; row: one line of a batch.
- target: a token that is predicted; prompt: tokens that are read and never predicted; loss weight: the factor of a
  target's log-probability, 0 for context and padding.
- total: a weighted sum of log-probabilities with the sum of its weights; ledger: a table with one row for each scored
  part.
"""
