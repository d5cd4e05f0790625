"""Tokenizers against the `tokenizers` JSON they came from, and what they refuse."""

import json
import random
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from fusec.errors import FusecError
from fusec.models import architecture_of
from fusec.models.gguf_file import GGUFFile, open_gguf
from fusec.models.tokenizer import StreamDecoder, Tokenizer, byte_alphabet
from tests.vocabulary import write_vocabulary

TEXTS = [
    "",
    " ",
    "Hello  world\n\n\n   indented\t\ttabs \r\n",
    "def f(x: int) -> str:\n    return f'{x:>10}'  # naïve\n",
    "12345 3.14159 ٣٤٥ Ⅷ x² ½ 1,000,000",
    "I'm you're he'll WE'VE don't 'tis o'clock",
    "日本語のテキスト 中文 한국어 ไทย עברית العربية",
    "🎉👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u200b\ufeff\u2028\u3000",
    "\x00\x01\x1b[0m\x7f\x85",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|><|im_start|",
    "<repo_name>a/b<file_sep>x<jupyter_text> <|im_end|><|im_end|>",
    "a" * 500 + " " * 100 + "\n" * 50,
]


@pytest.fixture(scope="session")
def smollm2(shared_data: Path) -> Tokenizer:
    return Tokenizer.from_gguf(open_gguf(shared_data / "smollm2-vocab-only.gguf"))


@pytest.fixture(scope="session")
def smollm2_json(shared_data: Path) -> tokenizers.Tokenizer:
    path = shared_data / "SmolLM2-135M-Instruct-Tokenizer.json"
    return tokenizers.Tokenizer.from_file(str(path))


@pytest.fixture(scope="session")
def stories(shared_data: Path) -> GGUFFile:
    return open_gguf(shared_data / "stories260K.gguf")


def assert_equal_to_json(ours: Tokenizer, theirs: tokenizers.Tokenizer, text: str) -> None:
    ids = ours.encode(text)
    assert ids == theirs.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.decode(ids, skip_special=False) == theirs.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("text", TEXTS)
def test_smollm2_equals_json(
    smollm2: Tokenizer, smollm2_json: tokenizers.Tokenizer, text: str
) -> None:
    assert_equal_to_json(smollm2, smollm2_json, text)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60))
def test_smollm2_equals_json_on_any_text(
    smollm2: Tokenizer, smollm2_json: tokenizers.Tokenizer, text: str
) -> None:
    assert_equal_to_json(smollm2, smollm2_json, text)


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 49151), max_size=30))
def test_any_ids_decode_and_stream_alike(
    smollm2: Tokenizer, smollm2_json: tokenizers.Tokenizer, ids: list[int]
) -> None:
    text = smollm2.decode(ids)
    assert text == smollm2_json.decode(ids, skip_special_tokens=True)
    stream = StreamDecoder(smollm2)
    assert "".join(stream.push(token) for token in ids) + stream.finish() == text


def test_smollm2_facts(smollm2: Tokenizer) -> None:
    assert smollm2.vocab_size == 49152
    assert (smollm2.bos, smollm2.eos, smollm2.eot) == (1, 2, None)
    assert smollm2.stop_ids == {0, 2, 4}  # 4: <reponame>, which begins another file
    plain = smollm2.encode("hi")
    assert smollm2.encode("hi", bos=True) == [1, *plain]
    assert smollm2.encode("hi", bos=False) == plain


def test_specials_as_text(smollm2: Tokenizer, smollm2_json: tokenizers.Tokenizer) -> None:
    text = "a<|im_end|>b"
    assert 2 in smollm2.encode(text)
    literal = smollm2.encode(text, special=False)
    assert 2 not in literal
    assert smollm2.decode(literal) == text
    assert 2 in smollm2.encode(text), "one mode must not leak into the other"


def test_streaming_never_splits_a_character(smollm2: Tokenizer) -> None:
    text = "👩‍👩‍👧 日本 é"
    stream = StreamDecoder(smollm2)
    pieces = [stream.push(token) for token in smollm2.encode(text)]
    assert "".join(pieces) == text
    assert "" in pieces, "an emoji takes several tokens, so some of them complete nothing"
    assert not any("\ufffd" in piece for piece in pieces)
    half = StreamDecoder(smollm2)
    first = smollm2.encode("👩")[0]
    assert half.push(first) == ""
    assert half.finish() == "\ufffd" == smollm2.decode([first])


