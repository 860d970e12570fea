"""An adapter of ours beside its base in PEFT: no key is missing, words and likelihoods are the same."""

import peft
import pytest
import torch
import transformers
from msgspec.structs import replace
from safetensors.torch import load_file, save_file

from tests.examples import SENTENCE, run_config
from tests.run.test_base import DIALOGUES, ran, write
from tests.verbs.test_export import DECODER, GPT2, causal_log_prob
from thetahat.core.errors import ModelError
from thetahat.data.config import ChatConfig, DataConfig
from thetahat.generation.sample import Sampling
from thetahat.interop.names import Entry
from thetahat.interop.out.adapter import joined_product
from thetahat.model.adapters.config import LoRAConfig
from thetahat.model.config import AttentionConfig, LatentMixer
from thetahat.verbs.export import ExportConfig, export
from thetahat.verbs.generate import answer
from thetahat.verbs.load import load
from thetahat.verbs.score import score

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

PLAIN = replace(DECODER, attention=AttentionConfig(query_key_norm="none"))
LATENT = replace(DECODER, layers=(LatentMixer(latent_width=8, query_width=12, rotary_width=4),))
SHAPES = {"qwen3": DECODER, "gpt2": GPT2, "phi3": PLAIN, "deepseek_v3": LATENT}
OF_ATTENTION = LoRAConfig(rank=3, alpha=12.0, targets=("*.attention.query", "*.value", "*.latent", "*.output"))
LORA = LoRAConfig(rank=3, alpha=12.0, targets=("*.query", "*.value", "*.up", "*.down"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("adapter")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THETAHAT_CACHE", str(place / "cache"))
        write(place / "texts.jsonl", [{"text": f"{SENTENCE} {i}"} for i in range(12)])
        write(place / "dialogues.jsonl", DIALOGUES)
        yield place


def data(place, name, **changes):
    return DataConfig(
        train=str(place / name), held_out="none", context=64, over_long="split", vocab_size=300, **changes
    )


def adapted(place, family, adapter=LORA, template="plain", name=""):
    """A base in transformers' folder, an adapter that was trained on it, and PEFT's folder of that."""
    base, run = place / f"{family}-base", place / f"{family}-tuned{name}"
    if not base.exists():
        first = run_config(SHAPES[family], data=data(place, "texts.jsonl"), max_steps=2, dtype="float32")
        ran(first, place / f"{family}-first")
        export(str(place / f"{family}-first"), base, ExportConfig(family=family))
    if not run.exists():
        dialogues = data(place, "dialogues.jsonl", chat=ChatConfig(template=template))
        config = run_config(SHAPES[family], data=dialogues, base=str(base), adapter=adapter, max_steps=8)
        ran(replace(config, dtype="float32"), run)
    return base, run


def in_peft(base, adapter):
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return peft.PeftModel.from_pretrained(model, adapter).eval()


@pytest.mark.parametrize(
    "family", ["qwen3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2", "phi3", "deepseek_v3"))]
)
def test_peft_gives_the_same_likelihoods_and_words(place, tmp_path, family):
    adapter = OF_ATTENTION if family == "deepseek_v3" else LORA  # PEFT takes networks of its experts for parameters
    base, run = adapted(place, family, adapter)
    assert export(str(run), tmp_path / "adapter", ExportConfig(adapter=True)).family == family
    model = in_peft(base, tmp_path / "adapter")  # warnings are errors: no key is missing
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    text = DIALOGUES[0]["messages"][1]["content"]
    ours, loaded = score(load(str(run)), [str(place / "texts.jsonl")]).rows, load(str(run))
    theirs = [causal_log_prob(model, tokenizer, f"{SENTENCE} {i}") for i in range(12)]
    assert [row.log_prob for row in ours] == pytest.approx(theirs, rel=1e-6)
    before = score(load(str(base)), [str(place / "texts.jsonl")]).rows
    assert ours[0].log_prob != pytest.approx(before[0].log_prob, rel=1e-4)  # it has learned
    ids = tokenizer(text, return_tensors="pt")
    written = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    (said,) = answer(loaded, [text], Sampling(temperature=0, max_tokens=12))
    assert tokenizer.decode(written, skip_special_tokens=True) == said.text


def test_without_the_prefix_of_its_keys_an_adapter_is_not_found(place, tmp_path):
    base, run = adapted(place, "qwen3")
    export(str(run), tmp_path / "adapter", ExportConfig(adapter=True))
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = {name.removeprefix("base_model.model."): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file)
    with pytest.warns(UserWarning, match="missing adapter keys"):
        model = in_peft(base, tmp_path / "adapter")
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    ours = score(load(str(run)), [str(place / "texts.jsonl")]).rows[0].log_prob
    assert causal_log_prob(model, tokenizer, f"{SENTENCE} 0") != pytest.approx(ours, rel=1e-3)


@pytest.mark.parametrize("layout", ["rows", "transposed", "heads"])
def test_products_of_a_fused_matrix_are_one_product(layout):
    generator = torch.Generator().manual_seed(0)
    rows = (8, 8, 8) if layout == "heads" else (8, 4, 4)
    entry = Entry("theirs", ("a", "b", "c"), rows, (sum(rows), 5), layout, 4)
    parts = [
        (torch.randn(2, 5, generator=generator), torch.randn(size, 2, generator=generator)) if number != 1 else None
        for number, size in enumerate(rows)
    ]
    a, b = joined_product(entry, parts)
    products = [
        torch.zeros(size, 5) if part is None else part[1] @ part[0] for part, size in zip(parts, rows, strict=True)
    ]
    theirs = entry.join(products)
    torch.testing.assert_close(b @ a, theirs.t() if layout == "transposed" else theirs)
    assert len(a) == 4


def test_more_than_products_is_refused_with_the_cure(place, tmp_path):
    _, run = adapted(place, "qwen3", template="chatml", name="-rows")
    with pytest.raises(ModelError, match="rows of new tokens beside its products") as error:
        export(str(run), tmp_path / "out", ExportConfig(adapter=True))
    assert "thetahat merge" in error.value.cure
    _, run = adapted(place, "qwen3", replace(LORA, also=("norm.*",)), name="-also")
    with pytest.raises(ModelError, match="a whole tensor beside its products"):
        export(str(run), tmp_path / "out", ExportConfig(adapter=True))
    with pytest.raises(ModelError, match="has no adapter"):
        export(str(place / "qwen3-first"), tmp_path / "out", ExportConfig(adapter=True))
    assert not (tmp_path / "out").exists()
