"""Models of the Hugging Face hub, which is a server of two folders here."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fusec.errors import FusecError
from fusec.models.hub import chosen_file, fetched, parts_of
from tests.gguf_split import split as split_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = ("README.md", "m-F16.gguf", "m-Q4_K_M.gguf", "m-q8_0.gguf", "mmproj-Q8_0.gguf")


@dataclass(frozen=True)
class Hub:
    """The stand-in: its settings for huggingface_hub, and what it was asked for."""

    env: dict[str, str]
    asked: list[str]

    def fusec(self, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
        """A command in a process of its own: huggingface_hub reads its settings once."""
        command = [sys.executable, "-m", "fusec", *map(str, args)]
        return subprocess.run(
            command, env={**os.environ, **self.env, **env}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip


def handler(
    repos: dict[str, dict[str, bytes]], gated: Sequence[str], asked: list[str]
) -> type[BaseHTTPRequestHandler]:
    """The hub's answers to what huggingface_hub asks."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            asked.append(f"{self.command} {self.path}")
            _, *parts = self.path.split("?")[0].split("/")
            if parts[:2] == ["api", "models"]:
                self.about("/".join(parts[2:4]))
                return
            repo, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
            assert revision in ("main", COMMIT)
            self.send(repos[repo][file])

        def about(self, repo: str) -> None:
            if repo in gated:
                self.refuse(403, "GatedRepo")
            elif repo not in repos:
                self.refuse(401, "RepoNotFound")
            else:
                siblings = [{"rfilename": name} for name in repos[repo]]
                card = {"license": "mit"}
                answer = {"id": repo, "sha": COMMIT, "siblings": siblings, "cardData": card}
                self.send(json.dumps(answer).encode())

        def refuse(self, code: int, why: str) -> None:
            self.send_response(code)
            self.send_header("X-Error-Code", why)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    return Handler


@pytest.fixture
def hub(tiny_model: Path, tmp_path: Path) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    content = tiny_model.read_bytes()
    split = [path.read_bytes() for path in split_model(tiny_model, tmp_path, 2)]
    repos = {
        "some/models": {name: content + name.encode() for name in FILES},
        "some/split": {f"Q8_0/b-Q8_0-{n:05}-of-00002.gguf": c for n, c in enumerate(split, 1)},
    }
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(repos, ["some/gated"], asked))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    yield Hub(env, asked)
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_file_is_fetched_once_and_found_without_the_hub(hub: Hub, tiny_model: Path) -> None:
    ran = hub.fusec("pull", "hf:some/models")
    assert ran.returncode == 0, ran.stderr
    path = Path(ran.stdout.strip())
    assert path.name == "m-Q4_K_M.gguf"
    assert path.read_bytes() == tiny_model.read_bytes() + b"m-Q4_K_M.gguf"
    assert ran.stderr.splitlines()[:2] == [
        "hf:some/models: fetching m-Q4_K_M.gguf from https://huggingface.co/some/models",
        "licence: mit",
    ]
    again = hub.fusec("pull", "hf:some/models")
    assert (again.stdout, again.stderr) == (ran.stdout, "")
    assert sum(line.startswith("GET /some/models") for line in hub.asked) == 1
    offline = hub.fusec("inspect", "hf:some/models:q4_k_m", "--json", HF_HUB_OFFLINE="1")
    assert json.loads(offline.stdout)["level"] == 2
    assert offline.stderr == (
        "hf:some/models:q4_k_m: the hub is not reached, taking m-Q4_K_M.gguf, which is here\n"
    )
    assert hub.fusec("info", "hf:some/models", "-q", HF_HUB_OFFLINE="1").stderr == ""
    other = hub.fusec("pull", "hf:some/models:Q8_0", HF_ENDPOINT="http://127.0.0.1:9")
    assert other.returncode == 2
    assert other.stderr.startswith("error: hf:some/models:Q8_0: not here yet, and the Hugging Face")
    assert other.stderr.count("\n") == 1


