"""`fusec run`: prompts from standard input and files, system messages, templates of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_text import TURNS, prompt_ids
from tests.command import fusec, refused

pytestmark = pytest.mark.xdist_group("cli")

DRY = ("-n", 0, "--json")
ONCE = "Once upon a time"


def piped(model: Path, given: str | bytes, *options: object) -> list[int]:
    return fusec("run", model, *options, *DRY, stdin=given).json["prompt_ids"]


@pytest.mark.parametrize("options", [(), ("-p", "-"), ("-f", "-")])
def test_standard_input_is_the_prompt(tiny_model: Path, options: tuple[str, ...]) -> None:
    wanted = prompt_ids(tiny_model, "-p", ONCE)
    assert piped(tiny_model, f"{ONCE}\n", *options) == wanted
    assert piped(tiny_model, ONCE, *options) == wanted
    lines = prompt_ids(tiny_model, "-p", "é\n\nb\n")
    assert piped(tiny_model, "é\n\nb\n\n".encode(), *options) == lines


def test_a_file_is_the_prompt(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text(f"{ONCE}\n")
    assert piped(tiny_model, "not read", "-f", path) == prompt_ids(tiny_model, "-p", ONCE)
    assert piped(tiny_model, "", "--file", path, "--chat") == prompt_ids(
        tiny_model, "-p", ONCE, "--chat"
    )


def test_other_prompts_leave_standard_input_alone(tiny_model: Path) -> None:
    for options in (("-p", ONCE), ("--prompt-ids", "1,2")):
        assert piped(tiny_model, "other", *options) == prompt_ids(tiny_model, *options)


def test_one_message_of_a_chat_from_standard_input(tiny_model: Path) -> None:
    wanted = prompt_ids(tiny_model, "--chat", "-p", "a\nb")
    assert piped(tiny_model, "a\nb\n", "--chat", "-p", "-") == wanted


def test_prompts_that_are_none(tiny_model: Path, tmp_path: Path) -> None:
    run = ("run", tiny_model)
    missing, empty = tmp_path / "missing", tmp_path / "empty"
    empty.write_text("\n")
    assert refused(*run, stdin="\n").startswith("no prompt: give one with -p TEXT, -f FILE, ")
    assert refused(*run, "-p", "-") == "standard input: the prompt is empty: expected some text"
    assert refused(*run, "-f", empty) == f"{empty}: the prompt is empty: expected some text"
    assert refused(*run, "-f", missing).startswith(f"{missing}: cannot be read: No such file")
    assert refused(*run, "-p", "a", "-f", empty) == (
        "the prompt is given twice, as text (-p) and as a file (-f)"
    )
    assert refused(*run, stdin=b"caf\xe9") == (
        "standard input: expected UTF-8 text, found unexpected end of data"
    )


def test_a_system_message_and_a_template(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_text(TURNS)
    for template in (TURNS, path):
        found = prompt_ids(
            tiny_model, "--chat", "--chat-template", template, "--system", "Be brief.", "-p", "Hi"
        )
        assert found == prompt_ids(tiny_model, "-p", "sBe brief.\nuHi\n")
    both = prompt_ids(tiny_model, "--chat", "--system", "Be brief.", "-p", "Hi")
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert both == prompt_ids(tiny_model, "-p", f"{text}<|im_start|>assistant\n")


def test_a_conversation_keeps_both(tiny_model: Path) -> None:
    short = ("-n", 2, "--temp", 0, "--ignore-eos")
    talk = ("run", tiny_model, "--chat", "--chat-template", TURNS, "--system", "S", *short)
    first = fusec(*talk, stdin="a\nb\n").out
    answers = fusec("run", tiny_model, *short, "--json", "-p", "sS\nua\n").json
    assert first.startswith(answers["text"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-p", "a", "--system", "b"], "--system is for conversations: add --chat"),
        (["-p", "a", "--chat-template", "{{x}}"], "--chat-template is for conversations: add --ch"),
        (
            ["--chat", "-p", "a", "--chat-template", "chatml"],
            "--chat-template: expected a Jinja template or a file, found 'chatml'",
        ),
        (
            ["--chat", "-p", "a", "--chat-template", "{% if %}"],
            "--chat-template: the chat template failed: ",
        ),
        (["--chat", "-p", "a", "--system", "\udcff"], "--system: expected UTF-8 text, found"),
    ],
)
def test_refused(tiny_model: Path, options: list[str], message: str) -> None:
    assert refused("run", tiny_model, *options).startswith(message)
