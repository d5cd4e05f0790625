"""Damaging GGUF files where it hurts, and reading what comes of it.

A damaged file has to be read, or refused with a FusecError of one line that names it: in time, and
in memory that its size bounds. `read` raises Finding for anything else.
"""

from __future__ import annotations

import signal
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType
from unittest import mock

from fusec.errors import FusecError
from fusec.models import gguf_scan
from fusec.models.chat import ChatTemplate
from fusec.models.gguf_file import open_gguf
from fusec.models.model import Model
from fusec.models.tokenizer import Tokenizer

CORPUS = Path(__file__).parent / "models" / "corpus"
SECONDS = 5  # for one file of a few KB, which takes some milliseconds
# Of Python's memory a file may take twice its size, and as much as the objects of a small model do
# whatever its size: a tensor's, a key's and a token's are some 1,000 bytes, the tokenizer's more.
PER_BYTE, AT_MOST = 2, 200_000

Field = tuple[int, int]
"""Where a number lies and how many bytes it has."""
Seeds = dict[str, tuple[bytes, list[Field]]]
"""The corpus: name -> content and its fields."""


class Finding(Exception):
    """What no file may do."""


def corpus() -> Seeds:
    """The files to damage."""
    contents = {path.name: path.read_bytes() for path in sorted(CORPUS.glob("*.bin"))}
    return {name: (content, fields(content)) for name, content in contents.items()}


def fields(content: bytes) -> list[Field]:
    """Every number: counts, lengths, types, ranks, sizes, offsets, and the values of keys."""
    found: list[Field] = []
    number = gguf_scan._Cursor.number

    def noted(cursor: gguf_scan._Cursor, code: str, what: str) -> int:
        found.append((cursor.at, struct.calcsize(code)))
        return number(cursor, code, what)

    with mock.patch.object(gguf_scan._Cursor, "number", noted):
        layout = gguf_scan.scan(Path("seed"), memoryview(content))
    for span in layout.keys.values():
        if span.type in gguf_scan.SCALARS:
            size = gguf_scan.SCALARS[span.type].itemsize
            found += [(at, size) for at in range(span.start, span.end, size)]
    return found


def damaged(random: Random, seeds: Seeds, name: str) -> bytes:
    """The content of `name` with one to three mutations."""
    content, places = seeds[name]
    raw = bytearray(content)
    header = max(at + size for at, size in places)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        mutation = random.choice(MUTATIONS)
        donor = seeds[random.choice(list(seeds))][0]
        mutation(random, raw, places, header, donor)
        if not raw:
            break
    return bytes(raw)


