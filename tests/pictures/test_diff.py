"""Two plans compared."""

from __future__ import annotations

from collections import Counter

import pytest

from fusec import driver, pictures
from fusec.pictures.diff import changes, compare, html
from tests.command import fusec, refused
from tests.graphs import llama_graph
from tests.pictures.markup import by_id, of_class, read, table, text


def subject(level: int, layers: int = 2) -> pictures.Subject:
    return pictures.of_compiled(driver.compile(llama_graph(layers=layers), level=level))


def test_a_plan_is_like_itself():
    data = compare(subject(2), subject(2))
    assert data["changes"] == []
    assert data["kernels"] == {"only a": [], "only b": []}
    assert all(a == b for a, b in data["sizes"].values())


def test_what_became_of_what():
    data = compare(subject(1), subject(2))
    changes = {(tuple(c["a"]), tuple(c["b"])): c for c in data["changes"]}
    assert {key: (c["times"], c["layers"]) for key, c in changes.items()} == {
        (("rope", "kv"), ("rope_kv",)): (2, "0-1"),
        (("matvec", "add"), ("matvec_add",)): (4, "0-1"),
        (("norm_matvec", "silu_mul"), ("norm_matvec_silu_mul",)): (2, "0-1"),
    }
    assert data["sizes"]["dispatches"] == (23, 15)


def test_the_other_way_round():
    forth, back = compare(subject(0), subject(2)), compare(subject(2), subject(0))
    assert [(c["a"], c["b"]) for c in forth["changes"]] == [
        (c["b"], c["a"]) for c in back["changes"]
    ]


def test_models_of_other_sizes():
    data = compare(subject(2, layers=1), subject(2, layers=2))
    new = [c for c in data["changes"] if not c["a"]]
    assert sum(c["times"] for c in new) == 6
    assert {c["layers"] for c in new} == {"1"}


@pytest.mark.slow
def test_predicted_times_of_a_gpu(tiny_model):
    one, two = (
        pictures.of_compiled(driver.compile(tiny_model, target="sm_90a", level=level))
        for level in (1, 2)
    )
    data = compare(one, two)
    left, right = data["sizes"]["launches predicted, us"]
    saved = sum(c["us_a"] - c["us_b"] for c in data["changes"])
    assert left - right == pytest.approx(saved, abs=0.3)
    assert saved > 0


@pytest.mark.slow
def test_what_a_pass_puts_in_the_place_of_others_is_matched(tiny_model):
    """-O3 splits attention and rows: no dispatch of either side comes from nothing."""
    one, two = (
        pictures.of_compiled(driver.compile(tiny_model, target="sm_90a", level=level))
        for level in (0, 3)
    )
    found = changes(one, two)
    assert all(change.a and change.b for change in found)
    whole = compare(one, two)["sizes"]["launches predicted, us"]
    for side, total in zip(("us_a", "us_b"), whole, strict=True):
        assert sum(getattr(change, side) for change in found) == pytest.approx(total, abs=0.1)
    last = found[-1]
    assert [n.kind for n in last.a] == ["argmax"]
    assert [n.kind for n in last.b] == ["argmax_combine"]


def test_a_page_shows_both_sides(tiny_model):
    one, two = (pictures.of_compiled(driver.compile(tiny_model, level=level)) for level in (1, 2))
    text_of = html(one, two, "fusec diff <a> b")
    assert text_of == html(one, two, "fusec diff <a> b")
    root = read(text_of)
    ids = Counter(e.get("id") for e in root.iter() if e.get("id"))
    assert set(ids.values()) == {1}
    links = [e.get("href") for e in root.iter("a")]
    assert links and all(link[0] == "#" and link[1:] in ids for link in links)
    assert "fusec diff <a> b" in text(root)
    rows = {row[0]: row[1:] for row in table(by_id(root, "sizes"))}
    assert rows["dispatches"] == [str(len(s.plan.launches)) for s in (one, two)] + [
        str(len(two.plan.launches) - len(one.plan.launches))
    ]
    shown = [[[b.text for b in side.iter("b")] for side in pair.findall("ul")]
             for pair in of_class(by_id(root, "changes"), "beside")]  # fmt: skip
    assert shown == [[[n.kind for n in c.a], [n.kind for n in c.b]] for c in changes(one, two)]
    assert len(list(by_id(root, "plans").iter("svg"))) == 2


def test_two_plans_that_are_one_are_a_sentence(tiny_model):
    ran = fusec("diff", tiny_model, tiny_model)
    assert "\nEvery dispatch of one plan computes what one dispatch of the other does.\n" in ran.out
    assert "dispatches that differ" not in ran.out


@pytest.mark.slow
def test_what_neither_plan_knows_is_not_shown(tiny_model):
    """Times, on the CPU."""
    ran = fusec("diff", tiny_model, tiny_model, "-O", "1,2")
    assert "matvec_add" in ran.out
    assert " us" not in ran.out
    both = fusec("diff", tiny_model, tiny_model, "-O", "2", "--target", "cpu,sm_90a")
    assert "us b" in both.out
    assert "us a" not in both.out
    one, two = (pictures.of_compiled(driver.compile(tiny_model, level=level)) for level in (1, 2))
    assert " us" not in text(by_id(read(html(one, two)), "sizes"))


def test_the_command_writes_a_page(tiny_model, tmp_path):
    page = tmp_path / "d.html"
    written = fusec("diff", tiny_model, tiny_model, "-O", "1,2", "--html", page)
    assert (written.code, written.err) == (0, f"written to {page}\n")
    assert fusec("diff", tiny_model, tiny_model, "--html", page, "-O", "1,2", "-q").err == ""
    assert "What became of what" in text(read(page.read_text()))
    assert "cannot write here" in refused(
        "diff", tiny_model, tiny_model, "--html", tmp_path / "no" / "d.html"
    )


def test_the_command(tiny_model, tmp_path):
    folder = tmp_path / "o1"
    driver.compile(tiny_model, level=1).save(folder)
    shown = fusec("diff", folder, tiny_model, "-O", "1,2").code
    assert shown == 2  # a folder has its level
    ran = fusec("diff", folder, tiny_model)
    assert ran.code == 0, ran.err
    assert "matvec_add" in ran.out
    data = fusec("diff", tiny_model, tiny_model, "-O", "0,0", "--json").json
    assert data["changes"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-O", "1,2,0"), "-O: expected one value or two like a,b, found '1,2,0'"),
        (("-O", "x"), "-O: expected levels like 1,2, found 'x'"),
        (("--target", ","), "--target: expected one value or two"),
        (("--target", "vax"), "unknown target 'vax'"),
    ],
)
def test_the_command_refuses(tiny_model, options, message):
    assert message in refused("diff", tiny_model, tiny_model, *options)
