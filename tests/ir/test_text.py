import pytest
from hypothesis import given, settings

from fusec.errors import FusecError
from fusec.ir import parse
from fusec.passes.pipeline import LEVELS, passes_of, run_passes
from tests.graphs import llama_graph, random_graphs
from tests.targets import ANY


@pytest.mark.parametrize("level", LEVELS)
def test_every_stage_of_a_decode_graph_parses_back(level):
    for stage in run_passes(llama_graph(), passes_of(level), ANY):
        assert parse(str(stage.graph)) == stage.graph


@given(random_graphs())
@settings(max_examples=50, deadline=None)
def test_random_graphs_parse_back(graph):
    assert parse(str(graph)) == graph
    fused = run_passes(graph, passes_of(2), ANY)[-1].graph
    assert parse(str(fused)) == fused


TEXT = """graph g(%x: f32[1, 32]) {
  %0: f32[1, 32] = scale(%x) {factor=0.5}
  return %0
}
"""


def test_the_printed_form_is_stable():
    assert str(parse(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (TEXT.replace("scale(%x)", "scale(%y)"), "line 2: expected a value defined above, not %y"),
        (TEXT.replace("f32[1, 32] =", "f32[1, 32"), "line 2: expected ',', found 'scale'"),
        (TEXT.replace("return", "retrun"), "expected a name"),
        (TEXT.replace("=0.5", "="), "expected a word"),
        (TEXT + "more", "expected the end of the text"),
        (TEXT[: TEXT.index("return")], "expected a name, found 'the end'"),
        ("", "line 1: expected 'graph'"),
    ],
)
def test_a_syntax_error_names_line_and_expectation(broken, message):
    with pytest.raises(FusecError, match="IR text") as error:
        parse(broken)
    assert message in str(error.value)
