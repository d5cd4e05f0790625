"""Plots about courage: a fear, a boast, a noise at night, a worry."""

from __future__ import annotations

from storybook.story import TRAITS, Story

FEARS = (
    {"of": "the dark", "sign": "When the lamp went out, {hero.he} pulled the blanket over "
     "{hero.his} head.", "test": "One night the lamp broke, and {friend} was lost outside in the "
     "dark.", "trick": "[Close your eyes first. Then the dark is your own|Count the stars. The "
     "dark is where they live]",
     "deed": "{hero} closed {hero.his} eyes, counted to three and walked out into the night. "
     "{hero.He} called {friend}'s name until a small voice answered.",
     "after": "the dark was just the day with its eyes closed"},
    {"of": "thunder", "sign": "When it rumbled in the sky, {hero.he} hid under the bed.",
     "test": "One evening a big storm came, and {friend} was shaking with fear.",
     "trick": "[Count how long the thunder takes to come. It is always late|Sing louder than the "
     "thunder]",
     "deed": "{hero} took {friend}'s hand and sang as loudly as {hero.he} could. Boom, went the "
     "thunder. La la la, sang {hero}, and soon they were both laughing.",
     "after": "thunder was only the sky moving its chairs"},
    {"of": "deep water", "sign": "While the others were swimming, {hero.he} sat on the shore.",
     "test": "One day {friend} slipped and fell into the water, and nobody else was near.",
     "trick": "[Lie on your back and the water will carry you|Breathe slowly and kick your legs]",
     "deed": "{hero} did not think about it. {hero.He} jumped in, kicked {hero.his} legs, and "
     "pulled {friend} to the shore.",
     "after": "the water carried all who trusted it"},
    {"of": "high places", "sign": "{hero.He} never went up the hill and never climbed a tree.",
     "test": "One day {friend} climbed too high and did not dare to come down.",
     "trick": "[Look at your hands and not at the ground|Take one step, and then only one more]",
     "deed": "{hero} looked only at {hero.his} hands. One step, and one more, and then {hero.he} "
     "was beside {friend}. Together they came down.",
     "after": "every high place was made of small steps"},
    {"of": "big dogs", "sign": "When {hero.he} heard a bark, {hero.he} ran home.",
     "test": "One day a big dog stood in the lane and howled. A thorn was stuck in its paw.",
     "trick": "[Stand still and speak softly|Hold out your hand and let it come to you]",
     "deed": "{hero} stood still and spoke softly. Then {hero.he} pulled out the thorn. The big "
     "dog licked {hero.his} hand.",
     "after": "a big dog could have a small and gentle heart"},
    {"of": "speaking in front of others", "sign": "When someone asked {hero.him} a question, "
     "{hero.he} only looked at {hero.his} feet.",
     "test": "One day smoke came out of the barn, and only {hero} had seen it.",
     "trick": "[Speak to one friend, and let the others listen|Take a deep breath and begin with "
     "one word]",
     "deed": "{hero} took a deep breath. <Fire!> {hero.he} shouted in front of everyone. They all "
     "came running with water, and the barn was saved.",
     "after": "a small voice could do a big thing"},
)  # fmt: skip


