"""Plots about things: out of reach, and lost."""

from __future__ import annotations

from storybook.story import Story
from storybook.trouble import attempts, helper, trouble
from storybook.world import LIGHT, SMALL, TOYS, thing

REWARDS = (
    {"want": "[something sweet|a piece of cake]", "give": "half of {hero.his} cake"},
    {"want": "a song", "give": "a song about {helper.a} and a very happy day"},
    {"want": "a story", "give": "the longest story {hero.he} knew"},
    {"want": "a flower", "give": "the prettiest flower from the path"},
    {"want": "a friend", "give": "{hero.his} hand, and a promise to come back tomorrow"},
)


def stuck(s: Story) -> None:
    """A thing gets where the hero cannot reach; tries fail; one who can helps, for a reason."""
    light = s.chance(0.5)
    s.set(thing=thing(s.random, LIGHT if light else SMALL))
    t = trouble(s.random, s.hero, s.setting.name, light=light)
    if t.light:
        s.make_weather("windy")
    elif t.needs in ("swim", "strong"):  # water and mud are frozen in the snow
        s.make_weather("sunny", "rainy", "windy")
    who, how = helper(s.random, t.needs)
    s.set(helper=who, how=how, where=t.where)
    reason = s.pick(("favour", "trade", "kind", "kind"))
    s.open()
    s.say(
        "{hero} had {thing.a} that {hero.he} loved more than anything.",
        "{hero.His} {parent.kind} had given {hero.him} {thing.a}, and {hero} took {thing.it} "
        "everywhere.",
        "Of all the things {hero} had, {hero.he} liked {hero.his} {thing} best.",
    )
    s.say("~")
    s.day()
    if reason == "favour":
        s.say(
            "On the way {hero} met {helper.a} who [was hungry|had not eaten all day]. {hero} "
            "gave {helper.him} [half of {hero.his} bread|an apple|some nuts]. <Thank you,> said "
            "{helper}. <If you ever need me, just call.>",
            "{hero} saw {helper.a} with a thorn in {helper.his} foot. Very gently {hero} pulled "
            "it out. <You are kind,> said {helper}. <I will not forget it.>",
        )
    s.say(
        "{hero} was playing with {hero.his} {thing}. {hero.He} [laughed and ran|ran up and "
        "down|was very happy].",
        "{hero} went out to play with {hero.his} {thing} near {place}.",
        "{hero} took {hero.his} {thing} and [skipped|walked|ran] to {place}.",
    )
    s.say(*t.causes)
    s.say(
        "<Oh no!> cried {hero}. <My {thing}!>",
        "{hero} [wanted to cry|could not believe it]. {thing.the} {thing.was} {where}!",
        "<Come back!> shouted {hero}, but it was too late.",
    )
    s.say("~")
    for line in attempts(s.random, t, 1 + s.chance(0.6)):
        s.say(line)
    s.say(
        "{hero} sat down and [sighed|began to cry|did not know what to do].",
        "<I can not do it alone,> [said|whispered] {hero}.",
        "A big tear ran down {hero.his} cheek.",
    )
    s.say("~")
    if reason == "favour":
        s.say(
            "Then {hero} remembered {helper}. {hero.He} called as loudly as {hero.he} could, and "
            "soon {helper} was there. <You helped me, so now I will help you,> said {helper}.",
            "Just then {helper} came along. <You were kind to me this morning,> said {helper}. "
            "<Now it is my turn.>",
        )
    elif reason == "trade":
        s.set(reward=s.pick(REWARDS))
        s.say(
            "{helper.a} had seen it all. <I can get your {thing.noun},> said {helper}, <but I "
            "would like {reward.want} for it.> <I promise,> said {hero}.",
            "Then {helper.a} came by. <What will you give me if I help you?> asked {helper}. "
            "<What would you like?> asked {hero}. <I have always wanted {reward.want},> said "
            "{helper}. <You shall have it,> said {hero}.",
        )
    else:
        s.say(
            "{helper.a} [came by|heard {hero}]. <Why are you [so sad|crying]?> asked {helper}. "
            "<My {thing} {thing.are} {where},> said {hero}. <[Do not worry|Dry your tears|Let me "
            "try],> said {helper}. <[I can help you|I know what to do].>",
            "<Can I help?> asked a voice. It was {helper.a}. {hero} told {helper.him} everything.",
        )
    s.say("{how}")
    if reason == "trade":
        s.say("{hero} kept {hero.his} promise and gave {helper} {reward.give}.")
    else:
        s.thanks()
    s.say("~")
    s.say(
        "From that day on, {hero} [took good care of|held on tight to] {hero.his} {thing}, and "
        "{hero.he} [always waved to|never forgot] {helper}.",
        "{hero} went home with {hero.his} {thing}. <[We can not do everything alone|It is good "
        "to have friends],> {hero.he} told {parent}.",
        "After that, {hero} and {helper} were good friends, and {thing.the} {thing.was} never "
        "{where} again.",
        "When {hero} told {parent} about it, {parent.he} [smiled|laughed]. <[You were lucky|You "
        "were clever] to ask for help,> {parent.he} said.",
    )
    if s.chance(0.4):
        s.evening()


