"""Chat templates: rendering, the sandbox, and errors that name the file."""

import json
from pathlib import Path

import pytest

from fusec.errors import FusecError
from fusec.models.chat import KEY, ChatTemplate
from fusec.models.gguf_file import open_gguf
from fusec.models.tokenizer import Tokenizer
from tests.vocabulary import write_vocabulary

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
        ("{{ nothing | tojson }}", "Undefined is not JSON serializable"),
        ("{{ strftime_now() }}", "the chat template failed: "),
        ("{% generation %}", "the chat template failed: "),
        ("{% if 1 %}" * 150 + "{% endif %}" * 150, "the chat template failed: "),
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


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("Hello", "messages: expected a list of mappings with role and content, found 'Hello'"),
        (MESSAGES[0], "messages: expected a list of mappings with role and content, found dict"),
        ([*MESSAGES, "Hello"], "message 1: expected a mapping with role and content, found 'Hello"),
        ([{"content": "a", "name": "b"}], "message 0: expected the key 'role', found the keys con"),
        ([*MESSAGES, {}], "message 1: expected the key 'role', found the keys none"),
    ],
)
def test_messages_that_are_none(messages: list, reason: str) -> None:
    with pytest.raises(FusecError, match=f"^{reason}"):
        ChatTemplate("{{ messages[0].content }}", PATH).render(messages)


def test_whether_a_content_is_needed_is_the_templates_to_say() -> None:
    call = [{"role": "assistant", "tool_calls": ["add"]}]
    assert ChatTemplate("{{ messages[0].tool_calls[0] }}", PATH).render(call) == "add"


VALUE = {"type": "f", "name": "it's <b> & é", "args": {"z": 1, "a": [1.5, None, True]}}


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ("", {}),
        ("(indent=4)", {"indent": 4}),
        ("(ensure_ascii=True)", {"ensure_ascii": True}),
        ("(separators=(',', ':'))", {"separators": (",", ":")}),
        ("(sort_keys=True)", {"sort_keys": True}),
    ],
)
def test_json_is_pythons(arguments: str, options: dict) -> None:
    wanted = json.dumps(VALUE, **{"ensure_ascii": False, **options})
    source = "{{ '<t>' + (t | tojson" + arguments + ") ~ messages[0].content }}"
    found = ChatTemplate(source, PATH).render([{"role": "user", "content": "a < 'b'"}], t=VALUE)
    assert found == f"<t>{wanted}a < 'b'", "what stands beside it is not escaped either"


def test_variables_that_are_not_given() -> None:
    source = "{{ tools is none }} {{ documents is none }} {{ custom is defined }}{{ pad_token }}"
    assert ChatTemplate(source, PATH).render([]) == "True True False"
    assert ChatTemplate(source, PATH, pad_token="<p>").render([], documents=[1], custom=0) == (
        "True False True<p>"
    )


def test_tags() -> None:
    source = (
        "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}"
        "{% generation %}{{ m.content }}\n{% endgeneration %}"
        "{% if loop.index == 3 %}{% break %}{% endif %}{% endfor %}"
    )
    messages = [{"role": "user", "content": text} for text in ("a", "b", "<c>", "d")]
    assert ChatTemplate(source, PATH).render(messages) == "a\n<c>\n"


def test_tokens_of_the_file(tmp_path: Path) -> None:
    template = "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}{{ sep_token }}"
    ids = {"bos": 0, "unknown": 1, "padding": 2, "seperator": 1}
    changes = {f"{name}_token_id": token for name, token in ids.items()}
    file = write_vocabulary(tmp_path / "t.gguf", **changes, **{KEY: template})
    assert ChatTemplate.from_gguf(file).render([]) == "abab" + "b", "no EOS is no text"


def test_a_conversation_as_tokens(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_gguf(
        write_vocabulary(tmp_path / "t.gguf", bos_token_id=1, add_bos_token=True)
    )
    assert ChatTemplate("{{ messages[0].role }}", PATH).encode([{"role": "ab"}], tokenizer) == [
        1,
        2,
    ]
    plain = Tokenizer.from_gguf(write_vocabulary(tmp_path / "p.gguf", add_bos_token=False))
    with pytest.raises(FusecError, match=r"some\.gguf: the chat template makes no tokens"):
        ChatTemplate("", PATH).encode(MESSAGES, plain)


def test_several_templates(tmp_path: Path) -> None:
    def chosen(**templates: str) -> str:
        keys = {f"{KEY}{name}": text for name, text in templates.items()}
        file = write_vocabulary(tmp_path / "t.gguf", **{f"{KEY}s": ["a", "b"], **keys})
        return ChatTemplate.from_gguf(file).source

    assert chosen(**{"": "plain", ".tool_use": "tools", ".default": "named"}) == "plain"
    assert chosen(**{".tool_use": "tools", ".default": "named"}) == "named"
    assert chosen(**{".only": "one"}) == "one"
    with pytest.raises(FusecError, match="found only those for special uses: rag, tool_use"):
        chosen(**{".tool_use": "tools", ".rag": "rag"})
    with pytest.raises(FusecError, match="no chat template in the file"):
        chosen()


def test_no_template(shared_data: Path) -> None:
    with pytest.raises(FusecError, match=r"stories260K\.gguf: no chat template in the file"):
        ChatTemplate.from_gguf(open_gguf(shared_data / "stories260K.gguf"))
