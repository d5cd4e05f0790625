"""Where a token's time goes: the rows, their sums and shares, the line of time and the walls."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from fusec import driver, pictures
from fusec.passes import cost
from fusec.pictures.subject import Subject
from fusec.pictures.tally import launch_times, tally
from fusec.pictures.timeline import closeups, lines
from fusec.report import size
from tests.graphs import llama_graph
from tests.pictures.conftest import profile_of
from tests.pictures.markup import by_id, of_class, read, style, table, text


@pytest.fixture(scope="module")
def subject(compiled) -> Subject:
    return pictures.of_compiled(compiled)


@pytest.fixture(scope="module")
def profiled(compiled, subject) -> Subject:
    return replace(subject, profile=profile_of(compiled))


@pytest.fixture(scope="module")
def times(profiled):
    """The section of the page."""
    return by_id(read(pictures.html(profiled)), "times")


def rows_of(section) -> dict[str, dict[str, str]]:
    """Kernel -> column -> cell. Columns of a source have its name in front."""
    head, *rows = table(of_class(section, "kernels")[0])
    names, source = [], ""
    for title in head:
        source = title.split()[0] if title.endswith("us each") else source
        names.append(title if title.endswith("us each") else f"{source} {title}".strip())
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}


# --- the table -----------------------------------------------------------------------------------


def test_a_row_is_what_all_launches_of_its_kernel_take(times, compiled, profiled):
    found = rows_of(times)
    costs = cost.token_costs(compiled.plan, profiled.gpu, position=48)
    by_name = {n.name: n for n in profiled.graph.nodes}
    for kernel in dict.fromkeys(x.kernel for x in compiled.plan.launches):
        own = [i for i, x in enumerate(compiled.plan.launches) if x.kernel == kernel]
        moved = sum(cost.moved(by_name[compiled.plan.launches[i].node], 48) for i in own)
        predicted = sum(costs[i].total for i in own)
        measured = sum(1 + i / 100 for i in own)
        assert found[kernel] == {
            "kernel": kernel,
            "dispatches": str(len(own)),
            "bytes a token": size(moved),
            "predicted us each": f"{predicted / len(own):.2f}",
            "predicted us a token": f"{predicted:.2f}",
            "predicted share": found[kernel]["predicted share"],
            "measured us each": f"{measured / len(own):.2f}",
            "measured us a token": f"{measured:.2f}",
            "measured share": f"{measured / 60:.1%}",
            "measured": "",
        }


def test_totals_are_the_sums_of_the_rows_times_their_launches(times, compiled):
    found = rows_of(times)
    total, outside = found.pop("the token"), found.pop("outside of kernels")
    assert total["dispatches"] == str(len(compiled.plan.launches))
    assert sum(int(row["dispatches"]) for row in found.values()) == len(compiled.plan.launches)
    for source in ("predicted", "measured"):
        column = f"{source} us a token"
        each = [float(r[f"{source} us each"]) * int(r["dispatches"]) for r in found.values()]
        rest = float(outside[column])
        rounding = 0.005 * len(compiled.plan.launches)
        assert sum(each) + rest == pytest.approx(float(total[column]), abs=rounding)
        summed = sum(float(row[column]) for row in found.values()) + rest
        assert summed == pytest.approx(float(total[column]), abs=0.006 * (len(found) + 2))
        shares = [float(r[f"{source} share"].rstrip("%")) for r in (*found.values(), outside)]
        assert sum(shares) == pytest.approx(100, abs=0.06 * len(shares))
    assert total["measured us a token"] == "60.00"


def test_the_token_is_the_one_of_the_cards(profiled):
    page = read(pictures.html(profiled))
    counted = tally(profiled)
    cards = [text(card) for card in of_class(page, "card")]
    assert f"{counted.launches}dispatches a token" in cards
    assert any(card.startswith(f"{counted.tokens['predicted']:,.0f} us, ") for card in cards)
    assert any(card.startswith("60 us, ") for card in cards)


def test_the_longest_comes_first_and_its_bar_is_the_longest(times, profiled):
    counted = tally(profiled)
    shares = [counted.share(row) for row in counted.rows]
    assert shares == sorted(shares, reverse=True)
    bars = of_class(of_class(times, "kernels")[0], "bar")
    assert [style(bar, "width") for bar in bars] == pytest.approx(
        [100 * share / shares[0] for share in shares], abs=0.01
    )


def test_a_bar_is_divided_as_predicted(times, profiled):
    """Of memory and compute, only the larger one is part of a launch's time."""
    counted = tally(profiled)
    for row, bar in zip(counted.rows, of_class(of_class(times, "kernels")[0], "bar"), strict=True):
        parts = [style(part, "flex-grow") for part in bar]
        assert sum(parts) == pytest.approx(row.us["predicted"], abs=1e-3)


