"""The words of generated texts: twelve genres with words of their own, and words that every text uses."""

from __future__ import annotations

_WORDS = {
    "comedy": "joke laugh sketch parody awkward roommate prank satire banter mishap improv punchline",
    "sport": "match league goal stadium coach training champion marathon penalty sprint tournament referee",
    "drama": "family secret betrayal grief letter trial confession village reunion loss marriage promise",
    "music": "album guitar concert melody chorus studio rhythm vinyl orchestra singer lyrics encore",
    "science": "experiment planet neuron quantum telescope enzyme climate fossil laboratory theory genome particle",
    "news": "election minister budget protest summit inflation border treaty parliament reform verdict strike",
    "crime": "detective murder evidence heist suspect alibi forensic informant cartel witness ransom fugitive",
    "travel": "island railway market passport desert harbour temple hiking border hostel ferry coastline",
    "food": "recipe oven spice bakery harvest chef ferment noodle roast vineyard garlic dessert",
    "technology": "robot software battery chip network startup privacy drone algorithm sensor cloud hardware",
    "history": "empire dynasty revolution castle archive siege pharaoh manuscript colony crusade monarch treaty",
    "fantasy": "dragon spell kingdom prophecy sword wizard quest curse throne goblin portal relic",
}
_COMMON = (
    "story people time world place year life hour night morning city home friend question answer reason moment part "
    "series episode guide review season first last new old great small long short best"
)

GENRES = tuple(_WORDS)
GENRE_WORDS = tuple(tuple(words.split()) for words in _WORDS.values())
COMMON_WORDS = tuple(_COMMON.split())
VOCABULARY = tuple(dict.fromkeys([*(word for words in GENRE_WORDS for word in words), *COMMON_WORDS]))
