"""Train the demo model: a Llama of SmolLM2's shape in miniature. Needs PyTorch and NumPy only.

    python train.py ids.npz OUT [--steps N] [--minutes M] [--compile]

Reads `train` and `valid`, uint16 token ids of documents that each begin with token 0. Writes
OUT/weights.npz, float32 under GGUF names, and OUT/log.json: settings, seed, loss curve, seconds,
device. Rotary embeddings turn adjacent pairs, as GGUF stores them, so no row has to be permuted.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

END = 0


@dataclass(frozen=True)
class Shape:
    """Hyperparameters. Rows of 256 are whole blocks of every quantisation format."""

    vocab: int = 2048
    layers: int = 4
    width: int = 256
    ffn_width: int = 512
    heads: int = 8
    kv_heads: int = 2
    context: int = 512
    norm_eps: float = 1e-5
    rope_base: float = 10000.0

    @property
    def head_dim(self) -> int:
        """Elements of a head."""
        return self.width // self.heads


@dataclass(frozen=True)
class Settings:
    """How to train. A step sees `batch` windows of the context's length."""

    steps: int = 12_000
    batch: int = 128
    peak_rate: float = 3e-3
    warmup: int = 200
    weight_decay: float = 0.1
    seed: int = 0
    minutes: float | None = None  # the schedule is hurried so that it ends by then


class Layer(nn.Module):
    """x += attention(norm(x)); x += down(silu(gate(n)) * up(n)) with n = norm(x)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, kv = shape.width, shape.kv_heads * shape.head_dim
        self.shape = shape
        self.attn_norm = nn.RMSNorm(width, shape.norm_eps)
        self.attn_q = nn.Linear(width, width, bias=False)
        self.attn_k = nn.Linear(width, kv, bias=False)
        self.attn_v = nn.Linear(width, kv, bias=False)
        self.attn_output = nn.Linear(width, width, bias=False)
        self.ffn_norm = nn.RMSNorm(width, shape.norm_eps)
        self.ffn_gate = nn.Linear(width, shape.ffn_width, bias=False)
        self.ffn_up = nn.Linear(width, shape.ffn_width, bias=False)
        self.ffn_down = nn.Linear(shape.ffn_width, width, bias=False)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """x [B, T, width], angles [T, head_dim / 2, (cos, sin)]."""
        n, head = self.attn_norm(x), self.shape.head_dim
        q, k, v = (
            part(n).unflatten(-1, (-1, head)).transpose(1, 2)
            for part in (self.attn_q, self.attn_k, self.attn_v)
        )
        mixed = functional.scaled_dot_product_attention(
            rotated(q, angles), rotated(k, angles), v, is_causal=True, enable_gqa=True
        )
        x = x + self.attn_output(mixed.transpose(1, 2).flatten(2))
        n = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(n)) * self.ffn_up(n))


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Adjacent pairs of x [B, heads, T, head_dim] turned; angles [T, head_dim / 2, (cos, sin)]."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


class Llama(nn.Module):
    """Token ids in, logits out; the embedding is the output matrix too."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.token_embd = nn.Embedding(shape.vocab, shape.width)
        self.blk = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, shape.norm_eps)
        half = shape.head_dim // 2
        rates = shape.rope_base ** (-torch.arange(half, dtype=torch.float64) / half)
        turns = torch.arange(shape.context, dtype=torch.float64)[:, None] * rates
        self.register_buffer("angles", torch.stack((turns.cos(), turns.sin()), -1).float(), False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                spread = 0.02 if name.startswith("token_embd") else weight.shape[1] ** -0.5
                if "attn_output" in name or "ffn_down" in name:
                    spread /= math.sqrt(2 * shape.layers)
                nn.init.normal_(weight, std=spread)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, T] -> [B, T, vocab]."""
        x = self.token_embd(ids)
        for layer in self.blk:
            x = layer(x, self.angles[: ids.shape[1]])
        return functional.linear(self.output_norm(x), self.token_embd.weight)


class Windows:
    """Random windows of a token stream.

    Three in ten begin at a document's first word, three at the token in front of it, the others
    anywhere: a model is asked to begin, to begin after another text, and to go on.
    """

    def __init__(self, ids: np.ndarray, length: int, seed: int, device: torch.device) -> None:
        self.ids = torch.from_numpy(ids.astype(np.int32)).to(device)
        self.length = length
        last = len(ids) - length - 1
        starts = np.flatnonzero(ids == END)
        self.starts, self.last = starts[starts < last - 1], last
        self.random = np.random.default_rng(seed)
        self.offsets = torch.arange(length + 1, device=device)

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets, [count, length] each."""
        kind = self.random.random(count)
        begin = self.random.choice(self.starts, count) + (kind < 0.3)
        at = np.where(kind < 0.6, begin, self.random.integers(0, self.last, count))
        rows = torch.from_numpy(at).to(self.ids.device)[:, None] + self.offsets
        windows = self.ids[rows].long()
        return windows[:, :-1], windows[:, 1:]


