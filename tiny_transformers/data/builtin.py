"""Make a small story corpus, minimal pairs, classification tasks and LAMBADA-like passages from a grammar.

A phenomenon is a *square*: two contexts and two fillers, and each context allows one of the fillers only. The allowed
halves are what stories say; crossed, they are minimal pairs in which every word is as often right as wrong, so that
neither word frequencies nor sentence length tell the good sentence from the bad one. No sentence of a pair occurs in
a story. docs/data.md says what comes out; the numbers there say how fast it is learned.

The same bytes everywhere: `random.Random` seeded with text, no sets walked through, no hash(). No torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tiny_transformers.settings import config
from tiny_transformers.settings.stage import lambada
from tiny_transformers.settings.stage.blimp import blimp_files
from tiny_transformers.settings.stage.superglue import superglue_files

# Names the folder that the data is kept in: another generator, or another trainer of the tokenizer, makes another.
VERSION = hashlib.sha256(Path(__file__).read_bytes() + tokenizers.__version__.encode()).hexdigest()[:12]
TRAIN_STORIES, VALIDATION_STORIES = 6_000, 300
PAIRS = 200  # of each phenomenon, in its BLiMP file
TRAIN_ROWS, VALIDATION_ROWS = 600, 150  # of each classification task
IN_MARKUP = 4_000  # stories that are the pages of enwik8's stand-in
PASSAGES = 200  # whose last word is to be predicted
VOCAB_SIZE = 2_000  # at most; every word of the grammar is one token long before that
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")  # ids 0 to 3; <mask> has the last id

REFLEXIVE = {  # the heroes, and the pronoun that names one of them
    "girl": "herself", "queen": "herself", "boy": "himself", "king": "himself", "dog": "itself", "cat": "itself",
}  # fmt: skip
SUBJECT = {"herself": "She", "himself": "He", "itself": "It", "themselves": "They"}
POSSESSIVE = {"herself": "her", "himself": "his", "itself": "its", "themselves": "their"}
HEROES = tuple(REFLEXIVE)
FOOD = ("apple", "pear")
THINGS = ("ball", "hat", "cup", "kite", *FOOD)
PLACES = ("garden", "house", "park")
SIZES = ("big", "small", "red", "old")
TRANSITIVE = ("holding", "kicking", "pulling", "watching")
INTRANSITIVE = ("sleeping", "running", "jumping", "singing")
REFLEXIVE_VERBS = ("washing", "helping", "watching")
EATING = ("eating", "baking")
STATIVE = ("like", "want")
IRREGULAR = (("saw", "seen"), ("took", "taken"), ("broke", "broken"), ("hid", "hidden"))
HAPPY: dict[str, tuple[str, ...]] = {
    "event": ("found", "won", "loved"),
    "action": ("smiled", "laughed", "danced"),
    "mood": ("happy", "glad", "proud"),
}
SAD: dict[str, tuple[str, ...]] = {
    "event": ("lost", "dropped", "hated"),
    "action": ("cried", "frowned", "sighed"),
    "mood": ("sad", "angry", "lonely"),
}

ODD = 0.15  # scenes whose things are not as many as their heroes, so that the one does not always tell the other
PRONOUN = 0.25  # sentences of a story that say "She" for "The girl"


@dataclass(frozen=True)
class Pair:
    uid: str
    good: str
    bad: str


@dataclass(frozen=True)
class Scene:
    """Who and what a story is about."""

    hero: str
    plural: bool  # the heroes
    thing: str
    things: bool  # more than one thing
    place: str
    size: str
    happy: bool

    @property
    def heroes(self) -> str:
        return number(self.hero, self.plural)

    @property
    def object(self) -> str:
        return number(self.thing, self.things)

    @property
    def reflexive(self) -> str:
        return "themselves" if self.plural else REFLEXIVE[self.hero]

    @property
    def be(self) -> str:
        return "are" if self.plural else "is"

    @property
    def have(self) -> str:
        return "have" if self.plural else "has"

    @property
    def this(self) -> str:
        return "these" if self.things else "this"

    @property
    def words(self) -> dict[str, tuple[str, ...]]:
        return HAPPY if self.happy else SAD

    def mirrored(self) -> Scene:
        return replace(self, plural=not self.plural, things=not self.things)


Phrase = Callable[[Scene], str]  # the same words, agreeing with whatever scene they are put into
Square = tuple[Pair, Pair]
Splits = dict[str, list[dict[str, Any]]]  # train, validation


def number(noun: str, plural: bool) -> str:
    return noun + "s" if plural else noun


def coin(rng: Random) -> bool:
    return rng.random() < 0.5


def draw_scene(rng: Random) -> Scene:
    plural = coin(rng)
    return Scene(
        hero=rng.choice(HEROES),
        plural=plural,
        thing=rng.choice(THINGS),
        things=plural != (rng.random() < ODD),
        place=rng.choice(PLACES),
        size=rng.choice(SIZES),
        happy=coin(rng),
    )


def square(uid: str, contexts: tuple[str, str], fillers: tuple[str, str], first: bool = True) -> Square:
    """Two pairs; `contexts[i]`, which has one {}, allows `fillers[i]` only. `first` or the other context leads."""
    pairs = [Pair(uid, contexts[i].format(fillers[i]), contexts[i].format(fillers[1 - i])) for i in (0, 1)]
    return (pairs[0], pairs[1]) if first else (pairs[1], pairs[0])


def agreement(uid: str, scene: Scene, context: Phrase, filler: Phrase) -> Square:
    """A square of a scene and its mirror image: singular against plural."""
    other = scene.mirrored()
    return square(uid, (context(scene), context(other)), (filler(scene), filler(other)))


# Phrases.


def an_object(rng: Random) -> Phrase:
    """`this ball`, `her ball`."""
    if coin(rng):
        return lambda scene: f"{scene.this} {scene.object}"
    return lambda scene: f"{POSSESSIVE[scene.reflexive]} {scene.object}"


def somewhere(rng: Random) -> Phrase:
    thing = an_object(rng)
    if coin(rng):
        return lambda scene: f"near {thing(scene)}"
    return lambda scene: f"in the {scene.place}"


def activity(rng: Random) -> Phrase:
    transitive, intransitive, thing, where = (
        rng.choice(TRANSITIVE),
        rng.choice(INTRANSITIVE),
        an_object(rng),
        somewhere(rng),
    )
    if coin(rng):
        return lambda scene: f"{transitive} {thing(scene)}"
    return lambda scene: f"{intransitive} {where(scene)}"


def mood(rng: Random, scene: Scene) -> Phrase:
    word = rng.choice(scene.words["mood"])
    return lambda _: word


def state(rng: Random, scene: Scene) -> Phrase:
    """Return the words that can follow `is`."""
    return rng.choice((mood(rng, scene), somewhere(rng), activity(rng)))


def stative(verb: str) -> Phrase:
    return lambda scene: verb if scene.plural else verb + "s"


# The phenomena. The first pair of a square is about the scene itself, so a story can say its good half.


def anaphor_agreement(rng: Random, scene: Scene) -> Square:
    other = scene
    while other.reflexive == scene.reflexive:
        other = draw_scene(rng)
    verb, where = rng.choice(REFLEXIVE_VERBS), somewhere(rng)(scene)
    uid = "anaphor_gender_agreement" if scene.plural == other.plural else "anaphor_number_agreement"
    first, second = (f"The {one.heroes} {one.be} {verb} {{}} {where}." for one in (scene, other))
    return square(uid, (first, second), (scene.reflexive, other.reflexive))


def argument_structure(rng: Random, scene: Scene) -> Square:
    if coin(rng):
        return _animacy(rng, scene)
    thing, where = an_object(rng)(scene), somewhere(rng)(scene)
    contexts = (f"The {scene.heroes} {scene.be} {{}} {thing}.", f"The {scene.heroes} {scene.be} {{}} {where}.")
    return square("transitive", contexts, (rng.choice(TRANSITIVE), rng.choice(INTRANSITIVE)), coin(rng))


def _animacy(rng: Random, scene: Scene) -> Square:
    food = number(rng.choice(FOOD), scene.plural)
    eater = replace(scene, hero=rng.choice(HEROES), plural=coin(rng), things=scene.plural)
    whose = rng.choice((eater.this, POSSESSIVE[eater.reflexive]))
    contexts = (
        f"The {{}} {scene.be} {rng.choice(INTRANSITIVE)} {somewhere(rng)(scene)}.",
        f"The {eater.heroes} {eater.be} {rng.choice(EATING)} {whose} {{}}.",
    )
    return square("animacy", contexts, (scene.heroes, food), coin(rng))


def determiner_noun_agreement(rng: Random, scene: Scene) -> Square:
    size = rng.choice(("", scene.size + " "))
    verb, like = rng.choice(TRANSITIVE), stative(rng.choice(STATIVE))
    does: Phrase = like if coin(rng) else lambda one: f"{one.be} {verb}"
    uid = "determiner_noun_agreement" + ("_with_adj" if size else "")
    if coin(rng):
        return agreement(
            uid + "_1",
            scene,
            lambda one: f"The {one.heroes} {does(one)} {one.this} {size}{{}}.",
            lambda one: one.object,
        )
    return agreement(
        uid + "_2", scene, lambda one: f"The {one.heroes} {does(one)} {{}} {size}{one.object}.", lambda one: one.this
    )


def irregular_forms(rng: Random, scene: Scene) -> Square:
    rest = an_object(rng)(scene) + rng.choice(("", f" in the {scene.place}"))
    contexts = (f"The {scene.heroes} {{}} {rest}.", f"The {scene.heroes} {scene.have} {{}} {rest}.")
    # Mostly the past: the other sentences of a story have participles enough.
    return square("irregular_past_participle_verbs", contexts, rng.choice(IRREGULAR), rng.random() < 0.8)


def npi_licensing(rng: Random, scene: Scene) -> Square:
    negative = scene.happy == (rng.random() < 0.1)  # sad stories say never and no
    if coin(rng):
        rest = f"{rng.choice(IRREGULAR)[1]} {an_object(rng)(replace(scene, plural=False))}"
        first, second = (f"{word} {scene.hero} has {{}} {rest}." for word in ("No", "Every"))
        return square("npi_ever", (first, second), ("ever", "already"), negative)
    where = rng.choice((f"in the {scene.place}", f"in the {scene.size} {scene.place}", f"near the {scene.hero}s"))
    first, second = (f"There are {word} {{}} {scene.thing}s {where}." for word in ("never", "always"))
    return square("npi_any", (first, second), ("any", "some"), negative)


def subject_verb_agreement(rng: Random, scene: Scene) -> Square:
    uid = rng.choice(("be", "be", "stative", "perfect", "distractor"))
    thing, rest, feels = an_object(rng), state(rng, scene), mood(rng, scene)
    if uid == "be":
        return agreement(uid, scene, lambda one: f"The {one.heroes} {{}} {rest(one)}.", lambda one: one.be)
    if uid == "stative":
        like = stative(rng.choice(STATIVE))
        return agreement(uid, scene, lambda one: f"The {one.heroes} {{}} {thing(one)}.", like)
    if uid == "perfect":
        done = rng.choice(IRREGULAR)[1]
        return agreement(uid, scene, lambda one: f"The {one.heroes} {{}} {done} {thing(one)}.", lambda one: one.have)
    return agreement(  # "The dogs near the ball are glad."
        uid,
        scene,
        lambda one: f"The {one.heroes} near the {number(one.thing, not one.plural)} {{}} {feels(one)}.",
        lambda one: one.be,
    )


def subject_aux_inversion(rng: Random, scene: Scene) -> Square:
    """A question turns subject and verb round, a question inside a sentence does not."""
    return _why(rng, scene, state(rng, scene)(scene))


def _why(rng: Random, scene: Scene, rest: str) -> Square:
    asks = replace(scene, hero=rng.choice([hero for hero in HEROES if hero != scene.hero]), plural=coin(rng))
    contexts = (f"Why {{}} {rest}?", f"The {asks.heroes} {stative('know')(asks)} why {{}} {rest}.")
    orders = (f"{scene.be} the {scene.heroes}", f"the {scene.heroes} {scene.be}")
    return square("why", contexts, orders, coin(rng))


Phenomenon = Callable[[Random, Scene], Square]
PHENOMENA: dict[str, Phenomenon] = {
    "anaphor_agreement": anaphor_agreement,
    "argument_structure": argument_structure,
    "determiner_noun_agreement": determiner_noun_agreement,
    "irregular_forms": irregular_forms,
    "npi_licensing": npi_licensing,
    "subject_verb_agreement": subject_verb_agreement,
    "subject_aux_inversion": subject_aux_inversion,
}
FIELD = {  # BLiMP's word for the part of linguistics
    "anaphor_agreement": "morphology",
    "argument_structure": "syntax",
    "determiner_noun_agreement": "morphology",
    "irregular_forms": "morphology",
    "npi_licensing": "semantics",
    "subject_verb_agreement": "morphology",
}
MIDDLE = (anaphor_agreement, argument_structure, determiner_noun_agreement, irregular_forms, subject_verb_agreement)


# Stories.


def draw_story(rng: Random, held_out: set[str]) -> str:
    """Six sentences about one scene, none of them held out, none twice."""
    while True:
        scene = draw_scene(rng)
        middle = [npi_licensing, *rng.sample(MIDDLE, 2)]
        rng.shuffle(middle)
        said = [phenomenon(rng, scene)[0] for phenomenon in middle]
        why = _why(rng, scene, mood(rng, scene)(scene))[0].good
        sentences = [f"The {scene.heroes} {scene.be} in the {scene.place}.", *(pair.good for pair in said), why]
        if len(set(sentences)) == len(sentences) and held_out.isdisjoint(sentences):
            told = [_pronoun(rng, scene, sentence) for sentence in sentences[1:4]]
            return " ".join([sentences[0], *told, why, _ending(rng, scene)])


def _pronoun(rng: Random, scene: Scene, sentence: str) -> str:
    name = f"The {scene.heroes} "
    if not sentence.startswith(name) or sentence.startswith(name + "near ") or rng.random() > PRONOUN:
        return sentence
    return f"{SUBJECT[scene.reflexive]} {sentence.removeprefix(name)}"


def _ending(rng: Random, scene: Scene) -> str:
    event, action = rng.choice(scene.words["event"]), rng.choice(scene.words["action"])
    return f"{SUBJECT[scene.reflexive]} {event} {an_object(rng)(scene)} and {action}."


def draw_passage(rng: Random, held_out: set[str]) -> str:
    """A story that breaks off, as late as possible, after the last word of a sentence that the earlier ones, two
    at least, have said."""
    while True:
        *earlier, last = re.split(r"(?<=[.?]) ", draw_story(rng, held_out))
        while len(earlier) > 1:
            word = last[:-1].rpartition(" ")[2]
            if word in re.findall(r"\w+", " ".join(earlier)):
                return " ".join([*earlier, last[:-1]])
            *earlier, last = earlier


# Pairs and classification tasks.


def draw_pairs(phenomenon: Phenomenon, count: int, rng: Random, used: set[str]) -> list[Pair]:
    """`count` (even) pairs of sentences that are not in `used`, which they join.

    The first pair of every square, then the second of every square: evenly spaced rows are whole squares again."""
    squares: list[Square] = []
    while len(squares) < count // 2:
        drawn = phenomenon(rng, draw_scene(rng))
        sentences = [sentence for pair in drawn for sentence in (pair.good, pair.bad)]
        if used.isdisjoint(sentences):
            used.update(sentences)
            squares.append(drawn)
    return [first for first, _ in squares] + [second for _, second in squares]


def draw_sst2(rng: Random, label: int) -> dict[str, Any]:
    scene = replace(draw_scene(rng), happy=bool(label))
    event, action, feels = (rng.choice(scene.words[kind]) for kind in ("event", "action", "mood"))
    what = f"The {scene.heroes} {event} {an_object(rng)(scene)}"
    ending = rng.choice((f" and {action}.", f". {SUBJECT[scene.reflexive]} {scene.be} {feels}."))
    return {"sentence": what + ending, "label": label}


def draw_rte(rng: Random, label: int) -> dict[str, Any]:
    """GLUE's labels: 0 entailment, 1 not."""
    scene = replace(draw_scene(rng), happy=not label)
    one, rest = replace(scene, plural=False), rng.choice(IRREGULAR)[1]
    quantified, thing = ("No", "ever") if label else ("Every", "already"), an_object(rng)(one)
    ever = (
        f"{quantified[0]} {one.hero} has {quantified[1]} {rest} {thing}.",
        f"The {scene.size} {one.hero} has {rest} {thing}.",
    )
    where = f"{scene.thing}s in the {scene.size} {scene.place}"
    there = f"There are {'never any' if label else 'always some'} {where}.", f"There are {where}."
    premise, hypothesis = rng.choice((ever, there))
    return {"sentence1": premise, "sentence2": hypothesis, "label": label}


