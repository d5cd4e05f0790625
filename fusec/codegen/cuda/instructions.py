"""The PTX instructions kernels use and Numba lacks, as data.

`device.py` makes Numba intrinsics of the table, `twins.py` holds what each entry means in NumPy.
Kinds of operand: `u32 s32 f32 u64` values, `ptr` a global address, `shared` a 32-bit shared-memory
address, `cluster` one inside a cluster, `pred` a condition.

`volatile` entries stay in the order in which the source has them, so loads of weights are issued
where the emitter put them. `memory` entries are fences for the compiler as well: whatever touches
data that another thread or kernel writes is one, because the compiler would otherwise move it
across a barrier or above `griddep_wait`.

Source: the PTX ISA reference, version 9.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

TABLE: dict[str, Instruction] = {}
MOST_COPIES = 8  # groups of asynchronous copies that a thread has on their way


@dataclass(frozen=True)
class Instruction:
    """One entry; `$0 $1 ...` in `asm` number the results first, then the arguments."""

    name: str
    asm: str
    returns: tuple[str, ...]
    arguments: tuple[str, ...]
    volatile: bool
    memory: bool
    since: int  # lowest compute capability, 90 for 9.0

    @cached_property
    def mnemonic(self) -> str:
        """The instruction's own name: what must be found in the PTX."""
        statements = [part.strip() for part in self.asm.strip("{} ").split(";") if part.strip()]
        plain = [re.sub(r"^(@!?\w+|\w+:) ", "", statement) for statement in statements]
        return next(s for s in reversed(plain) if not s.startswith("bra ")).split(" ")[0]


def ptx_op(
    name: str,
    asm: str,
    returns: str = "",
    arguments: str = "",
    *,
    volatile: bool = False,
    memory: bool = False,
    since: int = 80,
) -> None:
    """Enter an instruction; kinds are words separated by spaces, `4*u32` repeats one."""
    if name in TABLE:
        raise ValueError(f"instruction {name} is in the table twice")
    kinds = _expand(returns), _expand(arguments)
    TABLE[name] = Instruction(name, asm, *kinds, volatile or memory, memory, since)


def _expand(kinds: str) -> tuple[str, ...]:
    words: list[str] = []
    for word in kinds.split():
        count, _, kind = word.rpartition("*")
        words += [kind] * int(count or 1)
    return tuple(words)


# -- where this thread is -------------------------------------------------------------------------

for _name, _register in {
    "thread_index": "%tid.x",
    "block_index": "%ctaid.x",
    "block_index_y": "%ctaid.y",
    "block_count": "%nctaid.x",
    "cluster_rank": "%cluster_ctarank",
    "cluster_count": "%nclusterid.x",
}.items():
    ptx_op(_name, f"mov.u32 $0, {_register};", "u32", since=90 if "cluster" in _name else 80)
ptx_op("thread_again", "mov.u32 $0, %tid.x;", "u32", volatile=True)  # no register until then
for _name, _register in {"rank": "%cluster_ctarank", "index": "%clusterid.x"}.items():
    ptx_op(f"cluster_{_name}_again", f"mov.u32 $0, {_register};", "u32", volatile=True, since=90)
ptx_op("uniform", "mov.u32 $0, $1;", "u32", "u32")  # the same in all threads of a block
ptx_op("globaltimer", "mov.u64 $0, %globaltimer;", "u64", volatile=True)

# -- weights: written by nobody while kernels run, so they may be read before any wait -------------
# Not `.nc`: ptxas moves such loads behind `griddepcontrol.wait`.

_WEIGHT = "ld.global.L1::no_allocate"
ptx_op(
    "load_weight_v4", f"{_WEIGHT}.v4.u32 {{$0, $1, $2, $3}}, [$4];", "4*u32", "ptr", volatile=True
)
ptx_op("load_weight_v2", f"{_WEIGHT}.v2.u32 {{$0, $1}}, [$2];", "2*u32", "ptr", volatile=True)
for _kind in ("u32", "f32"):
    ptx_op(f"load_weight_{_kind}", f"{_WEIGHT}.{_kind} $0, [$1];", _kind, "ptr", volatile=True)
for _kind, _into in {"u16": "u32", "u8": "u32", "s8": "s32"}.items():
    ptx_op(f"load_weight_{_kind}", f"{_WEIGHT}.{_kind} $0, [$1];", _into, "ptr", volatile=True)
