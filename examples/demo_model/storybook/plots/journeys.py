"""Plots about help on the way: an errand, a stray, an animal set free, a coin."""

from __future__ import annotations

from storybook.cast import article, stranger
from storybook.story import Story
from storybook.world import TOYS, thing

PATHS = (
    {"weather": "rainy",
     "block": "the brook had risen, and the bridge was under water", "who": "beaver", "adj": "busy",
     "how": "laid a tree across the water", "pay": "hold the other end of the tree"},
    {"weather": "sunny windy snowy",
     "block": "a big stone had rolled onto the path", "who": "ox", "adj": "strong", "how":
     "pushed the stone aside with one push", "pay": "scratch {helper.him} behind the ears"},
    {"weather": "foggy",
     "block": "the fog was so thick that the path was gone", "who": "goose", "adj": "grey", "how":
     "knew the way by heart and walked in front", "pay": "sing, so that {helper.he} would not be "
     "lonely"},
    {"weather": "sunny windy snowy",
     "block": "a cross old goat stood on the path and let nobody pass", "who": "shepherd", "adj":
     "young", "how": "whistled, and the goat trotted off at once", "pay": "carry a tired lamb for "
     "a while"},
    {"weather": "sunny windy snowy",
     "block": "the path split in three, and the sign had fallen down", "who": "postman", "adj":
     "cheerful", "how": "showed the right way", "pay": "put the sign up again"},
)  # fmt: skip


def errand(s: Story) -> None:
    """Something must be brought before dark; the way is blocked; help is given for help."""
    path = s.pick(PATHS)
    s.set(
        path=path,
        helper=stranger(path["who"], s.chance(0.5), path["adj"]),
        load=s.pick(("a basket of eggs", "a jar of honey", "a warm blanket", "a bottle of medicine",
                     "a letter", "a pot of soup", "a loaf of fresh bread")),
        aunt=s.pick(("aunt", "uncle", "old neighbour", "cousin")),
    )  # fmt: skip
    s.make_weather(*path["weather"].split())
    s.open(company=True)
    s.say("~")
    s.day(go=False)
    s.say(
        "<Please take {load} to your {aunt} on the other side of the hill,> said {parent}. <But be "
        "there before dark.> <I will,> promised {hero}.",
        "{parent} gave {hero} {load}. <This is for your {aunt},> {parent.he} said. <Can you bring "
        "it there all alone?> <I am big enough,> said {hero} proudly.",
    )
    s.say(
        "{hero} walked past {place} and past {other_place}. {friend} called, <Come and play!> "
        "<Later,> said {hero}. <I have promised something.>",
        "The way was long. {hero} sang a little song and held {hero.his} load with both hands.",
    )
    s.say("~")
    s.say("But then {path.block}. What now?", "All at once {hero} had to stop: {path.block}.")
    s.say(
        "<If I go back, I will break my promise,> thought {hero}. Then {hero.he} saw {helper.a}. "
        "<Can you help me?> {hero.he} asked.",
        "{hero} sat down and thought. Along came {helper.a}. <You look worried,> said {helper}. "
        "{hero} told {helper.him} about the promise.",
    )
    s.say(
        "<I will help you if you help me,> said {helper}. So {helper} {path.how}. All {hero} had "
        "to do was to {path.pay}.",
        "{helper} {path.how}, and {hero} was glad to {path.pay}.",
    )
    s.thanks()
    s.say("~")
    s.say(
        "The sun was just going down when {hero} knocked at the door. <You came all this way "
        "alone!> cried {hero.his} {aunt}. <Not quite alone,> said {hero}.",
        "{hero} came just before dark and did not forget to say many greetings from {parent}. "
        "{hero.His} {aunt} was so happy that there was {food} for {hero.him}.",
    )
    s.say(
        "On the way back {hero} took some cake for {helper}, because {hero.he} had not forgotten.",
        "And {parent} was proud, because {hero} had kept {hero.his} word.",
    )
    s.evening()


STRAYS = (
    {"who": "duckling", "from": "water", "clue": "its feet were wet", "home": "the reeds by the "
     "pond", "sound": "quacked"},
    {"who": "lamb", "from": "hill", "clue": "there was fresh hill grass in its wool", "home": "the "
     "flock on the green hill", "sound": "bleated"},
    {"who": "owl chick", "from": "wood", "clue": "it blinked in the light", "home": "the hollow "
     "tree in the woods", "sound": "hooted"},
    {"who": "kid goat", "from": "farm", "clue": "it had a little bell with the name of the farm",
     "home": "the farm behind the mill", "sound": "bleated"},
    {"who": "baby seal", "from": "sea", "clue": "its nose smelled of salt", "home": "the rocks by "
     "the sea", "sound": "barked"},
    {"who": "fawn", "from": "forest", "clue": "there were pine needles on its back", "home": "the "
     "edge of the forest", "sound": "called"},
)  # fmt: skip


