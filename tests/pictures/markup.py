"""HTML read into a tree, strictly: every tag that opens has to close where it should."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

VOID = {"meta", "br"}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.builder = ET.TreeBuilder()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.builder.start(tag, {key: value or "" for key, value in attrs})
        if tag in VOID:
            self.builder.end(tag)
        else:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.builder.start(tag, {key: value or "" for key, value in attrs})
        self.builder.end(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.builder.end(tag)

    def handle_data(self, data):
        if self.open:
            self.builder.data(data)


def read(html: str) -> ET.Element:
    """The root of a page, or of a piece of one that is a single element."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open
    return reader.builder.close()


def text(element: ET.Element) -> str:
    """All text inside, its blanks and line ends as one blank each."""
    return re.sub(r"\s+", " ", "".join(element.itertext())).strip()


def of_class(root: ET.Element, name: str) -> list[ET.Element]:
    """The elements of a class, in order."""
    return [e for e in root.iter() if name in e.get("class", "").split()]


def by_id(root: ET.Element, name: str) -> ET.Element:
    """The one element of that id."""
    (found,) = (e for e in root.iter() if e.get("id") == name)
    return found


def table(element: ET.Element) -> list[list[str]]:
    """The texts of a table, row by row."""
    return [[text(cell) for cell in row] for row in element.iter("tr")]


def style(element: ET.Element, key: str) -> float:
    """A number of an element's own style."""
    found = re.search(rf"(?:^|;){key}:([\d.]+)", element.get("style", ""))
    assert found, element.attrib
    return float(found[1])