# tables are read again and again, so they may stay near
ptx_op("load_table_u32", "ld.global.nc.u32 $0, [$1];", "u32", "ptr")
ptx_op(
    "load_weight_v4_hint",
    "ld.global.L1::no_allocate.L2::cache_hint.v4.u32 {$0, $1, $2, $3}, [$4], $5;",
    "4*u32",
    "ptr u64",
    volatile=True,
)
for _name in ("evict_first", "evict_last"):
    ptx_op(f"policy_{_name}", f"createpolicy.fractional.L2::{_name}.b64 $0, 1.0;", "u64")

# -- what other kernels wrote or will read ---------------------------------------------------------

for _kind in ("u32", "f32"):
    ptx_op(f"load_{_kind}", f"ld.global.{_kind} $0, [$1];", _kind, "ptr", memory=True)
    ptx_op(
        f"load_{_kind}x2", f"ld.global.v2.{_kind} {{$0, $1}}, [$2];", f"2*{_kind}", "ptr",
        memory=True,
    )  # fmt: skip
    ptx_op(
        f"load_{_kind}x4", f"ld.global.v4.{_kind} {{$0, $1, $2, $3}}, [$4];", f"4*{_kind}", "ptr",
        memory=True,
    )  # fmt: skip
ptx_op("load_u64", "ld.global.u64 $0, [$1];", "u64", "ptr", memory=True)
ptx_op("load_u64x2", "ld.global.v2.u64 {$0, $1}, [$2];", "2*u64", "ptr", memory=True)
ptx_op("load_u16", "ld.global.u16 $0, [$1];", "u32", "ptr", memory=True)
_STORES = {"u32": ("u32", "u32"), "f32": ("f32", "f32"), "u16": ("u16", "u32")}


def _stores(space: str, address: str) -> None:
    """Stores of one, two and four values, each with a twin that a condition guards (`_if`)."""
    prefix = "store" if space == "global" else "store_shared"
    for suffix, (ptx_type, kind) in _STORES.items():
        for width in (1, 2, 4) if suffix != "u16" else (1,):
            vector = "" if width == 1 else f".v{width}"
            values = ", ".join(f"${n + 1}" for n in range(width))
            value = values if width == 1 else f"{{{values}}}"
            name = f"{prefix}_{suffix}" + (f"x{width}" if width > 1 else "")
            statement = f"st.{space}{vector}.{ptx_type} [$0], {value};"
            kinds = f"{address} {width}*{kind}"
            ptx_op(name, statement, "", kinds, memory=True)
            guarded = f"{{ .reg .pred q; setp.ne.u32 q, ${width + 1}, 0; @q {statement} }}"
            ptx_op(f"{name}_if", guarded, "", f"{kinds} pred", memory=True)


_stores("global", "ptr")

# -- shared memory ---------------------------------------------------------------------------------

for _kind in ("u32", "f32"):
    ptx_op(f"load_shared_{_kind}", f"ld.shared.{_kind} $0, [$1];", _kind, "shared", memory=True)
    ptx_op(
        f"load_shared_{_kind}x2", f"ld.shared.v2.{_kind} {{$0, $1}}, [$2];", f"2*{_kind}", "shared",
        memory=True,
    )  # fmt: skip
    ptx_op(
        f"load_shared_{_kind}x4", f"ld.shared.v4.{_kind} {{$0, $1, $2, $3}}, [$4];", f"4*{_kind}",
        "shared", memory=True,
    )  # fmt: skip
for _kind in ("u16", "u8"):
    ptx_op(f"load_shared_{_kind}", f"ld.shared.{_kind} $0, [$1];", "u32", "shared", memory=True)
_stores("shared", "shared")
ptx_op(
    "atomic_add_shared_u32_if",
    "{ .reg .pred q; setp.ne.u32 q, $3, 0; mov.u32 $0, 0; @q atom.shared.add.u32 $0, [$1], $2; }",
    "u32", "shared u32 pred", memory=True,
)  # fmt: skip
ptx_op("barrier", "bar.sync 0;", memory=True)
ptx_op("warp_barrier", "bar.warp.sync 0xffffffff;", memory=True)

# -- arithmetic: each rounds once, to nearest, as written ------------------------------------------

