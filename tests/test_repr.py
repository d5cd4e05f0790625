"""What a prompt shows of each object: one short line that says what a person wants to know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import fusec
from fusec import driver
from fusec.artifact import Artifact
from fusec.codegen.cuda.toolchain import Cubin
from fusec.ir.ops import OPS
from fusec.models.model import Model
from fusec.runtime.cuda.driver import Executable
from fusec.runtime.cuda.session import CudaSession
from fusec.writer import LONGEST, brief, count

SHOWN = {
    "Compiled": "<Compiled tiny: cpu -O2, 51 dispatches, 10 kernels>",
    "a wide one": "<Compiled llama_decode: cpu -O2, 51 dispatches, 10 kernels, 4 rows a step>",
    "Stage": "<Stage fuse-stack: 148 -> 124 nodes, 24 hits, 0 refused, * ms>",
    "a stage that merges nothing": "<Stage decode-graph: 148 -> 148 nodes, 0.0 ms>",
    "LaunchPlan": "<LaunchPlan llama_decode: cpu -O2, 51 dispatches, 10 kernels>",
    "Launch": "<Launch rope_kv_96_* makes %blk.0.q_rope, * arguments>",
    "Kernel": "<Kernel rope_kv_96_*: 4 ops>",
    "KernelSource": "<KernelSource *: * lines>",
    "CudaKernel": "<CudaKernel *: * lines, * threads>",
    "Cubin": "<Cubin mine: sm_90a, 5,000 bytes, 32 registers>",
    "Executable": "<Executable mine: sm_90a, 5,000 bytes>",
    "Graph": "<Graph llama_decode: 51 nodes, %token, %pos -> %logits, %next>",
    "Node": "<Node %y: f32[1, 64] = rms_norm(%x, @w)>",
    "a fused node": "<Node * = norm_matvec of 4 ops (*...>",
    "Value": "<Value %x: f32[1, 64]>",
    "a weight": "<Value @w: f32[64]>",
    "Builder": "<Builder toy: 1 node>",
    "Reference": "<Reference toy: float64, 1 node>",
    "Model": "<Model *tiny.gguf: llama, 8 layers of 96, 512 tokens, context 512>",
    "GGUFFile": "<GGUFFile *tiny.gguf: * tensors, * MiB>",
    "Tensor": "<Tensor token_embd.weight: *[512, *]>",
    "Tokenizer": "<Tokenizer *tiny.gguf: gpt2, 512 tokens>",
    "Engine": "<Engine llama_decode: cpu -O2, 51 dispatches, 10 kernels, 3 of 48 positions>",
    "a closed engine": "<Engine *: cpu -O2, *, 0 of 48 positions, closed>",
    "Completion": "<Completion 3 tokens + 5, ended by length: 'word *...>",
    "Piece": "<Piece ' a', token 5, logprob -0.250>",
    "a piece without a token": "<Piece 'x', token None>",
    "Saved": "<Saved 3 tokens, * bytes, cpu>",
    "KnownModel": "<KnownModel demo: 1.6 MiB, Apache-2.0, *demo.gguf>",
    "Session": "<CpuSession llama_decode: cpu -O2, 51 dispatches, 10 kernels>",
    "a GPU's session": "<CudaSession llama_decode: cpu -O2, 51 dispatches, 10 kernels>",
    "Plans": "<Plans llama_decode: for steps of 1, 16 rows>",
    "Prepared": "<Prepared llama_decode: cpu -O2, 51 dispatches, 10 kernels; * sources>",
    "Options": "<Options cpu -O2>",
    "other options": "<Options cpu -O2; rules mine; without chain, pairs>",
    "Artifact": "<Artifact *: llama_decode, cpu -O2>",
    "Op": "<Op silu: element, x: f32[T, n]>",
    "Rule": "<Rule mine: rows -> add => mine>",
}


@pytest.fixture(scope="module")
def objects(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    model = Model.open(tiny_model)
    compiled = fusec.compile(model, context=48)
    rule = fusec.Rule("rows -> add => mine", fusec.pattern("a -> b", a="rows", b="add"))
    b = fusec.Builder("toy")
    graph = b.build(b.rms_norm(b.input("x", (1, 64)), b.weight("w", (64,)), eps=1e-5, name="y"))
    closed = compiled.engine()
    closed.close()
    with ExitStack() as stack:
        engine = stack.enter_context(compiled.engine())
        engine.feed([1, 2, 3])
        given = {"rules": [rule], "disable": ["chain", "pairs"]}
        folder = compiled.save(tmp_path_factory.mktemp("folder") / "compiled")
        yield {
            "Compiled": compiled,
            "a wide one": fusec.compile(model, width=4),
            "Stage": next(s for s in compiled.stages if s.name == "fuse-stack"),
            "a stage that merges nothing": compiled.stages[0],
            "LaunchPlan": compiled.plan,
            "Launch": next(x for x in compiled.plan.launches if "rope" in x.kernel),
            "Kernel": next(k for k in compiled.plan.kernels if "rope" in k.name),
            "KernelSource": next(iter(compiled.kernels.values())),
            "CudaKernel": next(iter(fusec.compile(graph, target="sm_90a").kernels.values())),
            "Cubin": Cubin("mine", "sm_90a", bytes(5000), "ptx" * 9999, 32, 0, 0, 0),
            "Executable": Executable("mine", "sm_90a", bytes(5000), 132, 256),
            "Graph": compiled.graph,
            "Node": graph.nodes[0],
            "a fused node": next(n for n in compiled.graph.nodes if n.body),
            "Value": graph.inputs[0],
            "a weight": graph.weights[0],
            "Builder": b,
            "Reference": fusec.Reference(graph, {}),
            "Model": model,
            "GGUFFile": model.file,
            "Tensor": model.file.tensors["token_embd.weight"],
            "Tokenizer": model.tokenizer,
            "Engine": engine,
            "a closed engine": closed,
            "Completion": fusec.Completion("word " * 500, (1,) * 5, (1, 2, 3), "length"),
            "Piece": fusec.Piece(" a", 5, -0.25, ((5, -0.25),) * 40),
            "a piece without a token": fusec.Piece("x"),
            "Saved": engine.save(),
            "KnownModel": fusec.known_models()[0],
            "Session": engine.decode,
            "a GPU's session": CudaSession(compiled.plan, None),  # type: ignore[arg-type]
            "Plans": compiled.plans,
            "Prepared": compiled.prepared,
            "Options": driver.options_of("cpu"),
            "other options": driver.options_of("cpu", **given),
            "Artifact": Artifact.open(folder),
            "Op": OPS["silu"],
            "Rule": rule,
        }


def matches(text: str, wanted: str) -> bool:
    """Whether a text is the wanted one, in which `*` stands for anything."""
    parts = wanted.split("*")
    places = [text.find(part) for part in parts]
    return (
        text.startswith(parts[0])
        and text.endswith(parts[-1])
        and -1 not in places
        and places == sorted(places)
        and ("*" in wanted or text == wanted)
    )


@pytest.mark.parametrize("name", SHOWN)
def test_it_is_a_short_line(objects: dict[str, Any], name: str) -> None:
    shown = repr(objects[name])
    assert matches(shown, SHOWN[name]), shown
    assert "\n" not in shown
    assert len(shown) < 200


def test_the_list_has_every_public_class_with_something_to_hold(objects: dict[str, Any]) -> None:
    shown = {kind.__name__ for value in objects.values() for kind in type(value).__mro__}
    classes = {name for name in fusec.__all__ if isinstance(getattr(fusec, name), type)} - {
        "FusecError",
        "Sampling",
        "Ablation",
    }  # short as dataclasses are
    assert classes <= shown


def test_a_long_one_is_cut() -> None:
    shown = brief(Path(), "word " * 1000)
    assert len(shown) == LONGEST + 2
    assert shown.endswith("word wo...>")
    assert brief(3, "in\ntwo  lines") == "<int in two lines>"


def test_numbers_agree_with_their_nouns() -> None:
    counts = [count(n, noun) for n, noun in ((0, "node"), (1, "node"), (1000, "dispatch"))]
    assert counts == ["0 nodes", "1 node", "1,000 dispatches"]
