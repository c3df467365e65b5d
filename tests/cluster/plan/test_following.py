"""The plan of a follow-up's choice, and what comes of it."""

import copy

import pytest

from cluster.files.records import Run
from cluster.manifest import follow_ups, grids, loading
from cluster.plan import expansion, following, outlook
from cluster.plan.cost import Measured
from cluster.sites.profiles import Site

MANIFEST = """
defaults: {data: {source: builtin}, train: {max_steps: 10}, stages: [pretrain, add_tokenizer, blimp], seeds: [1]}
models:
  gpt: {family: gpt_neo, hidden_size: 32, num_heads: 2, intermediate_size: 48}
  bert: {family: roberta, hidden_size: 32, num_attention_heads: 2, intermediate_size: 48}
studies:
  first: {grid: {model: [gpt, bert], model.activation: [gelu, relu, silu]}}
  longer:
    from: {study: first, best: 1, by: blimp.average.accuracy, per: model.family}
    train.max_steps: 40
    seeds: [2, 3]
    include: [{model: gpt}]
  longest:
    from: {study: longer, best: 1, by: blimp.average.accuracy}
    train.max_steps: 90
"""


@pytest.fixture
def plans(tmp_path):
    return planned(tmp_path, MANIFEST)


def planned(tmp_path, text):
    path = tmp_path / "experiments.yaml"
    path.write_text(text)
    document = loading.load(path)
    return following.plans(document, follow_ups.follow_ups(document), grids.cells(document))


def choice(*numbers):
    return {"ranked": [{"number": number, "chosen": True} for number in numbers]}


def test_the_same_question_has_the_same_id_and_another_one_another(tmp_path, plans):
    assert list(planned(tmp_path, MANIFEST)) == list(plans)
    longer, longest = plans.values()
    renamed = copy.deepcopy(longer)
    renamed["candidates"][0]["label"] = "another"
    renamed["candidates"][0]["into"][0]["config"]["model"]["newer_setting"] = None
    assert following.id_of(renamed | {"description": "why", "stages": ["pretrain"]}) == following.id_of(longer)
    for old, new in (("40", "50"), ("best: 1", "best: 2"), ("[2, 3]", "[2]"), ("relu, silu", "relu")):
        others = planned(tmp_path, MANIFEST.replace(old, new, 1))
        assert not set(others) & set(plans), "what begins from another choice is another one, too"
    assert longest["rule"]["sources"] == [{"study": "longer", "choice": following.id_of(longer)}]


def test_runs_come_of_a_plan_as_they_come_of_a_manifest(tmp_path, plans):
    longer, _ = plans.values()
    (tmp_path / "plain.yaml").write_text(MANIFEST.partition("  longer:")[0] + "  plain: "
        "{model: gpt, model.activation: relu, train.max_steps: 40, seeds: [2, 3]}\n")  # fmt: skip
    named = expansion.expand(grids.cells(loading.load(tmp_path / "plain.yaml"), studies=["plain"]))
    found = following.runs(longer, following.chosen_cells(longer, choice(1)))
    assert found == [Run(run.id, run.name, run.config, run.stages, ("longer",)) for run in named]


def test_a_family_without_a_baseline_is_held_against_the_best_that_was_chosen(plans):
    longer, _ = plans.values()
    before = following.study_record(longer, None)
    assert before.runs == before.baselines == tuple(longer["fixed"]["runs"])
    gpt, bert = ([run["run_id"] for run in longer["candidates"][number]["into"][0]["runs"]] for number in (2, 4))
    after = following.study_record(longer, choice(2, 4))
    assert after.runs == (*before.runs, *gpt, *bert)
    assert after.baselines == (*before.baselines, *bert)


def test_seeds_that_chose_are_told(tmp_path, plans):
    assert [following.seeds_again(plan) for plan in plans.values()] == [[], [2, 3]]
    assert following.seeds_again(next(iter(planned(tmp_path, MANIFEST.replace("[2, 3]", "[1, 2]")).values()))) == [1]


def test_a_choice_takes_at_most_what_its_largest_candidates_take(plans):
    measured = Measured.nothing(Site(name="here", scheduler="local", cpus=2))
    longer, longest = plans.values()

    def hours(plan, number):
        cell = plan["candidates"][number]["into"][0]
        (run, *_) = following.runs(plan, [cell])
        return measured.times.of(run.config, *plan["stages"]).whole * len(cell["runs"]) / 3600

    of_group = [max(hours(longer, number) for number in range(first, first + 3)) for first in (0, 3)]
    assert outlook.most_hours(longer, measured) == pytest.approx(sum(of_group))
    every = [hours(longest, number) for number in range(len(longest["candidates"]))]
    assert outlook.most_hours(longest, measured) == pytest.approx(max(every))


def test_a_run_of_several_studies_is_merged_with_all_its_stages(runs):
    first = Run(runs[0].id, runs[0].name, runs[0].config, ("pretrain",), ("a",))
    other = Run(runs[0].id, runs[0].name, runs[0].config, ("pretrain", "blimp"), ("b", "a"))
    assert expansion.merged([first, runs[1], other]) == [
        Run(first.id, first.name, first.config, ("pretrain", "blimp"), ("a", "b")),
        runs[1],
    ]
