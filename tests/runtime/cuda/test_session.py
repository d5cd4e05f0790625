"""Sessions and the token loop over a driver without a GPU, against the CPU's engine and loop."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from fusec.bench import gpu as bench_gpu
from fusec.errors import FusecError
from fusec.ir.reference import Reference
from fusec.runtime.cuda import loop as loop_module
from fusec.runtime.cuda.driver import CudaError, Executable
from fusec.runtime.cuda.loop import RUN_AHEAD
from fusec.runtime.job import Job
from fusec.runtime.sampling import Sampling
from tests.runtime.cuda import fake
from tests.runtime.cuda.machine import CONTEXT, NEVER, Machine, compiled_for_a_gpu


@pytest.fixture(scope="module")
def compiled(tiny_model):
    return compiled_for_a_gpu(tiny_model)


@pytest.fixture(scope="module")
def machine(compiled):
    return Machine(compiled)


def reference_greedy(compiled, ids, count):
    """The loop a user would write over the reference interpreter, in the kernels' precision."""
    model = compiled.model
    graph = model.graph(tokens=1, context=CONTEXT)
    reference = Reference(graph, model.floats, np.float32)
    found = []
    for position in range(len(ids) + count - 1):
        token = ids[position] if position < len(ids) else found[-1]
        result = reference.step(token=np.array([token]), pos=np.array([position]))
        if position >= len(ids) - 1:
            found.append(int(result["next"][0]))
    return found


def test_a_step_computes_what_the_graph_means(compiled, machine):
    model = compiled.model
    reference = Reference(model.graph(tokens=1, context=CONTEXT), model.floats)
    engine = machine.engine()
    for position, token in enumerate([3, 1, 4, 1, 5]):
        wanted = reference.step(token=np.array([token]), pos=np.array([position]))["logits"]
        found = engine.step(token)
        assert np.linalg.norm(found - wanted) < 1e-3 * np.linalg.norm(wanted)


def test_a_step_refuses_inputs_that_are_not_the_plans(machine):
    with pytest.raises(FusecError, match="expected inputs token, pos"):
        machine.decode.step(token=np.zeros(1, np.int32))
    with pytest.raises(FusecError, match="expected %token from 0 to 511, found"):
        machine.decode.step(token=np.full(1, 512, np.int32), pos=np.zeros(1, np.int32))


def test_the_loop_decodes_what_single_steps_do(compiled, machine):
    wanted = reference_greedy(compiled, [7, 8, 9], 20)
    assert machine.run([7, 8, 9], 20) == wanted
    engine = machine.engine()
    assert list(engine.tokens([7, 8, 9], 20)) == wanted


def test_the_prompt_goes_to_the_device_once(compiled):
    machine = Machine(compiled)
    machine.run([1], 1)
    copies = machine.api.log.count("cuMemcpyHtoDAsync")
    machine.run(list(range(1, 31)), 1)
    # tokens and settings, the step's tokens, positions and rows, and the last token's input
    assert machine.api.log.count("cuMemcpyHtoDAsync") - copies == 2 + 3 + 2


def test_tokens_cost_one_graph_launch_each(compiled):
    machine = Machine(compiled)
    machine.run([1, 2], 30)
    machine.api.log.clear()
    machine.run([1, 2], 30)
    assert machine.api.log.count("cuGraphLaunch") == 1 + 30
    assert "cuLaunchKernelEx" not in machine.api.log
    assert machine.api.log.count("cuMemcpyDtoHAsync") == 1  # the logits behind the prompt
    assert machine.api.log.count("cuStreamSynchronize") == 1


def test_eager_launches_give_the_same_tokens_without_a_graph(compiled, machine):
    eager = Machine(compiled, eager=True)
    assert eager.run([7, 8, 9], 10) == machine.run([7, 8, 9], 10)
    assert "cuGraphLaunch" not in eager.api.log


def test_the_first_token_comes_before_the_last_is_enqueued(compiled):
    machine = Machine(compiled)
    stream = machine.loop.run(Job((1, 2, 3), 40), NEVER)
    next(stream)
    assert machine.api.log.count("cuGraphLaunch") == 1 + RUN_AHEAD


def test_a_stop_token_ends_it_and_the_next_run_is_undisturbed(compiled, machine):
    plain = machine.run([5, 6], 30)
    stop = plain[4]
    first = plain.index(stop)
    assert machine.run([5, 6], 30, stop={stop}) == plain[:first]
    assert machine.run([5, 6], 30) == plain


def test_a_generation_left_early_does_not_disturb_the_next(machine):
    engine = machine.engine()
    plain = list(engine.tokens([5, 6], 20))
    abandoned = engine.tokens([9, 9, 9], 30)
    next(abandoned)
    assert list(engine.tokens([5, 6], 20)) == plain
    with pytest.raises(FusecError, match="used for something else"):
        next(abandoned)


def test_the_engine_goes_on_behind_what_was_generated(compiled, machine):
    engine, ids = machine.engine(), [5, 6, 7]
    made = list(engine.tokens(ids, 8))
    assert engine.position == len(ids) + 7
    found = engine.step(made[-1])
    wanted = engine.logits(ids + made)[-1]
    assert found.tobytes() == wanted.tobytes()
    engine.stop = frozenset({made[3]})
    short = list(engine.tokens(ids, 8))
    assert engine.position == len(ids) + len(short)
    assert list(engine.tokens(ids, 0)) == []