def stray(s: Story) -> None:
    """A lost little animal is brought home by what it shows of where it came from."""
    s.set(stray=s.pick(STRAYS))
    s.set(a_stray=article(s.roles["stray"]["who"]))
    s.make_weather("sunny", "rainy", "foggy", "windy")
    s.open(company=True)
    s.say("~")
    s.day()
    s.say(
        "{hero} heard somebody crying. Behind a bush sat {a_stray}, all alone.",
        "In front of the door sat {a_stray}. It was shaking and crying.",
    )
    s.say(
        "<Where is your mother?> asked {hero}. The {stray.who} did not know. It only cried louder.",
        "<Are you lost?> asked {hero}. The {stray.who} nodded. <Where do you live?> It could not "
        "say.",
    )
    s.say(
        "<May I keep it?> {hero} asked {parent}. <Somewhere a mother is looking for it,> said "
        "{parent}. {hero} thought of how that must feel.",
        "<Let us keep it,> said {friend}. {hero} would have liked that. But the {stray.who} looked "
        "so sad. <No,> said {hero}. <We must bring it home.>",
    )
    s.say("~")
    s.say(
        "But where was its home? {hero} looked closely and saw that {stray.clue}. <It comes from "
        "the {stray.from}!> {hero.he} said.",
        "{friend} looked at it from all sides and saw that {stray.clue}. <So it must come from the "
        "{stray.from}!> said {friend}.",
    )
    s.say(
        "They walked for a long time. When the {stray.who} was tired, {hero} carried it.",
        "On the way {hero} sang to it, so that it would not be afraid.",
    )
    s.say(
        "At {stray.home} somebody was calling. The {stray.who} {stray.sound} and ran. It was its "
        "mother!",
        "And there, at {stray.home}, was the mother. She {stray.sound} for joy and looked at "
        "{hero} as if to say thank you.",
    )
    s.say("~")
    s.say(
        "It was hard to say goodbye. <I will miss it,> said {hero}. <But it would have missed its "
        "mother more,> said {friend}.",
        "When {hero} came home, {parent} was waiting at the gate. <I was looking for you,> said "
        "{parent}, and hugged {hero.him} for a long time.",
    )
    s.say(
        "Sometimes, in the evening, the {stray.who} came to visit, and it was bigger every time.",
        "That night {hero} thought of the {stray.who}, who was asleep beside its mother now.",
    )


FREED = (
    {"who": "mouse", "trap": "caught in a box", "free": "opened the lid", "later": "caught in a "
    "net",
     "back": "[gnawed|bit] through the net, thread by thread"},
    {"who": "bird", "trap": "tangled in a string", "free": "cut the string", "later": "lost in the "
     "fog", "back": "flew ahead and sang, so that {hero} could follow the song home"},
    {"who": "bee", "trap": "swimming in a bucket of water", "free": "held out a leaf and let it "
     "climb up", "later": "chased by a big angry goose", "back": "buzzed around the goose until it "
     "ran away"},
    {"who": "fish", "trap": "lying in a puddle that was almost dry", "free": "carried it back to "
     "the lake", "later": "on a raft that drifted far from the shore", "back": "took the rope in "
     "its mouth and pulled the raft to the land"},
    {"who": "ant", "trap": "stuck in a drop of honey", "free": "lifted it out with a blade of "
     "grass", "later": "very sad, because a sack of rice had been spilled and must be picked up "
     "before night", "back": "came with a hundred friends and carried every grain back into the "
     "sack"},
    {"who": "deer", "trap": "stuck between two rocks", "free": "pushed the smaller rock aside",
     "later": "too tired to walk, deep in the snow", "back": "let {hero} ride on its back all the "
     "way home"},
)  # fmt: skip


