"""The engine from text to text: what it yields, where it ends, and how a sequence is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import fusec
from fusec import Completion, Engine, Sampling, Saved
from fusec.errors import FusecError
from fusec.models.chat import ChatTemplate
from fusec.models.synth import synthesize
from fusec.models.unembed import head_of
from fusec.runtime.completion import Until
from tests.params import slow_but

START = "Once upon a time"
WARM = Sampling(temperature=0.9, seed=3)
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"

pytestmark = pytest.mark.xdist_group("text")


@pytest.fixture(scope="module")
def loaded() -> Iterator[Engine]:
    with fusec.load("demo") as engine:
        yield engine


@pytest.fixture
def engine(loaded: Engine) -> Engine:
    loaded.chat_template = ChatTemplate(TEMPLATE, Path("test"))
    loaded.reset()
    return loaded


def test_a_completion_is_its_text_and_its_ids(engine: Engine) -> None:
    found = engine.generate(START, 20)
    assert isinstance(found, Completion)
    assert found.ids == tuple(found) == tuple(engine.tokens(engine.encode(START), 20))
    assert (
        str(found) == found.text == engine.tokenizer.decode([*found.prompt, *found])[len(START) :]
    )
    assert (len(found), found.finish, found.prompt) == (20, "length", tuple(engine.encode(START)))
    assert (found.logprobs, found.top) == ((), ())


def test_ids_may_stand_for_the_text(engine: Engine) -> None:
    ids = engine.encode(START)
    assert engine.generate(ids, 8) == engine.generate(START, 8)
    assert engine.generate(np.array(ids), 8) == engine.generate(START, 8)


def test_a_list_of_prompts_is_answered_in_turn(engine: Engine) -> None:
    prompts = [START, "The dog", "Anna said"]
    assert engine.generate(prompts, 6) == [engine.generate(one, 6) for one in prompts]
    ids = [engine.encode(one) for one in prompts]
    assert engine.generate(ids, 6) == engine.generate(prompts, 6)


def test_pieces_join_to_the_completion(engine: Engine) -> None:
    stream = engine.stream(START, 12, WARM)
    pieces = list(stream)
    assert "".join(map(str, pieces)) == stream.completion.text
    assert [p.token for p in pieces if p.token is not None] == list(stream.completion)
    assert stream.completion == engine.generate(START, 12, WARM)


def test_a_stop_token_is_a_reason(engine: Engine) -> None:
    plain = engine.generate(START, 20)
    before, engine.stop = engine.stop, frozenset({plain.ids[7]})
    try:
        found = engine.generate(START, 20)
    finally:
        engine.stop = before
    first = plain.ids.index(plain.ids[7])
    assert (found.ids, found.finish) == (plain.ids[:first], "stop")


@pytest.mark.parametrize("cut", [(5, 6), (5, 9), (1, 14)])
def test_text_ends_in_front_of_a_stop_string(engine: Engine, cut: tuple[int, int]) -> None:
    plain = engine.generate(START, 30)
    stop = plain.text[slice(*cut)]
    stream = engine.stream(START, 30, stop=stop)
    pieces = [str(piece) for piece in stream]
    found = stream.completion
    assert found.text == "".join(pieces) == plain.text[: plain.text.index(stop)]
    assert found.finish == "stop"
    assert found.ids == plain.ids[: len(found)]
    assert engine.generate(START, 30, stop=["never seen", stop]) == found
    assert replace(engine.generate(START, 30, stop=["never seen"]), finish="length") == plain


def test_stop_strings_over_any_cuts() -> None:
    """Against finding them in the whole text."""
    text, stops = "abababcabcab--", (["abc"], ["ca", "bca"], ["--"], ["b-", "--x"], ["zz"])
    random = np.random.default_rng(0)
    for stop in stops:
        places = [text.find(s) for s in stop if s in text]
        for _ in range(40):
            edges = [0, *sorted(random.integers(0, len(text) + 1, 4)), len(text)]
            until, shown = Until(stop), ""
            for low, high in pairwise(edges):
                if not until.hit:
                    shown += until.push(text[low:high])
            shown += "" if until.hit else until.finish("")
            assert until.hit == bool(places)
            assert shown == text[: min(places, default=len(text))]


@pytest.mark.parametrize("sampling", [Sampling(), WARM])
def test_log_probabilities(engine: Engine, sampling: Sampling) -> None:
    plain = engine.generate(START, 10, sampling)
    found = engine.generate(START, 10, sampling, logprobs=3)
    assert (found.text, found.ids, found.finish) == (plain.text, plain.ids, plain.finish)
    logits = engine.logits([*found.prompt, *found])[len(found.prompt) - 1 : -1].astype(np.float64)
    wanted = logits - logits.max(-1, keepdims=True)
    wanted -= np.log(np.exp(wanted).sum(-1, keepdims=True))
    for i, token in enumerate(found):
        assert found.logprobs[i] == pytest.approx(wanted[i, token], abs=1e-12)
        order = np.argsort(-wanted[i], kind="stable")[:3]
        assert [t for t, _ in found.top[i]] == order.tolist()
        assert [p for _, p in found.top[i]] == pytest.approx(wanted[i, order].tolist())
    assert all(not top for top in engine.generate(START, 3, logprobs=0).top)


def test_a_processor_sees_the_ids_and_changes_the_logits(engine: Engine) -> None:
    plain, seen = engine.generate(START, 5), []

    def forbid(ids: tuple[int, ...], logits: np.ndarray) -> None:
        seen.append(ids)
        logits[plain.ids[0]] = -np.inf

    def force(ids: tuple[int, ...], logits: np.ndarray) -> np.ndarray:
        return np.where(np.arange(len(logits)) == 77, np.float32(0), np.float32(-np.inf))

    found = engine.generate(START, 5, processor=forbid)
    assert plain.ids[0] not in found.ids
    assert seen == [(*found.prompt, *found.ids[:i]) for i in range(5)]
    assert engine.generate(START, 3, WARM, processor=force).ids == (77, 77, 77)
    assert engine.generate(START, 5, processor=lambda ids, logits: None) == plain


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda ids, logits: logits[:5], r"expected float32\[2048\], found \[5\]"),
        (lambda ids, logits: logits * np.nan, "without NaN"),
        (lambda ids, logits: logits - np.inf, "largest is finite, found -inf"),
    ],
)
def test_processors_that_are_refused(engine: Engine, wrong: object, reason: str) -> None:
    with pytest.raises(FusecError, match=reason):
        engine.generate(START, 2, processor=wrong)


def test_generations_append(engine: Engine) -> None:
    whole = engine.generate(START, 24)
    parts = [engine.generate(START, 5)]
    parts += [engine.generate("", count, append=True) for count in (1, 10, 8)]
    assert tuple(token for part in parts for token in part) == whole.ids
    assert engine.ids == whole.prompt + whole.ids
    assert parts[-1].prompt == engine.ids[:-8]


def test_text_appends_to_what_was_generated(engine: Engine) -> None:
    first = engine.generate(START, 5)
    more = engine.tokenizer.encode(" and the dog", bos=False)
    found = engine.generate(" and the dog", 6, append=True)
    assert found.ids == engine.generate([*first.prompt, *first, *more], 6).ids


def test_appending_behind_what_was_fed_and_stepped(engine: Engine) -> None:
    ids = engine.encode(START)
    wanted = engine.generate(ids, 6)
    engine.reset()
    engine.feed(ids[:-1])
    engine.step(ids[-1])
    assert engine.generate("", 6, append=True) == wanted


def test_rewinding(engine: Engine) -> None:
    whole = engine.generate(START, 12)
    engine.rewind(len(whole.prompt) + 4)
    assert engine.ids == (*whole.prompt, *whole.ids[:4])
    assert engine.generate("", 8, append=True).ids == whole.ids[4:]
    for wrong in (-1, 1.5, 1000):
        with pytest.raises(FusecError, match="expected a position from 0"):
            engine.rewind(wrong)
    with pytest.raises(FusecError, match="the prompt is empty"):
        engine.reset()
        engine.generate("", 2, append=True)


def test_reuse_computes_only_what_is_new(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    long = START + ", there was a little dog who liked to"
    wanted, taken = engine.generate(long, 6), []
    step = engine.absorb.step
    monkeypatch.setattr(
        engine.absorb, "step", lambda **given: taken.append(len(given["token"])) or step(**given)
    )
    engine.generate(START, 1)
    taken.clear()
    assert engine.generate(long, 6, reuse=True) == wanted
    assert sum(taken) == len(wanted.prompt) - 1 - (len(engine.encode(START)))
    assert engine.generate(long, 6, reuse=True) == wanted
    assert engine.generate("The dog", 6, reuse=True) == engine.generate("The dog", 6)


def test_a_conversation_goes_through_the_template(engine: Engine) -> None:
    talk = [{"role": "user", "content": "Tell a story."}]
    prompt = engine.tokenizer.encode("user: Tell a story.\nassistant:", eos=False)
    found = engine.chat(talk, 8)
    assert found.prompt == tuple(prompt)
    assert found == engine.generate(talk, 8) == engine.chat("Tell a story.", 8)
    talk += [{"role": "assistant", "content": found.text}, {"role": "user", "content": "More."}]
    assert engine.chat(talk, 8) == engine.generate(talk, 8, reuse=False)
    assert engine.generate([talk, talk[:1]], 8) == [engine.chat(talk, 8), found]


@pytest.mark.slow
def test_a_saved_sequence_goes_on_elsewhere(engine: Engine, tmp_path: Path) -> None:
    whole = engine.generate(START, 16)
    engine.generate(START, 6)
    saved = engine.save(tmp_path / "story.npz")
    assert isinstance(saved, Saved) and saved.nbytes
    with fusec.load("demo", level=0) as other:  # levels have the same bytes
        other.restore(tmp_path / "story.npz")
        assert other.generate("", 10, append=True).ids == whole.ids[6:]
    engine.generate("Something else", 3)
    engine.restore(saved)
    assert engine.ids == whole.prompt + whole.ids[:6]
    assert engine.generate("", 10, append=True).ids == whole.ids[6:]


def test_a_fork_leaves_the_sequence_as_it_was(engine: Engine) -> None:
    whole = engine.generate(START, 10)
    engine.generate(START, 4)
    before, tries = engine.ids, []
    for seed in range(3):
        with engine.fork():
            warm = Sampling(temperature=1.2, seed=seed)
            tries.append(engine.generate("", 12, warm, append=True).ids)
        assert engine.ids == before
    assert len(set(tries)) == 3
    assert engine.generate("", 6, append=True).ids == whole.ids[4:]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"target": "sm_90a"}, "another target: expected cpu, found sm_90a"),
        ({"model": "0" * 64}, "another model file"),
        ({"context": 128}, "another context: expected 512, found 128"),
    ],
)
def test_a_sequence_of_another_engine_is_refused(
    engine: Engine, change: dict[str, object], reason: str
) -> None:
    engine.generate(START, 3)
    saved, ids = engine.save(), engine.ids
    with pytest.raises(FusecError, match=reason):
        engine.restore(replace(saved, origin=replace(saved.origin, **change)))
    states = {name: array.astype(np.float32) for name, array in saved.states.items()}
    with pytest.raises(FusecError, match=r"expected state \$blk.0.k as float16"):
        engine.restore(replace(saved, states=states))
    assert engine.ids == ids


def test_files_that_hold_no_sequence(engine: Engine, tmp_path: Path) -> None:
    missing, other = tmp_path / "missing.npz", tmp_path / "other.npz"
    with pytest.raises(FusecError, match="cannot be read: No such file"):
        engine.restore(missing)
    for content in (b"", b"PK", b"text", engine.save(tmp_path / "cut").write(other) and b"PK\3\4"):
        other.write_bytes(content)
        with pytest.raises(FusecError, match="expected a sequence that Engine"):
            engine.restore(other)


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (lambda e: e.generate(""), "the prompt is empty"),
        (lambda e: e.generate([]), "the prompt is empty"),
        (lambda e: e.generate([1.5]), "expected one prompt: .* found list of float"),
        (lambda e: e.generate(None), "found NoneType"),
        (lambda e: e.generate(5), "found int"),
        (lambda e: e.generate(b"abc"), "found bytes"),
        (lambda e: e.generate([True]), "expected token ids: found a bool"),
        (lambda e: e.chat({"role": "user", "content": "a"}), "put it into a list"),
        (
            lambda e: asyncio.run(e.agenerate(["a", "b"])),
            "expected one prompt: .* found list of str",
        ),
        (lambda e: e.generate(START, 3, stop=3), "expected strings that are not empty, found 3"),
        (lambda e: e.generate(START, 3, processor=3), "expected a logits processor as a function"),
        (lambda e: e.generate(START, 3, logprobs=True), "logprobs: expected a number"),
        (lambda e: e.generate(START, 3, max_token=5), "'max_token': did you mean max_new_tokens"),
        (lambda e: e.generate(START, 3, temprature=1), "did you mean temperature"),
        (lambda e: e.generate(START, 3, WARM, seed=1), "given twice: as a whole and by seed"),
        (lambda e: e.generate(START, 3, temperature=-1), "expected temperature at least 0"),
        (lambda e: e.generate(START, 3).logprob, "ask for logprobs=0 or more"),
        (lambda e: e.feed(b"abc"), "expected token ids, found bytes b'abc'"),
        (lambda e: e.unembed(np.zeros((2, 7))), r"expected hidden states as float\[..., 256\]"),
        (lambda e: e.generate(START, -1), "expected a number of new tokens from 0"),
        (lambda e: e.stream(START, 3, "greedy"), "expected a Sampling, found str"),
        (lambda e: e.stream(START, 3, stop=[""]), "expected strings that are not empty"),
        (lambda e: e.stream(START, 3, logprobs=-1), "logprobs: expected a number of tokens"),
        (lambda e: e.generate([START], 3, append=True), "expected one prompt, found a list"),
        (lambda e: e.generate("a " * 600), "the prompt has"),
    ],
)
def test_requests_that_are_refused(engine: Engine, use: object, reason: str) -> None:
    with pytest.raises(FusecError, match=reason):
        use(engine)


def test_a_stream_notices_that_the_sequence_changed_before_it_began(engine: Engine) -> None:
    engine.generate(START, 3)
    stream = engine.stream("", 3, append=True)
    engine.reset()
    with pytest.raises(FusecError, match="used for something else"):
        next(stream)


def test_an_event_loop_is_served(engine: Engine) -> None:
    prompts = [START, "The dog", "Anna said", "One day"]
    wanted = engine.generate(prompts, 12)
    beats = 0

    async def heart() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.002)
            beats += 1

    async def main() -> list[Completion]:
        beating = asyncio.create_task(heart())
        found = await asyncio.gather(*(engine.agenerate(prompt, 12) for prompt in prompts))
        pieces = [str(piece) async for piece in engine.astream(START, 12)]
        assert "".join(pieces) == wanted[0].text
        answer = await engine.achat("Tell a story.", 8)
        assert answer == engine.chat("Tell a story.", 8)
        first = await engine.agenerate(START, 5)
        rest = await engine.agenerate("", 7, append=True)
        assert first.ids + rest.ids == wanted[0].ids
        beating.cancel()
        return found

    assert asyncio.run(main()) == wanted
    assert beats > 0
    assert engine.generate("", 3, append=True).prompt == engine.ids[:-3]  # here it goes on as well
    assert asyncio.run(engine.agenerate(START, 12)) == wanted[0]  # in another loop


def test_a_cancelled_request_lets_the_next_one_in(engine: Engine) -> None:
    wanted = engine.generate("The dog", 6)

    async def main() -> Completion:
        task = asyncio.create_task(engine.agenerate(START, 400))
        await asyncio.sleep(0.02)
        task.cancel()
        return await engine.agenerate("The dog", 6)

    assert asyncio.run(main()) == wanted


def test_errors_reach_the_event_loop(engine: Engine) -> None:
    with pytest.raises(FusecError, match="the prompt is empty"):
        asyncio.run(engine.agenerate("", 5))


def test_settings_may_stand_alone(engine: Engine) -> None:
    assert engine.generate(START, 9, temperature=0.9, seed=3) == engine.generate(START, 9, WARM)
    assert [str(p) for p in engine.stream(START, 9, seed=3, temperature=0.9)] == [
        str(p) for p in engine.stream(START, 9, WARM)
    ]


def test_prompts_from_an_iterator(engine: Engine) -> None:
    prompts = [START, "The dog"]
    assert engine.generate(iter(prompts), 4) == engine.generate(prompts, 4)


def test_a_text_stands_for_its_ids(engine: Engine) -> None:
    ids = engine.encode(START)
    assert engine.logits(START).tobytes() == engine.logits(ids).tobytes()
    assert engine.trace(START)["logits"].tobytes() == engine.logits(ids).tobytes()
    assert list(engine.tokens(START, 5)) == list(engine.tokens(ids, 5))
    engine.reset()
    engine.feed(START)
    engine.feed(" and")  # goes on: no beginning token
    assert engine.ids == (*ids, *engine.tokenizer.encode(" and", bos=False))


def test_threads_are_answered_one_after_another(engine: Engine) -> None:
    prompts = [START, "The dog", "Anna said", "One day", "Tom"]
    wanted = engine.generate(prompts, 15)
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda prompt: engine.generate(prompt, 15), prompts))
    assert found == wanted


def test_the_likelier_of_two_completions(engine: Engine) -> None:
    best, other = engine.generate(START, 6, logprobs=0), engine.generate("The dog", 6, logprobs=0)
    assert best.logprob == sum(best.logprobs) < 0
    assert (best.logprob > other.logprob) == (sum(best.logprobs) > sum(other.logprobs))


def test_the_names_of_values(engine: Engine) -> None:
    with fusec.load("demo", outputs=["*"]) as every:
        found = every.trace(START)
    assert set(engine.values) - {"next"} == set(found)
    tokens = len(engine.encode(START))
    for name, array in found.items():
        assert array.shape == (tokens, *engine.values[name])


@pytest.mark.parametrize(
    "architecture", slow_but([""], ["", "gemma2", "command-r", "granite", "stablelm"])
)
def test_the_last_hidden_state_unembeds_to_the_logits(architecture: str, tmp_path: Path) -> None:
    """Norms of both kinds, caps and scales of logits, tied matrices and others."""
    path = "demo" if not architecture else synthesize(architecture, tmp_path / "model.gguf")
    with fusec.load(path, kv="f32", context=64, outputs=["*_residual", "blk.*"]) as engine:
        values = engine.trace(list(range(5, 25)))
        (last,) = {head_of(engine.model.graph(tokens=1, context=1))[1].name[1:]}
        found = engine.unembed(values[last])
        logits = values["logits"]
        assert found.shape == logits.shape
        assert np.linalg.norm(found - logits) < 1e-4 * np.linalg.norm(logits)
        assert engine.unembed(values[last][3]).shape == logits[3].shape