ptx_op("fma", "fma.rn.f32 $0, $1, $2, $3;", "f32", "3*f32")
for _name in ("add", "sub", "mul", "div"):
    ptx_op(f"{_name}_f32", f"{_name}.rn.f32 $0, $1, $2;", "f32", "2*f32")
ptx_op("sqrt_f32", "sqrt.rn.f32 $0, $1;", "f32", "f32")
ptx_op("rcp_f32", "rcp.rn.f32 $0, $1;", "f32", "f32")
# within 2 units in the last place; what is too small for a normal number counts as 0
for _name in ("rsqrt", "rcp"):
    ptx_op(f"{_name}_approx", f"{_name}.approx.ftz.f32 $0, $1;", "f32", "f32")
# the larger magnitude, or NaN
ptx_op(
    "max_magnitude", "{ .reg .f32 a, b; abs.f32 a, $1; abs.f32 b, $2; max.NaN.f32 $0, a, b; }",
    "f32", "2*f32",
)  # fmt: skip
for _name in ("min", "max"):
    ptx_op(f"{_name}_f32", f"{_name}.f32 $0, $1, $2;", "f32", "2*f32")
    for _kind in ("u32", "s32"):
        ptx_op(f"{_name}_{_kind}", f"{_name}.{_kind} $0, $1, $2;", _kind, f"2*{_kind}")
ptx_op("add_u32", "add.u32 $0, $1, $2;", "u32", "2*u32")
ptx_op("mul_u32", "mul.lo.u32 $0, $1, $2;", "u32", "2*u32")
ptx_op("mul_high_u32", "mul.hi.u32 $0, $1, $2;", "u32", "2*u32")
for _kind in ("u32", "s32"):
    ptx_op(f"mad_{_kind}", f"mad.lo.{_kind} $0, $1, $2, $3;", _kind, f"3*{_kind}")
ptx_op("s32_to_f32", "cvt.rn.f32.s32 $0, $1;", "f32", "s32")
ptx_op("f32_to_s32", "cvt.rni.s32.f32 $0, $1;", "s32", "f32")
ptx_op("bits_f32", "mov.b32 $0, $1;", "f32", "u32")
ptx_op("bits_u32", "mov.b32 $0, $1;", "u32", "f32")
ptx_op("half_to_f32", "{ .reg .b16 h, t; mov.b32 {h, t}, $1; cvt.f32.f16 $0, h; }", "f32", "u32")
ptx_op(
    "high_half_to_f32", "{ .reg .b16 h, t; mov.b32 {t, h}, $1; cvt.f32.f16 $0, h; }", "f32", "u32"
)
ptx_op("f32_to_half", "{ .reg .b16 h; cvt.rn.f16.f32 h, $1; cvt.u32.u16 $0, h; }", "u32", "f32")
ptx_op("pack_halves", "cvt.rn.f16x2.f32 $0, $2, $1;", "u32", "2*f32")  # first in the low half

# -- bytes and bits --------------------------------------------------------------------------------

ptx_op("dp4a_ss", "dp4a.s32.s32 $0, $1, $2, $3;", "s32", "u32 u32 s32")
ptx_op("dp4a_su", "dp4a.s32.u32 $0, $1, $2, $3;", "s32", "u32 u32 s32")
ptx_op("prmt", "prmt.b32 $0, $1, $2, $3;", "u32", "3*u32")
ptx_op("bit_select", "lop3.b32 $0, $1, $2, $3, 0xca;", "u32", "3*u32")  # mask ? second : third
ptx_op("and_or", "lop3.b32 $0, $1, $2, $3, 0xea;", "u32", "3*u32")  # (first & second) | third

ptx_op("count_ones", "popc.b32 $0, $1;", "u32", "u32")

# -- across a warp ---------------------------------------------------------------------------------

for _kind in ("u32", "f32"):
    for _mode, _how in {"xor": "bfly", "down": "down", "from": "idx"}.items():
        ptx_op(
            f"shuffle_{_mode}_{_kind}", f"shfl.sync.{_how}.b32 $0, $1, $2, 0x1f, 0xffffffff;",
            _kind, f"{_kind} u32", volatile=True,
        )  # fmt: skip