def fear(s: Story) -> None:
    """The hero is afraid, learns a trick, and needs it when it matters."""
    swims = "swim" in s.hero.skills | s.friend.skills
    climbs = "climb" in s.hero.skills
    not_here = {"deep water": swims, "high places": climbs, "big dogs": s.hero.kind == "puppy"}
    s.set(fear=s.pick([row for row in FEARS if not not_here.get(row["of"])]))
    s.set(trait=s.pick([trait for trait in TRAITS if trait["is"] != "brave"]))
    s.open(company=True)
    s.say(
        "There was only one thing that {hero} was afraid of: {fear.of}. {fear.sign}",
        "But {hero} had a secret. {hero.He} was afraid of {fear.of}. {fear.sign}",
    )
    s.say("~")
    s.say(
        "Some of the others laughed. <You are afraid of {fear.of}!> they called. {hero} [went red|"
        "wanted to sink into the ground|felt very small].",
        "{friend} noticed it. <You do not have to be ashamed,> said {friend}. <Everyone is afraid "
        "of something.>",
    )
    s.say(
        "{hero} asked {parent}, <Were you ever afraid?> <Of course,> said {parent}. <I will tell "
        "you what helped me. {fear.trick}.> {hero} did not forget it.",
        "An old [owl|neighbour|shepherd] gave {hero} some advice. <{fear.trick},> the old one "
        "said. {hero} [nodded|was not sure], but {hero.he} kept the words in {hero.his} heart.",
    )
    s.say("~")
    s.say("{fear.test} {hero}'s heart beat fast.")
    s.say(
        "<I can not do it,> {hero.he} thought. But then {hero.he} remembered the words: "
        "{fear.trick}.",
        "{hero.His} knees were shaking. Then {hero.he} remembered the words: <{fear.trick}.>",
    )
    s.say("{fear.deed}")
    s.say("~")
    s.say(
        "<You were so brave!> said {friend}. <I was afraid all the time,> said {hero}. <But I did "
        "it anyway.>",
        "Nobody laughed at {hero} any more. <[That was very brave!> they said.|How did you do "
        "that?> they asked.]",
        "<Being brave means being afraid and doing it anyway,> said {parent}, and {parent.he} "
        "hugged {hero.him}.",
    )
    s.say(
        "From that day on, {hero} knew that {fear.after}.",
        "And {hero} was not afraid of {fear.of} any more, because now {hero.he} knew that "
        "{fear.after}.",
    )
    if s.chance(0.3):
        s.evening()


BOASTS = (
    {"at": "running", "best": "the fastest runner", "do": "a race to {place}",
     "fall": "looked back to laugh at {friend} and ran straight into a bush full of thorns",
     "help": "{friend} stopped and pulled out the thorns, one by one"},
    {"at": "swimming", "best": "the best swimmer", "do": "a swim across the lake",
     "fall": "swam so fast that {hero.his} legs grew tired in the middle of the lake",
     "help": "{friend} swam beside {hero.him} and held {hero.him} up"},
    {"at": "climbing", "best": "the best climber", "do": "a climb to the top of the old oak",
     "fall": "waved with both hands, slipped, and hung from a branch by one foot",
     "help": "{friend} climbed up slowly and gave {hero.him} a hand"},
    {"at": "jumping", "best": "the best jumper", "do": "a jump over the brook",
     "fall": "did not look where {hero.he} was going and landed in the mud up to {hero.his} neck",
     "help": "{friend} held out a long branch and pulled {hero.him} out"},
    {"at": "finding the way", "best": "the best guide", "do": "a walk to the other side of the "
     "woods", "fall": "did not want to look at the map, and soon {hero.he} was lost",
     "help": "{friend} looked at the moss and the sun and found the path again"},
)  # fmt: skip


