"""Budgets of hours: over one nothing is submitted, and what would fit is said."""

from dataclasses import replace

import pytest

from cluster.errors import InputError
from cluster.files import whole_files
from cluster.ledger import recording
from cluster.plan import cost, outlook
from cluster.sites.profiles import Site
from cluster.submit import budget, dispatch, launch
from cluster.submit.dispatch import SubmitOptions

SITE = Site(name="test", scheduler="slurm", account="acc", gpus=1, runs_per_pack=1, cpus=4)
ORIGIN = launch.Origin("submit", "2026-01-01T00:00:00+00:00", None, {"commit": None, "digest": "c", "diff": None}, None)


class Unlimited:
    """SLURM of a cluster without limits."""

    def configuration(self):
        return None

    def limits(self, account, qos, partitions):  # noqa: ARG002
        return None


def ask(runs, site=SITE, studies=("first", "second")):
    todo = [(run, list(run.stages)) for run in runs]
    return dispatch.request(None, runs, todo, {}, site, cost.Measured(1e10), list(studies), Unlimited())


def hours(request):
    return outlook.gpu_hours(request.arrays)


def of(runs, study):
    return [run for run in runs if study in run.studies]


def taken(ledger, root, submission_id, array, state, site=SITE):
    """A submission of this array on disk and in the ledger, as it is after sbatch has answered."""
    directory = root.submission(submission_id)
    whole_files.write_json(directory.submission, launch.describe(array, site, root, submission_id, ORIGIN))
    whole_files.write_json(directory.answer, {"state": state, "job_id": "7"})
    with ledger.transaction():
        recording.record_intent(ledger, directory, whole_files.read_json(directory.submission))


def refusal(where, ledger, request, asked_by="submit"):
    with pytest.raises(InputError) as refused:
        budget.check(where, ledger, request, asked_by)
    return str(refused.value)


def test_over_max_gpu_hours_the_studies_that_fit_are_named_in_the_manifests_order(root, runs, tmp_path):
    request, where = ask(runs), SubmitOptions(root, tmp_path, max_gpu_hours=1e9)
    budget.check(where, None, request, "submit")
    second = hours(ask(of(runs, "second")))
    assert hours(ask(of(runs, "first"))) > second, "a BERT takes more"
    told = refusal(replace(where, max_gpu_hours=1.001 * second), None, request)
    assert f"this would take about {hours(request) + 0.005:,.2f} GPU-hours. Nothing was submitted." in told
    assert f"This fits, in the manifest's order: --study second (about {second + 0.005:,.2f} GPU-hours)." in told
    assert "--study first (about" in refusal(replace(where, max_gpu_hours=0.999 * hours(request)), None, request)


def test_where_no_study_fits_it_is_said_how_many_runs_would(root, runs, tmp_path):
    request = ask(runs)
    one = request.items[0].seconds / 3600
    where = SubmitOptions(root, tmp_path, max_gpu_hours=2.1 * one)
    assert "The first 2 of its 7 runs would fit. Narrow its grids" in refusal(where, None, request)
    assert "Not one run of it fits." in refusal(replace(where, max_gpu_hours=0.0), None, request)
    assert "2 of its 7 runs would fit. Name runs with --run" in refusal(where, None, request, "rerun")


def test_a_site_without_gpus_has_a_budget_of_its_packs_hours(root, runs, tmp_path):
    request = ask(runs, SITE.model_copy(update={"gpus": 0}))
    told = refusal(SubmitOptions(root, tmp_path, max_gpu_hours=0.0), None, request)
    assert f"about {hours(request) + 0.005:,.2f} hours. Nothing" in told


def test_a_manifests_budget_counts_what_is_under_way_as_planned_and_what_has_ended_as_used(
    ledger, root, runs, tmp_path
):
    where, first = SubmitOptions(root, tmp_path), of(runs, "first")
    recording.record_runs(ledger, root, runs, "2026")
    request = ask(of(runs, "second")[1:])
    (array,) = ask(first).arrays
    planned, wanted = hours(ask(first)), hours(request)
    enough = {"gpu_hours": 1.001 * (planned + wanted), "manifest": "mine.yaml"}
    little = {"gpu_hours": 0.999 * (planned + wanted), "manifest": "mine.yaml"}

    taken(ledger, root, "aaaa", array, "submitted")
    budget.check(where, ledger, replace(request, budget=enough), "tick")
    told = refusal(where, ledger, replace(request, budget=little), "tick")
    assert told.startswith(f"mine.yaml: budget.gpu_hours: {little['gpu_hours']:g}: ")
    assert f"{planned + 0.005:,.2f} GPU-hours are used or under way, and this would take about" in told
    assert "of its 3 runs would fit. Raise it in the manifest and `submit` that" in told

    # It has ended, sooner than planned: an hour of one run.
    ledger.put_attempt(first[0].id, "pretrain", 1, status="completed", started=0.0, ended=3600.0)
    ledger.update_submission("aaaa", state="done")
    ledger.sum_hours("aaaa")
    budget.check(where, ledger, replace(request, budget=little), "tick")
    told = refusal(where, ledger, replace(request, budget={"gpu_hours": wanted, "manifest": "mine.yaml"}), "tick")
    assert "1.00 GPU-hours are used or under way" in told


def test_hours_of_others_and_of_another_kind_do_not_count(ledger, root, runs, tmp_path):
    recording.record_runs(ledger, root, runs, "2026")
    request = replace(ask(runs), budget={"gpu_hours": 1.001 * hours(ask(runs)), "manifest": "mine.yaml"})
    where, without = SubmitOptions(root, tmp_path), SITE.model_copy(update={"gpus": 0})
    taken(ledger, root, "cpus", ask(runs, without).arrays[0], "submitted", without)
    budget.check(where, ledger, request, "submit")
    taken(ledger, root, "away", request.arrays[0], "submitted")
    refusal(where, ledger, request)
    whole_files.write_json(root.imported, {"submission_ids": ["away"]})
    budget.check(where, ledger, request, "submit")


def test_a_budget_is_kept_until_a_manifest_has_none(root):
    assert budget.last(root) is None
    budget.keep(root, {"gpu_hours": 7.5, "manifest": "mine.yaml"})
    assert budget.last(root) == {"gpu_hours": 7.5, "manifest": "mine.yaml"}
    budget.keep(root, None)
    budget.keep(root, None)
    assert budget.last(root) is None
