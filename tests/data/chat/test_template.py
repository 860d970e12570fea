"""The named templates write what their formats are known by; others come from files."""

import dataclasses
import json

import pytest
from msgspec.structs import replace

from tests.oracles import dialogue as oracle
from thetahat.core.config import from_toml, override, to_toml
from thetahat.core.errors import ConfigError
from thetahat.data.chat.rendering import Refusal, Scene, shared
from thetahat.data.chat.template import TEMPLATES, load_template, template_of
from thetahat.data.config import ChatConfig

DIALOGUE = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"},
    {"role": "user", "content": "Bye"},
]
ANSWER = {"role": "assistant", "content": "<think>\nso\n</think>\n\nSee you"}
THOUGHTS = "<think>\nhm\n</think>\n\n"
LAST = "<think>\nso\n</think>\n\nSee you"
IM = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
NEXT = "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
HARMONY = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\n\nReasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message."
    "<|end|><|start|>developer<|message|># Instructions\n\nBe kind.\n\n<|end|><|start|>user<|message|>Hi<|end|>"
)
# The inference prompt of the last turn, and that turn up to its end.
KNOWN = {
    "chatml": (f"{IM}{THOUGHTS}Hello{NEXT}", f"{LAST}<|im_end|>"),
    "qwen3": (f"{IM}Hello{NEXT}", f"{LAST}<|im_end|>"),
    "llama-3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        f"{THOUGHTS}Hello<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        f"{LAST}<|eot_id|>",
    ),
    "gemma": (
        f"<bos><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\n{THOUGHTS}Hello<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
        f"{LAST}<end_of_turn>",
    ),
    "mistral": (
        f"<s>[SYSTEM_PROMPT]Be kind.[/SYSTEM_PROMPT][INST]Hi[/INST]{THOUGHTS}Hello</s>[INST]Bye[/INST]",
        f"{LAST}</s>",
    ),
    "zephyr": (
        f"<|system|>\nBe kind.</s>\n<|user|>\nHi</s>\n<|assistant|>\n{THOUGHTS}Hello</s>\n"
        "<|user|>\nBye</s>\n<|assistant|>\n",
        f"{LAST}</s>",
    ),
    "phi-3": (
        f"<|system|>\nBe kind.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n{THOUGHTS}Hello<|end|>\n"
        "<|user|>\nBye<|end|>\n<|assistant|>\n",
        f"{LAST}<|end|>",
    ),
    "deepseek-r1": (
        "<｜begin▁of▁sentence｜>Be kind.<｜User｜>Hi<｜Assistant｜>"
        "\n\nHello<｜end▁of▁sentence｜><｜User｜>Bye<｜Assistant｜>",
        "\n\nSee you<｜end▁of▁sentence｜>",
    ),
    "gpt-oss": (
        f"{HARMONY}<|start|>assistant<|channel|>final<|message|>{THOUGHTS}Hello<|end|>"
        "<|start|>user<|message|>Bye<|end|><|start|>assistant",
        f"<|channel|>final<|message|>{LAST}<|return|>",
    ),
    "plain": (
        f"System: Be kind.\nUser: Hi\nAssistant: {THOUGHTS}Hello<|endoftext|>\nUser: Bye\nAssistant:",
        f" {LAST}<|endoftext|>",
    ),
}  # fmt: skip


def rendered(template, messages, *, add_generation_prompt=False, **more):
    given = {
        "tools": None,
        "bos_token": template.bos_token,
        "eos_token": template.eos_token,
        **template.variables,
        **more,
    }
    scene = Scene("d", template.source, messages, given, template.date)
    ((answer,),) = shared().render([(scene, [(add_generation_prompt, (0, len(messages)))])])
    return answer if isinstance(answer, Refusal) else answer.text


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_named_template_writes_the_format_that_it_is_named_after(name):
    template = TEMPLATES[name]
    assert oracle.texts(template, [*DIALOGUE, ANSWER], 4) == KNOWN[name]
    for messages, asks in ((DIALOGUE, True), ([*DIALOGUE, ANSWER], False)):
        text = rendered(template, messages, add_generation_prompt=asks)
        assert text == oracle.render(template, messages, asks)


def test_every_special_token_is_written_by_its_template():
    for name, template in TEMPLATES.items():
        text = oracle.render(template, [*DIALOGUE, ANSWER], False) + oracle.render(template, DIALOGUE, True)
        assert [token for token in template.special_tokens if token not in text] == [], name
        assert set(template.ends_turn) <= set(template.special_tokens)


def test_variables_reach_the_template():
    template = load_template(ChatConfig(template="qwen3", variables={"enable_thinking": False}))
    assert rendered(template, DIALOGUE, add_generation_prompt=True).endswith("assistant\n<think>\n\n</think>\n\n")
    dated = load_template(ChatConfig(template="gpt-oss", date="2025-06-28", variables={"reasoning_effort": "high"}))
    text = rendered(dated, DIALOGUE)
    assert "\nCurrent date: 2025-06-28\n" in text
    assert "Reasoning: high" in text
    thinking = [*DIALOGUE, {"role": "assistant", "content": "See you", "thinking": "so"}]
    assert rendered(TEMPLATES["gpt-oss"], thinking).endswith(
        "<|start|>assistant<|channel|>analysis<|message|>so<|end|>"
        "<|start|>assistant<|channel|>final<|message|>See you<|return|>"
    )