# of four neighbours, the one of that number
ptx_op(
    "shuffle_of_four_f32", "shfl.sync.idx.b32 $0, $1, $2, 0x1c03, 0xffffffff;", "f32", "f32 u32",
    volatile=True,
)  # fmt: skip
ptx_op("warp_max_u32", "redux.sync.max.u32 $0, $1, 0xffffffff;", "u32", "u32", volatile=True)
ptx_op("warp_min_u32", "redux.sync.min.u32 $0, $1, 0xffffffff;", "u32", "u32", volatile=True)
ptx_op("warp_max_s32", "redux.sync.max.s32 $0, $1, 0xffffffff;", "s32", "s32", volatile=True)
ptx_op("warp_add_s32", "redux.sync.add.s32 $0, $1, 0xffffffff;", "s32", "s32", volatile=True)
# bit l: whether the condition holds in lane l
ptx_op(
    "warp_ballot",
    "{ .reg .pred q; setp.ne.u32 q, $1, 0; vote.sync.ballot.b32 $0, q, 0xffffffff; }",
    "u32", "pred", volatile=True,
)  # fmt: skip
ptx_op(
    "mma_s8_16x8x32",
    "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {$0, $1, $2, $3}, {$4, $5, $6, $7}, "
    "{$8, $9}, {$10, $11, $12, $13};",
    "4*s32",
    "4*u32 2*u32 4*s32",
    volatile=True,
)
# signed weights times unsigned activations, over 32 and over 16 of k; and the latter signed
for _name, _k, _words, _type in (
    ("su_16x8x32", 32, (4, 2), "u8"), ("su_16x8x16", 16, (2, 1), "u8"),
    ("s8_16x8x16", 16, (2, 1), "s8"),
):  # fmt: skip
    _a, _b = _words
    _places = [f"${n}" for n in range(8 + _a + _b)]
    _groups = ", ".join(
        "{" + ", ".join(_places[start:end]) + "}"
        for start, end in ((0, 4), (4, 4 + _a), (4 + _a, 4 + _a + _b), (4 + _a + _b, 8 + _a + _b))
    )
    ptx_op(
        f"mma_{_name}", f"mma.sync.aligned.m16n8k{_k}.row.col.s32.s8.{_type}.s32 {_groups};",
        "4*s32", f"{_a}*u32 {_b}*u32 4*s32", volatile=True,
    )  # fmt: skip
ptx_op(
    "load_matrix_x4",
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0, $1, $2, $3}, [$4];",
    "4*u32",
    "shared",
    memory=True,
)

# -- asynchronous copies and prefetch --------------------------------------------------------------

ptx_op("copy_async_16", "cp.async.cg.shared.global [$0], [$1], 16;", "", "shared ptr", memory=True)
ptx_op(
    "copy_async_16_if",
    "{ .reg .pred q; setp.ne.u32 q, $2, 0; @q cp.async.cg.shared.global [$0], [$1], 16; }",
    "", "shared ptr pred", memory=True,
)  # fmt: skip
# zeros where the condition does not hold
ptx_op(
    "copy_async_16_or_zeros",
    "{ .reg .pred q; .reg .b32 n; setp.ne.u32 q, $2, 0; selp.b32 n, 16, 0, q; "
    "cp.async.cg.shared.global [$0], [$1], 16, n; }",
    "", "shared ptr pred", memory=True,
)  # fmt: skip
ptx_op("copy_async_commit", "cp.async.commit_group;", memory=True)
ptx_op("copy_async_wait", "cp.async.wait_all;", memory=True)
for _count in range(MOST_COPIES):  # of a thread's groups, all but that many are complete
    ptx_op(f"copy_async_wait_{_count}", f"cp.async.wait_group {_count};", memory=True)
ptx_op("prefetch_l2", "prefetch.global.L2 [$0];", "", "ptr", volatile=True)
ptx_op(
    "prefetch_l2_bulk", "cp.async.bulk.prefetch.L2.global [$0], $1;", "", "ptr u32",
    volatile=True, since=90,
)  # fmt: skip

# -- between kernels, blocks and the blocks of a cluster -------------------------------------------