def boast(s: Story) -> None:
    """The hero boasts, falls, and is helped by the one he laughed at."""
    s.set(boast=s.pick(BOASTS))
    s.make_weather("sunny", "windy", "rainy")
    s.open()
    s.say(
        "{hero} was good at {boast.at}, and {hero.he} told everyone about it. <I am {boast.best} "
        "of all!> {hero.he} said, morning and evening.",
        "<Nobody is as good at {boast.at} as I am,> {hero} liked to say.",
    )
    s.say(
        "{friend}, {friend.a}, was not so quick. <You are as slow as a snail!> {hero} laughed. "
        "{friend} said nothing.",
        "{hero} often laughed at {friend}, {friend.a}. That made {friend} sad.",
    )
    s.say("~")
    s.day()
    s.say(
        "<Let us have {boast.do},> said {friend}. <You against me?> laughed {hero}. <That will be "
        "easy!>",
        "There was to be {boast.do}. <I will win, of course,> said {hero}.",
    )
    s.say(
        "They began. {hero} was far ahead. But {hero.he} {boast.fall}. <Help!> {hero.he} cried.",
        "At first everything went well, and {hero} sang a song about {hero.himself}. Then "
        "{hero.he} {boast.fall}. <Help! Help!> {hero.he} shouted.",
    )
    s.say("~")
    s.say(
        "{friend} could have gone on and won. But {boast.help}.",
        "Who came to help? Not the ones who had cheered. {boast.help}.",
    )
    s.say(
        "<Why did you help me?> asked {hero}. <I always laughed at you.> <Because you were in "
        "trouble,> said {friend}. {hero} [was ashamed|did not know what to say].",
        "<You could have won,> {hero} said in a small voice. <What is winning without a friend?> "
        "said {friend}.",
    )
    s.say(
        "They [came to the end together|went the rest of the way side by side], and everyone "
        "clapped for {friend}. {hero} clapped the loudest.",
        "<{friend} is the winner!> {hero} told everyone, and {hero.he} meant it.",
    )
    s.say(
        "From then on {hero} did not boast any more. When someone was slow, {hero.he} waited.",
        "And when anyone asked who was {boast.best}, {hero} said, <I do not know. But I know who "
        "is the best friend.>",
    )


NOISES = (
    {"sound": "Tap, tap, tap", "at": "the window", "guess": "a giant knocking", "was": "a little "
     "branch that the wind moved", "need": "tied the branch back with a string"},
    {"sound": "Scratch, scratch", "at": "the door", "guess": "a wolf with long claws", "was": "a "
     "small wet kitten that wanted to come in", "need": "gave it warm milk and a place by the "
     "stove"},
    {"sound": "Hoo, hoo", "at": "the roof", "guess": "a ghost", "was": "a young owl that had "
     "fallen out of its nest", "need": "put the young owl back into its nest"},
    {"sound": "Drip, drop, drip", "at": "the stairs", "guess": "a sea monster with wet feet", "was":
     "a hole in the roof where the rain came in", "need": "put a bucket under it and helped to "
     "mend the roof"},
    {"sound": "Crunch, crunch", "at": "the kitchen", "guess": "a troll eating the chairs", "was":
     "a hungry mouse with a crust of bread", "need": "cut a slice of cheese and put it on a tiny "
     "plate"},
    {"sound": "Bump, bump, bump", "at": "the garden", "guess": "a dragon", "was": "a hedgehog that "
     "had a flower pot on its head", "need": "lifted the pot off very gently"},
)  # fmt: skip


def noise(s: Story) -> None:
    """A sound at night, a frightening guess, a small truth, a new friend or a mended roof."""
    s.set(noise=s.pick(NOISES))
    s.open(company=True)
    s.say("~")
    s.say(
        "One night {hero} [woke up|could not sleep]. <{noise.sound},> it went at {noise.at}. "
        "<{noise.sound}.>",
        "It was night, and everyone was asleep. Only {hero} was awake. <{noise.sound},> it went at "
        "{noise.at}.",
    )
    s.say(
        "{hero} held {hero.his} breath. <It must be {noise.guess},> {hero.he} thought, and "
        "{hero.his} heart went bump, bump, bump.",
        "<What is that?> whispered {hero}. {hero.He} thought of {noise.guess} and pulled up the "
        "blanket.",
    )
    s.say(
        "{hero} woke {parent}. <There is {noise.guess}!> {hero.he} whispered. <Have you seen it?> "
        "asked {parent}. <No,> said {hero}. <Then let us look first and be afraid later,> said "
        "{parent}.",
        "The next evening {friend} stayed with {hero.him}. <{noise.sound},> it went again. <That "
        "is {noise.guess},> said {hero}. <Let us go and see,> said {friend}, but {friend.his} "
        "voice was shaking too.",
    )
    s.say("~")
    s.say(
        "They took the lamp and went to {noise.at}, step by step. It was {noise.was}!",
        "Slowly, slowly they went closer. {hero} held up the light. And what was it? Not "
        "{noise.guess}. It was {noise.was}.",
    )
    s.say(
        "{hero} had to laugh. Then {hero.he} {noise.need}.",
        "<And I was so frightened!> said {hero}. {hero.He} {noise.need}.",
    )
    s.say("~")
    s.say(
        "After that it was quiet. <Most monsters are very small when you hold a light to them,> "
        "said {hero}, and {hero.he} fell asleep.",
        "Whenever {hero} heard a strange sound after that, {hero.he} did not hide. {hero.He} took "
        "the lamp and went to look.",
        "<{noise.sound},> said {hero} the next morning, and they all laughed until their bellies "
        "hurt.",
    )