def test_a_template_that_knows_no_role_says_so():
    for name in ("gemma", "mistral", "zephyr", "phi-3", "deepseek-r1", "gpt-oss"):
        messages = [{"role": "user", "content": "Hi"}, {"role": "tool", "content": "3"}]
        assert isinstance(rendered(TEMPLATES[name], messages), Refusal), name
    for template in TEMPLATES.values():
        if template.name != "qwen3":
            assert isinstance(rendered(template, DIALOGUE[:2], tools=[{"a": 1}]), Refusal), template.name


def test_a_template_is_read_from_a_file(tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("{{ bos_token }}{% for m in messages %}{{ m.content }}<e>{% endfor %}")
    config = ChatConfig(template=str(path), special_tokens=("<b>",), ends_turn=("<e>",), bos_token="<b>")
    template = load_template(from_toml(to_toml(config), ChatConfig))
    assert template.special_tokens == ("<b>", "<e>")
    assert (template.ends_turn, template.bos_token, template.eos_token) == (("<e>",), "<b>", "")
    assert rendered(template, DIALOGUE[:2]) == "<b>Be kind.<e>Hi<e>"


CONFIG = {
    "chat_template": "{{ bos_token }}x{{ eos_token }}",
    "bos_token": {"content": "<s>", "lstrip": False},
    "eos_token": "</s>",
    "added_tokens_decoder": {
        "1": {"content": "<s>", "special": True},
        "2": {"content": "<think>", "special": False},
        "3": {"content": "<|user|>", "special": True},
    },
}


def test_a_template_is_read_from_a_tokenizer_config(tmp_path):
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(CONFIG))
    template = load_template(ChatConfig(template=str(path)))
    assert template == dataclasses.replace(template_of(CONFIG, "x"), name=str(path))
    assert template.special_tokens == ("<s>", "<|user|>", "</s>")
    assert rendered(template, DIALOGUE) == "<s>x</s>"
    several = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]
    assert template_of({"chat_template": several}, "x").source == "d"


def test_a_tokenizer_config_may_hold_anything():
    for added in (None, [], {"1": 3}, {"1": {"special": True}}, "x"):
        assert template_of({"chat_template": "x", "added_tokens_decoder": added}, "n").special_tokens == ()


def test_a_variable_is_set_on_the_command_line():
    config = override(ChatConfig(), ["variables.enable_thinking=false", "template=qwen3"])
    assert config.variables == {"enable_thinking": False}
    assert from_toml(to_toml(config), ChatConfig) == config


def test_a_template_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"template='chatlm' is neither .*\n.*allowed: chatml, llama-3"):
        load_template(ChatConfig(template="chatlm"))
    for content, message in (
        ("{", "not JSON"),
        ("[]", "no chat_template"),
        ('{"chat_template": 3}', "no chat_template"),
    ):
        (tmp_path / "tokenizer_config.json").write_text(content)
        with pytest.raises(ConfigError, match=message):
            load_template(ChatConfig(template=str(tmp_path / "tokenizer_config.json")))
    with pytest.raises(ConfigError, match="is no day"):
        ChatConfig(date="yesterday")


def test_the_digest_tells_everything_that_changes_a_rendering():
    config = ChatConfig(template="qwen3")
    changes = [{}, {"variables": {"a": 1}}, {"date": "2025-01-31"}, {"eos_token": "</s>"}, {"ends_turn": ("<x>",)}]
    changes += [{"special_tokens": ("<x>",)}, {"template": "chatml"}]
    assert len({load_template(replace(config, **change)).digest for change in changes}) == len(changes)


def test_the_folder_of_a_model_brings_its_templates(tmp_path):
    """As transformers reads them: a file of its own comes first, others go by name."""
    named = {"default": "of the config", "rag": "with documents"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**CONFIG, "chat_template": named}))
    for template in (tmp_path, tmp_path / "tokenizer_config.json"):
        assert load_template(ChatConfig(template=str(template))).source == "of the config"
        assert load_template(ChatConfig(template=str(template), named="rag")).source == "with documents"
    (tmp_path / "chat_template.jinja").write_text("of its file")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tools.jinja").write_text("with tools")
    assert load_template(ChatConfig(template=str(tmp_path))).source == "of its file"
    assert load_template(ChatConfig(template=str(tmp_path), named="tools")).source == "with tools"
    for file in ("chat_template.jinja", "additional_chat_templates/tools.jinja"):
        assert load_template(ChatConfig(template=str(tmp_path / file))).special_tokens == ("<s>", "<|user|>", "</s>")
    with pytest.raises(ConfigError, match=r"no chat_template of the name 'x'\n.*default, rag, tools"):
        load_template(ChatConfig(template=str(tmp_path), named="x"))
