"""The small world that the generated text is about: names, countries, things, verbs."""

NAMES = tuple(
    "Mary John Anna Peter Tom Lucy Sara David Emma Jack Alice Bob Carol Daniel Eve Frank Grace "
    "Henry Irene James Kate Leo Maria Nick Olivia Paul Rachel Sam Tina Victor Wendy Adam Bella "
    "Chris Diana Eric Fiona George Helen Ivan Julia Kevin Laura Mark Nora Oscar Rosa Simon".split()
)

FEMALE = frozenset(
    "Mary Anna Lucy Sara Emma Alice Carol Eve Grace Irene Kate Maria Olivia Rachel Tina Wendy "
    "Bella Diana Fiona Helen Julia Laura Nora Rosa".split()
)

# country, capital, language
COUNTRIES = tuple(
    (country, capital, language)
    for country, capital, language in (
        line.split()
        for line in """France Paris French
Germany Berlin German
Italy Rome Italian
Spain Madrid Spanish
Portugal Lisbon Portuguese
England London English
Ireland Dublin English
Greece Athens Greek
Poland Warsaw Polish
Austria Vienna German
Hungary Budapest Hungarian
Sweden Stockholm Swedish
Norway Oslo Norwegian
Finland Helsinki Finnish
Denmark Copenhagen Danish
Russia Moscow Russian
Ukraine Kyiv Ukrainian
Turkey Ankara Turkish
Egypt Cairo Arabic
Kenya Nairobi Swahili
Japan Tokyo Japanese
China Beijing Chinese
India Delhi Hindi
Iran Tehran Persian
Iraq Baghdad Arabic
Cuba Havana Spanish
Peru Lima Spanish
Chile Santiago Spanish
Canada Ottawa English
Brazil Brasilia Portuguese""".splitlines()
    )
)

PLACES = tuple("store park school house garden beach market library station river".split())
GIFTS = tuple("drink book ball letter flower ring cake map coat key".split())
GIVING = ("gave", "handed", "passed", "offered", "sent")
COLOURS = tuple("red blue green white black yellow".split())
ANIMALS = (
    ("dog", "dogs"),
    ("cat", "cats"),
    ("bird", "birds"),
    ("horse", "horses"),
    ("fox", "foxes"),
    ("cow", "cows"),
)
# singular present, plural present, past
VERBS = (
    ("runs", "run", "ran"),
    ("sleeps", "sleep", "slept"),
    ("eats", "eat", "ate"),
    ("plays", "play", "played"),
    ("waits", "wait", "waited"),
    ("sings", "sing", "sang"),
    ("walks", "walk", "walked"),
)
FEELINGS = tuple("happy sad tired hungry proud angry".split())
FRUIT = tuple("apple pear plum grape melon lemon cherry banana".split())
OPPOSITES = (
    ("hot", "cold"),
    ("big", "small"),
    ("old", "new"),
    ("fast", "slow"),
    ("high", "low"),
    ("light", "dark"),
    ("wet", "dry"),
    ("open", "closed"),
)
DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