def draw_rows(draw: Callable[[Random, int], dict[str, Any]], rng: Random) -> Splits:
    """Different rows, as many of each label in each split."""
    rows: list[dict[str, Any]] = []
    while len(rows) < TRAIN_ROWS + VALIDATION_ROWS:
        row = draw(rng, len(rows) % 2)
        if row not in rows:
            rows.append(row)
    return _split(rows, rng)


def cola_rows(used: set[str]) -> Splits:
    """Both halves of pairs of all phenomena, by turns; a pair is not torn apart between the splits."""
    each = (TRAIN_ROWS + VALIDATION_ROWS) // (2 * len(PHENOMENA)) + 2
    drawn = [
        draw_pairs(phenomenon, each + each % 2, Random(f"cola {task}"), used) for task, phenomenon in PHENOMENA.items()
    ]
    pairs = [pair for turn in zip(*drawn, strict=True) for pair in turn]
    rows = [{"sentence": text, "label": label} for pair in pairs for text, label in ((pair.good, 1), (pair.bad, 0))]
    return _split(rows[: TRAIN_ROWS + VALIDATION_ROWS], Random("cola"))


def _split(rows: list[dict[str, Any]], rng: Random) -> Splits:
    """Shuffled within a split, so that no evenly spaced sample has one label only."""
    splits = {"train": rows[:TRAIN_ROWS], "validation": rows[TRAIN_ROWS:]}
    for split in splits.values():
        rng.shuffle(split)
    return splits


