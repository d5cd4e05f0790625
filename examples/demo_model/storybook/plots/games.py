"""Plots of counting, hiding, guessing and finding the way: what is said first decides the end."""

from __future__ import annotations

from storybook.cast import article, stranger
from storybook.details import LANDMARKS, SNACKS
from storybook.story import Story

NUMBERS = "two three four five six seven eight nine ten eleven twelve".split()


def way_home(s: Story) -> None:
    """The hero gets lost and finds home by what it passed, the other way round."""
    one, two, three = s.random.sample(LANDMARKS, 3)
    s.set(one=f"the {one}", two=f"the {two}", three=f"the {three}")
    s.set(a_one=article(one), a_two=article(two), a_three=article(three))
    after = s.pick(("butterfly", "white hare", "striped cat", "little song", "toy balloon", "toad"))
    s.set(after=f"the {after}", a_after=article(after))
    s.make_weather("sunny", "windy")
    s.open()
    s.say("~")
    s.day(go=False)
    s.say(
        "{hero} followed {a_after}. {hero.He} passed {a_one}, then {a_two}, and then {a_three}.",
        "{hero} saw {a_after} and wanted to know where it would go. The way led past {a_one}. Then "
        "came {a_two}, and at last {a_three}.",
    )
    s.say(
        "When {hero.he} looked around, nothing was as it used to be. <Where am I?> {hero.he} "
        "asked.",
        "Then {after} was gone, and {hero} was alone. {hero.He} was lost!",
    )
    s.say("~")
    s.say(
        "{hero} ran to the left and to the right, but that only made it worse.",
        "{hero} sat down and cried a little. That did not help, but it felt better.",
        "<Which way is home?> {hero} asked [a snail|a scarecrow|the wind]. There was no answer.",
    )
    s.say(
        "<What did I see on the way?> thought {hero}. <First {one}, then {two}, and then {three}. "
        "So now it must be the other way round!>",
        "Then {hero.he} remembered what {parent} had told {hero.him}: <If you are lost, go back "
        "the way you came, and begin with what you saw last.>",
    )
    s.say(
        "So {hero} looked for {three}, and there it was. Behind it came {two}. And after {two} "
        "came {one}.",
        "{hero.He} found {three}. {hero.He} found {two}. And when {hero.he} saw {one}, {hero.he} "
        "began to run.",
    )
    s.say("~")
    s.say(
        "There was {hero.his} own gate, and {parent} was standing there. <Where have you been?> "
        "asked {parent}. <I followed {after},> said {hero}, <but my eyes brought me back.>",
        "{parent} hugged {hero.him}. <How did you find the way?> {parent.he} asked. <{three}, "
        "{two}, {one}, and home,> said {hero}.",
    )
    s.say(
        "From then on {hero} looked at everything on the way, because everything can be a sign.",
        "And if {after} ever came by again, {hero} would only wave.",
    )


HIDING = (
    ("in the laundry basket", "a white sock on {friend.his} ear", "the basket sneezed"),
    ("in the flour bin", "flour all over {friend.his} face", "white dust came out of the bin"),
    ("up in the pear tree", "a leaf behind {friend.his} ear", "a pear fell on {hero.his} head"),
    ("behind the rain barrel", "wet feet", "somebody giggled behind the barrel"),
    ("in the hay", "straw on {friend.his} back", "the hay began to snore"),
    ("under the boat", "sand between {friend.his} toes", "the boat moved a little"),
    ("behind the curtain", "dust on {friend.his} nose", "the curtain said hush"),
    ("in the big clock", "a cobweb on {friend.his} head", "the clock said ouch"),
)


