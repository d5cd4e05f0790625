"""A story being told: its roles, its text so far, and the beats that many plots share."""

from __future__ import annotations

from random import Random
from typing import Any

from storybook.cast import Character, animal, child
from storybook.details import DISLIKES, HOURS, LIKES, SAYINGS, SNACKS, sight
from storybook.template import expand, settle, tidy
from storybook.world import FOODS, SETTINGS, WEATHERS, Setting, Weather

TRAITS = (
    {"is": "kind", "habit": "loved to help others"},
    {"is": "curious", "habit": "wanted to know everything"},
    {"is": "brave", "habit": "was not afraid of anything"},
    {"is": "shy", "habit": "did not talk very much"},
    {"is": "impatient", "habit": "never wanted to wait"},
    {"is": "careful", "habit": "looked at everything twice"},
    {"is": "cheerful", "habit": "sang from morning to night"},
    {"is": "clever", "habit": "always had a good idea"},
    {"is": "dreamy", "habit": "liked to look at the clouds"},
)


class Story:
    """Roles and text. `say` adds to the text; roles are set before they are used in it.

    Every story has `hero`, `friend`, `parent`, `trait`, `food`, `place`, `home` and the weather's
    `morning` and `evening`.
    """

    hero: Character
    friend: Character

    def __init__(self, random: Random) -> None:
        self.random = random
        self.setting: Setting = random.choice(SETTINGS)
        human = self.setting.tame and (not self.setting.wild or random.random() < 0.5)
        self.hero = child(random, set()) if human else animal(random, set())
        other = not self.hero.female if random.random() < 0.7 else self.hero.female
        taken = {self.hero.name}
        if human:
            self.friend = child(random, taken, other)
        else:
            self.friend = animal(random, taken, other, unlike=self.hero.kind)
        first, second = random.sample(self.setting.places, 2)
        self.roles: dict[str, Any] = {"hero": self.hero, "friend": self.friend}
        self.set(parent=self._parent(), trait=random.choice(TRAITS), food=random.choice(FOODS))
        self.set(home=self.setting.home, place=first, other_place=second)
        self.make_weather(*(weather.name for weather in WEATHERS))
        self._parts: list[str] = []

    def _parent(self) -> Character:
        female = self.random.random() < 0.5
        if self.random.random() < 0.6:
            word = "mother" if female else "father"
        else:
            word = "grandmother" if female else "grandfather"
        return Character(f"{self.hero.his} {word}", word, female)

    def pick(self, rows: Any) -> Any:
        """One of them."""
        return self.random.choice(rows)

    def chance(self, share: float) -> bool:
        """True that often."""
        return self.random.random() < share

    def set(self, **roles: Any) -> None:
        """Give roles to templates. What a text or a row of texts leaves open is decided now."""
        for name, role in roles.items():
            if isinstance(role, str):
                self.roles[name] = settle(role, self.random)
            elif isinstance(role, dict):
                self.roles[name] = {key: settle(text, self.random) for key, text in role.items()}
            else:
                self.roles[name] = role

    def make_weather(self, *names: str) -> None:
        """Weather of one of those names, so that what happens can happen in it."""
        self.weather: Weather = self.pick([w for w in WEATHERS if w.name in names])
        self.set(morning=self.weather.morning, evening=self.weather.evening)

    def say(self, *variants: str) -> None:
        """Add one of the templates."""
        self._parts.append(expand(self.random.choice(variants), self.roles, self.random))

    def text(self) -> str:
        """The whole story, paragraphs apart by an empty line."""
        return tidy(" ".join(self._parts))

    # --- beats ---

    def open(self, company: bool = False) -> None:
        """Who the story is about and where; with `company`, also who the friend is."""
        self.company = company
        self.say(
            "Once upon a time, {hero.a} named {hero} lived {home}.",
            "Once upon a time, there was {hero.a} named {hero}. {hero.He} lived {home}.",
            "Once upon a time, {home}, there lived {hero.a} named {hero}.",
            "There once was {hero.a} named {hero} who lived {home}.",
            "{hero} was {hero.a} who lived {home}.",
            "{home} lived {hero.a}. {hero.His} name was {hero}.",
            "Long ago, {hero.a} called {hero} lived {home}.",
            "This is the story of {hero}, {hero.a} who lived {home}.",
        )
        self.set(likes=self.pick(LIKES), dislikes=self.pick(DISLIKES))
        if self.chance(0.45):
            self.say(
                "{hero} liked {likes}.",
                "{hero} liked {likes}, but {hero.he} did not like {dislikes}.",
                "What {hero.he} liked best was {likes}.",
                "There was nothing {hero} liked more than {likes}.",
                "{hero.He} did not like {dislikes}, but {hero.he} loved {likes}.",
                "All day long {hero} could be found {likes}.",
            )
        if self.chance(0.35):
            self.say(
                "{hero} was very {trait.is} and {trait.habit}.",
                "Everyone knew that {hero} was {trait.is}. {hero.He} {trait.habit}.",
                "{hero.He} was {trait.is}, and {hero.he} {trait.habit}.",
            )

        if company:
            self.say(
                "{hero.His} best friend was {friend}, {friend.a}.",
                "{hero} had a good friend, {friend.a} named {friend}.",
                "Every day {hero} played with {friend}, {friend.a}.",
                "Not far away lived {friend}, {friend.a}, who was {hero.his} best friend.",
            )

    def day(self, go: bool = True, food: bool = True) -> None:
        """The day everything begins, and its weather.

        With `go`, the hero may go out; with `food`, have something to eat.
        """
        still = ("[One day|One morning], {morning}.", "It was early in the morning, and {morning}.")
        out = "[One day|One morning|One afternoon], {morning}, and {hero} went to {place}."
        self.say(*still, *((out,) if go else ()))
        if self.chance(0.5):
            self.look(food)

    def look(self, food: bool) -> None:
        """Something the hero sees, hears or eats by the way."""
        if self.chance(0.6) or not food:
            self.say(sight(self.random, self.weather.name == "snowy"))
        else:
            shared = ("{hero} [ate|shared] {snack} with {friend}.",) if self.company else ()
            self.set(snack=self.pick(SNACKS))
            self.say(
                f"{HOURS} {{hero}} [ate|had] {{snack}}.",
                "{hero} had {snack} in {hero.his} [pocket|bag|basket].",
                *shared,
            )

    def thanks(self) -> None:
        """The hero thanks the helper, who answers."""
        self.say(
            "<[Thank you|Thank you so much|Oh, thank you]!> [said|cried] {hero}. "
            "<[You are welcome|It was nothing|I am glad I could help],> [said|answered] {helper}.",
            "{hero} was so happy that {hero.he} [hugged {helper}|danced in a circle|jumped up "
            "and down]. <I will never forget this,> {hero.he} said.",
            "<How can I ever thank you?> asked {hero}. <[Just be kind to others|Help someone "
            "else one day|A smile is enough],> [said|replied] {helper}.",
        )

    def saying(self) -> None:
        """A piece of wisdom that belongs to no plot."""
        self.set(saying=self.pick(SAYINGS))
        self.say(
            "<You know what they say,> said {parent}. <{saying}.>",
            "And {hero} thought of an old saying: {saying}.",
            "<As my grandmother used to say, {saying},> said {parent}.",
        )

    def evening(self) -> None:
        """The day ends as its weather does."""
        self.say(
            "That evening, {evening}.",
            "In the evening, {evening}, and {hero} [went home|sat by the window|was tired but "
            "happy].",
            "That night, {evening}, and {hero} [fell asleep with a smile|slept well|lay in "
            "{hero.his} warm bed].",
        )
