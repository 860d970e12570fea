"""How far scored log-probabilities are from a plain loop in float64: one document at a time, nothing packed or padded.

    python benchmarks/exactness.py MODEL DATA [--documents 200] [--out results.json]

MODEL is a run on texts, prompts with completions, or masked tokens, DATA of the same kind; documents that do not fit
into the context are left out. The loop reads the same weights in float64 and does by hand what scoring does in batches
and in the dtype of the run.
"""

import argparse
import copy
import itertools
import json
from pathlib import Path

import numpy as np
import torch

from thetahat.core.batch import Inputs, Source
from thetahat.core.config import kind_of
from thetahat.core.visibility import Visibility
from thetahat.data.read.texts import read_records
from thetahat.distribution.world import World
from thetahat.scoring.likelihood import ledger_rows, score_corpus
from thetahat.verbs.load import load
from thetahat.verbs.score import corpus_of


def inputs_of(tokens, *, is_causal):
    place = torch.arange(len(tokens))[None]
    return Inputs(
        torch.tensor([tokens]), place, Visibility(torch.zeros_like(place), is_causal=is_causal, is_plain=True)
    )


def log_probs_of(model, hidden, targets):
    return model.head(hidden[0]).log_softmax(-1).gather(-1, torch.tensor(targets)[:, None])[:, 0]


def causal(model, corpus, span):
    tokens = corpus.span(span).tolist()
    place = np.arange(corpus.offsets[span] + 1, corpus.offsets[span + 1])
    is_asked = torch.from_numpy(~corpus.column["parts.is_prompt"][corpus.part_of(place)])
    return log_probs_of(model, model.hidden(inputs_of(tokens[:-1], is_causal=True)), tokens[1:])[is_asked].sum()


def conditional(model, corpus, span):
    source, target = corpus.span(span).tolist(), corpus.span(span + 1).tolist()
    inputs = inputs_of(target[:-1], is_causal=True)
    given = Source(inputs_of(source, is_causal=False), torch.zeros_like(inputs.tokens))
    hidden = model.hidden(Inputs(inputs.tokens, inputs.position, inputs.visibility, given))
    return log_probs_of(model, hidden, target[1:]).sum()


def masked(model, corpus, span):
    tokens, total = corpus.span(span).tolist(), 0.0
    for j, token in enumerate(tokens):
        if not corpus.symbols.is_special[token]:
            read = [*tokens[:j], corpus.symbols.mask, *tokens[j + 1 :]]
            total += log_probs_of(model, model.hidden(inputs_of(read, is_causal=False)), tokens)[j]
    return total


def room(tokenizer, texts):
    return sum(len(tokens) + 1 for tokens in tokenizer.encode(texts))


LOOPS = {"decoder": causal, "encoder-decoder": conditional, "encoder": masked}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--out", metavar="FILE")
    chosen = parser.parse_args()
    loaded = load(chosen.model, ("evaluation.passes=0",))
    context = loaded.card.context
    path = Path(chosen.out or "exactness.json").with_suffix(".jsonl")
    records = (r for r in read_records([chosen.data]) if room(loaded.tokenizer, r.texts) < context)
    kept = itertools.islice(records, chosen.documents)
    rows = [{"text": r.text} if r.prompt is None else {"prompt": r.prompt, "completion": r.text} for r in kept]
    if not rows:
        raise SystemExit(f"no document of {chosen.data} fits into the context of {context} tokens")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = corpus_of(loaded, [str(path)], World())
    path.unlink()
    found = ledger_rows(score_corpus(loaded.model, corpus, loaded.policy, World(), loaded.device), corpus)
    exact, loop = copy.deepcopy(loaded.model).double(), LOOPS[kind_of(loaded.card.model)]
    first = np.flatnonzero(np.diff(corpus.column["spans.document"], prepend=-1)).tolist()
    with torch.no_grad():
        plain = [float(loop(exact, corpus, span)) for span in first]
    apart = np.abs(np.array([row.log_prob for row in found]) - np.array(plain))
    tokens = np.array([row.num_tokens for row in found])
    result = {
        "model": chosen.model,
        "documents": len(found),
        "tokens": int(tokens.sum()),
        "longest": int(tokens.max()),
        "nats_per_1000_tokens": float(apart.sum() / tokens.sum() * 1000),
        "largest_nats_of_a_document": float(apart.max()),
        "largest_nats_per_1000_tokens_of_a_document": float((apart / tokens * 1000).max()),
        "of_documents_of_100_tokens_and_more": float((apart / tokens * 1000)[tokens >= 100].max(initial=0)),
    }
    print(json.dumps(result, indent=1))
    if chosen.out:
        Path(chosen.out).write_text(json.dumps(result, indent=1) + "\n")
