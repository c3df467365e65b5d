"""BabyLM's zero-shot tasks, on small files of their layout: against a slow, plain computation."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from tiny_transformers.common import pairs
from tiny_transformers.common.contents import fingerprint
from tiny_transformers.common.work import Interrupted, TinyTransformersError
from tiny_transformers.evaluation import babylm
from tiny_transformers.models.auto import build, load_lm
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stage.babylm import BABYLM
from tiny_transformers.settings.stages import required_files

any_model = pytest.mark.parametrize("family", ["decoder"], indirect=True)
FULL = "evaluation_data/full_eval"


def pair(good, bad, **more):
    return {"sentence_good": good, "sentence_bad": bad} | more


def blimp(good, bad, uid, field="syntax"):
    return pair(good, bad, UID=uid, field=field, linguistics_term="binding")


def ewok(context, first, second, domain):
    return {
        "Context1": context, "Context2": "It is cold.", "Target1": first, "Target2": second, "Domain": domain,
        "ContextType": "direct", "ContextDiff": "antonym", "TargetDiff": "concept swap",
    }  # fmt: skip


def box(numops, *options):
    return {"input_prefix": "Box 0 holds a cat. Box 0 holds", "options": list(options), "numops": numops}


def comps(good, bad, phrase):
    return {"prefix_acceptable": good, "prefix_unacceptable": bad, "property_phrase": phrase}


def wug(first, second, ratio):
    return {"sentences": f"{first}\t{second}", "ratio": ratio}


FILES = {
    "blimp_filtered/anaphor.jsonl": [
        blimp("She saw herself.", "She saw himself.", "a"), blimp("He ran.", "He run.", "a"),
        blimp("We met.", "We meets.", "b", "morphology"),
    ],
    "blimp_filtered/island.jsonl": [blimp("Who ran?", "Who did ran?", "c", "syntax/semantics")],
    "supplement_filtered/hypernym.jsonl": [pair("A dog is an animal.", "An animal is a dog."), pair("b", "a")],
    "supplement_filtered/turn_taking.jsonl": [pair("You? I.", "You? You.")],
    "ewok_filtered/social.jsonl": [
        ewok("It is hot.", "Ann sweats.", "Ann freezes.", "social"),
        ewok("It is late.", "Bo naps.", "Bo eats.", "time"),
    ],
    "entity_tracking/regular.jsonl": [
        box(0, " a cat.", " a dog.", " nothing."), box(0, " the cat.", " a hat."), box(1, " a bell.", " a cat."),
    ],
    "entity_tracking/ambiref.jsonl": [box(2, " a car.", " a bus.", " two cars.", " it.")],
    "comps/comps_base.jsonl": [comps("A cat", "A car", "can purr."), comps("A crow ", "A cow ", "can fly.")],
    "comps/comps_wugs.jsonl": [comps("A wug", "A dax", " can fly.")],
    "wug_adj_nominalization/wug_adj.jsonl": [
        wug("wugness", "wugity", 0.9), wug("daxness", "daxity", 0.2), wug("blick", "blicks", 0.5), wug("a", "b", 0.4),
    ],
    "wug_past_tense/wug_past.jsonl": [wug("it zagged", "it zug", 0.7), wug("it sung", "it singed", 0.1)],
}  # fmt: skip


@pytest.fixture
def make(make_work, write_rows, family):
    def make(model=None, files=FILES, limit=None, precision="float32", **settings):
        work = make_work(model or family, babylm=settings, limit=limit, precision=precision)
        for name, rows in files.items():
            write_rows(work.data_root / FULL / name, rows)
        work.config = work.config.model_copy(update={"data": work.config.data.model_copy(update={"source": "files"})})
        return work

    return make


def scores(outcome):
    return {(score.task, score.metric): score.value for score in outcome.scores}


def plainly(model, tokenizer, context, scored, start=1, space=" "):
    """log p(scored | context): a forward pass for each text of a decoder, for each token of an encoder."""
    join = "" if not context or context[-1] == " " or scored[0] == " " else " "
    ids = tokenizer(space + context + join + scored, add_special_tokens=False)["input_ids"]
    begin = len(tokenizer(space + context.rstrip(), add_special_tokens=False)["input_ids"]) if context else 0
    encoder = model.config.model_type == "tiny_roberta"
    ids, total = [start, *ids, *([2] if encoder else [])], 0.0
    for place in range(begin + 1, len(ids) - encoder):
        seen = torch.tensor([ids])
        if encoder:
            seen[0, place] = tokenizer.mask_token_id
        with torch.no_grad():
            total += model(seen).logits[0, place - (not encoder)].log_softmax(0)[ids[place]].item()
    return total


def right(model, tokenizer, *texts, **how):
    first, *others = [plainly(model, tokenizer, *text, **how) for text in texts]
    return first > max(others)


def spearman(model, tokenizer, rows):
    """By its definition, of p1 / (p1 + p2)."""
    shares = []
    for row in rows:
        one, other = (plainly(model, tokenizer, "", sentence) for sentence in row["sentences"].split("\t"))
        shares.append(1 / (1 + math.exp(other - one)))
    return np.corrcoef(rankdata(shares), rankdata([row["ratio"] for row in rows]))[0, 1]


def test_every_figure_is_that_of_a_plain_computation(make, tokenizer):
    work = make()
    found = scores(babylm.run(work))
    model = load_lm(work.model_dir).eval()

    def of(file, texts):
        return [right(model, tokenizer, *texts(row)) for row in FILES[file]]

    def pairs_of(row):
        return ("", row["sentence_good"]), ("", row["sentence_bad"])

    a1, a2, b = of("blimp_filtered/anaphor.jsonl", pairs_of)
    (c,) = of("blimp_filtered/island.jsonl", pairs_of)
    assert found["blimp_filtered/UID/a", "accuracy"] == (a1 + a2) / 2
    assert found["blimp_filtered", "accuracy"] == pytest.approx(((a1 + a2) / 2 + b + c) / 3)
    assert found["blimp_filtered/field/syntax", "accuracy"] == (a1 + a2) / 2
    assert found["blimp_filtered/field/syntax_semantics", "accuracy"] == c
    assert found["blimp_filtered/linguistics_term/binding", "accuracy"] == (a1 + a2 + b + c) / 4

    h1, h2 = of("supplement_filtered/hypernym.jsonl", pairs_of)
    (t,) = of("supplement_filtered/turn_taking.jsonl", pairs_of)
    assert found["supplement_filtered", "accuracy"] == ((h1 + h2) / 2 + t) / 2

    social, time = of(
        "ewok_filtered/social.jsonl",
        lambda row: [(row["Context1"], row[target]) for target in ("Target1", "Target2")],
    )
    assert found["ewok_filtered/Domain/social", "accuracy"] == social
    assert found["ewok_filtered", "accuracy"] == (social + time) / 2
    assert found["ewok_filtered/TargetDiff/concept swap", "accuracy"] == (social + time) / 2

    def options(row):
        return [(row["input_prefix"], option) for option in row["options"]]

    r1, r2, r3 = of("entity_tracking/regular.jsonl", options)
    (ambiguous,) = of("entity_tracking/ambiref.jsonl", options)
    assert found["entity_tracking/file_and_numops/regular_0_ops", "accuracy"] == (r1 + r2) / 2
    assert found["entity_tracking", "accuracy"] == pytest.approx((((r1 + r2) / 2 + r3) / 2 + ambiguous) / 2)

    def phrases(row):
        return [(row[f"prefix_{which}"], row["property_phrase"]) for which in ("acceptable", "unacceptable")]

    p1, p2 = of("comps/comps_base.jsonl", phrases)
    (q,) = of("comps/comps_wugs.jsonl", phrases)
    assert found["comps", "accuracy"] == ((p1 + p2) / 2 + q) / 2

    for task, name in (("wug_adj_nominalization", "wug_adj"), ("wug_past_tense", "wug_past")):
        expected = spearman(model, tokenizer, FILES[f"{task}/{name}.jsonl"])
        assert found[task, "spearman"] == pytest.approx(expected), task

    five = ("blimp_filtered", "supplement_filtered", "ewok_filtered", "entity_tracking", "comps")
    assert found["average", "accuracy"] == pytest.approx(sum(found[task, "accuracy"] for task in five) / 5)


def test_what_is_kept_of_each_row_is_its_plain_likelihoods(make, tokenizer):
    work = make()
    babylm.run(work)
    kept = pairs.read(work.run_dir / babylm.PAIR_SCORES)
    model = load_lm(work.model_dir).eval()
    assert kept.files == {
        name.removesuffix(".jsonl"): fingerprint(work.data_root / FULL / name)
        for name in FILES
        if not name.startswith("wug")
    }
    good, bad = kept.of_task(kept.good), kept.of_task(kept.bad)
    for row, first, other in zip(
        FILES["entity_tracking/regular.jsonl"], good["entity_tracking/regular"], bad["entity_tracking/regular"],
        strict=True,
    ):  # fmt: skip
        mine, *others = [plainly(model, tokenizer, row["input_prefix"], option) for option in row["options"]]
        assert first == pytest.approx(mine, abs=1e-4)
        assert other == pytest.approx(max(others), abs=1e-4)
    assert good["comps/comps_wugs"][0] == pytest.approx(plainly(model, tokenizer, "A wug", " can fly."), abs=1e-4)
    assert good["supplement_filtered/hypernym"][1] == pytest.approx(plainly(model, tokenizer, "", "b"), abs=1e-4)


@any_model
def test_start_token_and_leading_space_are_as_set(make, tokenizer):
    work = make(start_token="eos", leading_space=False, tasks=["comps"])
    babylm.run(work)
    good = pairs.read(work.run_dir / babylm.PAIR_SCORES).good
    model = load_lm(work.model_dir).eval()
    expected = plainly(model, tokenizer, "A cat", "can purr.", start=2, space="")
    assert good[0] == pytest.approx(expected, abs=1e-4)


def test_a_model_to_which_all_tokens_are_alike_has_nothing_right(make, family):
    model = build(family, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    same = {
        "comps/comps_base.jsonl": [comps("A cat", "A car", "can purr.")] * 3,
        "wug_past_tense/past.jsonl": [wug("abc", "abd", 0.5), wug("bcd", "bce", 0.7)],
    }
    work = make(model, files=same, tasks=["comps", "wug_past_tense"])
    outcome = babylm.run(work)
    assert scores(outcome)["comps", "accuracy"] == 0
    assert scores(outcome)["wug_past_tense", "spearman"] == 0
    assert outcome.metrics["comps.ties"] == 3


@any_model
def test_rows_without_an_answer_and_those_that_are_too_long_are_left_out(make):
    files = {
        "entity_tracking/regular.jsonl": [
            box(0, " a cat.", " a dog.", " a cat."), box(0, " a cat.", " x" * 40), box(1, " a", " b", " b"),
        ]
    }  # fmt: skip
    outcome = babylm.run(make(files=files, tasks=["entity_tracking"]))
    assert [score.n for score in outcome.scores if score.task == "entity_tracking"] == [1, 1, 1]
    assert outcome.metrics["entity_tracking.skipped_equal"] == 1
    assert outcome.metrics["entity_tracking.skipped_too_long"] == 1


@any_model
def test_a_limit_takes_rows_of_every_file(make):
    files = {f"comps/{name}.jsonl": [comps("A cat", f"A {name}{n}", "purrs.") for n in range(4)] for name in "ab"}
    work = make(files=files, tasks=["comps"], limit=2)
    babylm.run(work)
    kept = pairs.read(work.run_dir / babylm.PAIR_SCORES)
    assert kept.rows.tolist() == [0, 2, 0, 2]


@any_model
def test_words_that_go_on_are_masked_with_a_token_only_if_asked(make):
    kept = {}
    for pll in ("original", "word_l2r"):
        work = make(tasks=["comps"], pll=pll)
        work.config = RunConfig.model_validate(work.config.model_dump())
        babylm.run(work)
        kept[pll] = pairs.read(work.run_dir / babylm.PAIR_SCORES)
    assert kept["original"].good.tolist() == kept["word_l2r"].good.tolist(), "a decoder knows no masks"
    assert kept["original"].settings["pll"] != kept["word_l2r"].settings["pll"]


@pytest.mark.parametrize("family", ["encoder"], indirect=True)
def test_an_encoder_that_masks_the_rest_of_words_scores_otherwise(make):
    kept = []
    for pll in ("original", "word_l2r"):
        work = make(tasks=["comps"], pll=pll)
        babylm.run(work)
        kept.append(pairs.read(work.run_dir / babylm.PAIR_SCORES).good.tolist())
    assert kept[0] != pytest.approx(kept[1])


@any_model
@pytest.mark.parametrize(
    ("file", "row", "message"),
    [
        ("comps/x.jsonl", {"prefix_acceptable": "A", "prefix_unacceptable": "B"}, "lacks the field 'property_phrase'"),
        ("comps/x.jsonl", comps("A", "B", " "), "a text that is to be scored is empty"),
        ("comps/x.jsonl", comps("A", " ", "flies"), "what stands before the scored text is empty"),
        ("comps/x.jsonl", comps("A", 3, "flies"), "prefix_unacceptable is 3, not a text"),
        ("entity_tracking/x.jsonl", box(1, " a"), r"options is \[' a'\], not a list of two texts or more"),
        ("entity_tracking/x.jsonl", box(1, " a", 2), "not a list of two texts or more"),
        ("ewok_filtered/x.jsonl", {"Context1": "a"}, "lacks the field 'Target1'"),
        ("wug_past_tense/x.jsonl", {"sentences": "a b", "ratio": 0.5}, "holds 1, not two parted by a tab"),
        ("wug_past_tense/x.jsonl", wug("a", "b", 1.5), "ratio is 1.5, not a share from 0 to 1"),
        ("wug_past_tense/x.jsonl", wug("a", "b", None), "ratio is None, not a share"),
        ("blimp_filtered/x.jsonl", pair("a", "b", UID="u"), "lacks the field 'field'"),
    ],
)
def test_a_bad_row_is_told_by_file_and_line(make, file, row, message):
    task = file.partition("/")[0]
    good = next(rows for name, rows in FILES.items() if name.startswith(task))
    work = make(files={file: [good[0], row]}, tasks=[task])
    with pytest.raises(TinyTransformersError, match=rf"{file}: line 2: .*{message}"):
        babylm.run(work)


@any_model
def test_bad_files_of_all_tasks_are_told_at_once(make):
    work = make(files={"comps/x.jsonl": [{}], "wug_past_tense/x.jsonl": [{}]}, tasks=["comps", "wug_past_tense"])
    with pytest.raises(TinyTransformersError, match=r"comps/x\.jsonl: line 1(.|\n)*wug_past_tense/x\.jsonl: line 1"):
        babylm.run(work)


@any_model
def test_people_who_always_say_the_same_are_no_data(make):
    work = make(files={"wug_past_tense/x.jsonl": [wug("a", "b", 0.5)] * 2}, tasks=["wug_past_tense"])
    with pytest.raises(TinyTransformersError, match="ratio is the same in all rows"):
        babylm.run(work)


@any_model
def test_the_files_that_are_read_are_those_that_are_fingerprinted(make):
    work = make()
    files = required_files(work.config, ["babylm"], work.data_root)
    assert set(files) == {f"{FULL}/{name}" for name in FILES}
    assert babylm.run(work).data == {file: fingerprint(work.data_root / file) for file in files}


@any_model
def test_a_task_without_files_is_told_before_anything_runs(make):
    work = make(files={name: rows for name, rows in FILES.items() if "ewok" not in name})
    with pytest.raises(ValueError, match=r"full_eval/ewok_filtered: has no \.jsonl file.*leave ewok_filtered out"):
        required_files(work.config, ["babylm"], work.data_root)


@any_model
def test_it_stops_when_asked(make):
    work = make(tasks=["comps"])
    work.should_stop = lambda: True
    with pytest.raises(Interrupted):
        babylm.run(work)


def test_a_stage_of_all_tasks_costs_more_than_one_of_few(family):
    def flops(**settings):
        return BABYLM.flops(RunConfig(model=family, data={"max_length": 64}, evaluation={
            "superglue": {"max_length": 64}, "babylm": settings}))  # fmt: skip

    assert flops() > flops(data="fast") > flops(data="fast", tasks=["comps"]) > 0
    limited = RunConfig(model=family, data={"max_length": 64}, evaluation={
        "limit": 200, "superglue": {"max_length": 64}, "babylm": {"tasks": ["comps"]}})  # fmt: skip
    assert BABYLM.flops(limited) == pytest.approx(flops(tasks=["comps"]) * 200 / 22_000)  # of each file
