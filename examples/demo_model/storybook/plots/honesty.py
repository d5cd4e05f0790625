"""Plots about honesty: a find that belongs to another, a breakage that is hidden, a promise."""

from __future__ import annotations

from storybook.cast import stranger
from storybook.story import Story
from storybook.world import SMALL, thing

OWNERS = (
    (
        "woman",
        True,
        "old",
        "{thing.they} {thing.was} all that I had from the time when I was young",
    ),
    ("man", False, "old", "my wife gave {thing.it} to me when we were young"),
    ("baker", None, "round", "I need {thing.it} every day"),
    ("girl", True, "tiny", "my grandmother gave {thing.it} to me"),
    ("boy", False, "tiny", "it was the only thing I had"),
    ("sailor", None, "tall", "{thing.they} {thing.was} a present from my mother"),
    ("traveller", None, "tired", "{thing.they} {thing.was} with me on all my travels"),
)


def found(s: Story) -> None:
    """The hero finds what is not his, wants to keep it, and gives it back."""
    noun, female, adjective, why = s.pick(OWNERS)
    owner = stranger(noun, s.chance(0.5) if female is None else female, adjective)
    s.set(thing=thing(s.random, SMALL), owner=owner, why=why)
    s.make_weather("sunny", "rainy", "foggy", "windy")
    s.open(company=True)
    s.say("~")
    s.day()
    s.say(
        "On the way to {other_place}, {hero} saw something in the grass. It was {thing.a}!",
        "Near {other_place} something [shone|lay] on the ground. {hero} picked it up. It was "
        "{thing.a}.",
    )
    s.say(
        "<[How pretty|How lucky I am]!> said {hero}. <Now {thing.they} {thing.are} mine.> "
        "{hero.He} put {thing.it} in {hero.his} pocket.",
        "{hero} had always wanted {thing.a}. {hero.He} looked left and right. Nobody was there.",
    )
    s.say("~")
    s.say(
        "But {friend} said, <[Somebody must be looking for {thing.it}.|What if someone is sad "
        "because of it?|Are you sure you may keep {thing.it}?]> {hero} [did not want to hear "
        "that|said nothing|looked at {hero.his} feet].",
        "All day {hero} thought about {thing.the}. {thing.they} felt heavier and heavier in "
        "{hero.his} pocket.",
    )
    s.say(
        "Then {owner.a} came along the path, looking at the ground and crying. <I have lost my "
        "{thing},> said {owner}, <and {why}.>",
        "At {place} {owner.a} was asking everyone, <Have you seen my {thing}? I lost {thing.it} "
        "this morning, and {why}.>",
    )
    s.say("~")
    s.say(
        "{hero} [swallowed hard|took a deep breath|turned red]. Then {hero.he} held out "
        "{hero.his} hand. <Here,> {hero.he} said. <I found {thing.it}. {thing.they} {thing.are} "
        "yours.>",
        "It was hard for {hero}, but {hero.he} took {thing.the} out of {hero.his} pocket. <Please "
        "take {thing.it} back,> {hero.he} said.",
    )
    s.say(
        "{owner} [laughed and cried at the same time|could not stop smiling]. <You are an "
        "honest {hero.kind},> {owner.he} said, and gave {hero} [a bag of nuts|a warm bun|a "
        "little book with pictures|an apple as red as the evening sun].",
        "<You have made me happy again,> said {owner}. <Come and visit me, and we will eat "
        "cake together.>",
    )
    s.say(
        "{hero} had no {thing} now, but {hero.his} heart felt [light|warm]. {friend} [was proud "
        "of {hero.him}|took {hero.his} hand].",
        "{hero} walked home with an empty pocket and a happy heart.",
        "<That was the right thing to do,> said {parent} when {hero} came home. And {hero} knew "
        "that it was true.",
    )
    if s.chance(0.4):
        s.evening()


def broken(s: Story) -> None:
    """The hero breaks something, hides it, feels bad, tells the truth."""
    s.set(
        thing=s.pick(
            ("blue vase", "big mirror", "flower pot", "glass bowl", "kitchen window", "tea pot",
             "old clock", "honey jar", "lamp", "garden gate")
        ),
        hide=s.pick(("under the bed", "behind the shed", "in the cupboard", "under some leaves")),
        blame=s.pick(("the cat", "the wind", "the dog", "a bird", "the rain")),
    )  # fmt: skip
    s.open(company=True)
    s.say("~")
    s.day(go=False)
    s.say(
        "{parent} had gone to {other_place}. <Please do not [run|jump|play ball] in the house,> "
        "{parent.he} had said. <I promise,> {hero} had answered.",
        "<Be careful while I am away,> {parent} said and went to {other_place}.",
    )
    s.say(
        "But {hero} forgot {hero.his} promise. {hero.He} ran and jumped and [turned round and "
        "round|threw {hero.his} ball], and then, bang! The {thing} was broken.",
        "At first {hero} sat still. Then {hero.he} grew bored and began to play with a ball. The "
        "ball flew, and crash! It hit the {thing}.",
    )
    s.say(
        "{hero} was very frightened. [Quickly {hero.he} swept up the pieces|{hero.He} picked up "
        "the pieces with shaking hands] and hid them {hide}.",
        "<What shall I do?> whispered {hero}. {hero.He} hid the pieces {hide} and sat down as if "
        "nothing had happened.",
    )
    s.say("~")
    s.say(
        "When {parent} came home, {parent.he} asked, <What happened to the {thing}?> <It was "
        "{blame},> said {hero}. [But {hero.his} ears grew hot.|{hero.He} could not look up.]",
        "<Where is the {thing}?> asked {parent} in the evening. <{blame} broke it,> said {hero} "
        "very quietly.",
    )
    s.say(
        "That night {hero} could not sleep. The lie lay in {hero.his} belly like a stone. "
        "{hero.He} turned to the left and to the right.",
        "At supper {hero} could not eat. Even {food} did not taste good.",
        "{friend} came to play, but {hero} had no wish to play. <Something is wrong,> said "
        "{friend}. <If you tell it, it will get smaller.>",
    )
    s.say("~")
    s.say(
        "At last {hero} went to {parent}. <It was not {blame}. It was me,> {hero.he} said, and "
        "{hero.he} began to cry.",
        "So {hero} fetched the pieces and put them on the table. <I did it,> {hero.he} said. <And "
        "then I lied. I am sorry.>",
    )
    s.say(
        "{parent} [put {parent.his} arms around {hero.him}|was quiet for a while]. <I am sad "
        "about the {thing},> {parent.he} said, <but I am glad that you told me the truth.>",
        "<Another {thing} can be bought,> said {parent}. <Your word can not. Thank you for "
        "telling me.>",
    )
    s.say(
        "The next day they [mended|glued] it together, piece by piece, and {hero} felt light as a "
        "feather.",
        "To make it good again, {hero} helped in the garden all week. And {hero.he} never blamed "
        "{blame} again.",
        "After that, {hero} slept well, and {hero.he} kept {hero.his} promises.",
    )