def test_without_times_the_bytes_are_what_is_shared_out():
    subject = pictures.of_compiled(driver.compile(llama_graph(layers=2)))
    section = by_id(read(pictures.html(subject)), "times")
    assert "Nothing is predicted for the CPU target" in text(section)
    found = rows_of(section)
    total = found.pop("the token")
    assert total["bytes a token"] == size(tally(subject).nbytes)
    assert sum(float(r["share"].rstrip("%")) for r in found.values()) == pytest.approx(100, abs=1)
    assert not of_class(section, "strip")


# --- the line of time ----------------------------------------------------------------------------


def test_every_launch_is_on_the_line_as_long_as_it_takes(times, profiled):
    strips = of_class(times, "tall")
    for strip, (source, us) in zip(strips, launch_times(profiled).items(), strict=True):
        lengths = [style(part, "flex-grow") for part in strip.findall("a")]
        assert lengths == pytest.approx([*us.values()], abs=1e-4)
        outside = sum(style(part, "flex-grow") for part in strip.findall("span"))
        token = tally(profiled).tokens[source]
        assert sum(lengths) + outside == pytest.approx(token, abs=0.01)


def test_layers_lie_below_their_launches(times, profiled):
    for line, strip in zip(
        lines(profiled, tally(profiled)), of_class(times, "layers"), strict=True
    ):
        marks = [part for part in strip if part.get("class") != "none"]
        assert [text(part) for part in marks if text(part)] == [*map(str, range(8))]
        assert sum(style(part, "flex-grow") for part in marks) == pytest.approx(
            sum(s.us for s in line.segments), abs=0.01
        )


def test_ticks_are_round_and_within_the_line(profiled):
    for line in lines(profiled, tally(profiled)):
        assert 2 <= len(line.ticks) <= 7
        assert all(0 <= at <= 1 and at * line.end == pytest.approx(us) for us, at in line.ticks)


def test_single_layers_are_those_that_differ(profiled):
    (line, *_) = lines(profiled, tally(profiled))
    found = closeups(profiled, line)
    counts = Counter(node.layer for node in profiled.graph.nodes)
    assert sum(1 + close.like for close in found) == 8
    for close in found:
        assert len(close.segments) == counts[close.layer]
        begin, *_ = close.segments
        last = close.segments[-1]
        assert last.begin + last.us - begin.begin == pytest.approx(close.us)


def test_what_is_measured_longer_than_its_token_draws_no_rest(compiled, subject):
    short = replace(subject, profile=profile_of(compiled, token=3.0))
    counted = tally(short)
    assert counted.outside["measured"] < 0
    assert lines(short, counted)[-1].outside == 0
    assert (
        "-"
        in rows_of(by_id(read(pictures.html(short)), "times"))["outside of kernels"][
            "measured us a token"
        ]
    )


# --- walls ---------------------------------------------------------------------------------------


def test_walls_are_as_long_as_they_take(times, profiled):
    data = profiled.profile
    bars = [b for b in of_class(times, "bar") if "title" in b[0].attrib and ": " in b[0].get(
        "title", "") and b[0].get("title", "").startswith("between tokens")]  # fmt: skip
    sums = [sum(data[key].values()) for key in ("naive_walls", "walls")]
    assert [style(bar, "width") for bar in bars] == pytest.approx(
        [100.0, 100 * sums[1] / sums[0]], abs=0.06
    )
    for bar, key in zip(bars, ("naive_walls", "walls"), strict=True):
        assert [style(part, "flex-grow") for part in bar] == list(data[key].values())
