"""The words that the tasks are made of: keys, values, names and filler sentences, each drawn from a passed generator.

No adjective ends with another and no noun holds another, so that no key of two words is a part of another key: the
scorer looks for an answer anywhere in a reply.
"""

import random
from collections.abc import Callable

from model.errors import DataError

ADJECTIVES = (
    "amber ample ancient avid bitter blunt bold brave brief bright brisk broad bronze calm candid careful cheap civil "
    "clean clear clever coarse cold common cosy crimson crisp cruel curious curly damp dapper daring dark deep dense "
    "dim distant dizzy double dreamy dry dull dusty eager early earnest easy elastic elder empty exact faint fair "
    "fancy fast feeble fertile fierce fine firm flat fond formal fragile frank fresh frosty frugal full gentle giant "
    "giddy glad gloomy golden grand grave green grim gruff handy happy hardy harsh hasty heavy hidden hollow honest "
    "huge humble hungry idle jolly keen kind large lavish lazy level light limber lively lofty lonely loud loyal "
    "lucid lucky lush mellow merry mighty mild misty modest moist muddy mute narrow neat nimble noble novel odd olive "
    "orange orderly pale patient plain plump polite prompt proud purple quaint quick quiet random rapid rare raw "
    "ready regal rigid ripe robust rosy rough round royal rugged rural rusty sandy scarlet serene severe shallow "
    "sharp shiny short shy silent silver simple sleek slender slim slow smooth snug sober soft solar solid sour spare "
    "spicy square stable stark steady steep stern stiff stout strict strong sturdy subtle sunny supple sweet swift "
    "tall tame tangy tender thick thin tidy timid tiny torrid tough trim true upper urgent vague vast velvet violet "
    "vivid warm wary weary whole wicked wide wild windy wise witty wooden young zesty "
).split()
NOUNS = (
    "acorn almond anchor anvil apron atlas autumn badge bagel bakery bamboo banjo banner barley barrel basket beacon "
    "beaver bench berry bicycle blanket blossom bonnet bottle boulder bracket branch breeze brick bridge broom bucket "
    "buckle buffalo button cabin cactus camel candle canoe canvas canyon carpet carrot castle cedar cellar chapel "
    "cherry chimney circus clover cobbler coconut comet compass copper coral cottage cradle crane crayon cricket "
    "crown crystal cushion dagger dancer desert diamond dolphin donkey dragon drawer eagle easel elbow ember engine "
    "falcon farmer feather fiddle field finger flute forest fossil fountain gallery garden garlic gazelle ginger "
    "giraffe glacier goblet gravel guitar hammer hammock harbor harvest helmet heron hinge honey horizon hornet "
    "iceberg island ivory jacket jaguar jasmine jungle kernel kettle kitten ladder lagoon lantern laurel lemon "
    "leopard lettuce library lizard lobster locket magnet mango maple marble market meadow melon mirror mitten monkey "
    "mosaic mountain muffin museum mushroom mustard napkin needle nickel nutmeg oasis ocean onion orchard orchid "
    "osprey otter oyster paddle palace panda parcel parrot pasture pebble pelican pencil pepper piano pigeon pillow "
    "pirate planet plaza pocket pond poplar prairie puddle pumpkin puppet quarry quilt rabbit raccoon radish ranger "
    "raven ribbon river robin rocket saddle saffron sailor salmon sandal saucer scarf shadow shovel shrimp shuttle "
    "spider spinach spoon squash statue summit sunset syrup tailor tangerine teapot temple thistle thunder timber "
    "tomato tower tractor trumpet tulip tunnel turnip turtle umbrella valley vanilla vessel village vinegar violin "
    "volcano waffle wagon walnut walrus willow window wizard yogurt zebra "
).split()
NOISE = "The sky is wide and the road is long. We walk on, and then we walk back."
_SENTENCES = (
    "The {} {} stood beside a {} {} all winter.",
    "Nobody had seen the {} {} since the {} {} was sold.",
    "In those days a {} {} cost less than a {} {}.",
    "She wrote that the {} {} would outlast every {} {} in the town.",
    "They carried the {} {} home and left the {} {} behind.",
    "A {} {} may teach us more than a {} {} does.",
    "If the {} {} is late, the {} {} has to wait.",
    "My brother drew a {} {} next to the {} {} and said nothing.",
)
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


class Distinct:
    """Draws without repetition: what came before is drawn again."""

    def __init__(self, draw: Callable[[], str], size: int) -> None:
        self._draw, self._size = draw, size
        self._seen: set[str] = set()

    def __call__(self) -> str:
        if len(self._seen) * 10 > self._size * 9:
            raise DataError(
                f"there are no more than {self._size:,} different words for so long a text: shorten --lengths"
            )
        while (word := self._draw()) in self._seen:
            pass
        self._seen.add(word)
        return word


def keys(rng: random.Random) -> Distinct:
    """Words such as calm-harbor."""
    return Distinct(
        lambda: f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}",
        len(ADJECTIVES) * len(NOUNS),
    )


def nouns(rng: random.Random) -> Distinct:
    return Distinct(lambda: rng.choice(NOUNS), len(NOUNS))


def numbers(rng: random.Random, digits: int) -> Distinct:
    """Numbers of that many digits, the first not 0."""
    low = 10 ** (digits - 1)
    return Distinct(lambda: str(rng.randrange(low, 10 * low)), 9 * low)


def codes(rng: random.Random, digits: int) -> Distinct:
    """Hexadecimal codes; those of 32 digits are written as UUIDs."""

    def draw() -> str:
        code = f"{rng.getrandbits(4 * digits):0{digits}x}"
        return "-".join((code[:8], code[8:12], code[12:16], code[16:20], code[20:])) if digits == 32 else code

    return Distinct(draw, 16**digits)


def letters(rng: random.Random, count: int, alphabet: str) -> Distinct:
    """Random words of `count` letters."""
    return Distinct(lambda: "".join(rng.choices(alphabet, k=count)), len(alphabet) ** count)


def people(rng: random.Random) -> Distinct:
    """Names such as Mara Vostek: 4 letters and 6."""
    return Distinct(lambda: f"{_syllables(rng, 'cvcv')} {_syllables(rng, 'cvcvcc')}", 14**5 * 5**4)


def towns(rng: random.Random) -> Distinct:
    """Names such as Kolmidar: 8 letters, as no part of a person's name has."""
    return Distinct(lambda: _syllables(rng, "cvccvcvc"), 14**5 * 5**3)


def sentence(rng: random.Random) -> str:
    """A sentence of prose without sense, digits or hyphens."""
    a, b, c, d = rng.choice(ADJECTIVES), rng.choice(NOUNS), rng.choice(ADJECTIVES), rng.choice(NOUNS)
    return rng.choice(_SENTENCES).format(a, b, c, d)


def _syllables(rng: random.Random, form: str) -> str:
    return "".join(rng.choice(_CONSONANTS if letter == "c" else _VOWELS) for letter in form).capitalize()
