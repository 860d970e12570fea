"""How well a run translates: BLEU of its answers to the prompts of a file, against the completions there.

    python benchmarks/translation.py runs/NAME TEST.jsonl [--beams 5] [--out results.json]

sacreBLEU, cased and detokenised (its default, the signature is printed), and lower-cased with the 13a tokeniser, which
is the nearest to the lower-cased tokenised BLEU of the literature on Multi30k.
"""

import argparse
import json
import time
from pathlib import Path

import sacrebleu

from thetahat.data.read.texts import read_records
from thetahat.generation.beam import Beam
from thetahat.verbs.generate import answer
from thetahat.verbs.load import load

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--out", metavar="FILE")
    chosen = parser.parse_args()
    records, loaded = list(read_records(chosen.data)), load(chosen.model)
    start = time.perf_counter()
    beam = Beam(num_beams=chosen.beams, length_exponent=1.0, max_tokens=60)
    found = [one.text for one in answer(loaded, [record.prompt for record in records], beam, batch_size=50)]
    seconds = time.perf_counter() - start
    references = [[record.text for record in records]]
    result = {"model": loaded.folder.name, "sentences": len(records), "beams": chosen.beams, "seconds": seconds}
    for name, lowercase in (("cased", False), ("lowercased", True)):
        metric = sacrebleu.BLEU(lowercase=lowercase)
        score = metric.corpus_score(found, references)
        result[name] = {"bleu": score.score, "signature": str(metric.get_signature())}
    print(json.dumps(result))
    for record, text in list(zip(records, found, strict=True))[:3]:
        print(f"{record.prompt}\n  -> {text}\n  == {record.text}")
    if chosen.out:
        Path(chosen.out).write_text(json.dumps(result | {"answers": found}, indent=1, ensure_ascii=False) + "\n")
