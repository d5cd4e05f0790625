"""Where stories happen, in what weather, and the things in them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from storybook.cast import article


@dataclass(frozen=True)
class Thing:
    """A thing with an adjective: printed as 'red kite'."""

    noun: str
    adjective: str
    plural: bool = False

    def __str__(self) -> str:
        return f"{self.adjective} {self.noun}"

    @property
    def a(self) -> str:
        """'a red kite', 'some red boots'."""
        return f"some {self}" if self.plural else article(str(self))

    @property
    def the(self) -> str:
        """'the red kite'."""
        return f"the {self}"

    @property
    def it(self) -> str:
        """Object."""
        return "them" if self.plural else "it"

    @property
    def they(self) -> str:
        """Subject."""
        return "they" if self.plural else "it"

    @property
    def was(self) -> str:
        """Past tense of to be."""
        return "were" if self.plural else "was"

    @property
    def are(self) -> str:
        """Present tense of to be."""
        return "are" if self.plural else "is"


COLOURS = "red blue green yellow orange purple white".split()
# noun -> adjectives that suit it
LIGHT = {
    "kite": COLOURS,
    "hat": [*COLOURS, "woolly", "old"],
    "scarf": [*COLOURS, "woolly", "warm"],
    "balloon": COLOURS,
    "paper boat": ["little", *COLOURS],
    "ribbon": [*COLOURS, "silk"],
    "umbrella": [*COLOURS, "old"],
}
SMALL = {
    "ball": [*COLOURS, "round"],
    "button": ["shiny", "silver", *COLOURS],
    "key": ["little", "silver", "old", "golden"],
    "ring": ["golden", "silver", "little"],
    "bell": ["little", "silver", "golden"],
    "marble": ["shiny", "glass", *COLOURS],
    "whistle": ["wooden", "little", "silver"],
    "shell": ["pink", "white", "little"],
    "toy car": ["little", *COLOURS],
    "spoon": ["wooden", "silver", "little"],
    "coin": ["shiny", "silver", "golden"],
}
TOYS = {
    "drum": ["little", *COLOURS],
    "doll": ["old", "little", "wooden"],
    "teddy bear": ["old", "soft", "brown"],
    "train": ["wooden", "little", *COLOURS],
    "book": ["old", "big", *COLOURS],
    "boat": ["wooden", "little", *COLOURS],
    "wagon": ["little", "wooden", "red"],
    "blanket": ["soft", "warm", *COLOURS],
    "lantern": ["little", "old", "yellow"],
    "basket": ["little", "round", "brown"],
}


def thing(random: Random, *tables: dict[str, list[str]]) -> Thing:
    """One thing of the tables."""
    nouns = {noun: adjectives for table in tables for noun, adjectives in table.items()}
    noun = random.choice(list(nouns))
    return Thing(noun, random.choice(nouns[noun]))


@dataclass(frozen=True)
class Setting:
    """A neighbourhood: `home` says where the hero lives, `places` where there is to go."""

    name: str
    home: str
    places: tuple[str, ...]
    wild: bool  # animals may live there
    tame: bool  # people may


def _setting(
    name: str, home: str, places: str, *, wild: bool = False, tame: bool = False
) -> Setting:
    return Setting(name, home, tuple(p.strip() for p in places.split(",")), wild, tame)


SETTINGS = (
    _setting(
        "village",
        "in [a small village|a quiet village|a village between the hills]",
        "the market, the bakery, the old mill, the pond, the school yard, the church square, the "
        "park",
        tame=True,
    ),
    _setting(
        "farm",
        "on a [big|small|sunny] farm",
        "the barn, the hen house, the apple orchard, the corn field, the duck pond, the hay shed",
        wild=True,
        tame=True,
    ),
    _setting(
        "sea",
        "[by the sea|in a little house by the sea|near a long white beach]",
        "the beach, the harbour, the lighthouse, the rocks, the boat shed, the sand hills",
        tame=True,
    ),
    _setting(
        "forest",
        "[at the edge of a big forest|deep in the green forest|in a forest full of tall trees]",
        "the old oak tree, the stream, the berry bushes, the hollow log, the fern path, the "
        "clearing",
        wild=True,
        tame=True,
    ),
    _setting(
        "meadow",
        "[in a wide green meadow|in a sunny valley|at the foot of a round hill]",
        "the brook, the stone wall, the wild rose bush, the clover field, the little bridge, the "
        "hill",
        wild=True,
    ),
    _setting(
        "town",
        "[in a busy town|in a tall house in the town|in a little town by the river]",
        "the park, the library, the toy shop, the river bank, the playground, the fountain",
        tame=True,
    ),
)


@dataclass(frozen=True)
class Weather:
    """The weather: an opening, and what the evening of such a day is like."""

    name: str
    morning: str
    evening: str


WEATHERS = (
    Weather(
        "sunny",
        "[the sun was shining|the sky was blue and the sun was warm|there was not a cloud in the "
        "sky]",
        "[the sun went down behind the hills|the sky turned pink and gold|the last sunlight "
        "lay on the roofs]",
    ),
    Weather(
        "windy",
        "[a strong wind was blowing|the wind was blowing through the trees|the air was full of "
        "wind]",
        "[the wind had gone to sleep at last|the wind grew quiet|the wind sang softly outside]",
    ),
    Weather(
        "rainy",
        "[it had rained all night|it was raining a little|grey clouds hung in the sky]",
        "[the rain had stopped and there was a rainbow|the rain tapped softly on the window|the "
        "clouds went away and the stars came out]",
    ),
    Weather(
        "snowy",
        "[snow was falling|everything was white with snow|the first snow had come]",
        "[the snow shone in the moonlight|the snow fell softly outside|the stars sparkled over "
        "the white roofs]",
    ),
    Weather(
        "foggy",
        "[a soft fog lay over everything|the air was grey and misty|the fog was as thick as soup]",
        "[the fog was gone and the moon looked in|the moon came out above the mist|the evening "
        "was clear and still]",
    ),
)

FOODS = (
    "[a piece of|some] apple pie", "[some|a bowl of] hot soup", "[a plate of|some] honey cakes",
    "warm bread [and|with] butter", "[a bowl of|some] sweet berries", "[a plate of|some] pancakes",
    "[some|a piece of] carrot cake", "[a big|a warm] plum pie", "hot milk with honey",
)  # fmt: skip
