"""`fusec run`: text, ids, sampling, chat."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import fusec as library
from fusec.models.chat import ChatTemplate
from fusec.models.tokenizer import StreamDecoder
from fusec.passes.pipeline import LEVELS
from tests.command import fusec

pytestmark = pytest.mark.xdist_group("cli")


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_a_trained_model_tells_its_golden_story(shared_data: Path, level: int) -> None:
    golden = json.loads((shared_data / "stories260K.golden.json").read_text())
    options = ("--prompt-ids", "1", "-n", "199", "--temp", "0", "--kv", "f32", "--json")
    found = fusec("run", shared_data / "stories260K.gguf", *options, "-O", level).json
    assert found["prompt_ids"] == [1]
    assert found["ids"] == golden["greedy"]
    assert found["text"].startswith("Once upon a time, there was a little girl named Lily")


def test_json_has_ids_text_and_timings(tiny_model: Path) -> None:
    ran = fusec("run", tiny_model, "-p", "hello", "-n", "9", "--ignore-eos", "--json")
    found = ran.json
    assert ran.out.count("\n") == 1
    names = ["model", "prompt_ids", "ids", "text", "finish", "sampling", "timings"]
    assert list(found) == names
    assert (found["model"], found["finish"]) == (str(tiny_model), "length")
    assert found["prompt_ids"] == library.driver.Model.open(tiny_model).tokenizer.encode("hello")
    assert len(found["ids"]) == 9
    assert isinstance(found["text"], str)
    timings = found["timings"]
    assert (timings["prompt_tokens"], timings["decode_tokens"]) == (len(found["prompt_ids"]), 8)
    assert timings["tok_s"] == pytest.approx(8 / timings["decode_s"])
    assert timings["load_s"] > 0
    assert timings["first_token_s"] > 0


def test_json_has_the_sampling_that_makes_the_same_text_again(tiny_model: Path) -> None:
    options = ("--temp", "0.7", "--top-k", "9", "--seed", "5", "--ignore-eos", "-n", "6")
    found = fusec("run", tiny_model, "-p", "hello", *options, "--json").json
    with library.load(tiny_model) as engine:
        engine.stop = frozenset()
        again = engine.generate("hello", 6, library.Sampling(**found["sampling"]))
    assert list(again.ids) == found["ids"]
    assert found["sampling"]["seed"] == 5


def test_json_has_log_probabilities_where_they_are_asked_for(tiny_model: Path) -> None:
    options = ("run", tiny_model, "-p", "hello", "-n", "4", "--temp", "0", "--ignore-eos")
    found = fusec(*options, "--json", "--logprobs", "3").json
    assert len(found["logprobs"]) == len(found["top"]) == 4
    for token, logprob, top in zip(found["ids"], found["logprobs"], found["top"], strict=True):
        assert len(top) == 3
        assert top[0] == [token, logprob]  # greedy takes the likeliest
        assert logprob < 0
    none = fusec("run", tiny_model, "-p", "hello", "-n", 0, "--json", "--logprobs", "0").json
    assert (none["logprobs"], none["top"]) == ([], [])
    for wrong, message in (
        (("--logprobs", "3"), "error: --logprobs: its numbers are part of what --json prints"),
        (("--json", "--logprobs", "-1"), "error: --logprobs: expected a number from 0, found -1"),
    ):
        ran = fusec(*options, *wrong)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith(message)


def test_an_answer_without_text_says_why() -> None:
    """A story that is told to its end, and a wish for no tokens."""
    greedy = ("run", "demo", "--temp", "0")
    story = fusec(*greedy, "-p", "Once upon a time", "-n", "400", "--json").json
    assert story["finish"] == "stop"
    ids = ",".join(map(str, story["prompt_ids"] + story["ids"]))
    ended = fusec(*greedy, "--prompt-ids", ids)
    assert ended.out == ""
    assert "; the model ended its text at once, with a stop token" in ended.err
    again = fusec(*greedy, "--prompt-ids", ids, "--json").json
    assert (again["ids"], again["finish"]) == ([], "stop")
    assert again["timings"]["first_token_s"] is None
    none = fusec(*greedy, "-p", "Once", "-n", "0")
    assert none.out == ""
    assert none.err.endswith("; nothing was generated, since no new tokens were asked for (-n 0)\n")


def test_streamed_text_is_the_text_of_the_json(tiny_model: Path) -> None:
    options = ("run", tiny_model, "-p", "hello", "-n", "20", "--seed", "3", "--ignore-eos")
    ran = fusec(*options)
    assert ran.out == fusec(*options, "--json").json["text"] + "\n"
    assert re.fullmatch(
        r"prompt \d+ tokens, first token after \d+ ms, 19 tokens at [\d.]+ tok/s\n", ran.err
    )


def test_a_text_prompt_is_its_ids(tiny_model: Path) -> None:
    by_text = fusec("run", tiny_model, "-p", "a b", "-n", 8, "--temp", 0, "--json").json
    ids = ", ".join(map(str, by_text["prompt_ids"]))  # blanks are fine
    by_ids = fusec("run", tiny_model, "--prompt-ids", ids, "-n", 8, "--temp", 0, "--json").json
    assert by_ids["ids"] == by_text["ids"]
    assert by_ids["text"] == by_text["text"]


def test_a_folder_runs_like_its_model(tiny_model: Path, compiled: Path) -> None:
    options = ("--prompt-ids", "9,8,7", "-n", "12", "--temp", "0", "--json")
    folder = fusec("run", compiled, *options).json
    model = fusec("run", tiny_model, *options, "--context", 64, "--kv", "f32").json
    assert folder["ids"] == model["ids"]


def test_sampling_is_reproducible_by_seed(tiny_model: Path) -> None:
    def ids(seed: int) -> list[int]:
        options = ("--prompt-ids", "7", "-n", "24", "--temp", "1.5", "--top-k", "0")
        ran = fusec("run", tiny_model, *options, "--ignore-eos", "--seed", seed, "--json")
        return ran.json["ids"]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


def test_sampling_options_reach_the_sampler(tiny_model: Path) -> None:
    greedy = fusec("run", tiny_model, "--prompt-ids", "7", "-n", 10, "--temp", 0, "--json").json
    for narrow in (("--top-k", 1), ("--top-p", 1e-9), ("--min-p", 1)):
        found = fusec(
            "run", tiny_model, "--prompt-ids", "7", "-n", 10, "--temp", 5, *narrow, "--json"
        ).json
        assert found["ids"] == greedy["ids"], narrow
    strict = ("--repeat-penalty", 1e6, "--temp", 0, "--ignore-eos")
    found = fusec("run", tiny_model, "--prompt-ids", "7", "-n", 30, *strict, "--json").json
    assert len({7, *found["ids"]}) == 31  # nothing twice


def test_new_tokens_default_to_the_room_there_is(tiny_model: Path) -> None:
    options = ("--prompt-ids", "1,2,3", "--context", "10", "--ignore-eos", "--json")
    assert len(fusec("run", tiny_model, *options).json["ids"]) == 8
    assert len(fusec("run", tiny_model, *options[:2], "--ignore-eos", "--json").json["ids"]) == 128
    assert fusec("run", tiny_model, *options, "-n", 0).json["ids"] == []


def test_the_context_grows_with_what_is_asked_for(tiny_model: Path) -> None:
    found = fusec("run", tiny_model, "--prompt-ids", "4", "-n", 512, "--ignore-eos", "--json").json
    assert len(found["ids"]) == 512


def test_chat_renders_the_template(tiny_model: Path) -> None:
    found = fusec("run", tiny_model, "--chat", "-p", "Hello", "-n", 4, "--json").json
    tokenizer = library.driver.Model.open(tiny_model).tokenizer
    text = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert found["prompt_ids"] == tokenizer.encode(text, bos=False)
    assert found["prompt_ids"].count(tokenizer.tokens.index("<|im_start|>")) == 2


def test_a_conversation_on_standard_input(tiny_model: Path) -> None:
    turns = ["hello", "again"]
    options = ("--chat", "-n", 4, "--temp", 0, "--ignore-eos")
    ran = fusec("run", tiny_model, *options, stdin="hello\n\n  again \n")  # a blank line is no turn
    assert (ran.code, ran.err) == (0, "")
    model, engine = library.driver.Model.open(tiny_model), library.load(tiny_model)
    engine.stop = frozenset()
    template, messages, wanted = ChatTemplate.from_gguf(model.file), [], ""
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        ids = model.tokenizer.encode(template.render(messages), bos=False)
        decoder = StreamDecoder(model.tokenizer, ids)
        answer = "".join(map(decoder.push, engine.tokens(ids, 4))) + decoder.finish()
        messages.append({"role": "assistant", "content": answer})
        wanted += answer + "\n"
    assert ran.out == wanted
    assert fusec("run", tiny_model, "--chat", stdin="").out == ""


def test_threads_change_nothing(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("run", tiny_model, "--prompt-ids", "5", "-n", 8, "--temp", 0, "--json")
    default = fusec(*options).json["ids"]
    assert fusec(*options, "--threads", 3).json["ids"] == default
    monkeypatch.setenv("FUSEC_THREADS", "1")
    assert fusec(*options).json["ids"] == default


def test_text_ends_in_front_of_a_stop_string() -> None:
    options = ("demo", "-p", "Once upon a time", "-n", "40", "--temp", "0", "--json")
    whole = fusec("run", *options).json["text"]
    stop = whole[20:24]
    found = fusec("run", *options, "--stop", "never seen", "--stop", stop).json
    assert found["text"] == whole[: whole.index(stop)]
    assert len(found["ids"]) < 40
