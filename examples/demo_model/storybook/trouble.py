"""Troubles, and who can end them: a trouble needs a skill, and only a helper with it will do.

A trouble says how a thing got there (`cause`), what the hero tries in vain and why it fails
(`attempts`), and what it `needs`. A helper says how it is done with that skill.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from storybook.cast import Character, stranger


@dataclass(frozen=True)
class Trouble:
    """Where something is stuck; `settings` empty means that it can happen anywhere."""

    needs: str
    where: str
    causes: tuple[str, ...]
    attempts: tuple[str, ...]
    light: bool = False  # only the wind could have taken it there
    settings: tuple[str, ...] = ()


TROUBLES = (
    Trouble(
        "climb",
        "[high up in a tree|on the highest branch of a tree]",
        (
            "A gust of wind pulled {thing.the} out of {hero.his} hands and carried {thing.it} "
            "into a tall tree.",
            "Suddenly the wind took {thing.the}. Up and up {thing.they} flew, until {thing.they} "
            "hung in the top of a tree.",
        ),
        (
            "{hero} jumped as high as {hero.he} could, but the branch was much too high.",
            "{hero} threw a stick at the branch. The stick came down, but {thing.the} did not.",
            "{hero} stood on a box, but the box was too low, and it fell over with a crash.",
            "{hero} shook the tree with all {hero.his} might. Only a few leaves fell on "
            "{hero.his} nose.",
        ),
        light=True,
    ),
    Trouble(
        "climb",
        "on the roof [of the barn|of the house|of the old shed]",
        (
            "{hero} [threw|tossed] {thing.the} up [to see how high {thing.they} would go|much "
            "too high]. {thing.they} landed on the roof and stayed there.",
            "A [big black|cheeky] crow picked up {thing.the}, flew to the roof and dropped "
            "{thing.it} there.",
        ),
        (
            "{hero} looked for a ladder, but there was none.",
            "{hero} threw a little stone to push {thing.it} down, but it did not help.",
            "{hero} tried to climb up the wall, but the wall was smooth and {hero.he} slid down "
            "again.",
        ),
        settings=("village", "farm", "sea", "town"),
    ),
    Trouble(
        "swim",
        "in the middle of the [pond|lake|water]",
        (
            "{hero} [stumbled over a root|slipped on a wet stone], and {thing.the} fell into "
            "the water and [floated|drifted] away from the shore.",
            "{hero} leaned over the water to look at a fish. Splash! {thing.the} fell in and "
            "drifted away.",
        ),
        (
            "{hero} reached out with a long stick, but that only pushed {thing.the} farther away.",
            "{hero} waded in, but the water was soon too deep, and {hero.he} had to turn back.",
            "{hero} threw stones to make waves, but the waves took {thing.the} even farther out.",
        ),
    ),
    Trouble(
        "small",
        "deep in a [narrow|dark little|small round] hole",
        (
            "{hero} [tripped|stumbled], and {thing.the} rolled and rolled until {thing.they} "
            "fell into a deep, narrow hole.",
            "{thing.the} slipped out of {hero.his} [pocket|hand] and fell into a small hole "
            "between two big stones.",
        ),
        (
            "{hero} reached into the hole, but {hero.his} arm was too short.",
            "{hero} poked into the hole with a stick, but {thing.the} only went deeper.",
            "{hero} tried to push the stone away, but it was much too heavy.",
        ),
    ),
    Trouble(
        "strong",
        "in the deep mud [by the road|behind the fence|at the side of the path]",
        (
            "{hero} ran too fast down the hill, and {thing.the} fell into the deep mud and sank.",
            "There was a big puddle of mud on the path. {hero} did not see it, and {thing.the} "
            "got stuck in it.",
        ),
        (
            "{hero} pulled and pulled, but the mud did not let go.",
            "{hero} put a board on the mud and stood on it, but the board sank too.",
            "{hero} dug with both hands, but the mud came back each time.",
        ),
    ),
    Trouble(
        "light",
        "in a dark [cave|cellar|tunnel]",
        (
            "{hero} [kicked|pushed] {thing.the} by accident, and {thing.they} rolled down into "
            "a place where it was as dark as night.",
            "{thing.the} slipped from {hero.his} hands and rolled down, down into the dark.",
        ),
        (
            "{hero} took three steps into the dark and bumped {hero.his} nose.",
            "{hero} felt about on the ground, but {hero.he} found only cold stones.",
            "{hero} waited until {hero.his} eyes could see, but it was too dark for any eyes.",
        ),
    ),
)

# skill -> (noun, female or None for either, adjectives, how)
HELPERS: dict[str, tuple[tuple[str, bool | None, str, str], ...]] = {
    "climb": (
        ("squirrel", None, "quick", "{helper} ran up, quick as the wind, and pushed {thing.the} "
         "down. {hero} caught {thing.it} with both hands."),
        ("crow", None, "black", "{helper} flew up, took {thing.the} in {helper.his} beak and "
         "brought {thing.it} down."),
        ("painter", None, "tall", "{helper} fetched {helper.his} long ladder, climbed up and "
         "came down with {thing.the}."),
        ("robin", None, "small", "{helper} flew up and pecked and pulled until {thing.the} fell "
         "down into the soft grass."),
        ("fireman", False, "friendly", "{helper} put up {helper.his} ladder, climbed to the top "
         "and brought {thing.the} down."),
    ),
    "swim": (
        ("duck", None, "white", "{helper} swam out and pushed {thing.the} back to the shore with "
         "{helper.his} beak."),
        ("otter", None, "merry", "{helper} dived into the water and came back with {thing.the} "
         "on {helper.his} belly."),
        ("fisherman", False, "old", "{helper} rowed out in {helper.his} boat and caught "
         "{thing.the} with {helper.his} net."),
        ("beaver", None, "busy", "{helper} swam out, took {thing.the} in {helper.his} teeth and "
         "swam back."),
        ("dog", None, "big wet", "{helper} jumped in, paddled out and carried {thing.the} back "
         "to the shore."),
    ),
    "small": (
        ("mouse", None, "tiny", "{helper} slipped into the hole and pushed {thing.the} out, "
         "bit by bit."),
        ("mole", None, "wise old", "{helper} dug a new tunnel from the side and came out with "
         "{thing.the}."),
        ("weasel", None, "thin", "{helper} went in head first and came out backwards, pulling "
         "{thing.the} along."),
    ),
    "strong": (
        ("horse", None, "strong", "{helper} took {thing.the} between {helper.his} teeth, pulled "
         "once, and out {thing.they} came with a plop."),
        ("farmer", None, "strong", "{helper} tied a rope to {thing.the} and pulled {thing.it} "
         "out with a plop."),
        ("ox", False, "big", "{helper} leaned back and pulled, and with a loud plop {thing.the} "
         "came free."),
        ("blacksmith", False, "strong", "{helper} reached into the mud with one long arm and "
         "pulled {thing.the} out."),
    ),
    "light": (
        ("owl", None, "old", "{helper} could see in the dark. {helper.He} flew in without a "
         "sound and came back with {thing.the}."),
        ("miner", None, "kind", "{helper} lit {helper.his} lamp and held it up, and there lay "
         "{thing.the}, right behind a stone."),
        ("cat", None, "black", "{helper} had eyes that could see at night. {helper.He} walked "
         "into the dark and came back with {thing.the}."),
        ("firefly", None, "little", "{helper} flew ahead and glowed like a star, and in the "
         "glow {hero} saw {thing.the} at once."),
    ),
}  # fmt: skip


def helper(random: Random, skill: str) -> tuple[Character, str]:
    """Someone with the skill, and how they use it."""
    noun, female, adjective, how = random.choice(HELPERS[skill])
    female = random.random() < 0.5 if female is None else female
    return stranger(noun, female, adjective), how


def trouble(random: Random, hero: Character, setting: str, *, light: bool) -> Trouble:
    """A trouble that can happen here, and that the hero has not the skill to end alone."""

    def possible(t: Trouble) -> bool:
        here = not t.settings or setting in t.settings
        return here and t.needs not in hero.skills and (light or not t.light)

    return random.choice([t for t in TROUBLES if possible(t)])


def attempts(random: Random, of: Trouble, count: int) -> list[Any]:
    """That many of its attempts, each once."""
    return random.sample(of.attempts, count)
