"""`fusec run`: text from outside and BOS, of prompts and of conversations."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import fusec, refused
from tests.gguf_edit import edited

pytestmark = pytest.mark.xdist_group("cli")

TURNS = "{% for m in messages %}{{ m.role[0] }}{{ m.content }}\n{% endfor %}"
SHORT = ("-n", 2, "--temp", 0, "--ignore-eos")


def prompt_ids(model: Path, *options: object) -> list[int]:
    return fusec("run", model, *options, "-n", 0, "--json").json["prompt_ids"]


@pytest.fixture(scope="module", params=[True, False])
def adds_bos(request: pytest.FixtureRequest) -> bool:
    return request.param


def changed(source: Path, target: Path, adds_bos: bool, template: str) -> Path:
    """The model with token 0, <|endoftext|>, for BOS."""
    keys = {"bos_token_id": 0, "add_bos_token": adds_bos, "add_eos_token": adds_bos}
    named = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    return edited(source, target, named | {"tokenizer.chat_template": template})


def test_a_conversation_begins_with_bos_once(
    tiny_model: Path, tmp_path: Path, adds_bos: bool
) -> None:
    """Where the vocabulary adds it, whether or not the template writes it, and no EOS behind."""
    plain = changed(tiny_model, tmp_path / "plain.gguf", adds_bos, TURNS)
    writes = changed(tiny_model, tmp_path / "writes.gguf", adds_bos, "{{ bos_token }}" + TURNS)
    text = prompt_ids(tiny_model, "-p", "uHi\n")
    assert prompt_ids(writes, "--chat", "-p", "Hi") == [0, *text]
    assert prompt_ids(plain, "--chat", "-p", "Hi") == [*([0] if adds_bos else []), *text]


def test_bos_typed_in_a_prompt(tiny_model: Path, tmp_path: Path, adds_bos: bool) -> None:
    model = changed(tiny_model, tmp_path / "m.gguf", adds_bos, TURNS)
    once = prompt_ids(model, "-p", "<|endoftext|>Once")
    assert once[0] == 0
    assert once.count(0) == 1
    assert (once == prompt_ids(model, "-p", "Once")) == adds_bos


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_turns_are_utf_8_in_any_locale(tiny_model: Path, tmp_path: Path, ends: str) -> None:
    model = edited(tiny_model, tmp_path / "m.gguf", {"tokenizer.chat_template": TURNS})
    talk = ("run", model, "--chat", *SHORT)
    wanted = fusec(*talk, stdin="café 😀\nyo\n")
    assert wanted.code == 0
    assert wanted.out.count("\n") >= 2
    found = fusec(*talk, stdin=f"café 😀{ends}{ends}yo{ends}".encode())
    assert (found.code, found.out, found.err) == (0, wanted.out, "")


def test_a_turn_that_is_not_utf_8(tiny_model: Path) -> None:
    ran = fusec("run", tiny_model, "--chat", *SHORT, stdin=b"yo\n\ncaf\xe9\nyo\n")
    line = "error: standard input, line 3: expected UTF-8 text, found invalid continuation byte\n"
    assert (ran.code, ran.err) == (2, line)
    assert ran.out.endswith("\n"), "what came before has its answer"


def test_prompts_are_utf_8_in_any_locale(tiny_model: Path) -> None:
    """In an ASCII locale Python hands over the bytes of an é as two lone surrogates."""
    given = "é".encode().decode("ascii", "surrogateescape")
    assert given != "é"
    assert prompt_ids(tiny_model, "-p", given) == prompt_ids(tiny_model, "-p", "é")
    latin = b"caf\xe9".decode(errors="surrogateescape")
    for chat in ((), ("--chat",)):
        said = refused("run", tiny_model, *chat, "-p", latin)
        assert said == "-p: expected UTF-8 text, found unexpected end of data"


def test_json_is_ascii(tiny_model: Path) -> None:
    ran = fusec("run", tiny_model, "-p", "é", "-n", 64, "--ignore-eos", "--json")
    assert not ran.json["text"].isascii()
    assert ran.out.isascii(), "so that every locale can print it"
