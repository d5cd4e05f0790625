"""Plots about work: a trade, a garden, a storm, a winter."""

from __future__ import annotations

from storybook.cast import article, stranger
from storybook.story import Story

CHAINS = (
    {"want": "bake a cake", "done": "The cake", "miss": "eggs", "from": "hen", "price": "corn",
     "from2": "farmer", "price2": "help to [carry the sacks|sweep the yard|feed the pigs]"},
    {"want": "bake bread", "done": "The bread", "miss": "flour", "from": "miller", "price":
     "apples", "from2": "gardener", "price2": "help to [pick the apples|water the beds]"},
    {"want": "make a kite", "done": "The kite", "miss": "string", "from": "weaver", "price":
     "wool", "from2": "sheep", "price2": "[a bundle of|some] fresh clover"},
    {"want": "paint the fence", "done": "The fence", "miss": "paint", "from": "painter", "price":
     "blueberries", "from2": "old woman", "price2": "help to [bring in the wood|find her glasses]"},
    {"want": "build a boat", "done": "The boat", "miss": "a sail", "from": "tailor", "price":
     "buttons", "from2": "magpie", "price2": "[a shiny spoon|a silver bell]"},
    {"want": "cook soup", "done": "The soup", "miss": "carrots", "from": "rabbit",
     "price": "a new watering can", "from2": "smith", "price2": "help to [blow the fire|sort the "
     "nails]"},
    {"want": "make candles", "done": "The candles", "miss": "wax", "from": "beekeeper", "price":
     "flower seeds", "from2": "finch", "price2": "[a soft nest of moss|a handful of crumbs]"},
)  # fmt: skip


def trade(s: Story) -> None:
    """One thing is missing; its owner wants another, whose owner wants help: and back again."""
    chain = s.pick(CHAINS)
    s.set(
        chain=chain,
        one=stranger(chain["from"], chain["from"] == "hen" or s.chance(0.5)),
        two=stranger(chain["from2"], chain["from2"] == "old woman" or s.chance(0.5)),
        reason=s.pick(
            (
                "tomorrow was {friend}'s birthday",
                "{parent} had been so tired lately",
                "the summer feast was near",
                "{friend} had never had one",
            )
            if chain["want"] != "paint the fence"
            else ("the old fence looked so sad", "the summer feast was near")
        ),
    )
    s.open(company=True)
    s.say("~")
    s.day(go=False)
    s.say(
        "{hero} wanted to {chain.want}, because {reason}. But when {hero.he} looked, there was "
        "one thing missing: {chain.miss}.",
        "<Today I will {chain.want},> said {hero}, because {reason}. But something was missing: "
        "{chain.miss}.",
    )
    s.say("~")
    s.say(
        "So {hero} went to {one}. <Please, can you give me {chain.miss}?> {hero.he} asked. "
        "<Gladly,> said {one}, <if you bring me {chain.price}.>",
        "{one} had what {hero} needed. <I will give you {chain.miss},> said {one}, <but I would "
        "like {chain.price} for it.>",
    )
    s.say(
        "Where could {hero.he} get {chain.price}? {hero} went to {two}. <I can give you that,> "
        "said {two}, <but first I would like {chain.price2}.>",
        "{hero} thought for a while. Then {hero.he} ran to {two} and asked for {chain.price}. <Why "
        "not?> said {two}. <But what I would like is {chain.price2}.>",
    )
    s.say("~")
    s.say(
        "That was no trouble. {hero} gave {two} what {two.he} wanted, got {chain.price} from "
        "{two}, and took it all to {one}. And {one} kept {one.his} word and gave {hero} "
        "{chain.miss}.",
        "{hero} did it at once and did it well. Then {hero.he} ran back with {chain.price}. {one} "
        "was [happy|surprised] and gave {hero.him} {chain.miss}.",
    )
    s.say(
        "Now {hero} could {chain.want} at last. It took [all afternoon|until the evening]. "
        "{chain.done} turned out [wonderful|better than ever].",
        "At home {hero} rolled up {hero.his} sleeves and began. {chain.done} turned out "
        "[beautiful|just right].",
    )
    s.say(
        "And who was invited? {friend}, of course, and also {one} and {two}. <Everyone has a part "
        "in it,> said {hero}.",
        "{friend} [clapped {friend.his} hands|could not believe it]. <Did you do it all alone?> "
        "{friend.he} asked. <No,> said {hero}. <{one} helped, and {two} helped too.>",
    )
    s.evening()


