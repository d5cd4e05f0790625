"""Logits that are no numbers end in an error that says where, on both targets; never in tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import fusec
from fusec import driver
from fusec.backends.cpu import bind
from fusec.errors import FusecError
from fusec.models.model import Model
from fusec.runtime.cuda import loop as loop_module
from fusec.runtime.engine import Engine
from fusec.runtime.finite import check_finite
from fusec.runtime.sampling import Sampling
from tests.runtime.cuda import fake
from tests.runtime.cuda.machine import CONTEXT, Machine, compiled_for_a_gpu

pytestmark = pytest.mark.xdist_group("engine")

INF, NAN = np.inf, np.nan
GREEDY, WARM = Sampling(), Sampling(temperature=0.8)
Weight = Callable[[str], np.ndarray]


@pytest.fixture(scope="module")
def compiled(tiny_model: Path) -> fusec.Compiled:
    return driver.compile(tiny_model, context=CONTEXT)


def with_norm(model: Model, name: str, value: float, element: int = 3) -> Weight:
    """The model's weights, but for one element of a norm's."""
    changed = model.raw(name).copy().view(np.float32)
    changed[element] = value
    return lambda key: changed if key == name else model.raw(key)


def scaled(model: Model, name: str, factor: float) -> Weight:
    """The model's weights, but a norm's are larger."""
    changed = model.raw(name).copy().view(np.float32) * np.float32(factor)
    return lambda key: changed if key == name else model.raw(key)


def with_row(model: Model, row: int) -> Weight:
    """The model's weights, but a row of the matrix that makes the logits has a scale of NaN."""
    changed = model.raw("token_embd.weight").copy()
    changed[row] = 0xFF  # a half of only ones is NaN
    return lambda key: changed if key == "token_embd.weight" else model.raw(key)


def on_cpu(compiled: fusec.Compiled, weight: Weight) -> Engine:
    assert compiled.prefill is not None
    plans = compiled.plan, compiled.prefill, compiled.prefill.only(set())
    return Engine(*bind(compiled.kernels, plans, weight, None, 1), context=CONTEXT)


def on_gpu(compiled: fusec.Compiled, weight: Weight) -> Engine:
    assert compiled.model is not None
    return Machine(compiled_for_a_gpu(compiled.model.file.path), weight=weight).engine()


MAKERS = pytest.mark.parametrize("make", [on_cpu, on_gpu])


@MAKERS
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("name", "value"),
    [("output_norm.weight", NAN), ("output_norm.weight", INF), ("blk.0.ffn_norm.weight", NAN)],
)
def test_every_method_that_gives_logits_or_tokens_says_so(
    compiled: fusec.Compiled, make: Callable[..., Engine], name: str, value: float
) -> None:
    assert compiled.model is not None
    with make(compiled, with_norm(compiled.model, name, value)) as engine:
        for use, token, position in (
            (lambda: list(engine.tokens([1, 2, 3], 4, GREEDY)), 3, 2),
            (lambda: list(engine.tokens([1, 2, 3], 4, WARM)), 3, 2),
            (lambda: list(engine.tokens([1], 1, Sampling(repeat_penalty=1.2))), 1, 0),
            (lambda: engine.logits([5, 6]), 5, 0),
        ):
            reason = (
                rf"the logits behind token {token} at position {position} are not finite: found "
                r"(nan|inf): .*try --kv f32 \(kv=\"f32\"\)"
            )
            with pytest.raises(FusecError, match=reason):
                use()
        engine.reset()
        engine.feed([4, 4])  # gives nothing, so there is nothing to say
        with pytest.raises(FusecError, match="behind token 7 at position 2"):
            engine.step(7)


@MAKERS
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_one_that_is_not_a_number_is_enough(
    compiled: fusec.Compiled, make: Callable[..., Engine], sampling: Sampling
) -> None:
    assert compiled.model is not None
    engine = make(compiled, with_row(compiled.model, 300))
    with engine, pytest.raises(FusecError, match="behind token 6 at position 1 are not finite"):
        next(engine.tokens([5, 6], 4, sampling))


def test_a_cache_of_floats_holds_what_halves_do_not(tiny_model: Path) -> None:
    for kv, good in (("f16", False), ("f32", True)):
        compiled = driver.compile(tiny_model, context=CONTEXT, kv=kv)
        assert compiled.model is not None
        with on_cpu(compiled, scaled(compiled.model, "blk.0.attn_norm.weight", 1e6)) as engine:
            if good:
                assert len(list(engine.tokens([1, 2, 3], 6))) == 6
            else:
                with pytest.raises(FusecError, match="beyond what f16 can"):
                    list(engine.tokens([1, 2, 3], 6))


def test_the_advice_fits_the_cache(tiny_model: Path) -> None:
    plan = driver.compile(tiny_model, context=CONTEXT, kv="f32").plan
    with pytest.raises(FusecError, match="not finite: found nan: some weight") as caught:
        check_finite(plan, np.array([[0, 1], [2, NAN]], np.float32), [8, 9], 30)
    assert "token 9 at position 31" in str(caught.value)
    assert "--kv" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "good"),
    [
        ([0, -INF, 1], True),
        ([-INF, -INF, -3e38], True),
        ([-INF, -INF, -INF], False),
        ([0, INF, 1], False),
        ([0, NAN, 1], False),
        ([NAN, NAN, NAN], False),
    ],
)
def test_minus_infinity_rules_a_token_out(
    compiled: fusec.Compiled, row: list[float], good: bool
) -> None:
    logits = np.array([row], np.float32)
    if good:
        check_finite(compiled.plan, logits, [1], 0)
    else:
        with pytest.raises(FusecError, match="not finite"):
            check_finite(compiled.plan, logits, [1], 0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_token_late_in_the_devices_own_loop(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device says so by a word in the ring, and goes on with a token that there is."""
    machine = Machine(compiled_for_a_gpu(tiny_model))
    wanted = machine.run([1, 2], 8)
    steps = []

    def advance(logits: int, chosen: int, *rest: int) -> None:
        steps.append(int(fake.view(chosen, "i32", (1,))[0]))
        fake.hand_on(steps[-1], NAN if len(steps) == 5 else 0.0, *rest)

    machine.api.kernels["advance"] = advance
    machine.loop._graphs.clear()
    stream = machine.engine().tokens([1, 2], 8)
    assert [next(stream) for _ in range(4)] == wanted[:4]
    with pytest.raises(FusecError, match=f"behind token {wanted[3]} at position 5 are not finite"):
        next(stream)
    machine.api.kernels["advance"] = fake.advance
    machine.loop._graphs.clear()
    assert machine.run([1, 2], 8) == wanted
    assert loop_module.NO_TOKEN == 0xFFFFFFFF