@pytest.mark.slow
def test_the_ring_goes_round(compiled, monkeypatch):
    monkeypatch.setattr(loop_module, "RING", 8)
    monkeypatch.setattr(loop_module, "RUN_AHEAD", 3)
    monkeypatch.setattr(fake, "RING", 8)
    machine = Machine(compiled)
    assert machine.run([2, 3], 40) == reference_greedy(compiled, [2, 3], 40)
    assert machine.run([2, 3], 40) == reference_greedy(compiled, [2, 3], 40)


def test_sampling_is_reproducible_and_depends_on_the_seed(machine):
    one = machine.run([1, 2, 3], 12, Sampling(temperature=0.8, seed=4))
    assert machine.run([1, 2, 3], 12, Sampling(temperature=0.8, seed=4)) == one
    assert machine.run([1, 2, 3], 12, Sampling(temperature=0.8, seed=5)) != one


def test_settings_the_device_has_no_room_for(machine):
    huge = Sampling(temperature=0.8, top_k=2**40, repeat_last=2**40, seed=2**64 - 1)
    assert len(machine.run([1, 2, 3], 4, huge)) == 4


@pytest.mark.slow
def test_the_context_can_be_filled_to_the_last_position(compiled, machine):
    ids = list(range(1, 9))
    room = CONTEXT - len(ids) + 1
    assert len(machine.run(ids, room)) == room
    with pytest.raises(FusecError, match=f"at most {room} new tokens"):
        machine.engine().tokens(ids, room + 1)


def test_weights_of_layers_lie_together_under_the_window(compiled):
    machine = Machine(compiled, l2="window")
    residency = machine.workspace.residency
    launches = [launch for launch in compiled.plan.launches if launch.layer is not None]
    addresses = [
        machine.workspace.address(arg) for x in launches for arg in x.args if arg.kind == "weight"
    ]
    machine.run([1], 1)
    (attribute,) = machine.api.launched[0].config.attrs
    window = attribute.value.accessPolicyWindow
    assert window.base_ptr == min(addresses)
    assert max(addresses) < window.base_ptr + window.num_bytes
    vocabulary = machine.workspace.address(
        next(a for x in compiled.plan.launches if x.layer is None for a in x.args
             if a.name == "@token_embd.weight")
    )  # fmt: skip
    assert vocabulary >= window.base_ptr + window.num_bytes
    assert residency.carve_out == min(residency.limit, residency.window)
    assert window.hitRatio == pytest.approx(residency.carve_out / residency.window)
    assert machine.api.limits == {"CU_LIMIT_PERSISTING_L2_CACHE_SIZE": residency.carve_out}
    machine.workspace.close()
    assert machine.api.limits == {"CU_LIMIT_PERSISTING_L2_CACHE_SIZE": 0}


def test_without_the_window_launches_have_no_attribute(compiled):
    machine = Machine(compiled, l2="off")
    machine.run([1], 1)
    assert machine.workspace.residency.mode == "off"
    assert machine.api.launched[0].config.numAttrs == 0
    assert not machine.api.limits


def test_an_unknown_l2_mode(compiled):
    with pytest.raises(
        FusecError, match="unknown L2 mode 'on': known are off, window, prefetch, auto"
    ):
        Machine(compiled, l2="on")


def test_too_little_memory_gives_back_what_was_taken(compiled):
    with pytest.raises(CudaError, match="the model's weights needs"):
        Machine(compiled, memory=1 << 16)


def test_a_closed_engine_says_so(compiled):
    machine = Machine(compiled)
    stream = machine.loop.run(Job((1,), 30), NEVER)
    next(stream)
    machine.engine().close()
    machine.engine().close()
    assert not machine.api.buffers
    with pytest.raises(FusecError, match="closed"):
        machine.decode.step(token=np.zeros(1, np.int32), pos=np.zeros(1, np.int32))
    with pytest.raises(FusecError, match="closed"):
        list(stream)


def test_what_was_fed_can_be_waited_for(compiled):
    machine = Machine(compiled)
    engine = machine.engine()
    machine.api.log.clear()
    engine.feed([5, 6, 7])
    assert "cuStreamSynchronize" not in machine.api.log
    engine.wait()
    assert machine.api.log[-1] == "cuStreamSynchronize"
    machine.api.broken["cuStreamSynchronize"] = fake.Status.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(CudaError):
        engine.wait()
    machine.api.broken.clear()
    engine.close()
    with pytest.raises(FusecError, match="closed"):
        engine.wait()


def test_device_times_are_read_from_the_right_slots(compiled, monkeypatch):
    """A clock that ticks at every look: each token takes 1 us, each gap 3 us."""
    ticks = iter(range(10**9, 2 * 10**9, 1000))

    def stamp(offset):
        def run(counter, out):
            place = 8 * (2 * int(fake.view(counter, "i32", (1,))[0]) + offset)
            now = next(ticks) if offset else [next(ticks) for _ in range(3)][-1]
            ctypes.c_uint64.from_address(out + place).value = now

        return run

    machine = Machine(compiled)
    machine.api.kernels |= {"stamp_begin": stamp(0), "stamp_end": stamp(-1)}
    monkeypatch.setattr(
        bench_gpu,
        "kernels",
        lambda arch, *wanted: [Executable(k.name, arch, k.name.encode(), 1, 1) for k in wanted],
    )
    before = machine.run([5, 6], 10)
    assert bench_gpu.device_times(machine.engine(), [5, 6], 8) == (1.0, 3.0)
    assert machine.run([5, 6], 10) == before