# Files.


def write_builtin(folder: Path) -> None:
    """Write everything that `stages.required_files` names for the builtin data, in the layout of docs/data.md."""
    held_out: set[str] = set()
    blimp = {
        task: draw_pairs(phenomenon, PAIRS, Random(f"pairs {task}"), held_out) for task, phenomenon in PHENOMENA.items()
    }
    superglue = {
        "cola": cola_rows(held_out),
        "sst2": draw_rows(draw_sst2, Random("sst2")),
        "rte": draw_rows(draw_rte, Random("rte")),
    }
    rng = Random("stories")
    train = [draw_story(rng, held_out) for _ in range(TRAIN_STORIES)]
    validation = [draw_story(rng, held_out) for _ in range(VALIDATION_STORIES)]
    rng = Random("passages")
    passages = [draw_passage(rng, held_out) for _ in range(PASSAGES)]

    _write_rows(folder / config.TRAIN_STORIES, [{"text": story} for story in train])
    _write_rows(folder / config.VALIDATION_STORIES, [{"text": story} for story in validation])
    _write_rows(folder / lambada.FILE, [{"text": passage} for passage in passages])
    _write_text(folder / config.STREAMS["enwik8"], "".join(map(_page, range(IN_MARKUP), train)))
    _write_text(folder / config.STREAMS["text8"], " ".join(re.findall(r"[a-z]+", " ".join(train).lower())))
    for task, file in blimp_files(config.Data(source="builtin")).items():
        _write_rows(folder / file, _blimp_rows(task, blimp[task]))
    for task, splits in superglue.items():
        for split, file in superglue_files(task).items():
            _write_rows(folder / file, [row | {"idx": index} for index, row in enumerate(splits[split])])
    _write_tokenizer((folder / config.tokenizer_file(config.Data())).parent / "tokenizer.json", train)


def _blimp_rows(task: str, pairs: list[Pair]) -> list[dict[str, Any]]:
    """BLiMP's fields, or those of BabyLM's supplement."""
    sentences = [{"sentence_good": pair.good, "sentence_bad": pair.bad} for pair in pairs]
    if task not in FIELD:
        return [row | {"row": i, "template": pairs[i].uid} for i, row in enumerate(sentences)]
    about = {"field": FIELD[task], "linguistics_term": task}
    return [row | about | {"UID": pairs[i].uid, "pair_id": i} for i, row in enumerate(sentences)]


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    _write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def _page(number: int, story: str) -> str:
    """As in enwik8, down to a character that is more than one byte."""
    return f"  <page>\n    <title>Story № {number}</title>\n    <text>{story}</text>\n  </page>\n"


def _write_tokenizer(path: Path, texts: list[str]) -> None:
    """A byte-level BPE of these texts, otherwise as 10k-tok: the same special tokens, `<s> text </s>`."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = byte_level
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 1,  # <mask>
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    trained.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False, special=True)])
    trained.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1), add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    path.parent.mkdir(parents=True, exist_ok=True)
    trained.save(str(path))
