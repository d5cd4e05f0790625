"""Split models: all parts together are the model, and anything else is refused by name."""

from pathlib import Path

import pytest
from gguf import GGUFValueType as T

import fusec
from fusec.artifact import Artifact
from fusec.errors import FusecError
from fusec.models.gguf_file import open_gguf
from fusec.models.model import Model
from tests.command import fusec as command
from tests.command import refused
from tests.gguf_split import Keys, split

pytestmark = pytest.mark.xdist_group("artifact")


@pytest.fixture
def parts(tiny_model: Path, tmp_path: Path) -> list[Path]:
    return split(tiny_model, tmp_path, 3)


def refusal(path: Path) -> str:
    with pytest.raises(FusecError) as caught:
        open_gguf(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_parts_are_one_model(tiny_model: Path, parts: list[Path]) -> None:
    whole, joined = open_gguf(tiny_model), open_gguf(parts[0])
    assert joined.path == parts[0]
    assert joined.paths == tuple(parts)
    assert joined.file_bytes == sum(path.stat().st_size for path in parts)
    assert set(joined.tensors) == set(whole.tensors)
    for name, tensor in whole.tensors.items():
        found = joined.tensor(name, tensor.shape)
        assert found.dtype == tensor.dtype
        assert found.data.tobytes() == tensor.data.tobytes()
        assert not found.data.flags.writeable
    assert Model.open(parts[0]).config == Model.open(tiny_model).config


def test_the_first_part_may_have_no_tensors(tiny_model: Path, tmp_path: Path) -> None:
    names = list(open_gguf(tiny_model).tensors)
    first, _ = split(tiny_model, tmp_path, 2, tensors={0: [], 1: names})
    assert Model.open(first).config == Model.open(tiny_model).config


@pytest.mark.parametrize("count", [0, 1])
def test_one_part_of_one_may_have_any_name(tiny_model: Path, tmp_path: Path, count: int) -> None:
    (only,) = split(tiny_model, tmp_path, 1, {0: {"split.count": (T.UINT16, count)}})
    merged = only.rename(tmp_path / "merged.gguf")
    assert open_gguf(merged).paths == (merged,)


def test_every_part_is_in_the_fingerprint(tiny_model: Path, parts: list[Path]) -> None:
    before = open_gguf(parts[0]).fingerprint
    assert before == open_gguf(parts[0]).fingerprint
    found = {before, open_gguf(tiny_model).fingerprint}
    for path in parts:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        found.add(open_gguf(parts[0]).fingerprint)
    assert len(found) == 5


def test_another_part_names_the_first(parts: list[Path]) -> None:
    for i in (1, 2):
        assert refusal(parts[i]) == (
            f"{parts[i]}: it is part {i + 1} of 3 of a split model: open the first, {parts[0]}"
        )


def test_a_missing_part_is_named(parts: list[Path]) -> None:
    parts[2].unlink()
    assert refusal(parts[0]) == f"{parts[0]}: part 3 of 3 is missing: {parts[2]}"


@pytest.mark.parametrize("i", [0, 1])
def test_a_name_that_is_not_its_number(parts: list[Path], i: int) -> None:
    renamed = parts[i].rename(parts[i].with_name("other.gguf"))
    assert refusal(renamed) == (
        f"{renamed}: it is part {i + 1} of 3 of a split model, expected a name that ends in "
        f"'-0000{i + 1}-of-00003.gguf'"
    )


def test_parts_under_each_others_names(parts: list[Path]) -> None:
    spare = parts[1].rename(parts[1].with_name("spare"))
    parts[2].rename(parts[1])
    spare.rename(parts[2])
    assert refusal(parts[0]) == f"{parts[1]}: split.no is 2, expected 1 as its name says"
    assert "part 3 of 3 of a split model, expected a name that ends" in refusal(parts[1])


NAME = {"general.architecture": (T.STRING, "qwen2")}


@pytest.mark.parametrize(
    ("part", "keys", "reason"),
    [
        (0, {"split.no": (T.UINT16, 3)}, "split.no is 3, expected 0 to 2"),
        (0, {"split.no": (T.INT16, -1)}, "split.no is -1, expected 0 to 2"),
        (0, {"split.count": (T.UINT64, 1 << 63)}, "part 1 of 9223372036854775808 of a split model"),
        (0, {"split.count": (T.UINT16, 0), "split.no": (T.UINT16, 1)}, "split.no is 1, expected 0"),
        (0, {"split.count": (T.STRING, "3")}, "'split.count' should be int, found str"),
        (0, {"split.tensors.count": None}, "'split.tensors.count' is missing"),
        (1, {"split.no": None}, "'split.no' is missing"),
        (1, {"split.count": (T.UINT16, 4)}, "split.count is 4, expected 3 as in"),
        (1, {"split.tensors.count": (T.INT32, 5)}, "split.tensors.count is 5, expected"),
        (2, NAME, "metadata key 'general.architecture' is not as in"),
    ],
)
def test_parts_that_do_not_belong_together(
    tiny_model: Path, tmp_path: Path, part: int, keys: Keys, reason: str
) -> None:
    paths = split(tiny_model, tmp_path, 3, {part: keys})
    message = refusal(paths[0])
    assert message.startswith(f"{paths[part]}: ")
    assert reason in message


def test_tensors_of_all_parts_are_counted(tiny_model: Path, tmp_path: Path) -> None:
    names = list(open_gguf(tiny_model).tensors)
    paths = split(tiny_model, tmp_path, 2, tensors={1: names[1::2][:-1]})
    assert f"{paths[0]}: its 2 parts have {len(names) - 1} tensors" in refusal(paths[0])
    paths = split(tiny_model, tmp_path, 2, tensors={1: [*names[1::2], names[0]]})
    assert refusal(paths[0]) == f"{paths[1]}: tensor {names[0]!r} is in {paths[0]} too"


def test_a_damaged_part_is_named(parts: list[Path]) -> None:
    parts[1].write_bytes(parts[1].read_bytes()[:-40])
    assert refusal(parts[0]).startswith(f"{parts[1]}: ")
    parts[1].write_bytes(b"")
    assert refusal(parts[0]) == f"{parts[1]}: the file is empty"


def test_commands_take_the_first_part(tiny_model: Path, parts: list[Path], tmp_path: Path) -> None:
    ids = [3, 1, 4, 1, 5]
    whole, joined = (
        fusec.load(path, context=48, kv="f32", level=1) for path in (tiny_model, parts[0])
    )
    assert joined.logits(ids).tobytes() == whole.logits(ids).tobytes()
    assert command("inspect", parts[0]).code == 0
    assert f"{parts[1]}: it is part 2 of 3" in refused("run", parts[1], "--prompt-ids", "1")
    ran = command("quantize", parts[0], tmp_path / "q.gguf", "Q8_0", "--again", "--quick")
    assert ran.code == 0, ran.err
    assert f"from {tiny_model.stat().st_size / 1e6:.1f} MB" in ran.out
    copy = Model.open(tmp_path / "q.gguf")
    assert copy.config == Model.open(tiny_model).config
    assert not [key for key in copy.file.metadata if key.startswith("split.")]
    for path in parts:
        before = path.read_bytes()
        assert "it is the model that is read" in refused("quantize", parts[0], path, "Q8_0")
        assert path.read_bytes() == before


def test_a_compiled_folder_refers_to_the_parts(tiny_model: Path, tmp_path: Path) -> None:
    store, links = tmp_path.resolve() / "store", tmp_path.resolve() / "links"
    store.mkdir()
    links.mkdir()
    for number, path in enumerate(split(tiny_model, store, 2)):  # as a store of models has them
        (links / path.name).symlink_to(path.rename(store / f"digest{number}"))
    first = sorted(links.iterdir())[0]
    folder = fusec.compile(first, context=48, kv="f32", level=1).save(tmp_path / "folder")
    assert Artifact.open(folder).manifest["model"] == str(
        first.resolve().parent.parent / "links" / first.name
    )
    assert Artifact.open(folder).model().file.paths == tuple(sorted(links.iterdir()))
    for path in links.iterdir():
        path.rename(tmp_path / path.name)
    assert Artifact.open(folder).model().file.path == tmp_path / first.name
    (tmp_path / first.name.replace("-00001-", "-00002-")).unlink()
    with pytest.raises(FusecError, match="part 2 of 2 is missing"):
        Artifact.open(folder).model()