def _number(random: Random, raw: bytearray, places: list[Field], header: int, donor: bytes) -> None:
    """Another value for a count, a length, a type, an offset."""
    at, size = random.choice(places)
    old = int.from_bytes(raw[at : at + size], "little")
    edges = [0, 1, 2, 31, 255, len(raw), (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
    edges += [(1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
    edges += [old + 1, old - 1, old * 2, old + 8, old ^ 1 << random.randrange(8 * size)]
    value = random.choice([*edges, random.randrange(256)])
    raw[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")


def _byte(random: Random, raw: bytearray, places: list[Field], header: int, donor: bytes) -> None:
    at = random.randrange(min(header, len(raw)) if random.random() < 0.9 else len(raw))
    raw[at] = random.choice([0, 1, 0x7F, 0x80, 0xFF, raw[at] ^ 1 << random.randrange(8)])


def _cut(random: Random, raw: bytearray, places: list[Field], header: int, donor: bytes) -> None:
    at = random.choice(places)[0] if random.random() < 0.5 else random.randrange(len(raw))
    del raw[at:]


def _remove(random: Random, raw: bytearray, places: list[Field], header: int, donor: bytes) -> None:
    at = random.choice(places)[0]
    del raw[at : at + random.choice([1, 4, 8, random.randrange(1, 64)])]


def _repeat(random: Random, raw: bytearray, places: list[Field], header: int, donor: bytes) -> None:
    """What lies between two numbers once more, such as a key or a tensor."""
    start, stop = sorted(random.choice(places)[0] for _ in range(2))
    raw[stop:stop] = raw[start:stop][:512]


def _splice(random: Random, raw: bytearray, places: list[Field], header: int, donor: bytes) -> None:
    """A piece of another file."""
    start = random.randrange(len(donor))
    piece = donor[start : start + random.choice([4, 8, 32, 256])]
    at = random.choice(places)[0]
    raw[at : at + random.choice([0, len(piece)])] = piece


Mutation = Callable[[Random, bytearray, list[Field], int, bytes], None]
MUTATIONS: list[Mutation] = [
    _number,
    _number,
    _number,
    _byte,
    _byte,
    _cut,
    _remove,
    _repeat,
    _splice,
]


def place(folder: Path, name: str, content: bytes, seeds: Seeds) -> Path:
    """Write a file, and the other part if it is one of two; the file that is to be opened."""
    whole = {name: content}
    if name.startswith("split-"):
        whole = {other: seeds[other][0] for other in seeds if other.startswith("split-")} | whole
    for other, raw in whole.items():
        path = folder / other.replace(".bin", ".gguf")
        path.unlink(missing_ok=True)  # a file that is mapped stays as it was
        path.write_bytes(raw)
    return folder / min(whole).replace(".bin", ".gguf")


def warm_up(folder: Path, seeds: Seeds) -> None:
    """Read the undamaged files: what is imported or cached once counts for none of them."""
    for name, (content, _) in seeds.items():
        _everything(place(folder, name, content, seeds))


def read(path: Path) -> bool:
    """Whether the file is a model. Raises Finding."""
    parts = path.parent.glob("split-*") if path.name.startswith("split-") else [path]
    limit = PER_BYTE * sum(part.stat().st_size for part in parts) + AT_MOST
    good, used = _measured(path)
    if used > limit:  # the interpreter may have rebuilt a table of its own, and not for this file
        good, used = _measured(path)
    if used > limit:
        raise Finding(f"took {used} bytes of memory, expected at most {limit}")
    return good


def _measured(path: Path) -> tuple[bool, int]:
    """Whether the file is a model, and the most memory that it took to see."""
    started = time.perf_counter()
    tracemalloc.start()
    try:
        with _alarm():
            good = _everything(path)
        used = tracemalloc.get_traced_memory()[1]
    except Finding:
        raise
    except BaseException as error:  # the tokenizers library panics with one
        raise Finding(f"{type(error).__name__}: {error}") from error
    finally:
        tracemalloc.stop()
    if (seconds := time.perf_counter() - started) > SECONDS:
        raise Finding(f"took {seconds:.1f} s")
    return good, used


def _everything(path: Path) -> bool:
    """Look at all that a file has, as far as it can be read."""
    parts = [part for part in _steps(path) if not _refused(path, part)]
    return len(parts) > 0 and not _refused(path, lambda: Model.open(path))


def _steps(path: Path) -> Iterator[Callable[[], object]]:
    try:
        file = open_gguf(path)
    except FusecError as error:
        _check_message(path, error)
        return
    yield lambda: file.fingerprint
    for key in file.metadata:
        yield lambda key=key: file.metadata[key]  # type: ignore[misc]
    for tensor in file.tensors.values():
        yield lambda tensor=tensor: tensor.data.max()  # type: ignore[misc]
    yield lambda: ChatTemplate.from_gguf(file)
    yield lambda: _tokenize(Tokenizer.from_gguf(file))
    try:
        model = Model.open(path)
    except FusecError as error:
        _check_message(path, error)
        return
    yield lambda: model.stop_ids
    yield lambda: model.graph(tokens=1, context=model.check_context(None, 64))


def _tokenize(tokenizer: Tokenizer) -> None:
    tokenizer.decode(tokenizer.encode("ab c<|im_start|> é\n"))
    tokenizer.encode("ab", special=False, bos=True)
    tokenizer.decode(range(tokenizer.vocab_size), skip_special=False)
    assert all(0 <= token < tokenizer.vocab_size for token in tokenizer.stop_ids)


def _refused(path: Path, step: Callable[[], object]) -> bool:
    try:
        step()
    except FusecError as error:
        _check_message(path, error)
        return True
    return False


def _check_message(path: Path, error: FusecError) -> None:
    message = str(error)
    if not message.startswith(str(path.parent)) or not message.isprintable():
        raise Finding(f"a message that names no file or has no one line: {message!r}")


@contextmanager
def _alarm() -> Iterator[None]:
    """End what takes too long, where there are signals."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Finding(f"not done after {SECONDS} s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