TRIED = (
    ("drank a cup of warm milk", "It was good, but {hero.he} was still awake"),
    ("counted sheep", "At ninety-nine the sheep began to dance, and {hero.he} was wide awake"),
    ("lay down with {hero.his} head where {hero.his} feet had been", "It only made {hero.him} "
     "giggle"),
    ("put on two more blankets", "Now {hero.he} was awake and hot"),
    ("hummed a song", "But then {hero.he} wanted to dance"),
)  # fmt: skip


WORRIES = (
    ("tomorrow was the first day of school", "that nobody would sit beside {hero.him}",
     "{friend} was waiting at the school gate. <I kept a seat for you,> {friend.he} said."),
    ("{hero.he} had not said sorry to {friend}", "that {friend} was still angry",
     "{hero} ran over and said it. <I had forgotten it already,> laughed {friend}."),
    ("tomorrow {hero.he} had to sing in front of everyone", "that {hero.he} would forget the words",
     "{hero} forgot one word, and {friend} whispered it, and nobody noticed."),
    ("{friend} was going on a long journey", "that {friend} would forget {hero.him}",
     "{friend} came to say goodbye. <Here is half of my lucky coin,> said {friend}. <You keep one "
     "half and I keep the other.>"),
)  # fmt: skip


def sleepless(s: Story) -> None:
    """The hero cannot sleep; remedies fail; the true reason is told, and morning answers it."""
    one, two = s.random.sample(TRIED, 2)
    worry, that, morning = s.pick(WORRIES)
    s.set(one=one[0], fail=one[1], two=two[0], fail_two=two[1])
    s.set(worry=worry, that=that, answer=morning)
    s.open(company=True)
    s.say("~")
    s.say(
        "One night {hero} could not sleep. {hero.He} {one}. {fail}.",
        "It was late, but {hero} lay awake and looked at the moon. {hero.He} {one}. {fail}.",
    )
    s.say("Then {hero.he} {two}. {fail_two}.", "After that {hero.he} {two}. {fail_two}.")
    s.say(
        "<Why are you not asleep?> asked {parent}, who had heard {hero.him}.",
        "At midnight {parent} came in with a lamp. <What is the matter?> {parent.he} asked.",
    )
    s.say("~")
    s.say(
        "<I do not know,> said {hero}. {parent} sat down on the bed and waited. It was quiet. Then "
        "{hero} said what it was: {worry}, and {hero.he} was afraid {that}.",
        "At first {hero} said nothing. But then it came out: {worry}. {hero} was afraid {that}.",
    )
    s.say(
        "<At night worries are as big as elephants,> said {parent}. <In the morning they are as "
        "small as mice.>",
        "<A worry you share is only half a worry,> said {parent}. <Give me the one half, and we "
        "will see about the other half tomorrow.>",
    )
    s.say("{hero} yawned. A moment later {hero.he} was asleep.",
          "And before {parent} had reached the door, {hero} was asleep.")  # fmt: skip
    s.say("~")
    s.say("The next morning {answer}", "And what happened in the morning? {answer}")
    s.say(
        "<As small as a mouse,> thought {hero}, and {hero.he} smiled.",
        "That night {hero} slept before {hero.his} head touched the pillow.",
        "{hero} laughed. So many hours awake, and all for nothing!",
    )
