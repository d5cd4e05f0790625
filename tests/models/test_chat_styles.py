"""Templates in the manner of the models' own: each uses the parts of jinja2 that theirs do.

They lie in the folder `templates`, and were written for these tests in few lines: what they show is
that such a template runs and says what it should, not what a model was trained on.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fusec.errors import FusecError
from fusec.models.chat import ChatTemplate

FOLDER = Path(__file__).parent / "templates"
ASKED = [{"role": "user", "content": "Hi!"}]
TALK = [
    {"role": "system", "content": " Be brief. "},
    *({"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}),
    {"role": "user", "content": "Why?"},
]
PLACE = {"type": "string", "description": "a town"}
LOOK = {
    "name": "look",
    "description": "Looks.",
    "parameters": {"type": "object", "properties": {"at": PLACE}, "required": ["at"]},
}
TOOLS = [{"type": "function", "function": LOOK}]
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "Rome"}}}
CALLED = [
    *({"role": "user", "content": "Sunny?"}, {"role": "assistant", "tool_calls": [CALL]}),
    *({"role": "tool", "content": "yes"}, {"role": "tool", "content": "very"}),
]


def rendered(name: str, messages: list[dict[str, Any]], **variables: Any) -> str:
    source = (FOLDER / f"{name}.jinja").read_text()
    template = ChatTemplate(source, Path("own.gguf"), bos_token="<s>", eos_token="</s>")
    return template.render(messages, **variables)


def test_qwen() -> None:
    """A namespace that outlives a loop, slices backwards, methods of strings, JSON of tools."""
    thought = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}
    assert rendered("qwen", [*ASKED, thought, *ASKED], enable_thinking=False) == (
        "<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
        "<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    tool = (
        '{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": '
        '{"type": "object", "properties": {"at": {"type": "string", "description": "a town"}}, '
        '"required": ["at"]}}}'
    )
    assert rendered("qwen", CALLED, tools=TOOLS) == (
        f"<|im_start|>system\n<tools>\n{tool}\n</tools><|im_end|>\n"
        "<|im_start|>user\nSunny?<|im_end|>\n"
        '<|im_start|>assistant\n{"name": "look", "arguments": {"at": "Rome"}}<|im_end|>\n'
        "<|im_start|>user\n<answer>yes</answer>\n<answer>very</answer><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_gemma() -> None:
    """Exceptions of the template's own, content in parts, white space cut on both sides."""
    assert rendered("gemma", TALK) == (
        "<s><start_of_turn>user\nBe brief.\n\nHi!<end_of_turn>\n"
        "<start_of_turn>model\nHello.<end_of_turn>\n<start_of_turn>user\nWhy?<end_of_turn>\n"
        "<start_of_turn>model\n"
    )
    parts = [{"type": "image"}, {"type": "text", "text": " A cat? "}]
    seen = rendered("gemma", [{"role": "user", "content": parts}], add_generation_prompt=False)
    assert seen == "<s><start_of_turn>user\n<image>A cat?<end_of_turn>\n"
    with pytest.raises(FusecError, match="failed: expected users and assistants by turns"):
        rendered("gemma", [*ASKED, *ASKED])


def test_llama3() -> None:
    """The date, variables that a caller may set, indented JSON, items of a mapping."""
    talk = rendered("llama3", TALK, date_string="today")
    assert talk == (
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday: today\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi!<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    year = f"{datetime.now():%Y}\n"
    assert year in rendered("llama3", ASKED)
    called = rendered("llama3", CALLED, tools=TOOLS)
    assert '\n    "function": {\n        "name": "look",\n' in called
    assert 'look(at="Rome")<|eom_id|>yesvery<|start_header_id|>' in called


def test_mistral() -> None:
    """Messages chosen by their role, and compared; attributes that are not there."""
    assert rendered("mistral", TALK) == (
        "<s>[SYSTEM_PROMPT] Be brief. [/SYSTEM_PROMPT][INST]Hi![/INST] Hello.</s>[INST]Why?[/INST]"
    )
    assert f"It is {datetime.now():%Y}-" in rendered("mistral", ASKED)
    named = {"role": "assistant", "content": "", "tool_calls": [{"id": "123456789", **CALL}]}
    called = rendered("mistral", [*ASKED, named], tools=["look"])
    assert '[AVAILABLE_TOOLS]["look"][/AVAILABLE_TOOLS][INST]Hi![/INST]' in called
    assert called.endswith("[TOOL_CALLS]look[CALL_ID]123456789")
    with pytest.raises(FusecError, match="failed: ids of calls have nine characters"):
        rendered("mistral", CALLED)


def test_phi() -> None:
    """All in one line; tools as a text of the system's."""
    assert rendered("phi", ASKED) == "<|user|>Hi!<|end|><|assistant|>"
    system = {"role": "system", "content": "Help.", "tools": '["look"]'}
    assert rendered("phi", [system, *ASKED], add_generation_prompt=False) == (
        '<|system|>Help.<|tool|>["look"]<|/tool|><|end|><|user|>Hi!<|end|></s>'
    )


def test_granite() -> None:
    """Two variables at once, documents, controls as JSON."""
    documents = [{"doc_id": 1, "text": "Rome is <old>."}]
    found = rendered("granite", ASKED, documents=documents, controls={"length": "short"})
    assert f"{datetime.now():%Y}. Use the documents.<|end|>\n" in found
    assert found.endswith(
        "<|role|>document 1<|end_role|>\nRome is <old>.<|end|>\n"
        '<|role|>user<|end_role|>Hi!<|end|>\n<|role|>assistant {"length": "short"}<|end_role|>'
    )
    assert rendered("granite", TALK).startswith("<|role|>system<|end_role|> Be brief. <|end|>\n<|")


def test_gpt_oss() -> None:
    """Macros that call themselves, and see the caller's variables; types of tools as a text."""
    fields = {
        "at": {"type": "string", "enum": ["Rome", "Oslo"]},
        "days": {"type": "array", "items": {"type": "number"}},
        "unit": {"type": ["string", "null"]},
        "more": {},
    }
    look = {"name": "look", "parameters": {"type": "object", "properties": fields}}
    look["parameters"]["required"] = ["at"]  # type: ignore[index]
    found = rendered("gpt-oss", CALLED, tools=[{"function": look}], effort="high")
    assert "\nEffort: high<|end|>type look = (_: " in found
    kinds = '{at: "Rome" | "Oslo", days?: number[], unit?: string | null, more?: any}'
    assert f"(_: {kinds}) => any;<|start|>user<|message|>Sunny?<|end|>" in found
    assert found.endswith(
        "<|start|>assistant to=functions.look<|channel|>commentary json<|message|>"
        '{"at": "Rome"}<|call|><|start|>functions.look to=assistant<|message|>"yes"<|end|>'
        '<|start|>functions.look to=assistant<|message|>"very"<|end|><|start|>assistant'
    )
    said = [*ASKED, {"role": "assistant", "content": "Hello."}]
    assert rendered("gpt-oss", said, add_generation_prompt=False).endswith(
        "<|start|>assistant<|channel|>final<|message|>Hello.<|return|>"
    )
    with pytest.raises(FusecError, match="failed: an answer without a call"):
        rendered("gpt-oss", CALLED[2:])