def hide_and_seek(s: Story) -> None:
    """Searching where nobody is, and then a sign gives the hider away."""
    where, trace, sign = s.pick(HIDING)
    s.set(where=where, trace=trace, sign=sign, number=s.pick(NUMBERS[4:]))
    wrong = [row[0] for row in HIDING if row[0] != where]
    one, two = s.random.sample(wrong, 2)
    s.set(one=one, two=two)
    s.make_weather("sunny", "windy", "rainy")
    s.open(company=True)
    s.say("~")
    s.day(go=False)
    s.say(
        "<Let us play hide and seek,> said {friend}. <You count, and I hide.> {hero} covered "
        "{hero.his} eyes and counted to {number}.",
        "{hero} and {friend} played hide and seek. It was {hero}'s turn to look. {hero.He} counted "
        "slowly to {number}.",
    )
    s.say(
        "<Here I come!> called {hero}. {hero.He} looked {one}. Nobody. {hero.He} looked {two}. "
        "Nobody.",
        "First {hero} looked {one}, but {friend} was not there. Then {hero.he} looked {two}, and "
        "{friend} was not there either.",
    )
    s.say(
        "Where could {friend.he} be? {hero} looked [high and low|everywhere twice]. {hero.He} "
        "began to worry. <{friend}!> {hero.he} called. <You win! Come out!> But it was quiet.",
        "{hero} looked until {hero.his} feet hurt. <Perhaps {friend.he} went home,> {hero.he} "
        "thought, and felt a little sad.",
    )
    s.say("~")
    s.say(
        "And just then, {sign}. {hero} looked {where}. <Found you!> {hero.he} cried.",
        "{hero} wanted to give up. But then {sign}. <Aha!> said {hero}, and looked {where}. There "
        "was {friend}!",
    )
    s.say(
        "{friend} came out with {trace}. <I fell asleep,> {friend.he} said and laughed.",
        "Out came {friend}, with {trace}. <I thought you would never find me,> {friend.he} said.",
    )
    s.say(
        "Then it was {friend}'s turn to count, and {hero} hid {one}.",
        "<Next time I will look {where} first,> said {hero}. But next time, of course, {friend} "
        "was {two}.",
    )
    if s.chance(0.5):
        s.evening()


HERDS = (
    ("sheep", "lamb", "asleep under a thorn bush", "followed its own shadow"),
    ("ducklings", "duckling", "in a puddle behind the barn", "chased a dragonfly"),
    ("chicks", "chick", "inside an old boot", "wanted to be alone for a while"),
    ("kittens", "kitten", "in the bread basket", "liked the smell of warm bread"),
    ("piglets", "piglet", "stuck in the cabbage bed", "eaten too much to fit through the gap"),
    ("goslings", "gosling", "on the other side of the brook", "floated away on a leaf"),
    ("goats", "goat", "on the roof of the shed", "wanted to see the whole world"),
)


