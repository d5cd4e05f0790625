"""The order that tests of early launches rely on, on a few lines written by hand."""

from tests.codegen.cuda.ptx import Program

TEXT = """
.visible .entry kernel(
	.param .u64 kernel_param_0,
	.param .u64 kernel_param_1
)
{
	ld.param.u64 	%rd1, [kernel_param_0];
	ld.param.u64 	%rd2, [kernel_param_1];
	selp.b64 	%rd3, %rd1, %rd2, %p1;
	@%p1 bra 	$L__BB0_2;
	griddepcontrol.wait;
	add.s64 	%rd4, %rd2, %rd9;
	{ .reg .pred q; @q st.global.f32 [%rd4], %f1; }
$L__BB0_2:
	ld.global.f32 	%f2, [%rd3+8];
	@%p2 bra 	$L__BB0_2;
	bra.uni 	$L__BB0_4;
	ld.global.f32 	%f3, [%rd1];
$L__BB0_4:
	ret;
}
"""


def test_pointers_are_followed_to_the_parameters():
    store, either, first = Program(TEXT).accesses
    assert (store.kind, store.parameters) == ("st", {1})
    assert (either.kind, either.parameters) == ("ld", {0, 1})
    assert first.parameters == {0}


def test_what_every_path_goes_through():
    program = Program(TEXT)
    (wait,), (end,) = program.find("griddepcontrol.wait;"), program.find("ret;")
    store, either, _ = program.accesses
    assert program.dominates(wait, store.index)
    assert not program.dominates(wait, either.index)  # a branch goes round it
    assert program.dominates(either.index, end)
    assert not program.dominates(end, either.index)


def test_what_some_path_leads_to():
    program = Program(TEXT)
    (wait,) = program.find("griddepcontrol.wait;")
    store, either, dead = program.accesses
    assert program.can_follow(wait, either.index)
    assert not program.can_follow(either.index, wait)
    assert not program.can_follow(store.index, dead.index)  # behind a branch that is always taken
