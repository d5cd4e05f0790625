"""Who is in a story: names, kinds, pronouns, and what each can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

GIRLS = (
    "Mia Lily Anna Rosa Ella Nora Ruby Clara Ivy Lucy Molly Daisy Hazel Zoe Maya Emma Tess Leah "
    "Nina Ada Elsie June Amy Kate Sara Lena Mina Sofia Tara Jane Amina Priya Yuki Carmen Greta"
).split()
BOYS = (
    "Tom Ben Sam Max Leo Finn Jack Noah Oscar Theo Hugo Felix Eli Jonas Peter Henry Otto Luca "
    "Adam Toby Will Ned Arlo Owen Rory Ravi Omar Kenji Diego Anton Paul Simon Emil Jamal Nils"
).split()
SHE_ANIMALS = (
    "Clover Willow Pearl Honey Dot Fern Olive Tilly Poppy Maple Berry Snowy Pumpkin Misty Bella "
    "Nutmeg Coco Flora Minty Peaches"
).split()
HE_ANIMALS = (
    "Bruno Pip Rusty Bumble Monty Barney Rufus Chip Moss Basil Tuck Digby Gus Milo Patch Oakley "
    "Sandy Bramble Ziggy Biscuit"
).split()


def article(words: str) -> str:
    """The words with 'a' or 'an' before them. All of ours sound as they are spelt."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


@dataclass(frozen=True)
class Kind:
    """A kind of animal or person that may be a hero: what it is called, and what it can do."""

    noun: str
    adjectives: str
    skills: frozenset[str] = frozenset()


def _kind(noun: str, adjectives: str, *skills: str) -> Kind:
    return Kind(noun, adjectives, frozenset(skills))


ANIMALS = (
    _kind("rabbit", "[little|small|white|brown]", "small"),
    _kind("fox", "[little|young|red]"),
    _kind("bear", "[little|brown|young]", "strong"),
    _kind("mouse", "[tiny|little|grey]", "small"),
    _kind("squirrel", "[little|red|quick]", "climb"),
    _kind("hedgehog", "[little|round|small]"),
    _kind("duck", "[little|yellow|white]", "swim"),
    _kind("frog", "[little|green|small]", "swim"),
    _kind("turtle", "[little|small|slow]", "swim"),
    _kind("kitten", "[little|grey|orange]", "climb"),
    _kind("puppy", "[little|brown|spotted]"),
    _kind("otter", "[little|young|brown]", "swim"),
    _kind("mole", "[little|small|black]", "small"),
    _kind("badger", "[young|little|grey]", "small"),
    _kind("goat", "[little|white|young]", "climb"),
    _kind("lamb", "[little|white|woolly]"),
    _kind("pony", "[little|brown|spotted]", "strong"),
    _kind("pig", "[little|pink|round]"),
)


@dataclass(frozen=True)
class Character:
    """Someone in a story. Printed as a name, or as 'the owl' for one who has none.

    `a` brings a character in; the pronouns have a capital form for the start of a sentence.
    """

    name: str
    kind: str
    female: bool
    adjective: str = ""
    skills: frozenset[str] = frozenset()
    human: bool = True
    facts: dict[str, str] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return self.name

    @property
    def a(self) -> str:
        """'an old owl'."""
        return article(f"{self.adjective} {self.kind}".strip())

    @property
    def the(self) -> str:
        """'the owl'."""
        return f"the {self.kind}"

    @property
    def The(self) -> str:
        """'The owl'."""
        return f"The {self.kind}"

    @property
    def he(self) -> str:
        """Subject."""
        return "she" if self.female else "he"

    @property
    def him(self) -> str:
        """Object."""
        return "her" if self.female else "him"

    @property
    def his(self) -> str:
        """Possessive."""
        return "her" if self.female else "his"

    @property
    def himself(self) -> str:
        """Reflexive."""
        return "herself" if self.female else "himself"

    @property
    def He(self) -> str:
        """Subject, at the start of a sentence."""
        return self.he.capitalize()

    @property
    def His(self) -> str:
        """Possessive, at the start of a sentence."""
        return self.his.capitalize()


def child(random: Random, taken: set[str], female: bool | None = None) -> Character:
    """A girl or a boy whose name nobody in `taken` has."""
    female = random.random() < 0.5 if female is None else female
    name = random.choice([n for n in (GIRLS if female else BOYS) if n not in taken])
    adjective = random.choice(("little", "young", "small", "kind", "clever", "cheerful", "quiet"))
    return Character(name, "girl" if female else "boy", female, adjective)


def animal(
    random: Random, taken: set[str], female: bool | None = None, unlike: str = ""
) -> Character:
    """An animal with a name, of another kind than `unlike`."""
    female = random.random() < 0.5 if female is None else female
    kind = random.choice([k for k in ANIMALS if k.noun != unlike])
    name = random.choice([n for n in (SHE_ANIMALS if female else HE_ANIMALS) if n not in taken])
    adjective = random.choice(kind.adjectives[1:-1].split("|"))
    return Character(name, kind.noun, female, adjective, kind.skills, human=False)


def stranger(noun: str, female: bool, adjective: str = "") -> Character:
    """Someone without a name: 'the baker', 'the old owl'."""
    return Character(f"the {noun}", noun, female, adjective, human=noun not in WILD)


WILD = frozenset("owl crow robin heron beaver horse ox squirrel mole mouse otter duck".split())
