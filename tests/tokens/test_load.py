"""Rules of tokens/load.py."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmgate.tokens import TokenizerError, load_tokenizer
from llmgate.tokens import load as load_module

EMBEDDED = Path(load_module.__file__).parent / "embedded"
CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shutil.copy(EMBEDDED / "tokenizer.json", tmp_path)
    return tmp_path


def configure(model: Path, **config: object) -> None:
    (model / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")


def test_the_embedded_tokenizer_counts_with_its_template() -> None:
    assert load_tokenizer("embedded").count_chat(CHAT) == 31


def test_a_directory_and_its_tokenizer_json_are_the_same_model() -> None:
    assert load_tokenizer(str(EMBEDDED)).count_chat(CHAT) == 31
    assert load_tokenizer(str(EMBEDDED / "tokenizer.json")).count_chat(CHAT) == 31


def test_a_template_file_goes_before_the_one_in_the_configuration(model: Path) -> None:
    configure(model, chat_template="one two three four five")
    assert load_tokenizer(str(model)).count_chat(CHAT) == 5
    (model / "chat_template.jinja").write_text("one two", "utf-8")
    assert load_tokenizer(str(model)).count_chat(CHAT) == 2


def test_requests_with_tools_use_the_template_made_for_them(model: Path) -> None:
    named = [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "one two three"}]
    configure(model, chat_template=named)
    counter = load_tokenizer(str(model))
    assert counter.count_chat(CHAT) == 1
    assert counter.count_chat(CHAT, tools=[{"type": "function"}]) == 3


def test_special_tokens_reach_the_template_as_strings_or_objects(model: Path) -> None:
    template = "{{ bos_token }}{{ eos_token }}"
    configure(model, bos_token="<|im_start|>", eos_token={"content": "<|im_end|>"}, chat_template=template)
    assert load_tokenizer(str(model)).count_chat(CHAT) == 2


def test_without_a_template_a_chat_is_counted_as_chatml(model: Path) -> None:
    chatml = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    counter = load_tokenizer(str(model))
    assert counter.count_chat(CHAT) == counter.count_text(chatml)


def test_truncation_and_padding_left_in_a_file_do_not_change_the_count(model: Path) -> None:
    file = model / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    file.write_text(json.dumps(content), "utf-8")
    assert load_tokenizer(str(model)).count_text("one two three four five six") == 6


def test_a_plain_prompt_gets_what_the_tokenizer_adds_and_a_chat_does_not(model: Path) -> None:
    file = model / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
    }
    file.write_text(json.dumps(content), "utf-8")
    configure(model, chat_template="one two")
    counter = load_tokenizer(str(model))
    assert counter.count_text("one two") == 3
    assert counter.count_input(["one two", "one"]) == 5
    assert counter.count_chat(CHAT) == 2


def test_without_tokenizer_json_transformers_loads_it(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two", "three"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}), "utf-8")
    configure(tmp_path, tokenizer_class="BertTokenizer", chat_template="one two three")
    counter = load_tokenizer(str(tmp_path))
    assert counter.count_text("one two") == 4
    assert counter.count_chat(CHAT) == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", '{"model": 5}'),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", "{"),
        ("chat_template.jinja", "{% for %}"),
    ],
)
def test_a_broken_file_is_one_clear_error(model: Path, name: str, text: str) -> None:
    (model / name).write_text(text, "utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer|template|JSON"):
        load_tokenizer(str(model))


@pytest.mark.parametrize(
    "template",
    [
        5,
        True,
        ["x"],
        [{"nam": "default", "template": "x"}],
        [{"name": [], "template": "x"}],
        [{"name": "default"}],
        {"default": 7},
    ],
)
def test_a_chat_template_of_no_known_form_is_one_clear_error(model: Path, template: object) -> None:
    configure(model, chat_template=template)
    with pytest.raises(TokenizerError, match="chat_template must be one template, or a list of them") as error:
        load_tokenizer(str(model))
    assert str(model) in str(error.value)


def test_a_path_that_leads_nowhere_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="model directory"):
        load_tokenizer(str(tmp_path / "nowhere"))


def test_a_directory_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no tokenizer can be loaded"):
        load_tokenizer(str(tmp_path))


def test_nothing_heavy_is_imported_before_a_tokenizer_is_configured() -> None:
    code = "import sys, llmgate.tokens; print(*({'jinja2', 'tokenizers', 'transformers', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b""