WARNINGS = (
    {"rule": "go on the ice", "why": "the ice is still too thin", "tempt": "the ice was so smooth "
     "and shiny", "end": "Crack! The ice broke, and {hero} was in the cold water up to {hero.his} "
     "chest", "rescue": "held out a long branch and pulled {hero.him} out", "cure": "sat by the "
     "fire in a thick blanket and sneezed"},
    {"rule": "eat the berries by the road", "why": "they will make you ill", "tempt": "the berries "
     "were so red and round", "end": "Soon {hero} had a terrible pain in {hero.his} belly",
     "rescue": "took {hero.him} home on {friend.his} back", "cure": "lay in bed and drank bitter "
     "tea"},
    {"rule": "leave the path", "why": "the woods are deep and all trees look alike", "tempt": "a "
     "blue butterfly danced between the trees", "end": "When the butterfly was gone, {hero} did "
     "not know the way back", "rescue": "heard {hero.his} cry and came with a lantern", "cure":
     "was so tired that {hero.he} slept until noon"},
    {"rule": "open the gate", "why": "the sheep will run away", "tempt": "the gate had such a nice "
     "shiny handle", "end": "The gate flew open, and all the sheep ran out into the fields",
     "rescue": "helped {hero.him} to bring the sheep back, one by one", "cure": "had sore feet for "
     "three days"},
    {"rule": "touch the bees", "why": "they are making honey and do not like visitors", "tempt":
     "the honey smelled so sweet", "end": "Buzz! The bees came out and stung {hero} on the nose",
     "rescue": "pulled {hero.him} into the pond, where the bees could not follow", "cure": "had a "
     "nose as big as a plum"},
    {"rule": "go out without your coat", "why": "a storm is coming", "tempt": "the air was so warm "
     "and soft", "end": "Suddenly the storm came, and {hero} was wet and cold in a minute",
     "rescue": "ran up with an umbrella and brought {hero.him} home", "cure": "had to stay in bed "
     "with a cold"},
)  # fmt: skip


def warning(s: Story) -> None:
    """A promise, a temptation, what comes of it, and who forgives."""
    s.set(warn=s.pick(WARNINGS))
    if s.roles["warn"]["rule"] == "go on the ice":
        s.make_weather("snowy")
    else:
        s.make_weather("sunny", "windy", "foggy")
    s.open(company=True)
    s.say("~")
    s.day(go=False)
    s.say(
        "<You may go and play,> said {parent}, <but do not {warn.rule}, because {warn.why}.> <I "
        "promise,> said {hero}.",
        "<Promise me one thing,> said {parent}. <Do not {warn.rule}. Do you know why? Because "
        "{warn.why}.> <Yes, yes, I promise,> answered {hero} and ran off.",
    )
    s.say(
        "{hero} met {friend} near {other_place}, and they played for a while. {warn.tempt}! <Just "
        "this once,> {hero.he} thought. <Did you not promise?> asked {friend}. But {hero} did not "
        "listen.",
        "At first {hero} thought of {hero.his} promise. But {warn.tempt}. <Nobody will see it,> "
        "{hero.he} [thought|said].",
    )
    s.say("~")
    s.say("{warn.end}. <Help!> cried {hero}.", "And what happened? {warn.end}. {hero} cried out.")
    s.say(
        "Luckily {friend} was near. {friend.He} {warn.rescue}.",
        "{friend} heard it and came as fast as {friend.he} could. {friend.He} {warn.rescue}.",
    )
    s.say("~")
    s.say(
        "{hero} {warn.cure}. {parent} came and sat down beside {hero.him}. <I broke my promise,> "
        "said {hero}. <I am sorry.>",
        "Afterwards {hero} {warn.cure}. <You told me why, and I did not listen,> {hero.he} said to "
        "{parent}.",
    )
    s.say(
        "<I am not angry,> said {parent}. <I was afraid for you. That is why I ask you not to "
        "{warn.rule}.>",
        "{parent} took {hero.his} hand. <A promise is like a bridge,> {parent.he} said. <If you "
        "break it, you fall.>",
    )
    s.say(
        "From then on {hero} [kept {hero.his} promises|thought first when {hero.he} promised "
        "something], and {hero.he} thanked {friend} with [a big hug|a basket of apples].",
        "And when {friend} wanted to {warn.rule} one day, it was {hero} who said, <Do not do it. "
        "I know what happens.>",
        "{hero} never forgot that day.",
    )
