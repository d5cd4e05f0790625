"""The demo model's training text: reproducible, varied, correct English where it can be counted."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from random import Random

import pytest
from storybook import PLOTS, stories, tell
from storybook.cast import ANIMALS, Character
from storybook.plots import journeys
from storybook.story import Story
from storybook.template import expand, settle, tidy
from storybook.trouble import HELPERS, TROUBLES, trouble
from storybook.world import Thing

pytestmark = pytest.mark.slow  # thousands of stories

MANY = 5400  # 200 of each plot


@pytest.fixture(scope="module")
def told() -> list[str]:
    return [tell(3, number) for number in range(MANY)]


def planned(count: int) -> Iterator[tuple[Story, str]]:
    """Stories with the plans they were told from, but for plots whose strangers are no roles."""
    for number in range(count):
        plot = PLOTS[number % len(PLOTS)]
        if plot not in (journeys.stray, journeys.coin):
            story = Story(Random(f"plan:{number}"))
            plot(story)
            yield story, story.text()


# --- the corpus ----------------------------------------------------------------------------------


def test_the_shipped_models_corpus() -> None:
    """Its text is pinned: whoever changes a template has to train the model again."""
    text = "\n".join(tell(0, number) for number in range(500))
    digest = "6fa4c7f9280e1bcf1afeb75e897d9129bd8afbfc3086daa19b72885c010bbd52"
    assert hashlib.sha256(text.encode()).hexdigest() == digest


@pytest.mark.slow
def test_a_seed_decides_everything(told: list[str]) -> None:
    assert [tell(3, number) for number in range(50)] == told[:50]
    assert not {tell(4, number) for number in range(50)} & set(told)
    assert list(stories(3, 30, start=20)) == told[20:50]


@pytest.mark.slow
def test_no_story_is_told_twice(told: list[str]) -> None:
    assert len(set(told)) == MANY
    openings = {text[:120] for text in told}
    assert len(openings) > 0.9 * MANY


def test_the_vocabulary_is_a_small_childs(told: list[str]) -> None:
    words = set(re.findall(r"[a-z]+", " ".join(told).lower()))
    assert 1200 < len(words) < 1800
    lengths = [len(text.split()) for text in told]
    assert 80 < min(lengths) < max(lengths) < 330


# --- its English ---------------------------------------------------------------------------------


def test_articles(told: list[str]) -> None:
    vowel = r"\b[Aa] ([aeiou]\w*)"
    consonant = r"\b[Aa]n ([^aeiou\W]\w*)"
    assert {w for text in told for w in re.findall(vowel, text)} == set()
    assert {w for text in told for w in re.findall(consonant, text)} == {"honest"}


PRONOUNS = {True: r"\b(she|her|hers|herself)\b", False: r"\b(he|him|his|himself)\b"}


@pytest.mark.slow
def test_pronouns_agree() -> None:
    """Where everybody in a story is female nobody is called he, and the other way round."""
    checked = {True: 0, False: 0}
    for story, text in planned(MANY):
        characters = [role for role in story.roles.values() if isinstance(role, Character)]
        sexes = {character.female for character in characters}
        if len(sexes) == 1:
            (female,) = sexes
            found = re.findall(PRONOUNS[not female], text, re.IGNORECASE)
            assert not found, text
            assert re.search(PRONOUNS[female], text, re.IGNORECASE)
            checked[female] += 1
    assert min(checked.values()) > 50


@pytest.mark.slow
def test_punctuation_and_capitals(told: list[str]) -> None:
    for text in told:
        assert not set(text) & set("[]{}|<>~")
        assert "  " not in text
        for paragraph in text.split("\n\n"):
            assert paragraph.count('"') % 2 == 0
            assert paragraph[-1] in '.!?"'
            assert paragraph[0] in '"ABCDEFGHIJKLMNOPQRSTUVWXYZ'
            wrong = r'[.,]{2}|[.!?],|"[.,]| [.,!?]|[.] [a-z]|[.]" [a-z]'
            assert not re.search(wrong, paragraph), text


# --- its sense -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*ANIMALS, None], ids=lambda kind: kind.noun if kind else "child")
def test_no_hero_is_stopped_by_what_it_could_do_itself(kind: object) -> None:
    skills = kind.skills if kind else frozenset()
    hero = Character("Pip", "hero", True, skills=skills)
    found = {trouble(Random(i), hero, "farm", light=True).needs for i in range(200)}
    assert found == {t.needs for t in TROUBLES} - skills


def test_every_trouble_has_someone_who_can_end_it() -> None:
    assert {t.needs for t in TROUBLES} == set(HELPERS)


@pytest.mark.parametrize("plot", dict.fromkeys(PLOTS), ids=lambda plot: plot.__name__)
def test_endings_refer_back(plot: object) -> None:
    """A story ends with somebody or something of its own, not with words that fit every story."""
    for number in range(100):
        story = Story(Random(number))
        plot(story)
        last = story.text().split("\n\n")[-1].lower()
        own = (role for role in story.roles.values() if isinstance(role, Character | Thing))
        names = [str(role).lower() for role in own]
        assert any(name in last for name in names), last


# --- templates -----------------------------------------------------------------------------------


def test_choices_and_fields() -> None:
    roles = {"who": Character("Ann", "girl", True, "old"), "row": {"deed": "[ran|hid] at {place}"}}
    roles["place"] = "the sea"
    found = {expand("{who} and {who.a} {row.deed}", roles, Random(i)) for i in range(20)}
    assert found == {f"Ann and an old girl {deed} at the sea" for deed in ("ran", "hid")}


def test_settling_makes_the_choices_once() -> None:
    kept = settle("[a|b][c [d|e]|f] {who.he}", Random(1))
    assert re.fullmatch(r"[ab](c [de]|f) \{who\.he\}", kept)
    assert settle(kept, Random(2)) == kept


def test_tidying() -> None:
    assert (
        tidy(" <who?>  asked she. ~ he said: <i am> .") == '"who?" asked she.\n\nHe said: "i am".'
    )


@pytest.mark.parametrize("wrong", ["a [b", "a ]b", "a {b", "a {b c}", "}"])
def test_broken_templates_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="template"):
        expand(wrong, {}, Random(0))