def test_stories_golden_text(shared_data: Path, stories: GGUFFile) -> None:
    tokenizer = Tokenizer.from_gguf(stories)
    ids = [1, *json.loads((shared_data / "stories260K.golden.json").read_text())["greedy"]]
    text = tokenizer.decode(ids)
    assert text.startswith("Once upon a time, there was a little girl named Lily")
    assert tokenizer.encode(text) == ids
    assert tokenizer.decode(ids, skip_special=False).startswith("<s> Once")
    stream = StreamDecoder(tokenizer, context=ids[:50])
    rest = "".join(stream.push(token) for token in ids[50:]) + stream.finish()
    assert tokenizer.decode(ids[:50]) + rest == text


def test_sentencepiece_specials(stories: GGUFFile) -> None:
    tokenizer = Tokenizer.from_gguf(stories)
    assert tokenizer.encode("<s>", bos=False) == [1]
    assert 1 not in tokenizer.encode("<s>", bos=False, special=False)
    assert tokenizer.stop_ids == {2}


def test_synthetic_vocabulary(tiny_model: Path) -> None:
    tokenizer = Tokenizer.from_gguf(open_gguf(tiny_model))
    assert tokenizer.vocab_size == 512
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text
    assert len(tokenizer.encode("the")) == 2, "letter pairs are merged"


def test_byte_alphabet_equals_the_library() -> None:
    library = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    assert sorted(byte_alphabet()) == sorted(library)
    pre = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in ("\n", " ", "A", "\x00", "\x7f"):
        assert pre.pre_tokenize_str(text)[0][0] == byte_alphabet()[ord(text)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": None}, "the file has no vocabulary"),
        ({"model": "none"}, "the file has no vocabulary"),
        ({"model": "bert"}, "tokenizer model 'bert' is not supported"),
        ({"pre": "martian"}, "pre-tokenizer 'martian' is not supported, known: a.x-4.0, afmoe"),
        ({"tokens": None}, "tokens' is missing"),
        ({"tokens": [1, 2]}, "tokens should hold str, found 2 items of int"),
        ({"merges": None}, "merges' is missing"),
        ({"merges": ["a z"]}, "tokenizer.ggml.merges: "),
        ({"merges": ["ab"]}, "tokenizer.ggml.merges: "),
        ({"token_type": [1, 1]}, "token_type has 2 items for 3 tokens"),
        ({"eos_token_id": 3}, "eos_token_id is 3, out of 3 tokens"),
        ({"model": "llama"}, "scores' is missing"),
        (
            {"model": "llama", "scores": [0.0, 0.0, 0.0], "token_type": [6, 1, 1]},
            "byte token 'a' is not of the form",
        ),
    ],
)
def test_bad_vocabularies(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(FusecError, match=r"^.*bad\.gguf: ") as caught:
        Tokenizer.from_gguf(write_vocabulary(tmp_path / "bad.gguf", **changes))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_text_and_ids(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_gguf(write_vocabulary(tmp_path / "small.gguf"))
    assert tokenizer.encode("abba") == [2, 1, 0]
    with pytest.raises(FusecError, match="lone surrogate"):
        tokenizer.encode("\ud800")
    for token in (-1, 3):
        with pytest.raises(FusecError, match=f"token id {token} is out of range"):
            tokenizer.decode([token])


def test_a_damaged_model_file_is_refused_or_read(tiny_model: Path, tmp_path: Path) -> None:
    content = tiny_model.read_bytes()
    first = min(tensor.offset for tensor in open_gguf(tiny_model).tensors.values())
    rng = random.Random(0)
    for _ in range(300):
        patched = bytearray(content)
        at = rng.randrange(24, first)
        patched[at] = rng.randrange(256)
        path = tmp_path / "patched.gguf"
        path.write_bytes(patched)
        try:
            file = open_gguf(path)
            architecture_of(file).read_config(file)
            Tokenizer.from_gguf(file).encode("some text")
        except FusecError as error:
            assert "\n" not in str(error)