@pytest.mark.slow
def test_all_parts_of_a_split_model_are_fetched(hub: Hub, tiny_model: Path) -> None:
    ran = hub.fusec("inspect", "hf:some/split:q8_0", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["level"] == 2
    assert sum(line.startswith("GET /some/split") for line in hub.asked) == 2


@pytest.mark.slow
def test_a_file_by_its_name(hub: Hub) -> None:
    ran = hub.fusec("pull", "hf:some/models/m-F16.gguf")
    assert Path(ran.stdout.strip()).name == "m-F16.gguf"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "why"),
    [
        (
            "hf:some/models:Q2_K",
            "the repository has no GGUF file with Q2_K, there are m-F",
        ),
        ("hf:some/models/none.gguf", "no such file in the repository, there are m-F16.gguf, "),
        ("hf:some/gated", "its owner asks for consent first: give it at https://huggingface.co/"),
        ("hf:some/nothing", "the hub has no such repository, or shows it only to some who log in"),
        ("hf:some/..", "Repo id must "),
    ],
)
def test_what_the_hub_does_not_give(hub: Hub, name: str, why: str) -> None:
    ran = hub.fusec("run", name, "-p", "a")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"error: {name}: {why}")
    assert ran.stderr.count("\n") == 1


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FusecError, match=r"huggingface_hub: pip install 'fusec\[hub\]', or pip"):
        fetched("hf:a/b")


@pytest.mark.parametrize("name", ["hf:", "hf:a", "hf:a/b:", "hf:a/b/c", "hf:a/b:c/d", "hf:/b.gguf"])
def test_names_of_another_form(name: str) -> None:
    with pytest.raises(FusecError, match=f"^{name}: expected hf:OWNER/REPO, hf:OWNER/REPO:QUANT, "):
        fetched(name)


@pytest.mark.parametrize(
    ("files", "quant", "chosen"),
    [
        (FILES, None, "m-Q4_K_M.gguf"),
        (FILES, "Q8_0", "m-q8_0.gguf"),  # mmproj is no model
        (FILES, "f16", "m-F16.gguf"),
        (["m-Q4_K_M.gguf", "m-Q4_K.gguf"], "Q4_K", "m-Q4_K.gguf"),
        (["m.Q6_K.gguf", "m.Q5_0.gguf"], "Q6_K", "m.Q6_K.gguf"),
        (["b.gguf", "a.gguf"], None, "a.gguf"),
        (["Q4_0/m-00001-of-00002.gguf", "Q4_0/m-00002-of-00002.gguf"], "Q4_0", 0),
        (["m-Q4_K_M-00002-of-00002.gguf", "m-Q4_K_M-00001-of-00002.gguf"], None, 1),
        (["m-UD-Q4_K_XL.gguf", "m-Q4_K_S.gguf"], "Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
    ],
)
def test_the_file_that_has_a_quantisation(
    files: Sequence[str], quant: str | None, chosen: str | int
) -> None:
    wanted = files[chosen] if isinstance(chosen, int) else chosen
    assert chosen_file("hf:a/b", files, quant) == wanted


@pytest.mark.parametrize(
    ("files", "quant", "why"),
    [
        (
            ["a-Q8_0.gguf", "b-Q8_0.gguf"],
            "q8_0",
            "several files have q8_0, there are a-Q8_0.gg",
        ),
        (["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"], None, "several files have Q4_K_M, there are a-Q4_K"),
        (["a.safetensors"], None, "the repository has no GGUF file, there are none"),
        ([f"{n:02}.gguf" for n in range(20)], "F32", "11.gguf and 8 more"),
    ],
)
def test_no_file_or_several(files: Sequence[str], quant: str | None, why: str) -> None:
    with pytest.raises(FusecError) as found:
        chosen_file("hf:a/b", files, quant)
    assert str(found.value).startswith("hf:a/b: ")
    assert why in str(found.value)


def test_the_parts_of_a_split_file() -> None:
    assert parts_of("x/m-00001-of-00003.gguf") == [f"x/m-{n:05}-of-00003.gguf" for n in (1, 2, 3)]
    assert parts_of("m.gguf") == ["m.gguf"]
    assert parts_of("m-00002-of-00003.gguf") == ["m-00002-of-00003.gguf"]