SEEDS = (
    ("sunflower seed", "sunflower", "taller than the house"),
    ("apple seed", "apple tree", "full of white flowers"),
    ("pumpkin seed", "pumpkin", "as big as a wagon"),
    ("bean", "bean plant", "as high as the roof"),
    ("cherry stone", "cherry tree", "full of red cherries"),
    ("rose seed", "rose bush", "full of red roses"),
)


PESTS = (
    ("the sun burned for many days, and the leaves hung down", "carried water from the well, "
     "morning and evening"),
    ("a hungry snail came and began to eat the leaves", "carried the snail to the far end of the "
     "field and gave it an old cabbage"),
    ("a storm came and bent the little plant to the ground", "tied it to a stick with a soft "
     "ribbon"),
    ("the weeds grew so thick that no light came through", "pulled out the weeds, one by one"),
    ("a cold night was coming", "covered it with {hero.his} own blanket"),
)  # fmt: skip


def garden(s: Story) -> None:
    """A seed, impatience, two dangers, care, and a harvest that is shared."""
    seed, plant, big = s.pick(SEEDS)
    first, second = s.random.sample(PESTS, 2)
    s.set(seed=seed, seed_a=article(seed), plant=plant, big=big)
    s.set(plant_a=article(plant))
    s.set(bad=first[0], care=first[1], bad_two=second[0], care_two=second[1])
    s.open(company=True)
    s.say("~")
    s.say(
        "In spring {parent} gave {hero} {seed_a}. <If you take care of it, it will grow into "
        "something great,> said {parent}.",
        "One spring day {hero} found {seed_a} on the way to {place}. <What will you be?> {hero} "
        "asked.",
    )
    s.say(
        "{hero} put it into the earth and sat down to wait. Nothing happened. <Why is it so slow?> "
        "{hero.he} asked. <Good things take time,> said {parent}.",
        "{hero} planted it in the garden. Every morning {hero.he} ran to look. There was nothing "
        "but earth. <It does not like me,> said {hero}. <Wait,> said {friend}.",
    )
    s.say(
        "Then, after ten days, there was a tiny green leaf. {hero} [danced for joy|shouted so "
        "loudly that the birds flew up].",
        "One morning a small green tip looked out of the ground. <Good morning!> cried {hero}.",
    )
    s.say("~")
    s.say("But then {bad}. {hero} {care}.", "Soon there was trouble: {bad}. So {hero} {care}.")
    s.say(
        "The plant grew. But one day {bad_two}. <I will not give up now,> said {hero}, and "
        "{hero.he} {care_two}.",
        "All was well until {bad_two}. {friend} came to help, and together they saved the plant: "
        "{hero} {care_two}.",
    )
    s.say("~")
    s.say(
        "Summer came, and there stood {plant_a}, {big}. Everyone came to see it.",
        "At the end of the summer, the {plant} was {big}. <Is that really my little {seed}?> asked "
        "{hero}.",
    )
    s.say(
        "{hero} did not keep it all. {hero.He} gave some to {friend}, some to {parent} and some to "
        "the birds.",
        "<You waited, and you cared for it,> said {parent}. <That is the whole secret.>",
    )
    s.say(
        "And one {seed} {hero} kept in a little box, for next spring.",
        "Next spring {hero} gave {seed_a} to {friend}. <Good things take time,> {hero.he} said.",
    )


STORMS = (
    ("the bridge", "Nobody could cross the brook any more", "carried stones", "a bridge of stone"),
    ("the roof of the bakery", "There was no bread for anyone", "handed up the boards",
     "a roof of strong new boards"),
    ("the nest of the stork", "The stork family had no home", "gathered twigs",
     "a nest twice as big"),
    ("{friend}'s house", "{friend} had no place to sleep", "mixed the clay",
     "a house with a blue door"),
    ("the old swing", "The little ones had nothing to play on", "held the rope",
     "a swing for two"),
    ("the school", "The bell was silent", "carried the benches", "a school with big windows"),
)  # fmt: skip