CLUES = (
    {"spot": "under the bed", "clue": "a bit of red thread on the floor",
     "why": "{hero} had hidden {thing.it} there so that nobody would take {thing.it}, and then "
     "forgotten it"},
    {"spot": "in the nest of a magpie", "clue": "a black and white feather on the window sill",
     "why": "the magpie loved everything that shone"},
    {"spot": "in the dog's basket", "clue": "some brown hairs on the carpet",
     "why": "the dog had been lonely and wanted something to hug"},
    {"spot": "behind the flour sack in the kitchen", "clue": "little white footprints on the "
     "floor", "why": "{hero} had put {thing.it} down there while {hero.he} was baking"},
    {"spot": "in the hay", "clue": "a trail of yellow straw", "why": "{hero} had been jumping in "
     "the hay the day before"},
    {"spot": "in the pocket of {hero.his} old coat", "clue": "a hole in {hero.his} new pocket",
     "why": "{hero} had changed {hero.his} coat when the weather turned cold"},
    {"spot": "in the garden under the rose bush", "clue": "tiny muddy tracks on the step",
     "why": "a mouse had wanted to make a house of {thing.it}"},
    {"spot": "on the bench by the gate", "clue": "an apple core by the door",
     "why": "{hero} had sat there to eat an apple and had left {thing.it} behind"},
)  # fmt: skip


SEARCHED = (
    "under the table", "in the big box", "behind the door", "on the shelf", "under the stairs",
    "in the garden shed", "behind the curtain", "in the wood pile", "under the old cart",
)  # fmt: skip


def lost(s: Story) -> None:
    """Something is gone; searching and asking do not help, a clue does."""
    s.set(thing=thing(s.random, SMALL, TOYS), where=s.pick(CLUES))
    one, two, three = s.random.sample(SEARCHED, 3)
    s.set(one=one, two=two, three=three)
    s.open(company=True)
    s.say(
        "{hero} had {thing.a}. {hero.He} [slept with {thing.it} every night|played with "
        "{thing.it} every day|had got {thing.it} from {parent}].",
        "The thing {hero} loved most was {thing.a}.",
    )
    s.say("~")
    s.day()
    s.say(
        "When {hero} looked for {hero.his} {thing}, {thing.they} {thing.was} gone!",
        "{hero} wanted to play with {hero.his} {thing}, but {hero.he} could not find {thing.it}.",
    )
    s.say(
        "{hero.He} looked {one}. {hero.He} looked {two}. {hero.He} even looked {three}. But "
        "{thing.the} {thing.was} not there.",
        "First {hero} looked {one}, but there was only dust. Then {hero.he} looked {two}, but "
        "there was only an old [shoe|spoon|spider].",
    )
    s.say("~")
    s.say(
        "<Have you seen my {thing}?> {hero} asked {parent}. <No,> said {parent}. <[Where did you "
        "have {thing.it} last|When did you see {thing.it} last]?> {hero} [thought hard|did not "
        "know|shook {hero.his} head].",
        "{hero} ran to {friend}. <Did you take my {thing}?> {hero.he} [asked|shouted]. <No, I did "
        "not,> said {friend}. <But I will help you look.> {hero} felt a little ashamed.",
        "<Somebody has stolen my {thing}!> cried {hero}. <Let us not be angry before we know,> "
        "said {friend}. <Let us look for a clue.>",
    )
    s.say(
        "Then {hero} [saw|noticed] {where.clue}. <[That is strange|Look at that|Aha],> {hero.he} "
        "said. [{hero.He} followed it with {hero.his} eyes|{hero.He} began to think|Slowly "
        "{hero.he} understood].",
        "Together they looked at everything once more, and {friend} found {where.clue}. <This is "
        "a clue!> said {friend}.",
    )
    s.say("~")
    s.say(
        "And there, {where.spot}, {hero} found {hero.his} {thing}! It was easy to see why: "
        "{where.why}.",
        "They looked {where.spot}, and there {thing.they} {thing.was}! Now {hero} knew what had "
        "happened: {where.why}.",
    )
    s.say(
        "{hero} [laughed|had to laugh|turned red]. <[I should have thought before I "
        "shouted|I am sorry that I blamed others|Next time I will look more carefully],> "
        "{hero.he} said.",
        "<I am so glad!> said {hero}, and {hero.he} hugged {thing.the} tight.",
    )
    s.say(
        "From then on, {hero} always put {hero.his} {thing} in the same place.",
        "That night {thing.the} lay beside {hero}'s bed, and {hero} [slept like a stone|smiled in "
        "{hero.his} sleep].",
        "And {hero} gave {friend} a big piece of cake for helping.",
    )
    if s.chance(0.4):
        s.evening()
