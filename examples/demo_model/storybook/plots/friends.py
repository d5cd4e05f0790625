"""Plots about friends: a quarrel, an illness, a newcomer, a birthday."""

from __future__ import annotations

from storybook.story import Story
from storybook.world import TOYS, thing


def quarrel(s: Story) -> None:
    """Two want the same thing, it breaks, they mend it together."""
    s.set(thing=thing(s.random, TOYS))
    s.open()
    s.say(
        "{hero.His} best friend was {friend}, {friend.a}. They [did everything together|played "
        "together every day].",
        "Next door lived {friend}, {friend.a}. {hero} and {friend} were best friends.",
    )
    s.say("~")
    s.day(go=False)
    s.say(
        "{parent} gave them {thing.a} to play with. <I want {thing.it} first!> said {hero}. <No, "
        "I want {thing.it}!> said {friend}.",
        "At {other_place} they found {thing.a} that nobody wanted any more. <I saw {thing.it} "
        "first!> shouted {hero}. <But I picked {thing.it} up!> shouted {friend}.",
    )
    s.say(
        "{hero} pulled on one side and {friend} pulled on the other. Crack! {thing.the} broke in "
        "two.",
        "They pulled and pushed until there was a loud noise. {thing.the} {thing.was} broken.",
    )
    s.say(
        "<That is your fault!> cried {friend} and ran away. Now {hero} was alone.",
        "Both of them were angry. {friend} went home and {hero} went home, and nobody had "
        "{thing.a} to play with.",
    )
    s.say("~")
    s.say(
        "The afternoon was [long|very long and very quiet]. {hero} had nobody to [talk to|play "
        "with|laugh with]. <A {thing.noun} is nothing without a friend,> {hero.he} thought.",
        "<Why are you so quiet?> asked {parent}. {hero} told {parent.him} everything. <[Things "
        "can be mended|What is broken can be mended], and so can a friendship,> said {parent}. "
        "<But someone must begin.>",
    )
    s.say(
        "So {hero} took [the glue and some string|a hammer and some nails|needle and thread] and "
        "went to {friend}. <I am sorry,> {hero.he} said. <I am sorry too,> said {friend}.",
        "{hero} knocked at {friend}'s door. <I was wrong to pull,> {hero.he} said. <So was I,> "
        "said {friend}. <Let us mend {thing.it} together.>",
    )
    s.say("~")
    s.say(
        "They worked all afternoon. When they were done, {thing.the} looked a little crooked, but "
        "they liked {thing.it} even more.",
        "{hero} held the pieces and {friend} put them together. Soon {thing.the} {thing.was} "
        "almost as good as new.",
    )
    s.say(
        "<You may have {thing.it} first,> said {hero}. <No, you,> said {friend}. Then they both "
        "laughed and played together.",
        "From that day on, they took turns: one day {thing.the} {thing.was} with {hero}, the next "
        "day with {friend}.",
        "And whenever they began to quarrel, they looked at the crack in {thing.the} and smiled.",
    )
    if s.chance(0.4):
        s.evening()


GIFTS = (
    {"gift": "soup", "made": "{hero} cooked a pot of soup with carrots and peas",
     "loss": "[{hero} stumbled and spilled half of the soup|the lid came off and half of the soup "
     "was gone]",
     "still": "Half a pot of soup, and it is just enough"},
    {"gift": "flowers", "made": "{hero} picked the prettiest flowers that {hero.he} could find",
     "loss": "[a goat came and ate half of the flowers|the wind took half of the flowers]",
     "still": "Three flowers, and each one smells of summer"},
    {"gift": "a picture", "made": "{hero} painted a big picture of the two friends under the sun",
     "loss": "[the rain fell on the picture and the colours ran|the picture fell into a puddle]",
     "still": "Now it looks like a rainbow. I like it even more"},
    {"gift": "cookies", "made": "{hero} baked a tray of cookies in the shape of stars",
     "loss": "[some hungry birds came, and {hero} gave them half of the cookies|{hero} dropped the "
     "bag, and most of the cookies broke]",
     "still": "Small pieces are best for a sore throat"},
    {"gift": "a song", "made": "{hero} made up a funny song and sang it over and over so that "
     "{hero.he} would not forget it",
     "loss": "[a dog barked so loudly that {hero} forgot the second verse|the cold wind made "
     "{hero.his} voice rough]",
     "still": "That was the funniest song I have ever heard"},
)  # fmt: skip


