"""Small things by the way: what the hero likes, sees, hears, thinks and eats.

They decide nothing in a plot. They are where most of a story's freedom is: each is put together
from parts that fit each other.
"""

from __future__ import annotations

from random import Random

LIKES = (
    "collecting [smooth stones|feathers|snail shells|buttons|leaves of all colours]",
    "[climbing over|sitting on|balancing on] [the garden wall|old fences|fallen trees]",
    "listening to [the rain on the roof|old stories|the frogs at night|the church bell]",
    "[drawing|painting] [ships|castles|birds|funny faces|the moon]",
    "[baking|eating] [honey cakes|nut bread|apple pies|little buns]",
    "looking [for four-leaf clovers|at the stars|into the well|under big stones]",
    "[whistling|humming|singing] [loud songs|silly songs|the same old song|to the birds]",
    "building [dams in the stream|little houses of moss|towers of stones|boats of bark]",
    "[asking|answering] questions", "[telling|hearing] jokes", "jumping over puddles",
    "sleeping [late|in the hay|in the sun]", "feeding the [birds|hens|fish|cats]",
    "playing [hide and seek|the drum|in the mud|with marbles]",
)  # fmt: skip
DISLIKES = (
    "[getting up early|going to bed early|washing {hero.his} ears|cold water|wet feet]",
    "[cabbage soup|turnips|onions|porridge with lumps]",
    "[waiting|sitting still|losing at games|being alone|being laughed at]",
    "[spiders|geese|wasps|loud noises|long walks|the smell of fish]",
)

# what is seen: subject, what it does, where, and whether there is such a thing in the snow
SIGHTS = (
    ("[a blackbird|a thrush|a robin|a tiny wren|a finch]", "[sang|was singing|sat|hopped about]",
     "[in the apple tree|on the fence|in the hedge|on a chimney|on the top of a post]", True),
    ("[two white geese|three ducks|a hen and some chicks|a line of ants]", "[walked|marched|went]",
     "[across the road|along the wall|past the gate|down to the water]", False),
    ("[an old cat|a sleepy dog|a fat toad|a grey donkey]", "[lay|dozed|sat|was yawning]",
     "[in the shade|by the door|under a cart|on the warm stones|beside the well]", False),
    ("[a white cloud|a thin cloud|a lonely cloud]", "[drifted|sailed|wandered]",
     "[over the hills|above the roofs|across the sky|over the fields]", True),
    ("[thin smoke|blue smoke]", "[rose|curled]", "[from a chimney|over the roofs|from the mill]",
     True),
    ("[the smell of bread|the sound of a hammer|the sound of bells|a song]", "[came|drifted]",
     "[from an open window|from far away|over the roofs|from the mill]", True),
    ("[a farmer|an old woman|a boy with a cart|the postman|a man with a ladder]",
     "[nodded|waved|smiled|called good morning]",
     "[from the other side|over the hedge|from a window|from the field]", True),
    ("[a beetle|a snail|a green caterpillar|a ladybird]", "[crawled|climbed|was on its way]",
     "[up a blade of grass|over a stone|along a leaf|across the path]", False),
    ("[yellow leaves|dry leaves|tiny seeds]", "[danced|drifted|came down|turned]",
     "[in the air|over the path|past {hero.his} nose|at {hero.his} feet]", False),
    ("[a squirrel|a hare|a small deer|a grey fox]", "[ran|jumped|darted]",
     "[behind a tree|into the bushes|over the wall|through the ferns]", True),
)  # fmt: skip
LANDMARKS = (
    "crooked tree", "red gate", "old mill", "stone bridge", "blue door", "broken cart",
    "tall tower", "hollow log", "yellow house", "deep well", "field of corn", "white rock",
    "statue of a lion", "row of beehives", "scarecrow with a green hat", "big thistle",
    "mossy wall", "empty barn", "round pond", "small chapel",
)  # fmt: skip
SNACKS = (
    "[an|a red|a green|a sour] apple", "[some|a handful of] [nuts|raisins|cherries|plums]",
    "[a slice of|a piece of] [bread and jam|cheese|cold pie|nut cake]", "[a|a cold] pancake",
    "[two|three] [little buns|biscuits|ripe pears|boiled eggs]", "a carrot", "a cup of milk",
)  # fmt: skip
SAYINGS = (
    "[slow and steady is also a way|every road begins at the door|little drops fill the pot]",
    "[a good neighbour is better than a far cousin|many hands make light work]",
    "[who asks gets an answer|who looks finds|who waits hears the birds]",
    "[after the rain the snails come out|no night is so long that no morning comes]",
    "[a shared bun tastes twice as good|a kind word costs nothing|a smile is a short way]",
    "[what the hands do, the heart remembers|even a big river was a drop once]",
)
HOURS = "[After breakfast|Late in the morning|On the way|Under a tree|A little later]"


def sight(random: Random, snow: bool) -> str:
    """Something to see or hear, as a sentence."""
    subject, verb, where, _ = random.choice([row for row in SIGHTS if row[-1] or not snow])
    return f"{subject} {verb} {where}."
