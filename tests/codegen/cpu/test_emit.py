"""Emitted CPU sources: readable, complete, and independent of Numba until they are compiled."""

import ast
import subprocess
import sys

import pytest

from fusec.codegen.cpu import emit as emitter
from fusec.codegen.cpu import experts, lib, scalars, vector
from fusec.codegen.cpu.imports import FUNCTIONS, PRODUCTS
from fusec.errors import FusecError
from fusec.ir import Builder
from fusec.ir.plan import Kernel
from fusec.passes.lower import lower
from fusec.passes.pipeline import LEVELS, passes_of, run_passes
from tests.graphs import llama_graph
from tests.targets import ANY


def kernels(graph, level):
    plan = lower(run_passes(graph, passes_of(level), ANY)[-1].graph, "cpu", level)
    return {k.name: (k, emitter.emit(k)) for k in plan.kernels}


@pytest.mark.parametrize("level", LEVELS)
def test_a_source_starts_with_the_ir_it_implements(level):
    for name, (kernel, source) in kernels(llama_graph(rope_factors=True), level).items():
        assert ast.get_docstring(ast.parse(source.source)).startswith(kernel.region.strip()[:80])
        assert source.name == name


def test_names_a_source_calls_exist():
    modules = {"experts": experts, "lib": lib, "scalars": scalars, "vector": vector}
    assert modules.keys() == FUNCTIONS.keys()
    for module, names in FUNCTIONS.items():
        for name in names:
            assert callable(getattr(modules[module], name))
    for name, module in PRODUCTS.items():
        assert callable(getattr(modules[module], name)("f32"))


def test_emitting_does_not_import_numba():
    code = (
        "import sys; from tests.graphs import llama_graph\n"
        "import fusec; c = fusec.compile(llama_graph()); c.kernels\n"
        "print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_region_that_is_not_one_kernel_is_refused_by_name():
    b = Builder("chain")
    y = b.matvec(b.input("x", (1, 32)), b.weight("w", (32, 32)), name="y")
    graph = b.build(b.matvec(y, b.weight("v", (32, 32)), name="z"))
    with pytest.raises(FusecError, match="kernel chain: matvec %z needs all of %y"):
        emitter.emit(Kernel("chain", str(graph)))


def test_scratch_is_counted_by_token():
    found = kernels(llama_graph(), 2)
    scratch = {source.name.rsplit("_", 1)[0]: source.scratch_bytes for _, source in found.values()}
    # the normalised vector of 64 floats, and a cache line for each matrix's dot products
    assert scratch["norm_matvec_silu_mul_96_96x64_iq4_nl"] == 64 * 4 + 2 * 64
    assert scratch["embed_64"] == 0