def sick(s: Story) -> None:
    """The friend is ill; a gift gets damaged on the way and is loved anyway; the favour returns."""
    s.set(gift=s.pick(GIFTS), illness=s.pick(("a cold", "a fever", "a sore throat", "a cough")))
    loss = s.roles["gift"]["loss"]
    s.make_weather(*(["rainy"] if "rain" in loss else ["windy"] if "wind" in loss else ["sunny"]))
    s.open(company=True)
    s.say("~")
    s.day(go=False)
    s.say(
        "But {friend} did not come to play. <{friend} is ill,> said {parent}. <{friend.He} has "
        "{illness} and must stay in bed.>",
        "{hero} waited for {friend} at {other_place}, but nobody came. Then {hero.he} heard that "
        "{friend} had {illness}.",
    )
    s.say(
        "<I must cheer {friend.him} up,> thought {hero}. So {gift.made}.",
        "{hero} was sad for a moment. Then {hero.he} had an idea. {gift.made}.",
    )
    s.say("~")
    s.say(
        "{hero} set off to {friend}'s house. But on the way, {gift.loss}.",
        "{hero} was almost there when bad luck came: {gift.loss}.",
    )
    s.say(
        "<Now my present is spoiled,> {hero.he} [sighed|said sadly]. {hero.He} nearly turned back.",
        "{hero} wanted to cry. <Shall I go home?> {hero.he} thought. But {friend} was waiting.",
    )
    s.say("But {hero.he} went on.", "Still {hero.he} went on.", "{hero.He} went on all the same.")
    s.say("~")
    s.say(
        "When {hero} came in, {friend} [sat up in bed|opened {friend.his} eyes]. <I wanted to "
        "bring you {gift.gift},> said {hero}, <but look what happened.> {friend} [smiled|began to "
        "laugh]. <{gift.still},> {friend.he} said.",
        "{friend} was pale, but when {friend.he} saw {hero}, {friend.he} smiled. {hero} told "
        "{friend.him} about the way. <{gift.still},> said {friend}. <Thank you.>",
    )
    s.say(
        "They talked and laughed until it was dark. A few days later {friend} was well again.",
        "{hero} came every day with something new, and every day {friend} felt a little better.",
    )
    s.say(
        "And when {hero} got {illness} in the winter, who came to the door with {gift.gift}? It "
        "was {friend}!",
        "<Do you know what made me well?> asked {friend}. <The medicine?> asked {hero}. <No,> "
        "said {friend}. <You did.>",
        "Since then, the two of them have been closer than ever.",
    )


JOYS = (
    {"game": "flying kites", "skill": "could build kites out of old newspapers", "first":
     "a kite with a long tail"},
    {"game": "singing", "skill": "knew songs from far away", "first": "a song about the moon"},
    {"game": "drawing", "skill": "could draw animals that looked alive", "first":
     "a picture of a smiling {hero.kind}"},
    {"game": "building", "skill": "could build a tower of stones as tall as a door", "first":
     "a castle with a gate"},
    {"game": "telling stories", "skill": "knew a hundred stories", "first":
     "a story about a lonely star"},
    {"game": "baking", "skill": "knew how to bake bread in the shape of animals", "first":
     "a bread mouse with raisin eyes"},
)  # fmt: skip


