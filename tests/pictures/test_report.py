"""The HTML report: what it holds, that it needs nothing else, and how a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser

import pytest

from fusec import artifact, driver, pictures
from fusec.artifact import Artifact
from fusec.errors import FusecError
from fusec.ir import Builder
from fusec.pictures.times import times
from tests.graphs import llama_graph
from tests.pictures.conftest import profile_of

VOID = {"meta", "br"}
CHROMIUM = next(
    (p for p in ("chromium", "chromium-browser", "google-chrome") if shutil.which(p)), ""
)


class Checked(HTMLParser):
    """Tags balance; `text` and `links` are collected."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.links += [named[key] for key in ("href", "src", "data", "action") if key in named]
        self.ids |= {named["id"]} if "id" in named else set()
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.links += [value for key, value in attrs if key in ("href", "src")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(html: str) -> Checked:
    page = Checked()
    page.feed(html)
    page.close()
    assert not page.open
    return page


@pytest.fixture(scope="module")
def page(compiled) -> str:
    return pictures.html(pictures.of_compiled(compiled), "fusec inspect tiny.gguf --html r.html")


def test_the_page_needs_nothing_from_outside(page):
    found = read(page)
    assert all(link.startswith("#") for link in found.links)
    assert {link[1:] for link in found.links} <= found.ids
    addresses = set(re.findall(r"\b\w+://[\w.]+", page))
    assert addresses <= {"http://www.w3.org"}  # the name of SVG
    assert "url(" not in page
    assert "<script" not in page


def test_every_kernel_is_there_with_its_source_and_ir(page, compiled):
    text = "".join(read(page).text)
    for kernel in compiled.plan.kernels:
        assert kernel.region in text
        assert compiled.kernels[kernel.name].source in text


def test_every_stage_says_what_it_merged(page, compiled):
    for stage in compiled.stages:
        assert f"<h3>{stage.name}</h3>" in page
        if stage.equation:
            assert stage.equation in unescape(page)
            assert f"{stage.hits} merged, {len(stage.refused)} refused" in page
    columns = re.findall(r'<div class="stage">.*?</ol></div>', page)
    merged = columns[[s.name for s in compiled.stages].index("fuse-chain")]
    assert merged.count('class="made') == 1  # silu and mul of the layer shown


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
    text = "".join(read(pictures.html(subject)).text)
    for (refusal,) in refused.values():
        assert refusal.reason == "a second user: %act is an output of the graph"
        assert f"{' + '.join(refusal.nodes)}: {refusal.reason}" in text
    plain = pictures.of_compiled(driver.compile(llama_graph(layers=1), level=0))
    assert "Nothing was refused" in pictures.html(plain)


def test_measured_times_stand_beside_predicted_ones(compiled, profile):
    subject = pictures.of_compiled(compiled, profile)
    text = "".join(read(pictures.html(subject)).text)
    assert "60 us, 16,667 tok/s" in text
    assert "between tokens 2.5, launches 20.0, memory 5.0, compute 30.0" in text
    assert "together 57.5 us, the token 60.0 us (96%)" in text
    assert "fusec profile tiny.gguf" in text
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
    assert "starts early" in subject.svg(layer=1)
    assert "starts early" not in subject.svg("decode-graph", layer=1)


def test_a_folder_shows_what_the_compilation_did(compiled, tmp_path, profile):
    small = driver.compile(compiled.model.file.path, context=64)
    saved = Artifact.open(small.save(tmp_path / "folder"))
    first, second = (
        pictures.html(subject)
        for subject in (pictures.of_compiled(small), artifact.pictured(saved))
    )
    clean = re.compile(r"\d+\.\d ms")
    assert clean.sub("", first) == clean.sub("", second)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"level": 2}, "expected a profile at -O3 for sm_90a, found one at -O2 for sm_90a"),
        ({"launches": []}, "a profile of other kernels"),
        ({"walls": 3}, "expected what fusec profile --json writes"),
        ({"token": "x"}, "expected what fusec profile --json writes"),
    ],
)
def test_profiles_of_something_else(compiled, tmp_path, changed, message):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(profile_of(compiled, **changed)))
    with pytest.raises(FusecError, match=message):
        pictures.of_compiled(compiled, path)


def test_us_a_token_are_those_of_all_launches_of_a_kernel(compiled, profile):
    """The mean of a kernel's launches, times how many there are, is their sum."""
    subject = pictures.of_compiled(compiled, profile)
    rows = re.findall(r"<tr>(.*?)</tr>", times(subject))
    for kernel in compiled.plan.kernels:
        mine = [
            1 + i / 100 for i, x in enumerate(compiled.plan.launches) if x.kernel == kernel.name
        ]
        cells = next(re.findall("<td>(.*?)</td>", row) for row in rows if kernel.name in row)
        assert cells[1] == str(len(mine))
        assert cells[-2:] == [f"{sum(mine) / len(mine):.2f}", f"{sum(mine):,.1f}"]


def test_notebooks_show_a_compilation():
    graph = llama_graph(layers=1)
    compiled = driver.compile(graph, level=1)
    html = compiled._repr_html_()
    read(html)
    assert "<svg " in html
    assert "fuse-prologue" in html


# --- in a browser --------------------------------------------------------------------------------

PROBE = """
<script>
const wrong = [];
for (const g of document.querySelectorAll('svg g')) {
  const rect = g.querySelector('rect');
  if (!rect) continue;
  const box = rect.getBBox();
  for (const text of g.querySelectorAll('text')) {
    const t = text.getBBox();
    if (t.x < box.x || t.x + t.width > box.x + box.width + 0.5 || t.y < box.y - 0.5
        || t.y + t.height > box.y + box.height + 0.5) wrong.push(text.textContent);
  }
}
const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const found = {boxes: document.querySelectorAll('svg g rect').length, wrong: wrong, wide: wide,
  height: document.body.scrollHeight, requests: performance.getEntriesByType('resource').length};
document.title = 'found ' + JSON.stringify(found);
</script>
"""


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
@pytest.mark.parametrize("every", [False, True], ids=["alike", "all"])
def test_a_browser_shows_it(compiled, profile, tmp_path, every):
    """Texts stay inside their boxes, nothing is fetched, the page is no wider than the window."""
    path = tmp_path / "report.html"
    subject = pictures.of_compiled(compiled, profile)
    path.write_text(pictures.html(subject, every=every).replace("</body>", f"{PROBE}</body>"))
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
        *(
            "--disable-background-networking",
            "--proxy-server=127.0.0.1:9",
            "--window-size=1280,900",
        ),
        *(f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom", path.as_uri()),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in ran.stderr
    title = re.search(r"<title>found (\{.*?\})</title>", ran.stdout)
    assert title, ran.stdout[:500]
    found = json.loads(unescape(title[1]))
    assert found["wrong"] == []
    assert found["wide"] <= 0
    assert found["requests"] == 0
    least = len(subject.graph.nodes) if every else 20
    assert found["boxes"] > least
    assert found["height"] > 2000