ptx_op("griddep_wait", "griddepcontrol.wait;", memory=True, since=90)
ptx_op("griddep_launch", "griddepcontrol.launch_dependents;", volatile=True, since=90)
# Work on `$0` is done in front of what follows, where ptxas would rather put it off: grids are
# flat, so the branch is never taken, but only the GPU knows.
ptx_op(
    "settle",
    "{ .reg .pred q; .reg .b32 y; mov.u32 y, %nctaid.z; add.u32 y, y, -1; and.b32 y, y, $0; "
    "setp.ne.u32 q, y, 0; @q trap; }",
    "", "u32", memory=True,
)  # fmt: skip
# 0, which the compiler does not know: a value it is added to stays in its register, where ptxas
# would rather compute it again, or read it again from the kernel's parameters.
ptx_op("zero", "{ .reg .b32 y; mov.u32 y, %nctaid.z; add.u32 $0, y, -1; }", "u32")
# The same, but as far as ptxas knows lanes do not share it: what it is added to stays out of the
# uniform registers, from where `prmt` would fetch it anew each time.
ptx_op(
    "zero_of_lane",
    "{ .reg .b32 x, y; mov.u32 x, %lanemask_lt; mov.u32 y, %lanemask_gt; and.b32 $0, x, y; }",
    "u32",
)
ptx_op("low_word", "cvt.u32.u64 $0, $1;", "u32", "ptr")
ptx_op("load_acquire_u32", "ld.acquire.gpu.global.u32 $0, [$1];", "u32", "ptr", memory=True)
ptx_op("store_release_u32", "st.release.gpu.global.u32 [$0], $1;", "", "ptr u32", memory=True)
ptx_op("red_release_add_u32", "red.release.gpu.global.add.u32 [$0], $1;", "", "ptr u32",
       memory=True)  # fmt: skip
ptx_op(
    "red_add_u64_if",
    "{ .reg .pred q; setp.ne.u32 q, $2, 0; @q red.relaxed.gpu.global.add.u64 [$0], $1; }",
    "", "ptr u64 pred", memory=True,
)  # fmt: skip
ptx_op("atomic_add_u32", "atom.acq_rel.gpu.global.add.u32 $0, [$1], $2;", "u32", "ptr u32",
       memory=True)  # fmt: skip
ptx_op("atomic_max_u64", "atom.acq_rel.gpu.global.max.u64 $0, [$1], $2;", "u64", "ptr u64",
       memory=True)  # fmt: skip
ptx_op("cluster_arrive", "barrier.cluster.arrive.aligned;", memory=True, since=90)
# does not show the others what was written before, which takes a fence
ptx_op("cluster_arrive_relaxed", "barrier.cluster.arrive.relaxed.aligned;", memory=True, since=90)
ptx_op("cluster_wait", "barrier.cluster.wait.aligned;", memory=True, since=90)
ptx_op("map_shared", "mapa.shared::cluster.u32 $0, $1, $2;", "cluster", "shared u32", since=90)
for _kind in ("u32", "f32"):
    ptx_op(f"load_cluster_{_kind}", f"ld.shared::cluster.{_kind} $0, [$1];", _kind, "cluster",
           memory=True, since=90)  # fmt: skip
    ptx_op(f"store_cluster_{_kind}", f"st.shared::cluster.{_kind} [$0], $1;", "",
           f"cluster {_kind}", memory=True, since=90)  # fmt: skip
# A mailbox counts the bytes that blocks of the cluster have sent to its block; used once a launch.
ptx_op(
    "mailbox_open",
    "{ .reg .pred q; setp.ne.u32 q, $2, 0; @q mbarrier.init.shared::cta.b64 [$0], 1; "
    "@q fence.mbarrier_init.release.cluster; "
    "@q mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1; }",
    "", "shared u32 pred", memory=True, since=90,
)  # fmt: skip
ptx_op(
    "mailbox_wait",
    "{ .reg .pred q; again: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 q, [$0], 0; "
    "@!q bra again; }",
    "", "shared", memory=True, since=90,
)  # fmt: skip
ptx_op(
    "send_f32_if",
    "{ .reg .pred q; setp.ne.u32 q, $3, 0; "
    "@q st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [$0], $1, [$2]; }",
    "", "cluster f32 cluster pred", memory=True, since=90,
)  # fmt: skip
for _width in (2, 4):
    _values = ", ".join(f"${n + 1}" for n in range(_width))
    ptx_op(
        f"send_f32x{_width}_if",
        f"{{ .reg .pred q; setp.ne.u32 q, ${_width + 2}, 0; @q st.async.shared::cluster"
        f".mbarrier::complete_tx::bytes.v{_width}.f32 [$0], {{{_values}}}, [${_width + 1}]; }}",
        "", f"cluster {_width}*f32 cluster pred", memory=True, since=90,
    )  # fmt: skip

