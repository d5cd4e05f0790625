"""Small stories in simple English, told by a planner: the training text of the demo model.

A plot decides what is wanted, what goes wrong and why, who can help and what comes of it; templates
say it. Everything follows from a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from storybook.plots import courage, friends, games, honesty, journeys, things, work
from storybook.story import Story

PLOTS: tuple[Callable[[Story], None], ...] = (
    things.stuck,
    things.stuck,
    things.lost,
    honesty.found,
    friends.quarrel,
    honesty.broken,
    courage.fear,
    friends.sick,
    courage.boast,
    friends.newcomer,
    friends.birthday,
    honesty.warning,
    work.trade,
    work.garden,
    courage.noise,
    journeys.freed,
    work.storm,
    journeys.errand,
    journeys.stray,
    journeys.coin,
    work.winter,
    courage.sleepless,
    games.way_home,
    games.hide_and_seek,
    games.missing_one,
    games.riddle,
    games.picnic,
)
"""What may happen; a plot named twice happens twice as often."""


def tell(seed: int, number: int) -> str:
    """Story `number` of a seed."""
    story = Story(Random(f"{seed}:{number}"))
    PLOTS[number % len(PLOTS)](story)
    if story.chance(0.1):
        story.saying()
    return story.text()


def stories(seed: int, count: int, start: int = 0) -> Iterator[str]:
    """`count` stories of a seed, from number `start`, all different from one another."""
    seen: set[int] = set()
    for number in range(start, start + count):
        text = tell(seed, number)
        if hash(text) not in seen:
            seen.add(hash(text))
            yield text