def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log likelihood, nats a token."""
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=inputs.is_cuda):
        logits = model(inputs)
    return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


@torch.no_grad()
def validation(model: nn.Module, ids: np.ndarray, shape: Shape, device: torch.device) -> float:
    """Mean loss over fixed windows, the same every time."""
    windows = Windows(ids, shape.context, 1, device)
    return sum(loss_of(model, *windows.batch(32)).item() for _ in range(8)) / 8


def train(
    ids: dict[str, np.ndarray], shape: Shape, settings: Settings, device: torch.device, fuse: bool
) -> tuple[Llama, dict]:
    """The trained model and its log."""
    torch.manual_seed(settings.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    model = Llama(shape).to(device)
    run = torch.compile(model) if fuse else model
    decayed = [p for p in model.parameters() if p.ndim == 2]
    plain = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        fused=device.type == "cuda",
    )
    windows = Windows(ids["train"], shape.context, settings.seed, device)
    curve = []
    start = time.perf_counter()
    step, done = 0, 0.0
    while done < 1:
        share = step / settings.steps
        if settings.minutes:
            share = max(share, (time.perf_counter() - start) / (60 * settings.minutes))
        done = min(share, 1.0)
        warm = min((step + 1) / settings.warmup, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = settings.peak_rate * warm * 0.5 * (1 + math.cos(math.pi * done))
        loss = loss_of(run, *windows.batch(settings.batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0 or done == 1:
            row = {"step": step, "train": loss.item(), "seconds": time.perf_counter() - start}
            if step % 500 == 0 or done == 1:
                row["valid"] = validation(model, ids["valid"], shape, device)
            curve.append(row)
            print(json.dumps(row), flush=True)
        step += 1
    return model, {
        "shape": asdict(shape),
        "settings": asdict(settings),
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_tokens": len(ids["train"]),
        "tokens_seen": step * settings.batch * shape.context,
        "compiled": fuse,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "seconds": time.perf_counter() - start,
        "valid": curve[-1]["valid"],
        "curve": curve,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("ids", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--batch", type=int, default=Settings.batch)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--minutes", type=float, help="hurry the schedule to end by then")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with np.load(args.ids) as file:
        ids = {name: file[name] for name in ("train", "valid")}
        shape = Shape(vocab=int(file["vocab"]))
    settings = Settings(args.steps, args.batch, seed=args.seed, minutes=args.minutes)
    model, log = train(ids, shape, settings, device, args.compile)
    args.out.mkdir(parents=True, exist_ok=True)
    weights = {name: p.detach().float().cpu().numpy() for name, p in model.named_parameters()}
    np.savez(args.out / "weights.npz", **weights)
    (args.out / "log.json").write_text(json.dumps(log, indent=1) + "\n")


if __name__ == "__main__":
    main()
