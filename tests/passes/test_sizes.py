"""Sizes of launches: what the emitter lays out, what ptxas finds, and everywhere they are shown."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from dataclasses import asdict, replace

import pytest

from fusec import backends, driver, pictures
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.rows import OWN_FIXED_TO, TOGETHER
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.ir.choice import Choice
from fusec.ir.plan import ROWS, LaunchPlan, Size, from_json
from fusec.passes import pipeline
from fusec.pictures.dot import to_dot
from fusec.report import plan_table, summary
from tests.codegen.cuda.test_pairs import PAIRS, with_residual
from tests.codegen.cuda.test_tiles import feed_forward
from tests.command import fusec, refused
from tests.graphs import llama_graph
from tests.tables import rows_of


@pytest.fixture(scope="module")
def compiled() -> driver.Compiled:
    """Attention in clusters, the feed-forward half in clusters, and a search over blocks."""
    return driver.compile(llama_graph(layers=2, context=600), target="sm_90a")


@pytest.fixture(scope="module")
def on_cpu() -> driver.Compiled:
    return driver.compile(llama_graph(layers=2))


def sizes(plan: LaunchPlan) -> dict[str, Size]:
    assert all(launch.size for launch in plan.launches)
    return {launch.kernel: launch.size for launch in plan.launches}


def test_a_launch_has_the_size_of_its_kernel(compiled: driver.Compiled) -> None:
    for launch in compiled.plan.launches:
        kernel = compiled.kernels[launch.kernel]
        assert isinstance(kernel, CudaKernel)
        wanted = kernel.grid, kernel.threads, kernel.cluster, kernel.shared, kernel.dynamic
        assert launch.size == Size(*wanted)
        head = kernel.source.partition("Emitted by fusec for CUDA: ")[2]
        assert head.startswith(f"{kernel.grid} blocks of {kernel.threads} threads")
    found = sizes(compiled.plan).values()
    assert max(s.cluster for s in found) > 1 and max(s.shared for s in found) > 0
    assert all(s.grid % s.cluster == 0 and 32 <= s.block <= 1024 for s in found)


def test_the_size_is_that_of_the_choice(compiled: driver.Compiled) -> None:
    name = next(n for n in sizes(compiled.plan) if n.startswith("sum_norm_matvec_rope_kv"))
    kernels = tuple(
        replace(k, choice=Choice(4, alone=True)) if k.name == name else k
        for k in compiled.plan.kernels
    )
    other = backends.get("sm_90a").sized(replace(compiled.plan, kernels=kernels))
    usual, changed = sizes(compiled.plan), sizes(other)
    assert changed.pop(name) != usual.pop(name) and changed == usual
    size = sizes(other)[name]
    assert size.block == 128 and 2 * (size.shared + size.dynamic + 1024) > 228 << 10


def test_tiles_and_pairs_say_their_rings() -> None:
    plan = driver.compile(feed_forward(), target="sm_90a").plan
    assert {(s.grid, s.block) for s in sizes(plan).values()} == {(132, 512)}
    assert all(s.dynamic > s.shared > 0 for s in sizes(plan).values())
    plan = driver.compile(with_residual("q5_k", 1056), target="sm_90a").plan
    (kernel,) = plan.kernels
    paired = replace(plan, kernels=(replace(kernel, choice=PAIRS, overlaps=True),))
    (size,) = sizes(backends.get("sm_90a").sized(paired)).values()
    assert size.cluster == 2 and "clusters of 2" in str(size)


@pytest.mark.cuda
def test_ptxas_finds_the_shared_memory_that_the_plan_says(compiled: driver.Compiled) -> None:
    wanted = ("attention_spans", "norm_matvec_silu_mul_parts", "embed_norm")
    kernels = [compiled.kernels[n] for n in sizes(compiled.plan) if n.startswith(wanted)]
    kernels += list(driver.compile(feed_forward(), target="sm_90a").kernels.values())[-1:]
    assert len(kernels) == 4
    for cubin, kernel in zip(compile_many(kernels, "sm_90a"), kernels, strict=True):
        assert cubin.static_shared == kernel.size.shared, kernel.name
        assert f".maxntid {kernel.size.block}" in cubin.ptx
        clusters = f".reqnctapercluster {kernel.size.cluster}," in cubin.ptx
        assert clusters == (kernel.size.cluster > 1)


def test_a_size_reads_as_a_line() -> None:
    assert str(Size(3, 96)) == "3 x 96 threads"
    size = Size(132, 512, cluster=2, shared=1024, dynamic=4096)
    assert str(size) == "132 x 512 threads, clusters of 2, 5,120 B shared"


def test_sizes_and_scalars_go_through_json(compiled, on_cpu) -> None:
    for plan in (compiled.plan, on_cpu.plan):
        assert from_json(plan.to_json()) == plan
    written = json.loads(compiled.plan.to_json())["launches"][0]
    assert written["size"] == asdict(compiled.plan.launches[0].size)
    assert written["scalars"] == []


def test_the_cpu_has_scalars_and_no_sizes(on_cpu) -> None:
    assert {launch.size for launch in on_cpu.plan.launches} == {None}
    (scalars,) = {launch.scalars for launch in on_cpu.plan.launches}
    assert scalars == backends.get("cpu").scalars == ("tokens", "scratch", "scratch_bytes")
    for launch in on_cpu.plan.launches:
        source = on_cpu.kernels[launch.kernel].source
        read = {int(place) for place in re.findall(r"\bargs\[(\d+)\]", source)}
        assert max(read) + 1 == len(scalars) + len(launch.args), launch.kernel


def test_inspect_shows_them(compiled, on_cpu) -> None:
    data = summary(compiled)
    assert data["sizes"] == {k: asdict(s) for k, s in sizes(compiled.plan).items()}
    shown = {row["kernel"]: row["size"] for row in rows_of(plan_table(data))}
    assert shown == {kernel: str(size) for kernel, size in sizes(compiled.plan).items()}
    assert summary(on_cpu)["sizes"] == {}
    assert all("size" not in row for row in rows_of(plan_table(summary(on_cpu))))


def test_dot_shows_them_in_every_box(compiled, on_cpu) -> None:
    drawn = to_dot(compiled.graph, compiled.plan.launches)
    boxes = [line for line in drawn.splitlines() if "fillcolor" in line]
    wanted = Counter(str(launch.size) for launch in compiled.plan.launches)
    assert Counter(box.split("\\l")[1] for box in boxes) == wanted
    plain = to_dot(compiled.graph), to_dot(on_cpu.graph, on_cpu.plan.launches)
    assert not any("threads" in text for text in plain)


def test_the_page_shows_them(compiled, on_cpu) -> None:
    page = html.unescape(pictures.html(pictures.of_compiled(compiled)))
    for kernel, size in sizes(compiled.plan).items():
        assert page.count(str(size)) >= 2, kernel  # in the table, and above the kernel's source
    assert not re.search(r"\d x \d+ threads", pictures.html(pictures.of_compiled(on_cpu)))


@pytest.mark.slow
def test_a_plan_of_another_version_is_refused(compiled, tiny_model, tmp_path) -> None:
    older = {**json.loads(compiled.plan.to_json()), "version": 8}
    with pytest.raises(ValueError, match="expected plan version 9, found 8"):
        from_json(json.dumps(older))
    with pytest.MonkeyPatch.context() as then:
        then.setattr(LaunchPlan, "to_json", lambda _: json.dumps(older))
        assert fusec("compile", tiny_model, "-o", tmp_path / "then").code == 0
    path = tmp_path / "then" / "plan.json"
    message = refused("run", path.parent, "--prompt-ids", "1", "-n", "1")
    assert message == f"{path}: expected plan version 9, found 8: compile again"


# --- steps of several tokens ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide() -> driver.Compiled:
    """A step of 80 rows, in tiles of 8."""
    return driver.compile(llama_graph(layers=2, context=600, tokens=80), target="sm_90a")


def test_each_layer_of_the_grid_has_its_rows(wide: driver.Compiled) -> None:
    rows = {kernel.name: kernel.rows for kernel in wide.plan.kernels}
    assert set(rows.values()) == {1, 8}  # most; attention and products
    for launch in wide.plan.launches:
        taken = rows[launch.kernel]
        assert launch.size.layers == -(-80 // taken)
        assert launch.kernel.endswith(f"_{taken}")
        assert launch.args[-1] == ROWS
        assert wide.kernels[launch.kernel].rows == taken


def test_layers_are_shown() -> None:
    assert str(Size(3, 96, layers=48)) == "3 x 48 layers x 96 threads"
    assert str(Size(3, 96, layers=1)) == "3 x 96 threads"
    size = Size(8, 512, cluster=2, shared=1024, layers=2)
    assert str(size) == "8 x 2 layers x 512 threads, clusters of 2, 1,024 B shared"


def test_rows_and_layers_go_through_json(wide: driver.Compiled) -> None:
    assert from_json(wide.plan.to_json()) == wide.plan
    written = json.loads(wide.plan.to_json())
    assert [kernel["rows"] for kernel in written["kernels"]] == [k.rows for k in wide.plan.kernels]
    assert written["launches"][0]["args"][-1] == {"kind": "rows", "name": "rows", "offset": 0}
    assert written["launches"][0]["size"]["layers"] == 80


def test_one_row_needs_no_layers(compiled, on_cpu) -> None:
    for plan in (compiled.plan, on_cpu.plan, driver.compile(llama_graph(tokens=4)).plan):
        assert {kernel.rows for kernel in plan.kernels} == {0}
        assert not any(arg.kind == "rows" for launch in plan.launches for arg in launch.args)
        assert {launch.size.layers for launch in plan.launches if launch.size} <= {1}


@pytest.mark.parametrize(("target", "tokens"), [("cpu", 16), ("sm_90a", 64)])
def test_a_model_goes_through_the_passes_once_a_width(
    target: str, tokens: int, tiny_model, monkeypatch
) -> None:
    run, seen = pipeline.run_passes, []

    def counted(graph, *args, **options):
        seen.append(graph.tokens)
        return run(graph, *args, **options)

    monkeypatch.setattr(pipeline, "run_passes", counted)
    compiled = driver.compile(tiny_model, target=target, context=64)
    assert seen == [1]  # the others when somebody asks for them
    assert compiled.prefill is not None
    assert seen == ([1, tokens] if target == "cpu" else [1, TOGETHER, OWN_FIXED_TO, tokens])
    assert compiled.prefill.tokens == tokens


def test_a_context_of_one_position_needs_one_plan(tiny_model) -> None:
    compiled = driver.compile(tiny_model, target="sm_90a", context=1)
    assert compiled.prefill is compiled.plan
