"""The HTML report: what it holds, that it needs nothing else, and how a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from html import escape, unescape
from itertools import pairwise

import pytest

from fusec import artifact, driver, pictures
from fusec.artifact import Artifact
from fusec.errors import FusecError
from fusec.ir import Builder
from fusec.passes.fuse import Fuse
from fusec.passes.pipeline import passes_of
from fusec.pictures.merges import merges
from tests.graphs import llama_graph
from tests.pictures.conftest import profile_of
from tests.pictures.markup import by_id, of_class, read, text

CHROMIUM = next(
    (p for p in ("chromium", "chromium-browser", "google-chrome") if shutil.which(p)), ""
)


@pytest.fixture(scope="module")
def page(compiled) -> str:
    return pictures.html(pictures.of_compiled(compiled), "fusec inspect tiny.gguf --html r.html")


def test_the_page_needs_nothing_from_outside(page):
    addresses = set(re.findall(r"\b\w+://[\w.]+", page))
    assert addresses <= {"http://www.w3.org"}  # the name of SVG
    assert "url(" not in page
    assert "<script" not in page


@pytest.mark.parametrize("layers", [None, "all", (1,)], ids=str)
def test_every_link_has_one_target(compiled, layers):
    root = read(pictures.html(pictures.of_compiled(compiled), layers=layers))
    ids = Counter(e.get("id") for e in root.iter() if e.get("id"))
    assert set(ids.values()) == {1}
    keys = ("href", "src", "data", "action")
    links = [e.get(key) for e in root.iter() for key in keys if e.get(key)]
    assert len(links) > len(compiled.plan.launches)
    assert all(link.startswith("#") and link[1:] in ids for link in links)


def test_boxes_lead_to_their_kernels_and_kernels_to_their_boxes(compiled):
    root = read(pictures.html(pictures.of_compiled(compiled), layers="all"))
    boxes = {a[0].get("id"): a.get("href") for a in by_id(root, "plan").iter("a")}
    for place, launch in enumerate(compiled.plan.launches, start=1):
        assert boxes[f"box-{place}"] == f"#kernel-{launch.kernel}"
    for kernel in compiled.plan.kernels:
        links = [a.get("href") for a in by_id(root, f"kernel-{kernel.name}").iter("a")]
        places = [i for i, x in enumerate(compiled.plan.launches, 1) if x.kernel == kernel.name]
        assert [x for x in links if x.startswith("#box")] == [f"#box-{i}" for i in places]


def test_a_folded_layer_s_launches_lead_to_its_box():
    subject = pictures.of_compiled(driver.compile(llama_graph(layers=4)))
    root = read(pictures.html(subject))
    uses = by_id(root, f"kernel-{subject.plan.launches[1].kernel}").findall("p")[0]
    assert text(uses) == "Dispatched by 2 in layer 0, layers 1 to 3 (3 times)"
    assert [a.get("href") for a in uses] == ["#box-2", "#layers-1-to-3"]


def test_every_kernel_is_there_with_its_source_and_ir(page, compiled):
    shown = [["".join(pre.itertext()) for pre in pair.iter("pre")]
             for pair in of_class(read(page), "columns")]  # fmt: skip
    assert shown == [[k.region, compiled.kernels[k.name].source] for k in compiled.plan.kernels]


def test_every_pass_says_what_it_made_of_what(page, compiled):
    root = read(page)
    shown = {text(e.find("summary/b")): e for e in of_class(root, "pass")}
    stages = compiled.stages
    changed = [b.name for a, b in pairwise(stages) if merges(a.graph, b.graph)]
    assert list(shown) == changed
    for before, stage in pairwise(stages):
        if stage.name not in shown:
            assert stage.name in text(by_id(root, "stages"))
            continue
        found = merges(before.graph, stage.graph)
        counts = f"{stage.before} to {stage.after} nodes"
        assert counts in text(shown[stage.name])
        if stage.equation:
            assert stage.equation in text(shown[stage.name])
            assert f"{stage.hits} merged, {len(stage.refused)} refused" in text(shown[stage.name])
        pairs = of_class(shown[stage.name], "beside")
        kinds = [[[b.text for b in side.iter("b")] for side in pair.findall("ul")]
                 for pair in pairs]  # fmt: skip
        assert kinds == [[[n.kind for n in m.before], [n.kind for n in m.after]] for m in found]


def test_refusals_are_there_with_their_reason():
    """A value that is an output as well cannot be merged away."""
    b = Builder("g")
    x = b.input("x", (1, 64))
    gate = b.matvec(x, b.weight("w", (64, 64)))
    act = b.silu(gate, name="act")
    graph = b.build(b.mul(act, x), act)
    subject = pictures.of_compiled(driver.compile(graph))
    refused = {stage.name: stage.refused for stage in subject.stages if stage.refused}
    assert set(refused) == {"fuse-chain", "fuse-epilogue"}
    shown = text(by_id(read(pictures.html(subject)), "refused"))
    for (refusal,) in refused.values():
        assert refusal.reason == "a second user: %act is an output of the graph"
        assert f"{' + '.join(refusal.nodes)}: {refusal.reason}" in shown
    plain = pictures.of_compiled(driver.compile(llama_graph(layers=1), level=0))
    assert "Nothing was refused" in pictures.html(plain)


def test_measured_times_stand_beside_predicted_ones(compiled, profile):
    subject = pictures.of_compiled(compiled, profile)
    shown = text(read(pictures.html(subject)))
    assert "60 us, 16,667 tok/s" in shown
    assert "between tokens 2.5, launches 20.0, memory 5.0, compute 30.0" in shown
    assert "together 57.5 us, the token 60.0 us (96%)" in shown
    assert "fusec profile tiny.gguf" in shown
    second = subject.notes([subject.graph.nodes[1]])
    assert second[-1].endswith("us predicted, 1.01 us measured")
    total = subject.notes(subject.graph.nodes)
    count = len(compiled.plan.launches)
    assert total[-1].endswith(f"{sum(1 + i / 100 for i in range(count)):.2f} us measured")


def test_early_launches_are_marked(compiled):
    subject = pictures.of_compiled(compiled)
    assert subject.early
    node = next(n for n in subject.graph.nodes if n.name in subject.early)
    assert subject.notes([node])[0].endswith("starts early")
    assert "starts early" in subject.svg(layers=(1,))
    assert "starts early" not in subject.svg("decode-graph", layers=(1,))


def test_a_folder_shows_what_the_compilation_did(compiled, tmp_path, profile):
    small = driver.compile(compiled.model.file.path, context=64)
    saved = Artifact.open(small.save(tmp_path / "folder"))
    first, second = (
        pictures.html(subject)
        for subject in (pictures.of_compiled(small), artifact.pictured(saved))
    )
    assert first == second


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"level": 2}, "expected a profile at -O3 for sm_90a, found one at -O2 for sm_90a"),
        ({"launches": []}, "a profile of other kernels"),
        ({"walls": 3}, "expected what fusec profile -o writes"),
        ({"token": "x"}, "expected what fusec profile -o writes"),
    ],
)
def test_profiles_of_something_else(compiled, tmp_path, changed, message):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(profile_of(compiled, **changed)))
    with pytest.raises(FusecError, match=message):
        pictures.of_compiled(compiled, path)


@pytest.mark.slow
def test_the_same_compilation_gives_the_same_page(compiled):
    """But for how long passes took, which the page does not say."""
    again = driver.compile(compiled.model.file.path, target="sm_90a", level=3, context=64)
    first, second = (pictures.html(pictures.of_compiled(x), "x") for x in (compiled, again))
    assert first == second


def test_notebooks_show_a_compilation():
    graph = llama_graph(layers=1)
    compiled = driver.compile(graph, level=1)
    html = compiled._repr_html_()
    read(f"<div>{html}</div>")
    assert "<svg " in html
    assert "fuse-prologue" in html


# --- in a browser --------------------------------------------------------------------------------

PROBE = """
<script>
const light = colour => {
  const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const contrast = (a, b) => {
  const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
};
const wrong = [], faint = [];
for (const g of document.querySelectorAll('svg g')) {
  const rect = g.querySelector('rect');
  if (!rect) continue;
  const box = rect.getBBox();
  for (const text of g.querySelectorAll('text')) {
    const t = text.getBBox();
    if (t.x < box.x || t.x + t.width > box.x + box.width + 0.5 || t.y < box.y - 0.5
        || t.y + t.height > box.y + box.height + 0.5) wrong.push(text.textContent);
    if (contrast(getComputedStyle(text).fill, getComputedStyle(rect).fill) < 4.5)
      faint.push(text.textContent);
  }
}
for (const e of document.querySelectorAll('.node, p, td, a, summary')) {
  let under = e;
  while (under && getComputedStyle(under).backgroundColor === 'rgba(0, 0, 0, 0)')
    under = under.parentElement;
  if (e.textContent.trim() && under && contrast(getComputedStyle(e).color,
      getComputedStyle(under).backgroundColor) < 4.5) faint.push(e.textContent);
}
const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const found = {boxes: document.querySelectorAll('svg g rect').length, wrong, faint, wide,
  window: innerWidth, paper: getComputedStyle(document.body).backgroundColor,
  height: document.body.scrollHeight, requests: performance.getEntriesByType('resource').length};
parent.document.title = 'found ' + JSON.stringify(found);
</script>
"""
PAPER = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 420])
@pytest.mark.parametrize("layers", [None, "all"], ids=["alike", "all"])
def test_a_browser_shows_it(compiled, profile, tmp_path, layers, width, scheme):
    """Texts stay inside their boxes and stand out, nothing is fetched or wider than the window.

    That is a frame, since no window of Chromium is narrower than 500 pixels.
    """
    path = tmp_path / "report.html"
    subject = pictures.of_compiled(compiled, profile)
    page = pictures.html(subject, layers=layers).replace("</body>", f"{PROBE}</body>")
    path.write_text(f'<iframe width="{width}" height="900" srcdoc="{escape(page)}"></iframe>')
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
        *("--disable-background-networking", "--proxy-server=127.0.0.1:9"),
        "--window-size=1400,1000",
        f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
        *(f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom", path.as_uri()),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in ran.stderr
    title = re.search(r"<title>found (\{.*?\})</title>", ran.stdout)
    assert title, ran.stdout[:500]
    found = json.loads(unescape(title[1]))
    assert (found["window"], found["paper"]) == (width, PAPER[scheme])
    assert found["wrong"] == []
    assert found["faint"] == []
    assert found["wide"] <= 0
    assert found["requests"] == 0
    assert found["boxes"] > (len(subject.graph.nodes) if layers == "all" else 20)
    assert found["height"] > 2000


def test_a_pass_says_why_its_level_has_it(compiled):
    shown = text(by_id(read(pictures.html(pictures.of_compiled(compiled))), "stages"))
    told = {p.name: p.why for p in passes_of(compiled.options.level) if isinstance(p, Fuse)}
    for stage in compiled.stages:
        if stage.name in told:
            assert (f"{told[stage.name]}." in shown) == (stage.hits > 0)