def missing_one(s: Story) -> None:
    """Someone counts what was given in trust; one is missing; all are there in the end."""
    many, single, where, why = s.pick(HERDS)
    number = s.random.randrange(1, len(NUMBERS))
    s.set(many=many, single=single, where=where, why=why)
    s.set(all=NUMBERS[number], left=NUMBERS[number - 1], neighbour=stranger(
        s.pick(("farmer", "neighbour", "shepherd", "miller")), s.chance(0.5), s.pick(("old", "kind",
        "busy"))))  # fmt: skip
    s.make_weather("sunny", "windy", "foggy")
    s.open()
    s.say("~")
    s.day(go=False)
    s.say(
        "{neighbour.a} had to go to town. <Will you look after my {all} {many}?> asked "
        "{neighbour}. <I will,> said {hero}.",
        "{hero} was allowed to look after {neighbour}'s {many} for a day. There were {all} of "
        "them.",
    )
    s.say(
        "{hero} counted them in the morning: {all}. {hero.He} counted them at noon: {all}. But in "
        "the afternoon there were only {left}!",
        "It was easy work, and {hero} closed {hero.his} eyes for a moment. When {hero.he} opened "
        "them, {hero.he} counted. {left}! One was missing.",
    )
    s.say("~")
    s.say(
        "{hero.His} heart beat fast. <What shall I say to {neighbour}?> {hero.he} thought. "
        "{hero.He} could run away. But {hero.he} had given {hero.his} word.",
        "{hero} counted again, and again there were {left}. <I must find it before dark,> "
        "{hero.he} said.",
    )
    s.look(food=False)
    s.say(
        "{hero.He} looked behind every bush and called into every hole. At last {hero.he} heard a "
        "small sound. The {single} was {where}! It had {why}.",
        "{hero} asked everyone on the way. <I saw something small,> said [a crow|a boy|a washer "
        "woman]. And there, {where}, was the {single}. It had {why}.",
    )
    s.say("~")
    s.say(
        "In the evening {neighbour} came back and counted. <{all},> said {neighbour}. <Well done!> "
        "{hero} told the whole story and left nothing out."
        if s.chance(0.5)
        else "When {neighbour} came home, {all} {many} stood at the gate. <Was there any trouble?> "
        "asked {neighbour}. <A little,> said {hero} honestly. <About as big as a {single}.>",
    )
    s.say(
        "<Whoever tells me the truth may look after my {many} any day,> said {neighbour}.",
        "{hero} got a big jar of honey, and the {single} got a little bell, so that it would never "
        "be lost again.",
    )


RIDDLES = (
    ("I have a neck but no head, and I wear a cap", "a bottle"),
    ("The more you take away from me, the bigger I get", "a hole"),
    ("I have hands but I can not clap", "a clock"),
    ("I run all day but I never leave my bed", "a river"),
    ("I have teeth but I can not bite", "a comb"),
    ("I go up and down, but I never move", "a staircase"),
    ("I have an eye but I can not see", "a needle"),
    ("I follow you by day, and at night I am gone", "a shadow"),
    ("I get wet while I dry you", "a towel"),
    ("I am full of holes, and still I can hold water", "a sponge"),
    ("I have leaves but I am not a tree", "a book"),
    ("You can break me without touching me", "a promise"),
    ("I fly without wings and cry without eyes", "a cloud"),
    ("I am taken before you get me, and you have to smile for me", "a picture"),
    ("I have one foot and a hat, and I come after the rain", "a mushroom"),
    ("I speak every language, but only after you", "an echo"),
)
GUARDS = (
    ("troll", "under the bridge", "Nobody crosses my bridge"),
    ("raven", "on the gate", "Nobody goes through this gate"),
    ("goat", "on the narrow path", "Nobody goes past me"),
    ("dragon", "in front of the cave", "Nobody sees my treasure"),
    ("giant", "at the edge of the woods", "Nobody walks in my woods"),
)