def freed(s: Story) -> None:
    """A small kindness to an animal comes back when the hero needs it."""
    s.set(freed=s.pick(FREED))
    s.set(a_freed=article(s.roles["freed"]["who"]))
    s.make_weather("sunny", "windy", "foggy")
    s.open(company=True)
    s.say("~")
    s.day()
    s.say(
        "Near {other_place} {hero} heard a tiny cry. There was {a_freed}, {freed.trap}! "
        "<Please help me,> it said.",
        "On {hero.his} way {hero} found {a_freed} that was {freed.trap}.",
    )
    s.say(
        "<Leave it,> said {friend}. <We are late.> But {hero} stopped and {freed.free}.",
        "{hero} did not have much time, but {hero.he} {freed.free}. <Now you are free,> {hero.he} "
        "said.",
    )
    s.say(
        "<I will not forget this,> said the {freed.who}. <One day I will help you.> {friend} "
        "laughed. <How can {a_freed} help us?>",
        "The {freed.who} looked at {hero} for a long time. Then it was gone.",
    )
    s.say("~")
    s.say(
        "[Weeks|Many days] went by. Then came the day when {hero} was {freed.later}. <Is anybody "
        "there?> {hero.he} called. Nobody answered.",
        "In the autumn it was {hero} who was in trouble: {hero.he} was {freed.later}.",
    )
    s.say(
        "All at once there was the {freed.who}! <You stopped for me,> it said. <Now I stop for "
        "you.> And it {freed.back}.",
        "Then {hero} heard a small voice. <Do you remember me?> It was the {freed.who}. It "
        "{freed.back}.",
    )
    s.say("~")
    s.say(
        "<You are small, but you are a great friend,> said {hero}."
        if s.roles["freed"]["who"] != "deer"
        else "<You are a great friend,> said {hero}, and laid {hero.his} cheek on its soft neck.",
        "{friend} could not believe it when {hero} told {friend.him}. <I was wrong,> said "
        "{friend}. <Next time I will stop too.>",
    )
    s.say(
        "And so a little kindness came back, bigger than before.",
        "From that day on the two were friends, and {hero} never walked past anyone who needed "
        "help.",
        "<Kindness is a circle,> said {parent}. <It goes out and comes back.>",
    )


NEEDS = (
    {"who": "[an old man|an old woman]", "need": "sat on a bench and was hungry", "buy": "a warm "
     "loaf of bread", "then": "taught {hero.him} how to [play the flute|carve little animals out "
     "of wood]"},
    {"who": "a street musician", "need": "could not play, because a string was broken", "buy": "a "
     "new string", "then": "played so well that all the market danced"},
    {"who": "a small boy", "need": "was crying, because he had dropped his milk jug", "buy": "a "
     "new jug of milk", "then": "ran home, and came back with a basket of cherries"},
    {"who": "a girl with bare feet", "need": "was shivering in the cold", "buy": "some warm socks",
     "then": "gave {hero.him} a lucky stone with a hole in it"},
)  # fmt: skip


def coin(s: Story) -> None:
    """Money saved for a toy is spent on someone who needs it, and something better comes of it."""
    s.set(thing=thing(s.random, TOYS), need=s.pick(NEEDS), weeks=s.pick(("three", "five", "ten")))
    s.open()
    s.say(
        "For {weeks} weeks {hero} had saved {hero.his} money. {hero.He} wanted to buy {thing.a}.",
        "In the shop window there was {thing.a}. {hero} wanted it so much that {hero.he} saved for "
        "{weeks} weeks.",
    )
    s.say("~")
    s.day(go=False)
    s.say(
        "At last {hero} had enough. {hero.He} held the money tight and ran to the market.",
        "<Today is the day!> said {hero}, and {hero.he} set off to the market with {hero.his} "
        "money.",
    )
    s.say(
        "At the corner {hero.he} stopped. There was {need.who} who {need.need}.",
        "Then {hero.he} saw {need.who} who {need.need}. Everyone walked by.",
    )
    s.say(
        "{hero} looked at the shop, and {hero.he} looked at the money. {hero.He} stood there for a "
        "long time.",
        "<It is not my trouble,> thought {hero}, and {hero.he} walked on. But after ten steps "
        "{hero.he} turned around.",
    )
    s.say("~")
    s.say("Then {hero} went and bought {need.buy}. <This is for you,> {hero.he} said.",
          "So {hero} bought {need.buy}. Now the money was gone.")  # fmt: skip
    s.say(
        "What a smile that was! It was brighter than any {thing.noun}. And the stranger "
        "{need.then}.",
        "<Nobody has ever done that for me,> said the stranger. And what happened next? The "
        "stranger {need.then}.",
    )
    s.say(
        "At home {parent} asked, <Where is your {thing.noun}?> {hero} told the story. <Then you "
        "have bought something much better,> said {parent}.",
        "{hero} had no {thing.noun}, but {hero.he} was not sad. {hero.He} whistled all the way "
        "home.",
    )
    s.say(
        "The next week {hero} began to save again. And whenever {hero.he} came to that corner, "
        "somebody waved.",
        "Some time later a box stood in front of the door. In it was {thing.a}, and a note: <For a "
        "kind heart.>",
    )
