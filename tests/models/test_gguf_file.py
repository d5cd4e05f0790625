"""Reading GGUF files: agreement with gguf-py on good ones, one-line errors for bad ones."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from gguf import GGUFValueType as T
from hypothesis import given
from hypothesis import strategies as st

from fusec.errors import FusecError
from fusec.models import architecture_of
from fusec.models.gguf_file import open_gguf
from tests.gguf_bytes import gguf, key, string, tensor_info, u32, u64, with_weights

HUGE = 1 << 62


def refusal(tmp_path: Path, content: bytes) -> str:
    """The message with which a file of that content is refused."""
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(FusecError) as caught:
        read_all(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def read_all(path: Path) -> None:
    file = open_gguf(path)
    for value in file.metadata.values():
        assert value is not None
    for tensor in file.tensors.values():
        assert tensor.data.nbytes >= 1
    assert len(file.fingerprint) == 64


def test_agrees_with_gguf_py(shared_data: Path, tiny_model: Path) -> None:
    for path in (tiny_model, shared_data / "stories260K.gguf"):
        ours, theirs = open_gguf(path), GGUFReader(path)
        fields = {k: v for k, v in theirs.fields.items() if not k.startswith("GGUF.")}
        assert dict(ours.metadata) == {key: field.contents() for key, field in fields.items()}
        assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
        for tensor in theirs.tensors:
            found = ours.tensor(tensor.name)
            assert found.dtype == tensor.tensor_type.name.lower()
            assert found.shape == tuple(reversed(tensor.shape.tolist()))
            assert found.offset == tensor.data_offset
            assert found.data.tobytes() == tensor.data.tobytes()
            assert not found.data.flags.writeable


def test_every_value_type(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "types.gguf", "llama")
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -3)
    writer.add_uint16("a.u16", 65535)
    writer.add_int16("a.i16", -300)
    writer.add_int32("a.i32", -70000)
    writer.add_uint64("a.u64", 1 << 60)
    writer.add_int64("a.i64", -(1 << 60))
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_array("a.strings", ["", "é", "two words"])
    writer.add_array("a.floats", [0.5, -2.0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    file = open_gguf(tmp_path / "types.gguf")
    assert dict(file.metadata) == {
        "general.architecture": "llama",
        **{"a.u8": 200, "a.i8": -3, "a.u16": 65535, "a.i16": -300, "a.i32": -70000},
        **{"a.u64": 1 << 60, "a.i64": -(1 << 60), "a.f64": 0.1, "a.bool": True},
        **{"a.strings": ["", "é", "two words"], "a.floats": [0.5, -2.0]},
    }
    assert file.get("a.u8", float) == 200.0


def test_typed_access_names_file_and_key(tiny_model: Path) -> None:
    file = open_gguf(tiny_model)
    assert file.get("llama.block_count", int) == 8
    assert file.get("no.such", str, "fallback") == "fallback"
    with pytest.raises(FusecError, match=r"tiny\.gguf: metadata key 'no\.such' is missing"):
        file.get("no.such", int)
    with pytest.raises(FusecError, match=r"'llama\.block_count' should be str, found int"):
        file.get("llama.block_count", str)
    with pytest.raises(FusecError, match="should be int, found bool"):
        file.get("tokenizer.ggml.add_bos_token", int)
    with pytest.raises(FusecError, match=r"tiny\.gguf: tensor 'none\.weight' is missing"):
        file.tensor("none.weight")
    with pytest.raises(FusecError, match=r"should have shape \(7,\), found \(96,\)"):
        file.tensor("output_norm.weight", (7,))


def test_fingerprint_tells_files_apart(tiny_model: Path, tmp_path: Path) -> None:
    assert open_gguf(tiny_model).fingerprint == open_gguf(tiny_model).fingerprint
    changed = bytearray(tiny_model.read_bytes())
    changed[-1] ^= 1
    other = tmp_path / "other.gguf"
    other.write_bytes(changed)
    assert open_gguf(other).fingerprint != open_gguf(tiny_model).fingerprint


def test_unreadable_paths(tmp_path: Path) -> None:
    with pytest.raises(FusecError, match="no such file"):
        open_gguf(tmp_path / "missing.gguf")
    with pytest.raises(FusecError, match="expected a GGUF file, found a folder"):
        open_gguf(tmp_path)
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(FusecError, match="the file is empty"):
        open_gguf(tmp_path / "empty.gguf")


ARRAY, STRING, U8 = 9, 8, 0
DATA = bytes(256)
BAD: dict[str, tuple[bytes, str]] = {
    "magic": (b"GGML" + gguf()[4:], "it starts with b'GGML'"),
    "short magic": (b"GG", "not a GGUF file"),
    "no version": (b"GGUF", "truncated: the version"),
    "version 1": (b"GGUF" + u32(1) + gguf()[8:], "version 1 is not supported"),
    "version 4": (b"GGUF" + u32(4) + gguf()[8:], "version 4 is not supported"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + gguf()[8:], "big-endian"),
    "no counts": (gguf()[:12], "truncated: the tensor count"),
    "tensor count": (b"GGUF" + u32(3) + u64(HUGE) + u64(0), f"the tensor count is {HUGE}"),
    "key count": (b"GGUF" + u32(3) + u64(0) + u64(HUGE), f"key count is {HUGE}"),
    "key length": (gguf([u64(HUGE) + bytes(64)]), f"the length of metadata key 0 is {HUGE}"),
    "key not utf-8": (gguf([string(b"\xff") + u32(U8) + b"1"]), "not valid UTF-8"),
    "key twice": (gguf([string("a") + u32(U8) + b"1"] * 2), "'a' appears twice"),
    "key empty": (
        gguf([string("") + u32(U8) + b"1"]),
        "metadata key 0 is 0 bytes long, expected 1",
    ),
    "tensor name empty": (gguf(tensors=[tensor_info("", (4,))], data=DATA), "tensor 0 is 0 bytes"),
    "key type": (gguf([string("a") + u32(99) + bytes(8)]), "'a' has unknown type 99"),
    "string length": (
        gguf([string("a") + u32(STRING) + u64(HUGE)], data=DATA),
        f"the length of the value of 'a' is {HUGE}",
    ),
    "string not utf-8": (gguf([string("a") + u32(STRING) + string(b"\xff")]), "not valid UTF-8"),
    "array length": (
        gguf([string("a") + u32(ARRAY) + u32(U8) + u64(HUGE)], data=DATA),
        f"the length of 'a' is {HUGE}",
    ),
    "array of long strings": (
        gguf([string("a") + u32(ARRAY) + u32(STRING) + u64(2) + string("x") + u64(HUGE)]),
        "the length of the value of 'a'",
    ),
    "array of strings": (
        gguf([string("a") + u32(ARRAY) + u32(STRING) + u64(HUGE)], data=DATA),
        f"the length of 'a' is {HUGE}",
    ),
    "array of arrays": (
        gguf([string("a") + u32(ARRAY) + u32(ARRAY) + u64(0)], data=DATA),
        "array of arrays",
    ),
    "alignment": (
        gguf([string("general.alignment") + u32(4) + u32(24)]),
        "general.alignment is 24, expected a power of two",
    ),
    "alignment zero": (
        gguf([string("general.alignment") + u32(4) + u32(0)]),
        "general.alignment is 0",
    ),
    "alignment type": (
        gguf([string("general.alignment") + u32(STRING) + string("32")]),
        "should be a whole number",
    ),
    "tensor name length": (
        gguf(tensors=[u64(HUGE) + bytes(64)]),
        f"the name of tensor 0 is {HUGE}",
    ),
    "tensor name too long": (
        gguf(tensors=[tensor_info("n" * 65, (4,))], data=DATA),
        "65 bytes long, expected 1 to 64",
    ),
    "rank": (
        gguf(tensors=[string("t") + u32(1 << 31) + bytes(64)], data=DATA),
        "2147483648 dimensions",
    ),
    "rank 0": (gguf(tensors=[tensor_info("t", ())], data=DATA), "0 dimensions"),
    "empty dimension": (gguf(tensors=[tensor_info("t", (4, 0))], data=DATA), "empty dimension"),
    "tensor type": (gguf(tensors=[tensor_info("t", (4,), 999)], data=DATA), "unknown type 999"),
    "block": (
        gguf(tensors=[tensor_info("t", (33, 2), 8)], data=DATA),
        "rows of 33 elements, not a multiple of the Q8_0 block of 32",
    ),
    "offset alignment": (
        gguf(tensors=[tensor_info("t", (4,), offset=4)], data=DATA),
        "offset 4, not a multiple of 32",
    ),
    "offset": (
        gguf(tensors=[tensor_info("t", (4,), offset=1 << 40)], data=DATA),
        "past the end of the file",
    ),
    "offset overflow": (
        gguf(tensors=[tensor_info("t", (4,), offset=(1 << 64) - 32)], data=DATA),
        "past the end of the file",
    ),
    "extent": (gguf(tensors=[tensor_info("t", (65,))], data=DATA), "past the end of the file"),
    "extent overflow": (
        gguf(tensors=[tensor_info("t", (1 << 62, 4))], data=DATA),
        "past the end of the file",
    ),
    "tensor twice": (gguf(tensors=[tensor_info("t", (4,))] * 2, data=DATA), "'t' appears twice"),
    "overlap": (
        gguf(tensors=[tensor_info("a", (9,)), tensor_info("b", (9,), offset=32)], data=DATA),
        "'a' and 'b' overlap",
    ),
    "name with a line break": (
        gguf(tensors=[tensor_info("a\nb", (4,), 999)], data=DATA),
        r"'a\nb' has unknown type",
    ),
}


@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD)
def test_corruption_is_refused_with_its_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reason in refusal(tmp_path, content)


@pytest.mark.parametrize("count", [(1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_counts_of_64_bits(tmp_path: Path, count: int) -> None:
    head = b"GGUF" + u32(3)
    number = u64(count)
    assert f"is {count}" in refusal(tmp_path, head + number + u64(0))
    assert f"is {count}" in refusal(tmp_path, head + u64(0) + number)
    assert f"is {count}" in refusal(tmp_path, gguf([number + DATA]))
    for kind in (T.UINT8, T.FLOAT64, T.STRING):
        array = string("a") + u32(ARRAY) + u32(kind) + number
        assert f"is {count}" in refusal(tmp_path, gguf([array], data=DATA))
    tensors = [tensor_info("t", (count, 1, count)), tensor_info("t", (4,), offset=count & ~31)]
    for tensor in tensors:
        assert "past the end of the file" in refusal(tmp_path, gguf(tensors=[tensor], data=DATA))


def test_values_of_64_bits(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([key("u", T.UINT64, (1 << 64) - 1), key("i", T.INT64, -(1 << 63))]))
    metadata = open_gguf(path).metadata
    assert dict(metadata) == {"u": (1 << 64) - 1, "i": -(1 << 63)}
    assert metadata.typed("u", float) == float(1 << 64)


def test_arrays_without_items(tmp_path: Path) -> None:
    kinds = [kind for kind in T if kind is not T.ARRAY]
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([key(f"a.{kind.name}", kind, []) for kind in kinds]))
    metadata = open_gguf(path).metadata
    for kind in kinds:
        assert metadata.typed(f"a.{kind.name}", list) == []
        assert metadata.array_length(f"a.{kind.name}") == 0
        assert metadata.type_of(f"a.{kind.name}") == (kind, True)


def test_odd_names_are_names(tmp_path: Path) -> None:
    names = [" ", "a b", "'", "\\", "\x00", "\n", "ä日", "blk.0.", "a" * 64]
    path = tmp_path / "m.gguf"
    tensors = [tensor_info(name, (8,), offset=32 * i) for i, name in enumerate(names)]
    path.write_bytes(gguf([key(name, T.UINT8, 1) for name in names], tensors, bytes(32 * 9)))
    file = open_gguf(path)
    assert list(file.metadata) == names
    assert list(file.tensors) == names
    with pytest.raises(FusecError, match="should be str, found int") as caught:
        file.get("\n", str)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("alignment", [8, 64, 4096])
@pytest.mark.parametrize("kind", [T.UINT32, T.UINT64, T.INT32, T.UINT16])
def test_alignments(tmp_path: Path, alignment: int, kind: T) -> None:
    rows = np.arange(18, dtype=np.float32).reshape(3, 6)
    weights = {"a": rows[:1], "b": rows, "c": rows[1:]}
    path = tmp_path / "m.gguf"
    path.write_bytes(with_weights([key("general.alignment", kind, alignment)], weights, alignment))
    file = open_gguf(path)
    assert any(tensor.offset % 32 for tensor in file.tensors.values()) == (alignment == 8)
    for name, array in weights.items():
        assert file.tensor(name, array.shape).data.tobytes() == array.tobytes()
    path.write_bytes(with_weights([], weights, 8))
    with pytest.raises(FusecError, match="not a multiple of 32"):
        open_gguf(path)


def test_a_bool_is_0_or_1(tmp_path: Path) -> None:
    for value in (2, [1, 0, 255]):
        message = refusal(tmp_path, gguf([key("flag", T.BOOL, value)]))
        assert "'flag' is neither true nor false" in message


def test_whole_numbers_as_truth_values(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([key("on", T.UINT8, 1), key("off", T.INT32, 0), key("no", T.UINT32, 2)]))
    file = open_gguf(path)
    assert (file.get("on", bool), file.get("off", bool)) == (True, False)
    with pytest.raises(FusecError, match="'no' should be bool, found int"):
        file.get("no", bool)


def test_an_array_is_not_decoded_to_be_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([key("a", T.STRING, ["x"]), key("b", T.UINT8, 1)]))
    metadata = open_gguf(path).metadata
    with pytest.raises(FusecError, match="'a' should be str, found list"):
        metadata.typed("a", str)
    assert not metadata._decoded
    assert (metadata.array_length("a"), metadata.array_length("none")) == (1, 0)
    with pytest.raises(FusecError, match="'b' should be list, found int"):
        metadata.array_length("b")


def test_good_file_of_the_same_builder(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    key = string("a") + u32(STRING) + string("b")
    path.write_bytes(gguf([key], [tensor_info("t", (4, 16))], DATA))
    assert open_gguf(path).tensor("t").shape == (16, 4)


def test_truncation_anywhere_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    content = tiny_model.read_bytes()
    first = min(tensor.offset for tensor in open_gguf(tiny_model).tensors.values())
    cuts = {*range(1, 600), *range(600, first, 97), *range(first, len(content) - 32, 9973)}
    for cut in sorted(cuts):
        refusal(tmp_path, content[:cut])


def raises_fusec_error(action: Callable[[], object]) -> bool:
    try:
        action()
    except FusecError:
        return True
    return False


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_crash(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.gguf"
    path.write_bytes(b"GGUF" + u32(3) + raw)
    raises_fusec_error(lambda: read_all(path))


def test_unknown_architecture(tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(gguf([string("general.architecture") + u32(STRING) + string("mamba")]))
    with pytest.raises(FusecError, match="architecture 'mamba' is not supported, known: "):
        architecture_of(open_gguf(path))
