"""Under the harness's own evaluator and command line, on tasks defined here, without a network."""

import copy
import json
import math
import os
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cli.test_choose import COPA, PAIRS, SMALL, lines
from thetahat.cli.main import main
from thetahat.core.errors import ConfigError, DataError
from thetahat.data.chat.template import load_template
from thetahat.data.read.prompt import unanswered
from thetahat.generation.sample import Sampling
from thetahat.run.writing.dialogue import dialogue_prompts
from thetahat.verbs.chat import answer
from thetahat.verbs.choose import choose
from thetahat.verbs.lm_eval import HarnessModel
from thetahat.verbs.load import load
from thetahat.verbs.score import score

IS_THERE = find_spec("lm_eval") is not None
needs_lm_eval = pytest.mark.skipif(not IS_THERE, reason='lm-eval is not installed: pip install -e ".[eval]"')

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: {kind}
{rest}
"""
TASKS = {
    "pairs": (
        "multiple_choice",
        'doc_to_text: ""\ntarget_delimiter: ""\ndoc_to_choice: "{{[good, bad]}}"\ndoc_to_target: 0\n'
        "metric_list: [{metric: acc}]",
    ),
    "copa": (
        "multiple_choice",
        'doc_to_text: "{{query}}"\ndoc_to_choice: choices\ndoc_to_target: gold\n'
        "metric_list: [{metric: acc}, {metric: acc_mutual_info}]",
    ),
    "cloze": (
        "loglikelihood",
        'doc_to_text: "{{context}}"\ndoc_to_target: " {{continuation}}"\n'
        "metric_list: [{metric: perplexity}, {metric: acc}]",
    ),
    "long": (
        "loglikelihood_rolling",
        'doc_to_text: ""\ndoc_to_target: "{{text}}"\nmetric_list: [{metric: bits_per_byte}]',
    ),
    "written": (
        "generate_until",
        'doc_to_text: "{{context}}"\ndoc_to_target: "{{continuation}}"\n'
        'generation_kwargs: {until: ["e"], max_gen_toks: 5}\nmetric_list: [{metric: exact_match}]',
    ),
}
LONG = [{"text": "To be or not to be, that is the question. " * 9}, {"text": "The king."}]
RECORDS = {"pairs": PAIRS, "copa": COPA[:1] * 2, "cloze": COPA[2:], "long": LONG, "written": COPA[2:]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harness")
    train = ["train", *SMALL, "max_steps=3", "batch_size=4", "threads=1", "data.over_long=split", "--out", "run", "-q"]
    done = say(folder, "-m", "thetahat", *train)
    assert done.returncode == 0, done.stderr
    for name, records in RECORDS.items():
        (folder / f"{name}.jsonl").write_text(lines(records))
        kind, rest = TASKS[name]
        (folder / f"{name}.yaml").write_text(
            TASK.format(name=name, path=folder / f"{name}.jsonl", kind=kind, rest=rest)
        )
    return folder


def say(folder, *words):
    environment = os.environ | {
        "THETAHAT_CACHE": str(folder / "cache"),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def results(place):
    asked = ["--model", "thetahat", "--model_args", "model=run,dtype=float64", "--tasks", ",".join(TASKS)]
    written = ["--include_path", str(place), "--output_path", "out", "--log_samples", "--batch_size", "4"]
    done = say(place, "-m", "thetahat", "lm-eval", *asked, *written)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (place / "out").rglob("results_*.json")
    samples = {
        file.name.split("_")[1]: [json.loads(line) for line in file.read_text().splitlines()]
        for file in path.parent.glob("samples_*.jsonl")
    }
    return json.loads(path.read_text())["results"], samples


@needs_lm_eval
def test_its_answers_are_those_of_choose(place, results):
    found, samples = results
    loaded = load(str(place / "run"), ("dtype=float64",))
    for name in ("pairs", "copa"):
        ours = choose(loaded, [str(place / f"{name}.jsonl")])
        assert found[name]["acc,none"] == ours.overall["sum"].interval.estimate
        for sample, mine in zip(sorted(samples[name], key=lambda one: one["doc_id"]), ours.questions, strict=True):
            theirs = [float(one[0][0]) for one in sample["resps"]][: len(mine.scores["sum"])]
            assert theirs == pytest.approx(mine.scores["sum"], rel=1e-12)
    cloze = choose(loaded, [str(place / "cloze.jsonl")])
    assert found["cloze"]["acc,none"] == cloze.overall["greedy"].interval.estimate
    assert found["cloze"]["perplexity,none"] == pytest.approx(math.exp(-cloze.gold.log_likelihood))


@needs_lm_eval
def test_a_long_text_is_scored_whole_in_disjoint_windows(place, results):
    loaded = load(str(place / "run"), ("dtype=float64", "evaluation.stride=32"))
    rows = score(loaded, [str(place / "long.jsonl")]).rows
    theirs = [float(sample["resps"][0][0]) for sample in sorted(results[1]["long"], key=lambda one: one["doc_id"])]
    for row, mine, record in zip(rows, theirs, LONG, strict=True):
        ids = loaded.tokenizer.encode([record["text"]])[0]
        assert row.num_tokens == len(ids) + 1  # `score` also asks for the end of a text, the harness does not
        assert mine > row.log_prob
    asked = SimpleNamespace(args=(LONG[1]["text"],), task_name="long", doc_id=0)
    both = SimpleNamespace(args=("", LONG[1]["text"]), task_name="long", doc_id=0)
    model = HarnessModel(loaded)
    (rolling,), ((once, _),) = model.loglikelihood_rolling([asked]), model.loglikelihood([both])
    assert rolling == pytest.approx(once, rel=1e-12)


@needs_lm_eval
def test_a_text_ends_before_what_ends_it(results):
    (sample,) = results[1]["written"]
    assert "e" not in sample["resps"][0][0]


@needs_lm_eval
def test_continuations_are_spans_of_one_tokenisation(place):
    """The pitfall of encoding a pair: no continuation of ours is empty, and the halves add up to the whole."""
    model = HarnessModel(str(place / "run"), dtype="float64")
    text = "The king is here, and the lord"
    request = SimpleNamespace(task_name="t", doc_id=0)
    for cut in range(1, len(text)):
        request.args = (text[:cut], text[cut:])
        ((found, _),) = model.loglikelihood([request])
        assert found < 0
    request.args = ("", text)
    ((whole, _),) = model.loglikelihood([request])
    assert found > whole


@needs_lm_eval
def test_an_empty_text_has_probability_1_and_an_empty_continuation_is_no_question(place):
    model = HarnessModel(str(place / "run"))
    texts = ["The king.", "", "To be"]
    requests = [SimpleNamespace(args=(text,), task_name="t", doc_id=id) for id, text in enumerate(texts)]
    found = model.loglikelihood_rolling(requests)
    assert found[1] == 0.0
    assert [found[0], found[2]] == pytest.approx(model.loglikelihood_rolling(requests[::2]), rel=1e-6)
    request = SimpleNamespace(args=("The king", ""), task_name="t", doc_id=7)
    with pytest.raises(DataError, match="the continuation is empty: t 7"):
        model.loglikelihood([request])


@needs_lm_eval
def test_what_is_too_long_is_an_error_in_the_harness_s_words_or_cut(place):
    request = SimpleNamespace(task_name="t", doc_id=7, args=("king " * 90, "be"))
    cure = r"--model_args \.\.\.,over_long=truncate-left"
    with pytest.raises(DataError, match=rf"task t, document 7: .* longer than what the model reads[^$]*{cure}"):
        HarnessModel(str(place / "run")).loglikelihood([request])
    kept = HarnessModel(str(place / "run"), over_long="truncate-left")
    assert kept.loglikelihood([request])[0][0] < 0
    request.args = ("king " * 90, {"until": ["x"], "max_gen_toks": 2})
    assert len(kept.generate_until([request])) == 1
    with pytest.raises(ConfigError, match=rf"task t, document 7: a prompt of[^$]*{cure}"):
        HarnessModel(str(place / "run")).generate_until([request])


@needs_lm_eval
def test_settings_that_the_model_does_not_have_are_named(place):
    with pytest.raises(ConfigError, match="no model came"):
        HarnessModel()
    with pytest.raises(ConfigError, match="over_long=cut"):
        HarnessModel(str(place / "run"), over_long="cut")
    assert HarnessModel(pretrained=str(place / "run")).loaded.folder.exists()


@needs_lm_eval
def test_a_text_is_written_no_further_than_what_ends_it(place):
    loaded = load(str(place / "run"))
    model, steps = HarnessModel(loaded), []
    request = SimpleNamespace(task_name="t", doc_id=0, args=("The king", {"until": [], "max_gen_toks": 12}))
    (free,) = model.generate_until([request])
    stop = free[len(free) // 2 :][:2]
    request.args = ("The king", {"until": [stop, ""], "max_gen_toks": 12})
    hook = loaded.model.head.register_forward_hook(lambda *_: steps.append(1))
    try:
        assert model.generate_until([request]) == [free[: free.index(stop)]]
    finally:
        hook.remove()
    assert not steps or len(steps) < 12


DIALOGUES = [
    {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"number {n}"}]}
    for n in range(8)
]
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "say <|im_end|> 3"}]


@pytest.fixture(scope="module")
def talk(place):
    (place / "dialogues.jsonl").write_text(lines(DIALOGUES))
    words = ["data.train=dialogues.jsonl", "data.held_out=none", *SMALL[:3], "data.vocab_size=300", "data.context=96"]
    done = say(
        place, "-m", "thetahat", "train", "dialogue", *words, "max_steps=3", "batch_size=4", "threads=1", "--out",
        "talk", "-q",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return load(str(place / "talk"), ("dtype=float64",))


@needs_lm_eval
def test_a_dialogue_is_asked_in_the_template_of_training(talk):
    model = HarnessModel(talk)
    context = model.apply_chat_template(ASKED)
    (prompt,) = dialogue_prompts(talk, [(unanswered({"messages": ASKED}, "d"), "d")])
    assert context.endswith("<|im_start|>assistant\n")
    again = pickle.loads(pickle.dumps(copy.deepcopy(context)))  # as the harness keeps requests
    assert again == context
    assert again.prompt == context.prompt == prompt
    request = SimpleNamespace(task_name="t", doc_id=0, args=(again, {"until": ["\n\n"], "max_gen_toks": 6}))
    assert model.generate_until([request]) == [answer(talk, ASKED, Sampling(temperature=0, max_tokens=6)).text]
    assert model.chat_template(True) == load_template(talk.card.chat).source
    assert model.tokenizer_name == HarnessModel(talk).tokenizer_name


@needs_lm_eval
def test_choices_behind_a_dialogue_are_those_of_choose_and_a_begun_answer_goes_on(talk, tmp_path):
    model = HarnessModel(talk)
    choices = ["number 3", "number 4"]
    (tmp_path / "asked.jsonl").write_text(lines([{"messages": ASKED, "choices": choices, "gold": 0}]))
    (found,) = choose(talk, [str(tmp_path / "asked.jsonl")]).questions
    context = model.apply_chat_template(ASKED)
    asked = [SimpleNamespace(task_name="t", doc_id=0, args=(context, choice)) for choice in choices]
    theirs = [log_prob for log_prob, _ in model.loglikelihood(asked)]
    assert theirs == pytest.approx(found.scores["sum"], rel=1e-12)
    begun = model.apply_chat_template([*ASKED, {"role": "assistant", "content": "number"}], False)
    assert begun == context + "number"
    halves = [("number", context), (" 3", begun)]
    halves = [SimpleNamespace(task_name="t", doc_id=i, args=(given, text)) for i, (text, given) in enumerate(halves)]
    first, second, both = talk.tokenizer.encode(["number", " 3", "number 3"])
    if first + second == both:
        assert sum(log_prob for log_prob, _ in model.loglikelihood(halves)) == pytest.approx(theirs[0], rel=1e-9)


@needs_lm_eval
def test_the_harness_asks_in_the_template_or_says_that_there_is_none(place, talk):
    words = ["--tasks", "written,copa", "--include_path", str(place), "--apply_chat_template", "--num_fewshot", "0"]
    model = ["lm-eval", "--model", "thetahat", "--model_args"]
    assert say(place, "-m", "thetahat", *model, "model=talk", *words).returncode == 0
    done = say(place, "-m", "thetahat", *model, "model=run", *words)
    assert done.returncode == 2
    assert "was not trained on dialogues and has no chat template" in done.stderr


@pytest.mark.skipif(IS_THERE, reason="lm-eval is installed")
def test_without_lm_eval_the_command_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["thetahat", "lm-eval", "--model", "thetahat", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert 'pip install "thetahat[eval]"' in capsys.readouterr().err
    with pytest.raises(ConfigError, match="lm-eval is not installed"):
        HarnessModel("runs/any")


def test_nothing_of_ours_runs_when_python_starts():
    """A .pth file, which Python obeys at every start, comes with no installation."""
    root = Path(__file__).parents[2]
    assert not [*(root / "src").rglob("*.pth")]
    assert "force-include" not in (root / "pyproject.toml").read_text()
