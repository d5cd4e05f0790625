"""Chat templates: rendering, the sandbox, and errors that name the file."""

from pathlib import Path

import pytest

from fusec.errors import FusecError
from fusec.models.chat import ChatTemplate
from fusec.models.gguf_file import open_gguf

MESSAGES = [{"role": "user", "content": "Hello {{ there }}"}]
PATH = Path("some.gguf")


def test_smollm2(shared_data: Path) -> None:
    template = ChatTemplate.from_gguf(open_gguf(shared_data / "smollm2-vocab-only.gguf"))
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    question = "<|im_start|>user\nHello {{ there }}<|im_end|>\n"
    asked = f"<|im_start|>system\n{system}<|im_end|>\n{question}"
    assert template.render(MESSAGES) == asked + "<|im_start|>assistant\n"
    assert template.render(MESSAGES, add_generation_prompt=False) == asked
    own = [{"role": "system", "content": "Be brief."}, *MESSAGES]
    assert template.render(own).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")


def test_synthetic_models_have_a_template(tiny_model: Path) -> None:
    rendered = ChatTemplate.from_gguf(open_gguf(tiny_model)).render(MESSAGES)
    assert rendered == ("<|im_start|>user\nHello {{ there }}<|im_end|>\n<|im_start|>assistant\n")


def test_what_templates_may_use() -> None:
    source = "{{ bos_token }}{{ strftime_now('%Y') | length }}{{ tools[0] }}{{ eos_token }}"
    template = ChatTemplate(source, PATH, "<s>", "</s>")
    assert template.render([], tools=["search"]) == "<s>4search</s>"


def test_blocks_leave_no_blank_lines() -> None:
    source = (
        "{% for m in messages %}\n    {% if true %}\n{{ m.role }}\n    {% endif %}\n{% endfor %}"
    )
    assert ChatTemplate(source, PATH).render(MESSAGES) == "user\n"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must\nalternate') }}", "roles must alternate"),
        ("{% for %}", "some.gguf: the chat template failed: "),
        ("{{ 1 // 0 }}", "the chat template failed: "),
        ("{{ messages.append(1) }}", "the chat template failed: "),
        ("{{ ''.__class__.__mro__ }}", "the chat template failed: "),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "the chat template failed: "),
    ],
)
def test_failures_name_the_file(source: str, reason: str) -> None:
    with pytest.raises(FusecError, match=r"^some\.gguf: ") as caught:
        ChatTemplate(source, PATH).render(MESSAGES)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_template(shared_data: Path) -> None:
    with pytest.raises(FusecError, match=r"stories260K\.gguf: no chat template in the file"):
        ChatTemplate.from_gguf(open_gguf(shared_data / "stories260K.gguf"))
