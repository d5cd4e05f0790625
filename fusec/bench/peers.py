"""Other programs on the same machine and the same shape, for `fusec bench --compare`.

torch: PyTorch, bf16, random weights: one decode step with its argmax, compiled by torch.compile,
in a captured CUDA graph that is replayed for every token. llama.cpp: through llama-cpp-python, the
model file itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusec.bench import Plan, Result, summarize
from fusec.bench.tokens import prompt_ids
from fusec.errors import FusecError
from fusec.models.model import Model
from fusec.models.names import located

PEERS = {"torch": "torch", "llama.cpp": "llama_cpp"}
"""Name on the command line -> the module it needs."""


def compare(path: Path, plan: Plan, names: tuple[str, ...]) -> tuple[list[Result], list[str]]:
    """Rows of the peers that are installed, and a note for each that is not."""
    check(names)
    rows: list[Result] = []
    notes = []
    for name in names:
        if importlib.util.find_spec(PEERS[name]) is None:
            notes.append(f"{name}: not compared, there is no Python module {PEERS[name]} here")
            continue
        run = torch_rows if name == "torch" else llama_rows
        rows += run(path, plan)
    return rows, notes


def check(names: tuple[str, ...]) -> None:
    """Raise FusecError for a name that is no peer's."""
    if unknown := [name for name in names if name not in PEERS]:
        raise FusecError(f"--compare: unknown '{unknown[0]}': known are {', '.join(PEERS)}")


def llama_rows(path: Path, plan: Plan) -> list[Result]:
    """llama.cpp on the file, all layers on the GPU unless the target is the CPU."""
    llama_cpp = importlib.import_module("llama_cpp")

    layers = 0 if plan.target == "cpu" else -1
    context = plan.prompt + max(plan.lengths) + 1
    model = llama_cpp.Llama(
        str(located(path)), n_gpu_layers=layers, n_ctx=context, flash_attn=True, verbose=False
    )
    prompt = prompt_ids(model.n_vocab(), plan.prompt)

    def seconds(n: int) -> float:
        model.reset()
        tokens = model.generate(prompt, temp=0.0)
        next(tokens)
        start = time.perf_counter()
        for _ in range(n - 1):
            next(tokens)
        return (time.perf_counter() - start) / (n - 1)

    return _rows(path, plan, f"llama.cpp {llama_cpp.__version__}", seconds)


def torch_rows(path: Path, plan: Plan) -> list[Result]:
    """PyTorch on the model's shape; nothing without a GPU, where a captured graph means nothing."""
    torch = importlib.import_module("torch")

    if plan.target == "cpu" or not torch.cuda.is_available():
        return []
    config = Model.open(path).config
    context = plan.prompt + max(plan.lengths)
    with torch.inference_mode():
        replay, pos = _torch_graph(torch, config, context)

        def seconds(n: int) -> float:
            pos.fill_(plan.prompt)
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(n):
                replay()
            torch.cuda.synchronize()
            return (time.perf_counter() - start) / n

        return _rows(path, plan, f"torch {torch.__version__}", seconds)


def _rows(path: Path, plan: Plan, name: str, seconds: Callable[[int], float]) -> list[Result]:
    rows = []
    for n in plan.lengths:
        seconds(n)
        times = [seconds(n) for _ in range(plan.repeats)]
        row = summarize(path.stem, times, prompt=plan.prompt, n=n)
        rows.append(replace(row, launch=name))
    return rows


def _torch_graph(torch: Any, config: Any, context: int) -> tuple[Callable[[], None], Any]:
    """A captured decode step that feeds its own token back, and its position."""
    step = _torch_step(torch, config, context)
    compiled = torch.compile(step, fullgraph=True, dynamic=False)
    token = torch.zeros(1, dtype=torch.long, device="cuda")
    pos = torch.zeros(1, dtype=torch.long, device="cuda")

    def advance() -> None:
        token.copy_(compiled(token, pos))
        pos.add_(1)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            advance()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        advance()
    return graph.replay, pos


def _torch_step(torch: Any, c: Any, context: int) -> Callable[[Any, Any], Any]:
    """One token of a Llama-shaped model, a linear layer for each matrix, as transformers has it."""
    functional = torch.nn.functional
    options = {"dtype": torch.bfloat16, "device": "cuda"}

    def weight(*shape: int) -> Any:
        return torch.randn(*shape, **options) * shape[-1] ** -0.5

    q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    layers = [
        {
            "q": weight(q, c.width),
            "k": weight(kv, c.width),
            "v": weight(kv, c.width),
            "o": weight(c.width, q),
            "gate": weight(c.ffn_width, c.width),
            "up": weight(c.ffn_width, c.width),
            "down": weight(c.width, c.ffn_width),
            "norms": torch.ones(2, c.width, **options),
            "keys": torch.zeros(1, c.kv_heads, context, c.head_dim, **options),
            "values": torch.zeros(1, c.kv_heads, context, c.head_dim, **options),
        }
        for _ in range(c.layers)
    ]
    embedding, last_norm = weight(c.vocab, c.width), torch.ones(c.width, **options)
    head = embedding if c.tied else weight(c.vocab, c.width)
    places = torch.arange(context, device="cuda")
    inverse = c.rope_base ** (-torch.arange(0, c.head_dim, 2, device="cuda") / c.head_dim)

    def norm(x: Any, w: Any) -> Any:
        return functional.rms_norm(x, (c.width,), w, c.norm_eps)

    def rope(x: Any, angle: Any) -> Any:
        a, b = x.chunk(2, dim=-1)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    def step(token: Any, pos: Any) -> Any:
        x = embedding[token]
        angle = pos * inverse
        mask = (places <= pos)[None, None, None]
        for layer in layers:
            n = norm(x, layer["norms"][0])
            queries, keys, values = (
                functional.linear(n, layer[part]).view(1, -1, 1, c.head_dim) for part in "qkv"
            )
            layer["keys"].index_copy_(2, pos, rope(keys, angle))
            layer["values"].index_copy_(2, pos, values)
            attended = functional.scaled_dot_product_attention(
                rope(queries, angle),
                layer["keys"],
                layer["values"],
                attn_mask=mask,
                enable_gqa=True,
            )
            x = x + functional.linear(attended.reshape(1, q), layer["o"])
            n = norm(x, layer["norms"][1])
            gate, up = (functional.linear(n, layer[part]) for part in ("gate", "up"))
            x = x + functional.linear(functional.silu(gate) * up, layer["down"])
        return functional.linear(norm(x, last_norm), head).argmax(-1)

    return step