# -- phases of a resident kernel (see `resident`) --------------------------------------------------
# Nothing waits for ever: a wait that lasts as long as PATIENCE ends by itself and says so in the
# count, and then all others end as well.

PATIENCE = 4_000_000_000  # clock cycles: some two seconds
LOOK = 1 << 20
GIVEN_UP = 1 << 30  # is in the count once somebody has waited too long
ptx_op(
    "await_count",  # how far the count is beyond the number; 0 where the condition does not hold
    "{ .reg .pred q; .reg .b64 end, now; setp.eq.u32 q, $3, 0; mov.u32 $0, 0; @q bra over; "
    "ld.acquire.gpu.global.u32 $0, [$1]; sub.u32 $0, $0, $2; setp.ge.s32 q, $0, 0; @q bra over; "
    f"mov.u64 end, %clock64; add.u64 end, end, {PATIENCE}; "
    "again: ld.acquire.gpu.global.u32 $0, [$1]; sub.u32 $0, $0, $2; setp.ge.s32 q, $0, 0; "
    "@q bra over; mov.u64 now, %clock64; setp.lt.u64 q, now, end; @q bra again; "
    f"red.relaxed.gpu.global.or.b32 [$1], {GIVEN_UP}; mov.u32 $0, {GIVEN_UP}; "
    "over: mov.u32 $0, $0; }",
    "u32", "ptr u32 pred", memory=True,
)  # fmt: skip
ptx_op(
    "red_release_add_u32_if",
    "{ .reg .pred q; setp.ne.u32 q, $2, 0; @q red.release.gpu.global.add.u32 [$0], $1; }",
    "", "ptr u32 pred", memory=True,
)  # fmt: skip
ptx_op("load_system_u32", "ld.relaxed.sys.global.u32 $0, [$1];", "u32", "ptr", memory=True)
ptx_op(  # two words as one, which the host sees together
    "store_system_u32x2_if",
    "{ .reg .pred q; .reg .b64 both; setp.ne.u32 q, $3, 0; mov.b64 both, {$1, $2}; "
    "@q st.relaxed.sys.global.u64 [$0], both; }",
    "", "ptr 2*u32 pred", memory=True,
)  # fmt: skip
ptx_op(
    "mailbox_make_if",
    "{ .reg .pred q; setp.ne.u32 q, $1, 0; @q mbarrier.init.shared::cta.b64 [$0], 1; "
    "@q fence.mbarrier_init.release.cluster; }",
    "", "shared pred", memory=True, since=90,
)  # fmt: skip
ptx_op(
    "mailbox_remake_if",
    "{ .reg .pred q; setp.ne.u32 q, $1, 0; @q mbarrier.inval.shared::cta.b64 [$0]; "
    "@q mbarrier.init.shared::cta.b64 [$0], 1; @q fence.mbarrier_init.release.cluster; }",
    "", "shared pred", memory=True, since=90,
)  # fmt: skip
ptx_op(
    "mailbox_expect_if",
    "{ .reg .pred q; setp.ne.u32 q, $2, 0; "
    "@q mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1; }",
    "", "shared u32 pred", memory=True, since=90,
)  # fmt: skip
_TRY = "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 q, [$0], 0; @q bra over;"
ptx_op(  # looks at the count, its second operand, now and then, and gives up as the other does
    "mailbox_wait_bounded",
    f"{{ .reg .pred q; .reg .b32 start, now, turn, found; {_TRY} "
    f"mov.u32 start, %clock; mov.u32 turn, 0; again: {_TRY} mov.u32 now, %clock; "
    f"sub.u32 found, now, start; setp.lt.u32 q, found, {LOOK}; @q bra again; "
    f"ld.relaxed.gpu.global.u32 found, [$1]; and.b32 found, found, {GIVEN_UP}; "
    "setp.ne.u32 q, found, 0; @q bra over; mov.u32 start, now; add.u32 turn, turn, 1; "
    f"setp.lt.u32 q, turn, {PATIENCE // LOOK}; @q bra again; "
    f"red.relaxed.gpu.global.or.b32 [$1], {GIVEN_UP}; over: mov.u32 found, 0; }}",
    "", "shared ptr", memory=True, since=90,
)  # fmt: skip
ptx_op("load_shared_u64", "ld.shared.u64 $0, [$1];", "u64", "shared", memory=True)