def newcomer(s: Story) -> None:
    """Someone new is alone; the hero, once shy or unkind, finds what they share."""
    s.set(joy=s.pick(JOYS))
    s.open()
    s.say("~")
    s.day()
    s.say(
        "Somebody new moved into the empty house near {place}. It was {friend}, {friend.a}.",
        "There was somebody {hero} had never seen before, sitting alone near {place}. It was "
        "{friend.a} named {friend}.",
    )
    s.say(
        "Nobody [played with|talked to] {friend}. <{friend.He} looks strange,> whispered the "
        "others. <{friend.He} talks in a funny way.>",
        "{friend} was too shy to say hello, and the others were too shy to ask. So {friend} sat "
        "alone every day.",
    )
    s.say(
        "{hero} [thought about it all night|watched from far away]. <I would be sad if nobody "
        "talked to me,> {hero.he} thought.",
        "<Why is nobody playing with {friend}?> asked {parent}. {hero} did not know what to "
        "answer.",
    )
    s.say("~")
    s.say(
        "The next day {hero} [went over|took a deep breath and went over]. <Hello,> {hero.he} "
        "said. <I am {hero}. Would you like [an apple|a bun|half of my lunch]?> {friend} looked "
        "up and smiled for the first time.",
        "So {hero} sat down beside {friend}. For a while neither of them spoke. <What do you like "
        "to do?> {hero} asked at last.",
    )
    s.say(
        "{friend} liked {joy.game}. {friend.He} {joy.skill}! <Can you teach me?> asked {hero}. "
        "<Of course,> said {friend}, and together they made {joy.first}.",
        "It turned out that {friend} {joy.skill}. <That is wonderful!> cried {hero}. Soon they "
        "had made {joy.first}.",
    )
    s.say("~")
    s.say(
        "The others saw {joy.first} and came closer, one after the other. <May we join in?> they "
        "asked. <The more the better,> said {friend}.",
        "Soon the others came to look. <We are sorry that we did not talk to you,> they said. "
        "{friend} was not angry. <Come and join us,> {friend.he} said.",
    )
    s.say(
        "Now {friend} was never alone again. And it had all begun with one little word: hello.",
        "<What if I had not said hello?> {hero} asked in the evening. <Then you would both have "
        "missed a friend,> said {parent}.",
        "From that day on, when somebody new came, {hero} was always the first to say hello.",
    )
    if s.chance(0.3):
        s.evening()


def birthday(s: Story) -> None:
    """Everyone seems to have forgotten; there were reasons."""
    s.set(
        busy=s.pick(("hanging up lamps", "baking a cake", "painting a sign", "wrapping a box")),
        present=s.pick(("a red kite", "a wooden boat", "a little drum", "a warm scarf", "a book "
                        "full of pictures", "a silver whistle", "a small garden spade")),
        sign=s.pick(("flour on {friend.his} nose", "paint on {friend.his} hands", "a bit of ribbon "
                     "behind {friend.his} ear", "sugar on {friend.his} chin")),
    )  # fmt: skip
    s.open(company=True)
    s.say("~")
    s.day(go=False)
    s.say(
        "It was {hero}'s birthday! {hero.He} jumped out of bed. But nobody said a word about it.",
        "{hero} woke up early, because it was {hero.his} birthday. <Good morning,> said {parent}, "
        "and nothing more.",
    )
    s.say(
        "{hero} went to {friend}. <Do you know what day it is?> {hero.he} asked. <It is washing "
        "day,> said {friend}. <I have no time.> And {friend.he} closed the door.",
        "On the way to {other_place} {hero} met {friend}. <Shall we play?> asked {hero}. <Not "
        "today,> said {friend} quickly and ran off.",
    )
    s.say("{hero} saw that {friend} had {sign}, but {hero.he} did not think about it.",
          "It was strange: {friend} had {sign}.")  # fmt: skip
    s.say("~")
    s.say(
        "{hero} sat down by {place} and felt very alone. <They have all forgotten me,> {hero.he} "
        "whispered.",
        "All day long {hero} walked about by {hero.himself}. A tear fell on {hero.his} foot.",
    )
    s.say(
        "When it got dark, {hero} went home. There was no light in the window. {hero.He} opened "
        "the door.",
        "In the evening {parent} called, <{hero}, come home!> Slowly {hero} opened the door. It "
        "was quite dark inside.",
    )
    s.say("~")
    s.say(
        "<Surprise!> shouted everyone. There were lamps and flowers, and in the middle stood a "
        "big cake. {friend} had been {busy} all day.",
        "<Happy birthday!> they all cried. {friend} came with a big cake. <I was {busy} this "
        "morning,> {friend.he} said. <That is why I had no time.>",
    )
    s.say(
        "So that was why {friend} had {sign}! {hero} had to laugh.",
        "Now {hero} understood everything. {hero.He} laughed and cried at the same time.",
    )
    s.say(
        "{parent} gave {hero.him} {present}. <Did you think we had forgotten you?> asked {parent}. "
        "<Only a little,> said {hero}.",
        "And there was a present too: {present}. But the best present was that {hero.he} was not "
        "alone.",
    )
    s.evening()