def storm(s: Story) -> None:
    """A storm breaks something all need; one begins to mend it, and the others follow."""
    what, loss, task, new = s.pick(STORMS)
    s.set(what=what, loss=loss, task=task, new=new)
    s.make_weather("rainy", "windy")
    s.open(company=True)
    s.say("~")
    s.say(
        "One night a terrible storm came. The wind howled and the rain beat against the window. "
        "In the morning {what} was broken.",
        "All night the thunder rolled. When {hero} came out the next morning, {hero.he} saw what "
        "the storm had done: {what} was broken.",
    )
    s.say("{loss}. Everyone stood around and was sad.", "{loss}. <What now?> asked {friend}.")
    s.say(
        "<It is too much work,> said one. <I am too old,> said another. <I am too small,> said "
        "{friend}.",
        "They talked and talked, and it grew noon, and nothing was done.",
    )
    s.say("~")
    s.say(
        "{hero} did not talk. {hero.He} picked up one board and then another. <What are you "
        "doing?> asked {friend}. <I am beginning,> said {hero}.",
        "<If everyone does a little, it is not much for anyone,> said {hero}, and {hero.he} began.",
    )
    s.say(
        "Then {friend} came and {task}. {parent} brought a hammer. Soon everyone was at work, and "
        "they sang so that it went faster.",
        "First {friend} helped and {task}. Then came the neighbours, one by one, with ropes and "
        "nails and baskets of food.",
    )
    s.say("~")
    s.say(
        "When the sun went down, there stood {new}. It was better than before.",
        "After three days there was {new}, and everyone was proud.",
    )
    s.say(
        "<Who did this?> asked a traveller who came by. <We all did,> said {friend}. <But {hero} "
        "was the one who began.>",
        "They had a feast with {food}, and {hero} had to sit in the middle.",
        "<I thought I was too small,> said {friend}. <Nobody is too small to begin,> said {hero}.",
    )
    if s.chance(0.4):
        s.evening()


WINTER = (
    ("nuts", "under the roots of the old tree"),
    ("apples", "in the cellar"),
    ("seeds", "in a dry hole in the wall"),
    ("carrots", "in a box of sand"),
    ("wood", "behind the house"),
)


def winter(s: Story) -> None:
    """One gathers while the other plays; the snow comes; the one shares, the other gives back."""
    what, where = s.pick(WINTER)
    s.set(what=what, where=where, play=s.pick(("danced", "sang", "lay in the sun", "flew kites")))
    s.make_weather("snowy")
    s.open(company=True)
    s.say("~")
    s.say(
        "All summer long {hero} gathered {what} and put them {where}."
        if what != "wood"
        else "All summer long {hero} gathered wood and put it {where}.",
        "When the leaves turned yellow, {hero} began to gather {what} for the winter.",
    )
    s.say(
        "{friend} {play} all day. <Why do you work so much?> laughed {friend}. <The sun is "
        "shining!> <Because winter will come,> said {hero}.",
        "<Come and play,> called {friend}, who {play} all day. <Later,> said {hero}. <First I have "
        "work to do.> <Winter is far away!> laughed {friend}.",
    )
    s.say("~")
    s.say(
        "But one morning, {morning}. {friend} had no {what}. {friend.He} was cold and hungry.",
        "Then winter came, and it was long and hard. {friend} looked into the empty cupboard. "
        "{friend.He} had nothing.",
    )
    s.say(
        "{friend} was ashamed to ask. But at last {friend.he} knocked at {hero}'s door. <I did not "
        "listen to you,> said {friend}. <Can you help me?>",
        "{hero} saw that there was no smoke over {friend}'s house. {hero.He} put on {hero.his} "
        "boots and went over. <Why did you not come to me?> asked {hero}.",
    )
    s.say(
        "{hero} could have laughed now. But {hero.he} said, <Come in. There is enough for two.>",
        "<What is mine is yours,> said {hero}, and {hero.he} gave {friend} half of everything.",
    )
    s.say("~")
    s.say(
        "All winter they sat by the fire. {hero} had the {what}, and {friend} had the songs and "
        "the stories. The winter had never been so short.",
        "They ate {food} and told each other stories, and outside the snow fell.",
    )
    s.say(
        "And the next summer? Then {friend} was the first to gather {what}. <And when we are done, "
        "we will dance,> said {friend}. And so they did.",
        "When spring came, {friend} worked beside {hero} every morning, and every afternoon {hero} "
        "played with {friend}. It was just right.",
    )