def riddle(s: Story) -> None:
    """The way is barred by a riddle; a detail of the day gives the answer; the guard is lonely."""
    question, answer = s.pick(RIDDLES)
    who, where, rule = s.pick(GUARDS)
    wrong = s.pick([a for _, a in RIDDLES if a != answer])
    s.set(question=question, answer=answer, wrong=wrong, where=where, rule=rule)
    s.set(guard=stranger(who, s.chance(0.4), s.pick(("grumpy", "big", "old", "lonely"))))
    s.open(company=True)
    s.say("~")
    s.day(go=False)
    s.say(
        "{hero} and {friend} wanted to see what was behind the hill. But {where} sat {guard.a}. "
        "<{rule},> said {guard}, <who can not guess my riddle.>",
        "On the way to {friend}'s aunt they met {guard.a}. {guard.He} sat {where}. <{rule}!> "
        "{guard.he} shouted. <Only if you solve my riddle.>",
    )
    s.say("<{question},> said {guard}. <What am I?>",
          "<Listen,> said {guard}. <{question}. What am I?>")  # fmt: skip
    s.say("~")
    s.say(
        "<{wrong}?> asked {friend}. <Wrong!> laughed {guard}. <You may guess once more.>",
        "{friend} thought so hard that {friend.his} ears grew hot. <{wrong}!> {friend.he} said. "
        "<No,> said {guard}, and smiled a little.",
    )
    s.say(
        "{hero} said the words again and again: {question}. Then {hero.he} jumped up. <It is "
        "{answer}!>",
        "{hero} closed {hero.his} eyes and thought of everything at home, one thing after the "
        "other. <{answer}!> {hero.he} cried. <You are {answer}!>",
    )
    s.say("~")
    s.say(
        "{guard} was quiet. <That is right,> {guard.he} said at last. <Nobody has ever stayed long "
        "enough to guess it. They all run away.> {guard.He} looked sad.",
        "<Right,> said {guard}, and a tear ran down {guard.his} nose. <Now you will go, and I will "
        "be alone again.>",
    )
    s.say(
        "<Do you know more riddles?> asked {hero}. <Hundreds!> said {guard}. So they sat down "
        "{where} and guessed until the stars came out.",
        "<Come with us,> said {hero}. And {guard} came along and told riddles all the way.",
    )
    s.say(
        "Since then the way has been free for everyone, and whoever brings a riddle gets a "
        "biscuit.",
        "And if you meet {guard.a} one day, do not run. Ask for a riddle. The answer is {answer}.",
        "That is how {hero} won a friend with one word.",
    )


def picnic(s: Story) -> None:
    """Everyone brings something; one has nothing, or so it seems."""
    one, two = s.random.sample(SNACKS, 2)
    s.set(one=one, two=two)
    s.set(gift=s.pick(("a blanket", "a song", "a story", "an umbrella", "a kite", "a game")))
    who, female = s.pick((("mouse", True), ("hedgehog", False), ("old man", False), ("girl", True),
                          ("boy", False), ("tortoise", True), ("stranger", True)))  # fmt: skip
    s.set(third=stranger(who, female))
    s.make_weather("sunny", "windy")
    s.open(company=True)
    s.say("~")
    s.day(go=False, food=False)
    s.say(
        "<Let us have a picnic at {other_place},> said {friend}. {hero} brought {one}, and "
        "{friend} brought {two}.",
        "There was to be a picnic at {other_place}. {hero} packed {one}. {friend} came with {two}.",
    )
    s.look(food=False)
    s.say(
        "Then {third.a} came by and stopped. <May I sit with you?> asked {third}. <But I have "
        "nothing to bring.>",
        "Behind a tree stood {third.a}. <We can see you,> called {friend}. <I only wanted to "
        "look,> said {third}. <I have nothing to eat.>",
    )
    s.say("~")
    s.say(
        "{friend} looked at the food. <There is not much,> {friend.he} whispered. <Then we will "
        "make small bites,> said {hero}. <Sit down!>",
        "{hero} moved over at once. <There is always room for one more,> {hero.he} said and gave "
        "{third} half of {hero.his} share.",
    )
    s.say(
        "When all was eaten, {third} stood up. <Now I will give you something too,> said {third}. "
        "And it was {gift}, the best they had ever had."
        if s.roles["gift"] in ("a song", "a story", "a game")
        else "Suddenly the weather changed, and big drops fell. <Wait,> said {third}, and pulled "
        "out {gift}. All three of them crept under it."
        if s.roles["gift"] in ("an umbrella", "a blanket")
        else "When all was eaten, {third} pulled out {gift}. The wind took it high up, and "
        "everyone could hold the string once.",
    )
    s.say("~")
    s.say(
        "<And you said that you had nothing to bring!> said {hero}.",
        "<I am glad that we made small bites,> said {friend}.",
    )
    s.say(
        "Nobody could say any more who had brought {one} and who had brought {two}. But everyone "
        "remembered the afternoon with {third}.",
        "The next time there were three of them from the start: {hero}, {friend} and {third}.",
    )
    if s.chance(0.6):
        s.evening()
