"""Breaks of one token each, and for each the tests that must catch it. Whoever makes tests faster or fewer runs this.

    python tests/breaks.py [-j N] [WORD ...]

Every break is made in a copy of the checkout, and just its tests are run there, in a process of their own. One
must fail while it is called, by an assertion: an import that fails, a fixture that does, or an error out of the broken
code says nothing of what the test looks at. Unbroken, all of these tests must pass. A WORD chooses the breaks whose
file, words or tests have it. tests/test_breaks.py keeps the table in order.

To load torch takes longer than most of these tests, so for each copy there is one process that has loaded what is not
ours and forks for each break. It loads this file, too, which is a plugin of pytest that tells how each test ended."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cluster", "jobs", "tiny_transformers")
ENDS = "BREAKS_ENDS"  # names the file to which the plugin writes how each test ended
PATIENCE = 300  # seconds for one test
LOADED = (  # before tests are run: what they load besides ours, and takes long
    "torch", "numpy", "scipy.stats", "pydantic", "rich.console", "sqlite_utils", "sklearn.model_selection",
    "transformers.models.gpt_neo.modeling_gpt_neo", "transformers.models.roberta.modeling_roberta",
    "transformers.models.llama.modeling_llama", "transformers.generation", "matplotlib.backends.backend_svg",
    "matplotlib.backends.backend_pdf", "submitit",
)  # fmt: skip


@dataclass(frozen=True)
class Break:
    file: str
    old: str  # once in the file
    new: str  # the same but for one token
    what: str  # is wrong then
    test_file: str  # below tests/
    names: tuple[str, ...]  # of tests there, of which at least one must fail; with parameters, where one will do

    @property
    def tests(self) -> list[str]:
        """As pytest names them, from the checkout."""
        return [f"tests/{self.test_file}::{name}" for name in self.names]

    def of(self, text: str) -> str:
        """Return the file's text with the break. Raises ValueError if its place is not clear."""
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file}: has {self.old!r} {text.count(self.old)} times, not once")
        return text.replace(self.old, self.new)


# fmt: off
BREAKS = (
    # -- the login node's half
    Break("cluster/archive/unpacking.py", "told.get(name) != found.get(name)", "told.get(name) == found.get(name)",
          "a changed file of an archive passes", "cluster/test_archive.py",
          ("test_a_changed_archive_is_refused_whole[<lambda>-ledger.db is not what SHA256SUMS]",)),
    Break("jobs/stage.py", "copy.resolve() != kept_code.HOME", "copy.resolve() == kept_code.HOME",
          "a stage begins with code that was changed", "jobs/test_stage.py",
          ("test_a_stage_does_not_begin_if_the_copy_of_its_code_was_changed",)),
    Break("cluster/manifest/own_stages.py", "if not own[name].needs", "if own[name].needs",
          "a program's id has what follows from it, and not what it does", "cluster/manifest/test_own_stages.py",
          ("test_a_grid_of_a_program_has_a_run_for_every_combination_and_seed",)),
    Break("cluster/manifest/sources.py", "if key not in study and", "if key in study and",
          "a follow-up has stages and seeds of its own", "cluster/manifest/test_follow_ups.py",
          ("test_a_chosen_cell_goes_on_with_what_its_study_said_and_the_follow_up_on_top",)),
    Break("cluster/manifest/follow_ups.py", "one.before == number", "one.before != number",
          "another cell than the chosen one goes on", "cluster/manifest/test_follow_ups.py",
          ("test_a_chosen_cell_goes_on_with_what_its_study_said_and_the_follow_up_on_top",)),
    Break("cluster/plan/following.py", 'if cell["family"] not in families', 'if cell["family"] in families',
          "a chosen cell takes the place of a baseline", "cluster/plan/test_following.py",
          ("test_a_family_without_a_baseline_is_held_against_the_best_that_was_chosen",)),
    Break("cluster/plan/ranking.py", 'place < rule["best"]', 'place <= rule["best"]', "one more is chosen",
          "cluster/plan/test_ranking.py", ("test_the_best_of_each_group_are_chosen_by_their_means_over_seeds",)),
    Break("cluster/plan/ranking.py", '-mean if rule["higher_is_better"]', '-mean if not rule["higher_is_better"]',
          "the worst are chosen", "cluster/plan/test_ranking.py",
          ("test_of_a_measure_that_is_better_low_the_lowest_is_chosen",)),
    Break("cluster/plan/choice_words.py", '[0] != run["value"]', '[0] == run["value"]',
          "scores that are the same are told as changed", "cluster/plan/test_ranking.py",
          ("test_scores_that_are_others_than_those_that_chose_are_told",)),
    Break("cluster/submit/choices.py", 'decision["action"] == "stop"', 'decision["action"] != "stop"',
          "what a rule tries again is left out of a choice", "cluster/submit/test_choices.py",
          ("test_a_failed_cell_is_waited_for_or_left_out_as_the_study_says[leave_out-chosen1]",)),
    Break("cluster/submit/choices.py", "choice_id not in of.plans and", "choice_id in of.plans and",
          "an earlier question is still asked", "cluster/submit/test_choices.py",
          ("test_a_manifest_that_asks_another_question_takes_the_place_of_what_waits",)),
    Break("cluster/files/choices.py", "before: int | None", "before: int | str", "a plan of a plain study is torn",
          "cluster/submit/test_choices.py", ("test_a_choice_waits_for_every_score_of_its_sources",)),
    Break("cluster/submit/own_stages.py", "before.needs) == (now", "before.needs) != (now",
          "another command goes under the name of one that runs have done", "cluster/cli/test_own_stages.py",
          ("test_another_command_under_the_name_of_one_that_runs_have_done_is_refused",)),
    Break("tiny_transformers/layers/linformer.py", "masked_fill(~real[:, None]", "masked_fill(real[:, None]",
          "padding is attended to, and the text is not", "tiny_transformers/layers/test_linformer.py",
          ("test_padding_and_what_stands_in_it_change_nothing[sdpa]",)),
    Break("tiny_transformers/layers/recurrence.py", ">= 1 - halting.epsilon", ">= 1 + halting.epsilon",
          "a position halts too late", "tiny_transformers/layers/test_recurrence.py",
          ("test_halting_and_its_cost_are_those_of_a_loop_over_positions",)),
    Break("tiny_transformers/layers/recurrence.py", ".unsqueeze(-1), after, before)", ".unsqueeze(-1), after, after)",
          "others see a halted position change on", "tiny_transformers/layers/test_recurrence.py",
          ("test_others_see_a_halted_position_as_it_halted",)),
    Break("tiny_transformers/programs/command.py", '"out" not in work.own', '"out" in work.own',
          "the scores of a command are not read", "tiny_transformers/programs/test_command.py",
          ("test_a_result_file_has_scores_and_metrics_and_the_scripts_are_fingerprinted",)),
    Break("cluster/status/facts.py", 'counts.get("eligible", 0)', 'counts.get("waiting", 0)',
          "what waits for another stage counts as eligible", "cluster/test_archive.py",
          ("test_an_imported_root_goes_nowhere_until_it_is_told_where",)),
    Break("cluster/archive/exporting.py", "min(found.size, now.st_size)", "max(found.size, now.st_size)",
          "a log that grows is archived beyond what was seen", "cluster/test_archive.py",
          ("test_what_happens_while_files_are_compressed_needs_no_lock_and_does_no_harm",)),
    Break("cluster/cli/reporting.py", "(ledger, made.left_out)", "(ledger, made.commands)",
          "what an import has left out is not named", "cluster/test_foreign_archive.py",
          ("test_files_of_another_form_are_left_out_and_named_and_all_commands_work[a list, deep nesting, "
           "a number, an odd attempt, a great attempt, a file for a folder, spoilt scores]",)),
    Break("cluster/ledger/attempts.py", "if known and known | values == known:",
          "if known and known | values != known:", "a change of an attempt is not written",
          "cluster/reconcile/test_reconcile.py", ("test_a_late_result_outweighs_what_was_guessed",)),
    Break("cluster/ledger/attempts.py", "+submission_id", "submission_id",
          "late results go through a whole submission for each run", "cluster/test_scale.py",
          ("test_what_is_done_grows_with_the_packs_of_an_array_and_not_with_their_square[fails_and_is_done_again]",)),
    Break("cluster/ledger/usage.py", "max(again) IS NULL", "max(again) IS NOT NULL",
          "a pack that waits again counts as running", "cluster/reconcile/test_reconcile.py",
          ("test_a_pack_that_had_begun_and_waits_again_has_slurms_reason_until_it_runs",)),
    Break("cluster/reconcile/judging.py", "pack.progress == _waiting", "pack.progress != _waiting",
          "packs that wait as before are read again", "cluster/reconcile/test_reconcile.py",
          ("test_packs_that_wait_as_they_did_are_not_read_again",)),
    Break("cluster/ledger/rows.py", "memory_per_cpu: int | None", "memory_per_cpu: str | None",
          "a column has another type than its row says", "cluster/ledger/test_rows.py",
          ("test_a_row_has_the_columns_of_its_type",)),
    Break("cluster/ledger/runs.py", '"LIMIT 2)) > 1"', '"LIMIT 2)) > 2"', "runs of one name are not told apart",
          "cluster/status/test_status.py", ("test_runs_of_one_name_are_told_apart_by_their_ids",)),
    Break("cluster/ledger/states.py", "if run_id in several:", "if run_id not in several:",
          "the number of a second attempt is used again", "cluster/ledger/test_ledger.py",
          ("test_the_statuses_kept_with_a_run_are_those_of_its_attempts",)),
    Break("cluster/ledger/store.py", 'all(need == "completed"', 'any(need == "completed"',
          "a stage that needs nothing waits", "cluster/ledger/test_ledger.py",
          ("test_a_tally_counts_each_study_and_each_run_once_over_all",)),
    Break("cluster/reconcile/judging.py", "if sign <= FRESH or (known", "if sign >= FRESH or (known",
          "a job that still beats is lost", "cluster/reconcile/test_reconcile.py",
          ("test_a_job_that_the_controller_forgot_but_that_still_beats_is_not_lost",)),
    Break("cluster/reconcile/reconciling.py", 'attempt["status"] in FRUITLESS', 'attempt["status"] not in FRUITLESS',
          "results that come late are not looked for", "cluster/reconcile/test_reconcile.py",
          ("test_a_late_result_outweighs_what_was_guessed",)),
    Break("cluster/submit/earlier.py", "submission_id in self._elsewhere", "submission_id not in self._elsewhere",
          "what came with an archive goes where it went elsewhere", "cluster/test_archive.py",
          ("test_what_came_with_an_archive_goes_where_this_ones_submissions_go",)),
    Break("cluster/submit/earlier.py", "<= self._unread", "> self._unread",
          "what a request that cannot be read may ask otherwise goes on as it went", "cluster/submit/test_earlier.py",
          ("test_what_a_request_that_cannot_be_read_may_ask_otherwise_waits",)),
    Break("cluster/submit/submitting.py", 'states[stage].status == "failed"', 'states[stage].status != "failed"',
          "a rerun does what has not failed", "cluster/cli/test_cli.py",
          ("test_a_failed_stage_is_shown_and_rerun_with_what_follows_and_nothing_else",)),
    Break("cluster/cli/shared.py", "if pack in left]", "if pack not in left]",
          "a key cancels the packs that have begun", "cluster/status/test_status.py",
          ("test_of_packs_that_wait_those_that_have_begun_are_not_cancelled",)),
    Break("tiny_transformers/settings/costs.py", "return 3.0 * forward_flops(config)",
          "return 2.0 * forward_flops(config)",
          "a token's training is counted without half of its backward pass", "cluster/plan/test_plan.py",
          ("test_the_studies_own_way_takes_the_published_times_and_others_in_proportion",)),
    Break("cluster/plan/cost.py", "BYTES_PER_PARAMETER = 16", "BYTES_PER_PARAMETER = 1",
          "Adam's moments take no memory", "cluster/plan/test_plan.py",
          ("test_the_closed_form_of_memory_is_near_what_was_measured_and_hardly_below",)),
    Break("cluster/report/every_run.py", "len({of_run.get(path) for of_run in settings.values()}) > 1",
          "len({of_run.get(path) for of_run in settings.values()}) >= 1", "settings that are the same have a column",
          "cluster/report/test_every_run.py", ("test_settings_are_columns_only_where_runs_differ",)),
    Break("cluster/report/every_run.py", "yield part[-1][0],", "yield part[1][0],", "a curve ends before its end",
          "cluster/report/test_every_run.py", ("test_a_long_curve_is_the_means_of_its_parts",)),
    Break("cluster/report/details.py", "if key in used}", "if key not in used}",
          "the page lists the wrong environments", "cluster/report/test_page.py",
          ("test_runs_share_what_is_the_same_for_them",)),
    Break("cluster/submit/dispatch.py", "limits |= Limits(max_time=minutes(words",
          "limits = Limits(max_time=minutes(words", "a partition's time holds, even if it is the wider",
          "cluster/submit/test_dispatch.py",
          ("test_of_several_partitions_the_narrowest_limits_hold_since_a_job_may_go_to_either",)),
    Break("cluster/submit/dispatch.py", "live + packs <= read:", "live + packs >= read:",
          "a full queue is taken for a limit that nobody can read", "cluster/submit/test_refusals.py",
          ("test_a_limit_that_is_read_explains_a_refusal_when_jobs_came_in_between",)),
    Break("cluster/slurm/sbatch.py", "text if POLICY in last", "text if POLICY not in last",
          "a plug-in's words make a refusal pass", "cluster/submit/test_refusals.py",
          ("test_a_refusal_of_another_kind_is_final_and_tick_says_so",)),
    Break("cluster/slurm/answers.py", "int(most) - int(jobs)", "int(most) + int(jobs)",
          "the jobs of others take no room", "cluster/slurm/test_queries.py",
          ("test_room_is_what_the_narrowest_limit_of_a_group_leaves_beside_everybodys_jobs",)),
    Break("cluster/reconcile/late.py", 'judged["cause"] != "cancelled" or', 'judged["cause"] == "cancelled" or',
          "tick goes on with what was cancelled, since its need completes late", "cluster/reconcile/test_reconcile.py",
          ("test_what_a_cancelled_job_had_not_come_to_stays_cancelled_though_what_it_needs_completes",)),
    Break("cluster/reconcile/judging.py", "if pack_index not in opened.tasks:  #", "if pack_index in opened.tasks:  #",
          "what may have been cancelled by hand is tried again", "cluster/reconcile/test_reconcile.py",
          ("test_a_job_that_every_answer_lacks_is_lost_or_has_vanished_if_it_never_began",)),
    Break("cluster/ledger/store.py", '"waits_for" in json', '"waits_for" not in json',
          "what waits again is shown as running", "cluster/status/test_status.py",
          ("test_a_pack_that_had_begun_and_waits_again_is_shown_as_waiting",)),
    Break("cluster/slurm/queries.py", "each.cluster.lower() == cluster", "each.cluster.lower() != cluster",
          "the limits of another cluster hold", "cluster/slurm/test_queries.py",
          ("test_limits_are_of_this_cluster_this_partition_the_accounts_above_and_both_qos",)),
    Break("cluster/slurm/reasons.py", 'startswith("QOSMin")', 'startswith("QOSMax")',
          "what waits for room is said never to begin", "cluster/slurm/test_reasons.py",
          ("test_only_what_will_never_begin_is_said_to_need_a_person",)),
    Break("cluster/submit/wording.py", 'asked_by == "rerun"', 'asked_by != "rerun"',
          "a submit is told to be given again, and a rerun to wait", "cluster/submit/test_refusals.py",
          ("test_a_refusal_for_a_limit_or_by_a_busy_controller_is_told_whole_and_the_next_tick_submits_it",)),
    Break("cluster/reconcile/opened.py", 'known.get("time") == told.get("time")',
          'known.get("time") != told.get("time")', "a pack waits again for ever", "cluster/reconcile/test_reconcile.py",
          ("test_a_pack_that_had_begun_and_waits_again_has_slurms_reason_until_it_runs",)),
    Break("cluster/reconcile/opened.py", 'before["submission_id"] != claim', 'before["submission_id"] == claim',
          "what an unseen job has begun is another's that never did", "cluster/reconcile/test_reconcile.py",
          ("test_an_attempt_that_the_job_of_an_earlier_submission_has_begun_is_that_ones",)),
    Break("cluster/submit/retries.py", "left += 1", "left -= 1",
          "what nobody knows how to go on with is said to be tried again", "cluster/submit/test_dispatch.py",
          ("test_what_was_to_be_tried_again_is_left_alone_once_nobody_knows_where_it_was_submitted",)),
    Break("cluster/submit/retries.py", 'now))["action"] == "retry":', 'now))["action"] != "retry":',
          "`status` tells a person to do what `tick` does", "cluster/status/test_status.py",
          ("test_what_tick_has_still_to_decide_is_told_as_it_will_decide",)),
    Break("cluster/submit/retries.py", "alike >= site.breaker", "alike > site.breaker",
          "the breaker opens a failure late", "cluster/submit/test_dispatch.py",
          ("test_the_breaker_opens_after_the_same_failure_again_and_again_until_a_person_reruns",)),
    Break("cluster/sites/drafting.py", "time, where = min(times)", "time, where = max(times)",
          "the wider of two limits gets into a site file", "cluster/sites/test_doctor.py",
          ("test_a_site_file_has_what_the_cluster_says_and_what_else_the_profile_has[account]",)),
    Break("cluster/sites/doctor.py", "most is None or most >= site.max_time", "most is None or most <= site.max_time",
          "a partition that gives less time is fine", "cluster/sites/test_doctor.py",
          ("test_what_the_cluster_gives_less_of_than_the_profile_asks_for_is_wrong",)),
    Break("cluster/report/trajectories.py", "len(self.reached) < self.seeds", "len(self.reached) > self.seeds",
          "the seeds that reach a score speak for those that do not", "cluster/report/test_trajectories.py",
          ("test_what_is_not_reached_says_so_and_has_no_mean",)),
    Break("cluster/report/figures/trajectories.py", "sum(values) / len(values), min(values)",
          "sum(values) / len(values), max(values)", "a band has no lower bound", "cluster/report/test_trajectories.py",
          ("test_a_band_is_the_range_of_the_seeds_at_each_anchor",)),
    Break("cluster/report/figures/costs.py", "key(point)[1] < key(front[-1])[1]", "key(point)[1] > key(front[-1])[1]",
          "the front is of what another is better than", "cluster/report/test_figures.py",
          ("test_nothing_is_better_than_the_front_in_both[True-True]",)),
    Break("cluster/report/figures/learning_curves.py", "min(places[index], above - heights[index] / 2)",
          "min(places[index], above + heights[index] / 2)", "names stand over each other",
          "cluster/report/test_figures.py", ("test_names_at_the_ends_of_lines_do_not_overlap",)),
    Break("cluster/report/forms.py", "cell.text == MISSING.text else cell.text",
          "cell.text != MISSING.text else cell.text", "CSV has nothing where a cell has words",
          "cluster/report/test_forms.py", ("test_the_number_of_a_cell_is_plain",)),
    Break("cluster/submit/launch.py", "if len(sharing) < len(item.stages):", "if len(sharing) > len(item.stages):",
          "what must be alone on the device is not done", "cluster/submit/test_launch.py",
          ("test_a_pack_tells_apart_what_may_share_the_device_and_what_must_be_alone_on_it",)),
    Break("cluster/submit/launch.py", '"nodes": 1,', '"nodes": 2,', "a pack has two nodes",
          "cluster/submit/test_launch.py", ("test_the_script_for_delftblue_is_the_recorded_one",)),
    Break("cluster/ledger/results.py", "len(set(runs.values())) > 1", "len(set(runs.values())) >= 1",
          "one training scored twice is told as two alike", "cluster/ledger/test_ledger.py",
          ("test_one_training_evaluated_in_two_ways_may_score_the_same",)),
    Break("cluster/ledger/lock.py", "processes.is_alive(dead) is False", "processes.is_alive(dead) is not False",
          "a living holder's lock is succeeded to", "cluster/ledger/test_ledger.py",
          ("test_another_hosts_lock_is_never_broken",)),
    Break("cluster/ledger/lock.py", "_holder(path) != first", "_holder(path) is first",
          "who sees a dead holder does not look again", "cluster/ledger/test_locking.py",
          ("test_of_three_at_a_dead_holders_lock_no_two_ever_hold_it_together[creating-lives]",)),
    Break("cluster/manifest/grids.py", "[: 1 if smoke else None]", "[: 2 if smoke else None]",
          "a smoke run takes two seeds", "cluster/manifest/test_manifest.py",
          ("test_a_smoke_run_has_the_first_seed_only",)),
    Break("cluster/reconcile/measure.py", "return max(start, end - trained), end",
          "return min(start, end - trained), end", "loading counts as training", "cluster/reconcile/test_measure.py",
          ("test_pretrainings_that_were_not_trained_at_the_same_time_tell_no_gain",)),
    Break("cluster/reconcile/measure.py", "append(speed / gain)", "append(speed * gain)",
          "the speed of several at a time counts as that of one", "cluster/reconcile/test_measure.py",
          ("test_what_several_at_a_time_reach_is_held_against_one",)),
    Break("cluster/reconcile/notify.py", "TRIES = 3", "TRIES = 2", "a command that failed twice is not run again",
          "cluster/reconcile/test_notify.py", ("test_a_failing_command_is_a_warning_and_is_tried_three_times",)),
    Break("cluster/report/insides.py", "= statistics.fmean) -> Any", "= statistics.median) -> Any",
          "a layer has the figure of its middle head", "cluster/report/test_insides.py",
          ("test_layers_stand_side_by_side_with_whose_weights_they_have",)),
    Break("cluster/report/page.py", 'stage["status"] == "failed"', 'stage["status"] != "failed"',
          "runs that have not failed are said to have", "cluster/report/test_page.py",
          ("test_what_is_missing_or_failed_says_so_in_its_place",)),
    Break("cluster/plan/packing.py", "most = site.max_time * 60 / max(", "most = site.max_time * 60 * max(",
          "a pack has more runs than surely end in time", "cluster/plan/test_plan.py",
          ("test_a_pack_is_no_longer_than_the_sites_time_limit_allows",)),
    Break("cluster/sites/profiles.py", "Rule(times=1, exclude_node=True)", "Rule(times=1, exclude_node=False)",
          "a node without a GPU is tried again", "cluster/plan/test_retry.py",
          ("test_what_found_no_gpu_is_tried_once_on_another_node",)),
    Break("cluster/submit/node_job.py", "    elif site.gpus:", "    elif not site.gpus:",
          "a node without a GPU is fine", "cluster/submit/test_node_job.py",
          ("test_without_slurm_this_machine_is_asked",)),
    Break("cluster/plan/lanes.py", "if self._memory[place] <= memory:", "if self._memory[place] >= memory:",
          "a run is put where its memory is not free", "cluster/plan/test_lanes.py",
          ("test_no_pack_takes_more_memory_than_there_is_at_any_moment",)),
    Break("cluster/plan/choosing.py", "if chosen & set(STAGES[stage].needs):", "if chosen ^ set(STAGES[stage].needs):",
          "a stage that follows from none is done again", "cluster/plan/test_plan.py",
          ("test_redoing_a_stage_redoes_what_follows_from_it_and_nothing_else",)),
    Break("cluster/report/published.py", "run.training_seconds / 3600", "run.training_seconds / 60",
          "minutes stand beside published hours", "cluster/report/test_published.py",
          ("test_ours_are_the_same_figure_of_each_run",)),
    Break("cluster/reconcile/opened.py", 'restart < task["restart"]',
          'restart > task["restart"]', "a requeued job's next attempts are not seen",
          "cluster/reconcile/test_reconcile.py", ("test_a_requeued_job_goes_on_under_the_next_number",)),
    Break("cluster/reconcile/intents.py", "whole_files.age(opened.directory.submission) <= patience()",
          "whole_files.age(opened.directory.submission) > patience()",
          "a submission is void before sbatch has given up", "cluster/reconcile/test_reconcile.py",
          ("test_an_unanswered_submission_is_void_only_once_its_absence_is_proven",)),
    Break("cluster/report/writing.py", r'return "\0" not in name and (', r'return "\0" not in name or (',
          "a study's name leads out of the report's folder", "cluster/report/test_report.py",
          ("test_nothing_is_written_outside_of_the_folder",)),
    Break("cluster/report/results.py", "is_baseline=group is first", "is_baseline=group is not first",
          "all but the baseline are baselines", "cluster/report/test_results.py",
          ("test_the_baseline_is_the_first_variant_unless_the_study_names_another",)),
    Break("cluster/plan/retry.py", "if tries > rule.times:", "if tries >= rule.times:",
          "a failure is tried again once less", "cluster/plan/test_retry.py",
          ("test_a_cause_is_tried_again_as_often_as_its_rule_says",)),
    Break("cluster/report/run_tables.py", "duration(ended - began)", "duration(ended + began)", "times are sums",
          "cluster/report/test_run_tables.py",
          ("test_how_long_an_attempt_took_is_told_in_seconds_minutes_or_hours[59.4-59 s]",)),
    Break("cluster/console.py", "minutes = round(seconds / 60)", "minutes = round(seconds / 3600)",
          "the page tells hours as minutes", "cluster/report/test_run_tables.py",
          ("test_how_long_an_attempt_took_is_told_in_seconds_minutes_or_hours",)),
    Break("cluster/files/processes.py", 'return started == process["start"]', 'return started != process["start"]',
          "another process with the pid is taken for the one",
          "cluster/files/test_folders.py", ("test_a_process_is_told_from_another_with_its_pid",)),
    Break("cluster/manifest/schema.py", '"minItems": 1, "uniqueItems": True', '"minItems": 2, "uniqueItems": True',
          "an editor refuses a single seed", "cluster/manifest/test_manifest.py",
          ("test_the_shipped_schema_is_the_one_that_the_command_writes",)),
    Break("cluster/reconcile/session.py", 'if _reconcile(ledger, output_root, slurm) == "unreachable":',
          'if _reconcile(ledger, output_root, slurm) != "unreachable":', "a command goes on without SLURM's answer",
          "cluster/reconcile/test_notify.py", ("test_silence_is_told_by_the_command_that_it_stops",)),
    Break("cluster/sites/profiles.py", "memory // 1_000_000", "memory // 1_000",
          "this machine has a thousand times its memory", "cluster/sites/test_profiles.py",
          ("test_this_machine_has_its_own_cores_and_memory_unless_the_profile_says_how_much",)),
    Break("cluster/slurm/answers.py", "self.memory >= FULL * self.asked", "self.memory <= FULL * self.asked",
          "a kill for memory is an error", "cluster/slurm/test_answers.py",
          ("test_a_kill_with_nearly_full_memory_is_one_for_memory",)),
    Break("cluster/slurm/answers.py", "return self.state not in CAUSES", "return self.state in CAUSES",
          "a state that is not known is an end", "cluster/slurm/test_answers.py",
          ("test_a_state_is_alive_until_it_is_known_to_be_an_end",)),
    Break("cluster/slurm/answers.py", "job_name(submission_id) or", "job_name(submission_id) and",
          "a job that was renamed is another's", "cluster/slurm/test_answers.py",
          ("test_a_job_is_a_submissions_by_its_name_or_its_comment",)),
    Break("cluster/slurm/answers.py", "by_name.setdefault(job.name, [])", "by_name.setdefault(job.key, [])",
          "the lives of two jobs of one number are those of one", "cluster/slurm/test_answers.py",
          ("test_of_two_submissions_whose_jobs_have_one_number_each_finds_its_own_and_its_lives",)),
    Break("cluster/slurm/queries.py", "if own and len(own) == len(alive) else", "if own or len(own) == len(alive) else",
          "another's job is cancelled with an array", "cluster/slurm/test_queries.py",
          ("test_only_what_is_a_submissions_own_is_cancelled",)),
    Break("cluster/slurm/queries.py", "return min((value for value in values", "return max((value for value in values",
          "the widest limit of an account holds", "cluster/slurm/test_queries.py",
          ("test_limits_are_the_narrowest_of_account_and_qos",)),
    Break("cluster/report/comparison.py", "(comparisons - rank) * p", "(comparisons + rank) * p",
          "Holm corrects for too many", "cluster/report/test_comparison.py",
          ("test_holms_correction_of_a_textbook_example",)),
    Break("cluster/report/comparison.py", "differences[:, :1] - tie", "differences[:, :1] + tie",
          "what is as large but for rounding does not count", "cluster/report/test_comparison.py",
          ("test_equal_means_have_a_p_value_of_one_whatever_rounding_does",)),
    Break("tiny_transformers/common/pairs.py", "self.by_pair.difference < -TIE", "self.by_pair.difference > -TIE",
          "two differences that agree are said to disagree", "tiny_transformers/evaluation/test_pairs.py",
          ("test_two_differences_that_point_to_different_models_have_a_line_each_and_a_word",)),
    Break("cluster/report/comparison.py", "(1 + bootstrap.LEVEL) / 2", "(1 - bootstrap.LEVEL) / 2",
          "an interval ends where it begins", "cluster/report/test_comparison.py",
          ("test_the_interval_is_students_and_needs_three_seeds",)),
    Break("cluster/status/estimate.py", "return planned - taken", "return planned + taken",
          "the end moves away as time goes by", "cluster/status/test_status.py",
          ("test_a_pack_that_takes_longer_than_planned_is_reckoned_from_what_of_it_is_done",)),
    Break("cluster/status/pace.py", "seconds -= sum", "seconds += sum", "what a stage has done is still to come",
          "cluster/status/test_status.py",
          ("test_the_estimate_follows_the_stage_runs_that_have_completed_stage_by_stage",)),
    Break("cluster/report/study_tables.py", "done = [run for run in runs if not run.missing]",
          "done = [run for run in runs if run.missing]", "costs are those of runs that are not complete",
          "cluster/report/test_report.py", ("test_costs_are_means_of_complete_runs",)),
    Break("cluster/submit/requests.py", 'run.config.data.source == "files"', 'run.config.data.source != "files"',
          "data that is not there is not missed", "cluster/cli/test_cli.py",
          ("test_data_that_is_not_there_is_named_before_anything_is_submitted",)),
    Break("cluster/submit/tables.py", 'TIME_MARGIN * row["longest"] / 60 /', 'TIME_MARGIN * row["longest"] / 60 *',
          "advice on time is of the wrong size", "cluster/reconcile/test_measure.py",
          ("test_advice_keeps_the_margins_of_planning",)),
    Break("cluster/status/watching.py", "if number < len(entry.packs):", "if number <= len(entry.packs):",
          "a whole cancellation is told as a part", "cluster/status/test_status.py",
          ("test_what_was_cancelled_is_said",)),
    Break("cluster/submit/leaving.py", 'source.get("user") in', 'source.get("user") not in',
          "tick goes on with what others have cancelled", "cluster/status/test_status.py",
          ("test_a_failure_is_tried_again_by_tick_unless_tick_leaves_it_alone",)),
    # -- a compute node's half
    Break("jobs/attempts.py", 'holder["submission_id"] == submission_id and holder',
          'holder["submission_id"] == submission_id or holder',
          "a second job does an attempt again", "jobs/test_stage.py",
          ("test_a_second_job_with_the_same_attempt_does_nothing",)),
    Break("jobs/attempts.py", "task, lives) if lives else", "task, lives) if not lives else",
          "two lives of a job are at work together", "jobs/test_stage.py",
          ("test_a_life_makes_way_for_an_earlier_one_that_began_unseen_at_the_same_moment",)),
    Break("jobs/memory.py", "together >= NEAR * self.limit", "together <= NEAR * self.limit",
          "a kill near the limit is not one for memory", "jobs/test_memory.py",
          ("test_a_child_killed_near_the_limit_ran_out_of_memory",)),
    Break("jobs/attempts.py", "attempt.heartbeat.stat().st_mtime > last", "attempt.heartbeat.stat().st_mtime < last",
          "a stage is begun beside an attempt that goes on", "jobs/test_stage.py",
          ("test_an_earlier_attempt_that_goes_on_beating_is_at_work_whatever_was_believed_of_it",)),
    Break("jobs/attempts.py", "begun[-1].number <= known.get(stage, 0)", "begun[-1].number >= known.get(stage, 0)",
          "what has completed is done again", "jobs/test_stage.py",
          ("test_what_has_completed_is_done_again_only_where_that_was_known",)),
    Break("jobs/pack.py", 'get("signal_delay", 0) - RESERVE', 'get("signal_delay", 0) + RESERVE',
          "children have more time than there is", "jobs/test_pack.py",
          ("test_children_have_the_signals_delay_less_a_reserve",)),
    Break("jobs/pack.py", "self.parts[number].memory <= free", "self.parts[number].memory >= free",
          "a run begins where its memory is not free", "jobs/test_pack.py",
          ("test_a_run_begins_once_its_memory_is_free_and_holds_up_no_smaller_one_behind_it",)),
    Break("cluster/submit/needs.py", "return status in LIVE or", "return status not in LIVE or",
          "what a run needs is not waited for", "cluster/submit/test_needs.py",
          ("test_a_run_waits_until_what_it_needs_is_there_or_can_be_done_without",)),
    Break("cluster/plan/calibration.py", "if number > 1 else []", "if number < 1 else []",
          "several runs at a time are not measured", "cluster/submit/test_needs.py",
          ("test_a_calibration_has_one_short_run_of_each_shape_and_several_of_the_one_that_takes_most",)),
    Break("jobs/pulling.py", "part.seconds <= seconds", "part.seconds >= seconds",
          "what would not end in time is pulled", "jobs/test_pulling.py",
          ("test_the_longest_run_that_fits_is_pulled",)),
    Break("jobs/pulling.py", "self._holder(run_id) != self.index", "self._holder(run_id) == self.index",
          "a run is two tasks'", "jobs/test_pulling.py",
          ("test_a_run_that_another_task_has_taken_since_is_not_taken",)),
    Break("cluster/reconcile/opened.py", "if pack in packs and run_id", "if pack not in packs and run_id",
          "what is judged can be pulled", "cluster/reconcile/test_reconcile.py",
          ("test_a_run_that_nobody_has_begun_can_not_be_pulled_once_it_is_judged",)),
    Break("jobs/pack.py", "self.pulls = False  # else all", "self.pulls = True  # else all",
          "a task whose disk fails has all runs fail", "jobs/test_pulling.py",
          ("test_a_pulled_run_fails_where_it_cannot_be_read_whether_its_pack_was_cancelled_and_no_other_is_pulled",)),
    Break("jobs/lives.py", 'if not life.get("ended_by")', 'if life.get("ended_by")',
          "an earlier life that goes on is not seen", "jobs/test_pack.py",
          ("test_an_earlier_life_that_ended_by_itself_is_not_looked_for",)),
    Break("jobs/attempts.py", "if at_work(run, stage, planned, submission_id, task, lives):",
          "if not at_work(run, stage, planned, submission_id, task, lives):",
          "at the limit more is said than is known", "jobs/test_pack.py",
          ("test_a_pack_says_nothing_for_a_run_at_which_an_earlier_life_is_at_work_unseen",)),
    Break("jobs/pack.py", 'result.get("cause") == "no_gpu"', 'result.get("cause") != "no_gpu"',
          "a node without a GPU pulls runs", "jobs/test_pulling.py",
          ("test_a_task_whose_node_has_no_gpu_fails_its_own_runs_and_pulls_no_others",)),
    Break("jobs/pack.py", "else visible[slot % len(visible)]", "else visible[slot // len(visible)]",
          "slots crowd on one GPU", "jobs/test_pack.py", ("test_slots_share_the_visible_gpus_in_turn",)),
    Break("jobs/stage.py", "if not gc.get_threshold()[0]", "if gc.get_threshold()[0]",
          "a training's memory grows and grows", "jobs/test_stage.py",
          ("test_a_stage_writes_its_claim_its_log_and_its_result_last",)),
    Break("jobs/stage.py", 'bool(intent["site"].get("gpus"))', 'bool(intent["site"].get("gpu"))',
          "a stage without its GPU goes on on the CPU", "jobs/test_pulling.py",
          ("test_a_task_whose_node_has_no_gpu_fails_its_own_runs_and_pulls_no_others[1-left0]",)),
    Break("jobs/stage.py", "_digest(claim) not in (None, code):", "_digest(claim) in (None, code):",
          "a stage goes on from what other code has made", "jobs/test_stage.py", ("test_code_that_may_go_on",)),
    # -- the science
    Break("tiny_transformers/layers/activations.py", "return x * torch.sigmoid(self.alpha * x)",
          "return x + torch.sigmoid(self.alpha * x)", "Swish is another function",
          "tiny_transformers/layers/test_activations.py",
          ("test_swish_starts_as_silu_and_that_of_the_thesis_does_not",)),
    Break("tiny_transformers/settings/sharing.py", "once[::-1] if strategy", "once[::1] if strategy",
          "cycle_rev does not reverse", "tiny_transformers/settings/test_architecture.py",
          ("test_layer_maps_of_weight_sharing",)),
    Break("tiny_transformers/settings/sharing.py", "self.unique_layers + layers - first)",
          "self.unique_layers + layers + first)", "layers behind those that share are more than there are",
          "tiny_transformers/models/test_sharing.py",
          ("test_parameters_are_those_of_the_unique_modules_and_flops_those_of_all",)),
    Break("tiny_transformers/settings/architecture.py", "return round(2 * (model", "return round(3 * (model",
          "a weight costs three operations", "tiny_transformers/settings/test_architecture.py",
          ("test_flops_of_the_base_are_two_per_weight_a_token_meets",)),
    Break("tiny_transformers/settings/transformer.py", "size * heads // self.heads", "size * heads // self.layers",
          "a layer's heads are not as wide as the others'", "tiny_transformers/models/test_scaling.py",
          ("test_costs_are_those_of_models_of_each_layers_sizes",)),
    Break("tiny_transformers/settings/feed_forward/kind.py", "return 2 * hidden * intermediate + intermediate + hidden",
          "return 2 * hidden * intermediate + intermediate - hidden", "a module's parameters lack a bias",
          "tiny_transformers/settings/test_architecture.py",
          ("test_a_sparse_module_takes_the_parameters_of_the_dense_one",)),
    Break("tiny_transformers/layers/attention.py", "dtype=torch.bool).tril()", "dtype=torch.bool).triu()",
          "a decoder sees what comes after a token", "tiny_transformers/layers/test_head.py",
          ("test_attention_in_training_is_torchs",)),
    Break("tiny_transformers/data/batches.py", "MASKED, KEPT = 0.8, 0.1", "MASKED, KEPT = 0.7, 0.1",
          "an encoder sees 70 % of its targets masked, not 80 %", "tiny_transformers/data/test_batches.py",
          ("test_encoder_predicts_15_percent_of_the_words_and_sees_80_10_10_of_them",)),
    Break("tiny_transformers/data/batches.py", "story[:-1], story[1:]", "story[:-1], story[0:]",
          "a decoder predicts what it sees", "tiny_transformers/data/test_batches.py",
          ("test_decoder_predicts_every_token_but_the_first",)),
    Break("tiny_transformers/models/brainformer.py", "x + self._applied(", "x - self._applied(",
          "a module is taken from its input", "tiny_transformers/models/test_brainformer.py",
          ("test_a_module_adds_to_its_input_and_the_norm_comes_last",)),
    Break("tiny_transformers/settings/stage/blimp.py", '.data == "full":\n        raise',
          '.data != "full":\n        raise',
          "the builtin data is refused for a BLiMP that it has", "cluster/manifest/test_manifest.py",
          ("test_a_mistake_is_named_with_its_place_its_value_and_the_nearest_known_word",)),
    Break("tiny_transformers/settings/stage/superglue.py", "if tasks and len(set(tasks)) < len(tasks)",
          "if tasks and len(set(tasks)) > len(tasks)", "a task that is named twice counts twice",
          "cluster/manifest/test_manifest.py",
          ("test_a_mistake_is_named_with_its_place_its_value_and_the_nearest_known_word",)),
    Break("tiny_transformers/settings/brainformer_architecture.py", "get(gate, (h + 1) * experts)",
          "get(gate, (h - 1) * experts)", "a gate's biases are not counted",
          "tiny_transformers/models/test_brainformer.py", ("test_built_count_is_the_closed_form_with_every_gate",)),
    Break("tiny_transformers/data/builtin.py", "row = draw(rng, len(rows) % 2)", "row = draw(rng, len(rows) % 1)",
          "all rows of a task have one label", "tiny_transformers/data/test_builtin.py",
          ("test_labels_are_balanced_and_rows_are_glues[rte]",)),
    Break("tiny_transformers/data/characters.py", "HELD_OUT = 20", "HELD_OUT = 10", "a stream is not cut as published",
          "tiny_transformers/data/test_characters.py", ("test_it_is_cut_as_published",)),
    Break("tiny_transformers/data/characters.py", "self.ids[-2 * held_out - 1 : -held_out]",
          "self.ids[-2 * held_out - 0 : -held_out]", "validation lacks what is before its first character",
          "tiny_transformers/data/test_characters.py", ("test_a_split_is_preceded_by_the_unit_before_it",)),
    Break("tiny_transformers/training/checkpoint.py", "reverse=True)", "reverse=False)",
          "the oldest checkpoints are kept", "tiny_transformers/training/test_checkpoint.py",
          ("test_only_the_newest_two_are_kept",)),
    Break("tiny_transformers/settings/config.py", "copied.__dict__.pop(name, None)", "copied.__dict__.get(name, None)",
          "changed settings have the costs of those before", "tiny_transformers/settings/test_architecture.py",
          ("test_settings_that_were_asked_for_their_costs_are_equal_to_others_and_changed_ones_have_their_own",)),
    Break("tiny_transformers/settings/config.py", "else min(tokens, CPU_TOKENS)", "else max(tokens, CPU_TOKENS)",
          "a CPU takes the larger micro-batch", "cluster/plan/test_plan.py",
          ("test_on_a_cpu_a_smaller_micro_batch_is_planned_with_unless_that_would_change_the_result",)),
    Break("tiny_transformers/data/corpus.py", "return min(train.batch_size, max(train.batch_split, needed))",
          "return min(train.batch_size, min(train.batch_split, needed))", "a step is in fewer pieces than memory needs",
          "tiny_transformers/data/test_streams.py",
          ("test_rows_are_cut_into_as_many_pieces_as_are_asked_for_or_needed",)),
    Break("tiny_transformers/common/contents.py", "each.sha256) != each.sha256", "each.sha256) == each.sha256",
          "a stage reads other data than was submitted", "jobs/test_stage.py",
          ("test_a_stage_whose_data_is_not_what_was_submitted_fails_at_once",)),
    Break("cluster/submit/contents.py", "if each.sha256 != first[name]}", "if each.sha256 == first[name]}",
          "runs of another content have the ids of the first", "cluster/submit/test_contents.py",
          ("test_the_first_content_of_a_name_changes_no_id",)),
    Break("tiny_transformers/data/vocabularies.py", "ByteLevel(add_prefix_space=False)",
          "ByteLevel(add_prefix_space=True)", "a trained tokenizer puts a space before each text",
          "tiny_transformers/data/test_vocabularies.py",
          ("test_it_has_as_many_tokens_as_asked_for_and_encodes_as_models_need_it",)),
    Break("tiny_transformers/data/sources.py", "rows[i * len(rows) // limit]", "rows[i * len(rows) % limit]",
          "a sample is not of all of a file", "tiny_transformers/data/test_sources.py",
          ("test_a_sample_covers_the_file_evenly_and_in_order",)),
    Break("tiny_transformers/common/rows.py", '"utf-8" if begin else "utf-8-sig"), 1)',
          '"utf-8" if begin else "utf-8-sig"), 0)', "a row is named by the line before it",
          "tiny_transformers/common/test_survey.py", ("test_what_a_job_would_refuse_is_refused",)),
    Break("tiny_transformers/common/survey.py", "if words > max_length - ENDS)", "if words < max_length - ENDS)",
          "short documents are told of as cut", "tiny_transformers/common/test_survey.py",
          ("test_documents_are_counted_by_their_words",)),
    Break("tiny_transformers/common/data_root.py", "if not lacking_files(near, lacking):",
          "if lacking_files(near, lacking):", "files are said to be where they are not",
          "tiny_transformers/common/test_data_root.py",
          ("test_a_folder_that_lacks_files_is_told_with_what_it_has",)),
    Break("cluster/submit/corpora.py", "if cut < TOLD * found.documents:", "if cut > TOLD * found.documents:",
          "documents that are cut are not told of", "cluster/submit/test_corpora.py",
          ("test_documents_that_are_certainly_cut_are_told_of",)),
    Break("cluster/submit/contents.py", "not now.keys() <= replaced", "not now.keys() >= replaced",
          "a rerun reads other data than what was completed", "cluster/submit/test_contents.py",
          ("test_another_content_takes_the_place_of_one_of_which_nothing_was_made[running]",)),
    Break("cluster/report/notes.py", "if len(of) > 1", "if len(of) < 1",
          "nobody says that each corpus has a tokenizer of its own", "cluster/report/test_notes.py",
          ("test_a_tokenizer_of_each_corpus_is_a_note_and_one_that_changed_is_flagged",)),
    Break("tiny_transformers/training/device.py", "known * 1e12", "known * 1e9",
          "a GPU's utilisation is a thousand times too high", "tiny_transformers/training/test_device.py",
          ("test_the_peak_of_a_gpu_is_its_makers_and_none_where_it_is_not_known",)),
    Break("tiny_transformers/training/device.py", "_numbers(driver) < _numbers", "_numbers(driver) > _numbers",
          "a driver that is too old is called a broken node", "tiny_transformers/training/test_device.py",
          ("test_where_there_is_to_be_a_gpu_none_is_an_error_with_its_cause_and_remedy",)),
    Break("tiny_transformers/training/device.py", "or has_tensor_cores(device):", "or not has_tensor_cores(device):",
          "an A100 is told that it is old", "tiny_transformers/training/test_device.py",
          ("test_a_gpu_before_ampere_is_told_what_it_lacks",)),
    Break("tiny_transformers/training/device.py", "get_device_capability()[0] >= 8", "get_device_capability()[0] > 8",
          "an A100 has no TF32", "tiny_transformers/training/test_device.py",
          ("test_tf32_is_of_nvidias_gpus_from_ampere_on",)),
    Break("tiny_transformers/data/fetch.py", "hexdigest() == MD5[corpus]", "hexdigest() != MD5[corpus]",
          "any text but the published one is taken", "tiny_transformers/data/test_fetch.py",
          ("test_what_came_from_elsewhere_must_be_what_was_published",)),
    Break("tiny_transformers/training/functions.py", "layer.base_weight * F.silu(point) + torch",
          "layer.base_weight * F.silu(point) - torch", "an edge's curve is another function",
          "tiny_transformers/training/test_functions.py", ("test_a_layer_of_one_edge_is_its_function",)),
    Break("tiny_transformers/models/gpt_neo.py", 'GELU = "gelu_pytorch_tanh"', 'GELU = "gelu"',
          "GPT-Neo has RoBERTa's GELU", "tiny_transformers/models/test_auto.py",
          ("test_stock_settings_are_the_classes_of_transformers[gelu-gpt_neo-0]",)),
    Break("tiny_transformers/models/llama.py", 'GELU = "gelu_pytorch_tanh"', 'GELU = "gelu"',
          "a Llama's gates are not those of GPT-Neo's GEGLU", "tiny_transformers/models/test_auto.py",
          ("test_stock_settings_are_the_classes_of_transformers[geglu-llama-0]",)),
    Break("tiny_transformers/layers/attention.py", "torch.cat((-first, second)", "torch.cat((+first, second)",
          "queries and keys are not turned", "tiny_transformers/models/test_auto.py",
          ("test_stock_settings_are_the_classes_of_transformers[swiglu-llama-0]",)),
    Break("tiny_transformers/settings/feed_forward/kind.py", "(3 * hidden * intermediate", "(2 * hidden * intermediate",
          "a sparse module of a Llama is smaller than the dense one", "tiny_transformers/settings/test_architecture.py",
          ("test_a_sparse_module_takes_the_parameters_of_the_dense_one",)),
    Break("tiny_transformers/models/language_model.py", "(labels != -100).sum() / items",
          "(labels != -100).sum() * items", "the balance loss of a micro-batch counts too much",
          "tiny_transformers/models/test_auto.py",
          ("test_balance_loss_of_a_micro_batch_counts_by_its_share_of_the_labels",)),
    Break("tiny_transformers/models/auto.py", '("global", "local")[attentions % 2]',
          '("global", "local")[attentions % 1]', "all attention is global", "tiny_transformers/models/test_auto.py",
          ("test_attention_alternates_for_any_depth",)),
    Break("tiny_transformers/training/pretrain.py", "(summed / labels + share *", "(summed / labels - share *",
          "experts are driven to an uneven load", "tiny_transformers/training/test_pretrain.py",
          ("test_the_balance_loss_has_its_own_gradient_beside_that_of_the_texts",)),
    Break("tiny_transformers/models/definition/checking.py", "passed=difference <= ROUNDING",
          "passed=difference >= ROUNDING", "a model that is another one passes",
          "tiny_transformers/training/test_checks.py",
          ("test_a_model_that_is_another_one_is_not_by_its_definition[silu-relu-sizes3-gpt_neo]",)),
    Break("tiny_transformers/models/definition/feed_forward.py", "0.044715 * x**3", "0.044715 * x**2",
          "GELU's formula is another one", "tiny_transformers/training/test_checks.py",
          ("test_every_variant_is_by_its_definition[gpt_neo]",)),
    Break("tiny_transformers/models/definition/families.py", "(place.attentions % 2 == 0)",
          "(place.attentions % 2 == 1)", "local and global attention change places",
          "tiny_transformers/training/test_checks.py",
          ("test_every_variant_is_by_its_definition[gpt_neo]",)),
    Break("tiny_transformers/training/pruning.py", "size.masked_fill(before == 0, -1.0)",
          "size.masked_fill(before == 0, 1.0)", "what was pruned comes back",
          "tiny_transformers/training/test_pruning.py",
          ("test_the_smallest_are_left_out_of_equal_ones_the_first_and_none_comes_back",)),
    Break("tiny_transformers/settings/pruning.py", "** 3)", "** 2)", "the schedule is a square",
          "tiny_transformers/training/test_pruning.py",
          ("test_the_share_of_zeros_is_the_papers_equation_between_masks_it_is_that_of_the_last",)),
    Break("tiny_transformers/training/optimizers.py", "parameter.ndim > 1 and", "parameter.ndim > 0 and",
          "norms and biases decay", "tiny_transformers/training/test_as_trainer.py",
          ("test_weight_decay_is_for_what_trainer_decays_but_for_learnable_activations_and_experts_biases",)),
    Break("tiny_transformers/training/pretrain.py", "min(chances) >= CHANCE", "max(chances) >= CHANCE",
          "one share that is right will do", "tiny_transformers/training/test_checks.py",
          ("test_an_encoder_with_the_shares_swapped_fails_before_its_first_step",)),
    Break("tiny_transformers/training/pretrain.py", "holds and self._schedule_moves", "holds or self._schedule_moves",
          "a schedule that does nothing passes", "tiny_transformers/training/test_checks.py",
          ("test_gates_that_do_not_hear_of_the_schedule_fail_after_one_step",)),
    Break("cluster/report/results.py", "self.scores.items() if place[0] in", "self.scores.items() if place[0] not in",
          "a study sees the scores of other studies' stages", "cluster/report/test_results.py",
          ("test_a_study_sees_the_scores_of_its_own_stages_only",)),
    Break("cluster/report/results.py", 'in ("pretrain", stage)', 'in ("blimp", stage)',
          "runs that were trained on other data are compared", "cluster/report/test_comparison.py",
          ("test_runs_that_read_other_data_are_not_compared",)),
    Break("tiny_transformers/training/compiling.py", "left * GAIN <= needs", "left * GAIN >= needs",
          "short trainings are compiled, long ones are not", "tiny_transformers/training/test_compiling.py",
          ("test_what_is_left_has_to_repay_compiling",)),
    Break("tiny_transformers/training/compiling.py", "self.on != (choice", "self.on == (choice",
          "steps are timed that are not on trial", "tiny_transformers/training/test_compiling.py",
          ("test_a_sitting_computes_each_step_as_the_one_before_it_did",)),
    Break("tiny_transformers/training/curve.py", "seconds - tokens * rate", "seconds + tokens * rate",
          "steps that compile count as compiling alone", "tiny_transformers/training/test_compiling.py",
          ("test_time_to_compile_is_in_no_rate_and_no_estimate",)),
    Break("tiny_transformers/training/pretrain.py", "if not math.isfinite(value):", "if math.isfinite(value):",
          "a training that has diverged goes on", "tiny_transformers/training/test_pretrain.py",
          ("test_loss_that_is_not_finite_ends_the_training",)),
    Break("tiny_transformers/common/provenance.py", "if changes else None", "if not changes else None",
          "a changed tree has no digest of its changes", "tiny_transformers/common/test_provenance.py",
          ("test_a_changed_tree_has_its_commit_and_a_digest_of_its_diff",)),
    Break("tiny_transformers/models/roberta.py", "F.gelu(head.dense(hidden))", "F.relu(head.dense(hidden))",
          "an encoder's loss in training is of another head", "tiny_transformers/training/test_pretrain.py",
          ("test_loss_is_that_of_hugging_face[roberta]",)),
    Break("tiny_transformers/layers/span_attention.py", "/ self.adaptive.ramp + 1", "/ self.adaptive.ramp - 1",
          "a head looks less far than it has learnt", "tiny_transformers/models/test_brainformer.py",
          ("test_the_mask_is_that_of_the_paper",)),
    Break("tiny_transformers/layers/span_attention.py", "in reversed(list(enumerate(grads)))",
          "in list(list(enumerate(grads)))", "gradients of windows are added up in another order",
          "tiny_transformers/models/test_brainformer.py",
          ("test_windows_and_their_gradients_are_slices_to_the_last_bit",)),
    Break("tiny_transformers/layers/packed.py", "else window - 1)", "else window + 1)",
          "a local layer sees more than its window in a row of texts", "tiny_transformers/layers/test_packed.py",
          ("test_a_kernel_is_told_windows_scales_and_widths[gelu-gpt_neo]",)),
    Break("tiny_transformers/data/stories.py", "self.offsets[index + 1]]", "self.offsets[index - 1]]",
          "a story ends before it begins", "tiny_transformers/data/test_stories.py",
          ("test_stories_are_encoded_with_both_ends_and_cut_to_the_length",)),
    Break("tiny_transformers/data/tokenizer.py", "same == len(parts)", "same != len(parts)",
          "a tokenizer of other ids passes its check", "tiny_transformers/data/test_tokenizer.py",
          ("test_a_reloaded_tokenizer_of_another_stream_fails_the_check[bytes]",)),
    Break("tiny_transformers/models/variant.py", "total += weight * sum(", "total -= weight * sum(",
          "KANs are driven away from few edges", "tiny_transformers/models/test_auto.py",
          ("test_kan_regularisation_is_a_loss_of_training",)),
    # -- feed-forward modules
    Break("tiny_transformers/layers/ffn/controller.py", "mask.to(hidden.dtype) * hidden",
          "mask.to(hidden.dtype) + hidden", "units that are off are on",
          "tiny_transformers/layers/ffn/test_controller.py",
          ("test_both_ways_of_evaluation_are_the_definition_in_values_and_gradients",)),
    Break("tiny_transformers/layers/ffn/experts.py", "chosen.masked_fill(~kept, len(self.w1))",
          "chosen.masked_fill(kept, len(self.w1))", "the choices that are dropped count, and no others",
          "tiny_transformers/layers/ffn/test_experts.py", ("test_if_all_choices_are_dropped_the_output_is_zero",)),
    Break("tiny_transformers/layers/ffn/gates.py", "used & (places <= capacity)", "used & (places < capacity)",
          "an expert takes a token less than it has room for", "tiny_transformers/layers/ffn/test_gates.py",
          ("test_no_expert_takes_more_tokens_than_its_capacity", "test_gshard_is_algorithm_1")),
    Break("tiny_transformers/layers/ffn/gates.py", "< 2 * weights[:, 1:]", "< 1 * weights[:, 1:]",
          "GShard uses the second expert half as often", "tiny_transformers/layers/ffn/test_gates.py",
          ("test_gshard_uses_the_second_expert_with_twice_its_weight_as_probability",)),
    Break("tiny_transformers/layers/ffn/kan.py", "(1 - share[..., 1:])", "(1 + share[..., 1:])", "splines are none",
          "tiny_transformers/layers/ffn/test_kan.py", ("test_splines_are_those_of_the_recursion",)),
    Break("tiny_transformers/layers/ffn/kan.py", "regularize_activation * total + regularize",
          "regularize_activation * total - regularize", "KANs are driven to many edges",
          "tiny_transformers/layers/ffn/test_kan.py",
          ("test_regularisation_is_the_norm_and_the_entropy_of_its_shares",)),
    Break("tiny_transformers/layers/ffn/pkm.py", "(len(x) / (len(x) - 1))", "(len(x) / (len(x) + 1))",
          "the running variance is too small", "tiny_transformers/layers/ffn/test_pkm.py",
          ("test_values_gradients_and_statistics_are_those_of_the_definition",)),
    # -- evaluation
    Break("tiny_transformers/evaluation/edge.py", "torch.set_num_threads(before)", "torch.set_num_threads(number)",
          "what comes after has the threads of a measurement", "tiny_transformers/evaluation/test_edge.py",
          ("test_eight_bits_are_smaller_measured_by_threads_and_asked_the_same_pairs[decoder]",)),
    Break("tiny_transformers/evaluation/trajectory.py", "math.log(2)", "math.log(3)",
          "bits of a stream are no bits", "tiny_transformers/data/test_streams.py",
          ("test_a_streams_trajectory_ends_in_its_validation_loss_and_its_anchors_survive_a_kill",)),
    Break("tiny_transformers/training/anchors.py", "place.step > step", "place.step >= step",
          "an anchor that a checkpoint has come after is dropped", "tiny_transformers/training/test_pretrain.py",
          ("test_anchors_of_a_run_that_was_stopped_and_killed_are_those_of_one_that_was_not[gpt_neo]",)),
    Break("tiny_transformers/training/anchors.py", "and not before.reached(number)", "and before.reached(number)",
          "an anchor is of a later step", "tiny_transformers/training/test_pretrain.py",
          ("test_an_anchor_is_the_model_of_a_step_and_changes_nothing[gpt_neo]",)),
    Break("tiny_transformers/evaluation/blimp.py", "return self.good > self.bad", "return self.good >= self.bad",
          "a tie is right", "tiny_transformers/evaluation/test_blimp.py",
          ("test_a_tie_is_wrong_and_counted[decoder]",)),
    Break("tiny_transformers/evaluation/certified.py", "np.abs(_margins(scores)) <= bound",
          "np.abs(_margins(scores)) > bound", "pairs near a tie keep bfloat16's scores",
          "tiny_transformers/evaluation/test_certified.py",
          ("test_verdicts_are_float32s_and_most_pairs_are_scored_in_bfloat16_alone",
           "test_of_near_ties_all_are_scored_again")),
    Break("tiny_transformers/evaluation/certified.py", "if error <= bound:", "if error >= bound:",
          "a bound that does not hold is kept", "tiny_transformers/evaluation/test_certified.py",
          ("test_the_bound_widens_if_errors_outside_of_it_exceed_it",)),
    Break("tiny_transformers/evaluation/babylm.py", "return self.first > self.other",
          "return self.first >= self.other", "a tie is right", "tiny_transformers/evaluation/test_babylm.py",
          ("test_a_model_to_which_all_tokens_are_alike_has_nothing_right[decoder]",)),
    Break("tiny_transformers/evaluation/candidates.py", "task.equal += 1", "task.equal += 2",
          "a row without an answer is counted twice", "tiny_transformers/evaluation/test_babylm.py",
          ("test_rows_without_an_answer_and_those_that_are_too_long_are_left_out[decoder]",)),
    Break("tiny_transformers/evaluation/harness.py", "samples=chosen if limit else None",
          "samples=chosen if not limit else None", "a limit is not heeded",
          "tiny_transformers/evaluation/test_harness.py",
          ("test_a_limit_takes_rows_that_are_evenly_spaced[decoder]",)),
    Break("tiny_transformers/settings/stage/babylm.py", 'of(Babylm).data == "fast" else 1.0',
          'of(Babylm).data != "fast" else 1.0', "all rows are planned as a part of them",
          "tiny_transformers/evaluation/test_babylm.py",
          ("test_a_stage_of_all_tasks_costs_more_than_one_of_few[decoder]",)),
    Break("tiny_transformers/settings/stage/lm_eval.py", "percent=not any(", "percent=any(",
          "accuracies are shown as figures, perplexities as percentages", "tiny_transformers/settings/test_stages.py",
          ("test_what_lm_eval_is_asked_for_has_a_column_and_its_parts_have_none",)),
    Break("tiny_transformers/settings/stage/task_files.py", 'if kind == "generate_until":',
          'if kind != "generate_until":', "tasks that generate are taken, and no others",
          "tiny_transformers/settings/test_task_files.py",
          ("test_a_task_says_why_it_cannot_be_scored",)),
    Break("tiny_transformers/evaluation/fine_tuning.py", "value > fit.best_value + threshold",
          "value > fit.best_value - threshold", "a fine-tuning that is no better goes on",
          "tiny_transformers/evaluation/test_superglue.py",
          ("test_an_improvement_within_the_threshold_is_the_best_but_costs_patience",)),
    Break("tiny_transformers/evaluation/fine_tuning.py", "rows, optimizer, settings.precision)",
          "rows, optimizer, settings.edition)", "a fine-tuning trains in another precision than it is told",
          "tiny_transformers/evaluation/test_superglue.py",
          ("test_products_of_training_and_answers_are_in_the_precision_asked_for",)),
    Break("tiny_transformers/evaluation/fine_tuning.py", "lambda step: 1 - step / total",
          "lambda step: 1 + step / total", "the learning rate rises", "tiny_transformers/evaluation/test_superglue.py",
          ("test_the_rate_falls_linearly_to_zero_and_the_gradient_is_clipped[decoder]",)),
    Break("tiny_transformers/evaluation/glue.py", "MOST_HELD_OUT = 0.1, 1_000", "MOST_HELD_OUT = 0.2, 1_000",
          "a fifth of the rows is held out", "tiny_transformers/evaluation/test_superglue.py",
          ("test_the_rows_held_out_are_a_tenth_of_each_label_and_1000_at_most",)),
    Break("tiny_transformers/evaluation/glue.py", "return max(Counter(", "return min(Counter(",
          "the majority is the rarest label", "tiny_transformers/evaluation/test_superglue.py",
          ("test_the_majority_share_is_that_of_the_most_frequent_label",)),
    Break("tiny_transformers/common/insides.py", 'extra="forbid"', 'extra="ignore"',
          "a file of another form is read as ours", "tiny_transformers/evaluation/test_interpret.py",
          ("test_a_file_that_is_not_as_it_should_be_is_none",)),
    Break("tiny_transformers/evaluation/interpret/heads.py", "keys.clamp(min=2)", "keys.clamp(min=3)",
          "two keys count as three", "tiny_transformers/evaluation/test_interpret.py",
          ("test_figures_of_heads_are_those_of_a_loop_over_queries_and_keys",)),
    Break("tiny_transformers/evaluation/interpret/layers.py", "(one.T @ centred[j]).square()",
          "(one.T @ centred[j]).abs()",
          "products are not squared", "tiny_transformers/evaluation/test_interpret.py",
          ("test_cka_is_that_of_gram_matrices",)),
    Break("tiny_transformers/evaluation/interpret/parts.py", "sums.active == 0", "sums.active != 0",
          "units that are active count as never active", "tiny_transformers/evaluation/test_interpret.py",
          ("test_units_that_never_give_anything_are_never_active",)),
    Break("tiny_transformers/evaluation/interpret/stage.py", "number % stride == 0", "number % stride >= 0",
          "the states of all positions are kept", "tiny_transformers/evaluation/test_interpret.py",
          ("test_of_many_positions_so_many_states_are_kept",)),
    Break("tiny_transformers/evaluation/interpret/texts.py", "ids[:-1] if causal", "ids[:-1] if not causal",
          "a decoder is asked to go on behind the end", "tiny_transformers/evaluation/test_interpret.py",
          ("test_the_stage_reads_its_sentences_as_stories_begin_and_encoders_read_them_whole",)),
    Break("tiny_transformers/evaluation/interpret/watching.py", '"depth", 2) == 1', '"depth", 2) == 2',
          "dense modules have no units", "tiny_transformers/evaluation/test_interpret.py",
          ("test_every_kind_of_model_is_looked_into",)),
    Break("tiny_transformers/evaluation/lambada.py", "math.exp(-float(", "math.exp(float(",
          "a perplexity is one over it", "tiny_transformers/evaluation/test_lambada.py",
          ("test_of_a_model_without_preference_the_perplexity_is_the_vocabulary[decoder]",)),
    Break("tiny_transformers/score.py", '"limit": limit', '"limit": None', "all rows are taken",
          "tiny_transformers/evaluation/test_score.py", ("test_the_command_prints_the_scores_and_writes_them",)),
    Break("tiny_transformers/evaluation/lm_eval_model.py", 'eos = self.start_token == "eos" and',
          'eos = self.start_token != "eos" and', "texts begin with the other token",
          "tiny_transformers/evaluation/test_lm_eval.py",
          ("test_the_start_token_stands_before_the_context[bos-before0-decoder]",)),
    Break("tiny_transformers/evaluation/masked.py", "carried(~real, x.device)", "carried(real, x.device)",
          "padding is what an encoder sees", "tiny_transformers/evaluation/test_scoring.py",
          ("test_padding_does_not_matter",)),
    Break("tiny_transformers/evaluation/minimal_pairs.py", "equal=len(sampled) - len(different)",
          "equal=len(sampled) + len(different)", "all pairs are counted as left out",
          "tiny_transformers/evaluation/test_blimp.py",
          ("test_pairs_that_cannot_be_scored_are_left_out_and_counted[decoder]",)),
    Break("tiny_transformers/common/pairs.py", "return self.good > self.bad", "return self.good >= self.bad",
          "a tie counts for a model", "tiny_transformers/evaluation/test_pairs.py",
          ("test_pairs_are_compared_one_by_one_and_a_tie_is_wrong",)),
    Break("tiny_transformers/common/pairs.py", '"only_a": a & ~b', '"only_a": a | ~b',
          "a model alone has more right than it has", "tiny_transformers/evaluation/test_pairs.py",
          ("test_pairs_are_compared_one_by_one_and_a_tie_is_wrong",)),
    Break("tiny_transformers/evaluation/scoring.py", "logits[row[highest]].argmax(1) == goal",
          "logits[row[highest]].argmax(1) != goal", "a greedy answer counts as none",
          "tiny_transformers/evaluation/test_scoring.py",
          ("test_of_equally_likely_tokens_one_is_greedy", "test_greedy_is_what_the_model_would_have_written")),
    Break("tiny_transformers/evaluation/scoring.py", ".sum(1).log() + highest", ".sum(1).log() - highest",
          "log-probabilities are none", "tiny_transformers/evaluation/test_scoring.py",
          ("test_log_probabilities_of_tokens_are_differences_of_continuations",
           "test_what_differs_from_one_sentence_at_a_time_is_rounding")),
    Break("tiny_transformers/evaluation/speed.py", "sum(taken) < SECONDS", "sum(taken) > SECONDS",
          "slow passes go on and quick ones are few", "tiny_transformers/evaluation/test_speed.py",
          ("test_slow_passes_are_fewer_but_three_at_least",)),
    Break("tiny_transformers/evaluation/speed.py", "return ordered[rank - 1], ordered[-rank]",
          "return ordered[rank + 1], ordered[-rank]", "an interval holds the median less often than it says",
          "tiny_transformers/evaluation/test_speed.py", ("test_the_interval_holds_the_median_as_often_as_it_says",)),
    Break("tiny_transformers/evaluation/superglue.py", "max(by_chance) <= UNINFORMED", "max(by_chance) >= UNINFORMED",
          "a model with one answer for all is not flagged", "tiny_transformers/evaluation/test_superglue.py",
          ("test_one_seed_that_answers_one_class_is_enough_to_be_flagged[decoder]",)),
    # -- the rooms that long modules opened into
    Break("cluster/report/score_tables.py", 'configs[row["run_id"]].seed,', 'configs[row["run_id"]].recipe,',
          "the summary has something else as seed", "cluster/report/test_report.py",
          ("test_the_summary_has_seed_family_and_the_settings_in_which_runs_differ",)),
    Break("cluster/report/paper.py", "order = max if", "order = min if", "the worst figure is bold",
          "cluster/report/test_paper.py",
          ("test_a_cell_has_the_mean_half_of_its_interval_a_mark_and_the_best_is_bold",)),
    Break("cluster/report/headlines.py", "each.advantage < 0), first)", "each.advantage > 0), first)",
          "what beats the baseline is said to be worse", "cluster/report/test_headlines.py",
          ("test_a_line_says_what_beats_the_baseline_what_is_worse_or_that_nothing_can_be_told",)),
    Break("cluster/cli/completion.py", '["COMP_CWORD"]) + 1', '["COMP_CWORD"]) + 2',
          "a short command completes another word", "cluster/cli/test_meant.py",
          ("test_the_shell_completes_options_and_what_they_take_of_short_commands_too",)),
    Break("cluster/yaml_text.py", "if node.style in PLAIN", "if node.style not in PLAIN",
          "042 is read as 34", "cluster/test_yaml_text.py",
          ("test_what_would_be_read_as_something_else_is_refused_by_its_line",)),
    Break("cluster/cli/looking.py", "if not file.exists():", "if file.exists():", "kept scores are said to be missing",
          "cluster/cli/test_cli.py", ("test_two_runs_are_compared_by_their_kept_scores",)),
    Break("cluster/cli/running.py", "train.eval_stories=8", "train.eval_stories=9",
          "a probe validates on other stories", "cluster/cli/test_cli.py",
          ("test_a_probe_of_stories_and_streams_validates_on_a_little_of_either",)),
    Break("cluster/cli/starting.py", "if as_json:", "if not as_json:", "--json shows a table",
          "cluster/cli/test_cli.py", ("test_models_lists_each_distinct_model_with_its_exact_count",)),
    Break("cluster/files/documents.py", "__ else name", "__ else newer",
          "a field is called as one of another file was", "cluster/files/test_documents.py",
          ("test_a_field_that_an_earlier_version_named_otherwise_is_read_by_its_name_of_today",)),
    Break("cluster/files/fields.py", "if around else str(name)", "if name else str(name)",
          "what is wrong in a file is told by no place", "cluster/files/test_documents.py",
          ("test_what_is_wrong_is_told_by_its_place",)),
    Break("cluster/files/folders.py", 'self.path / "smoke"', 'self.path / "runs"',
          "smoke runs stand beside the others", "cluster/cli/test_cli.py", ("test_smoke_runs_are_kept_apart",)),
    Break("cluster/files/whole_files.py", "log_lines(file.read())[-lines:]", "log_lines(file.read())[lines:]",
          "the end of a log is its beginning", "cluster/files/test_folders.py", ("test_a_tail_is_the_end_of_a_log",)),
    Break("cluster/ledger/schema.py", "default=0) < DISTINCTIVE", "default=0) > DISTINCTIVE",
          "scores of few rows count as distinctive", "cluster/ledger/test_ledger.py",
          ("test_scores_of_few_rows_and_times_may_be_the_same",)),
    Break("cluster/manifest/checking.py", "if part not in tags.get(index, ())", "if part in tags.get(index, ())",
          "a mistake is told by the names of unions", "cluster/manifest/test_manifest.py",
          ("test_a_mistake_is_named_with_its_place_its_value_and_the_nearest_known_word",)),
    Break("cluster/manifest/loading.py", 'f"{prefix}{key}", f"{where}.{key}"', 'f"{prefix}{key}", f"{where}"',
          "a mistake is not told by its key", "cluster/manifest/test_manifest.py",
          ("test_a_mistake_is_named_with_its_place_its_value_and_the_nearest_known_word",)),
    Break("cluster/ledger/recording.py", "others.pop(study.overrides", "others.get(study.overrides",
          "what a manifest no longer has is shown twice", "cluster/ledger/test_ledger.py",
          ("test_a_study_of_one_name_in_two_manifests_is_said_and_an_edited_one_is_not",)),
    Break("cluster/plan/expansion.py", "(*known.studies, study)", "(*known.studies, model)",
          "a run that studies share is of one of them", "cluster/plan/test_plan.py",
          ("test_a_run_of_two_studies_is_planned_once",)),
    Break("cluster/plan/naming.py", "train.max_steps == USUAL_STEPS", "train.max_steps != USUAL_STEPS",
          "a run's name says how long it trains where that is usual", "cluster/plan/test_plan.py",
          ("test_a_name_shows_the_true_parameter_count",)),
    Break("cluster/files/records.py", "identity(other.config)", "identity(self.config)",
          "a student waits for itself", "cluster/manifest/test_teachers.py",
          ("test_a_teacher_is_a_run_of_its_own_that_all_students_and_another_study_share",)),
    Break("cluster/submit/others.py", '!= "completed":', '== "completed":',
          "a student is submitted before its teacher is trained", "cluster/submit/test_others.py",
          ("test_a_student_waits_until_its_teacher_is_trained",)),
    Break("tiny_transformers/layers/distillation.py", ".mul_((1 - alpha) * temperature)",
          ".mul_((1 - alpha) / temperature)",
          "a student learns the less from its teacher the softer that speaks",
          "tiny_transformers/training/test_teaching.py",
          ("test_the_loss_and_its_gradients_are_those_of_a_few_lines[0.5-2.0-True-100]",)),
    Break("tiny_transformers/training/teaching.py", "model.eval()", "model.train()",
          "a teacher teaches with dropout", "tiny_transformers/training/test_teaching.py",
          ("test_a_step_learns_from_what_the_teacher_says_where_there_is_a_label[roberta]",)),
    Break("cluster/files/identity.py", "hexdigest()[:12]", "hexdigest()[:11]", "ids are other ones",
          "cluster/plan/test_plan.py", ("test_ids_are_those_of_the_whole_canonical_settings_and_do_not_change",)),
    Break("cluster/files/identity.py", "if type(value) is int", "if type(value) is str",
          "words of a model have no quotes", "cluster/files/test_identity.py",
          ("test_an_id_is_that_of_all_settings_whatever_was_written_before[0]",)),
    Break("tiny_transformers/settings/sections.py", "known[2] == more", "known[2] != more",
          "what follows from other arguments is taken for that of these", "tiny_transformers/settings/test_sections.py",
          ("test_what_is_kept_is_that_of_the_last_sections_and_arguments",)),
    Break("tiny_transformers/settings/stage/kind.py", "if self.by_size else", "if self.keeps_rows else",
          "the size of the data changes no plan", "cluster/plan/test_plan.py",
          ("test_work_goes_by_the_size_of_the_data_that_is_there_and_by_what_is_used_of_it",)),
    Break("cluster/report/processes.py", "runs < MANY", "runs > MANY", "few runs have other processes, and many none",
          "cluster/report/test_processes.py", ("test_a_report_of_few_runs_has_no_other_process",)),
    Break("cluster/report/history.py", "found[-1][1] + pause", "found[-1][1] - pause", "a pack waits between stages",
          "cluster/report/test_timeline.py",
          ("test_a_pack_waits_until_it_begins_and_works_until_its_last_attempt_ends",)),
    Break("cluster/report/figures/timeline.py", 'bool(each["on_gpu"]) == on_gpu', 'bool(each["on_gpu"]) != on_gpu',
          "hours of CPUs are called hours of GPUs", "cluster/report/test_timeline.py",
          ("test_hours_for_results_and_those_that_were_lost_are_told",)),
    Break("cluster/report/figures/heat_maps.py", "(values[0] - values[1])", "(values[0] + values[1])",
          "differences are sums", "cluster/report/test_figures.py",
          ("test_cells_are_differences_to_the_baseline_in_points",)),
    Break("cluster/report/figures/heat_maps.py", "found.low > 0 or found.high < 0", "found.low > 0 and found.high < 0",
          "every cell is within noise", "cluster/report/test_heat_maps.py",
          ("test_a_cell_is_pale_where_its_interval_over_seeds_has_zero_in_it",)),
    Break("cluster/report/figures/learned_functions.py", "len(numbers) != count or", "len(numbers) == count or",
          "whole functions are passed over", "cluster/report/test_figures.py",
          ("test_of_many_layers_some_are_shown_and_the_caption_says_so",)),
    Break("cluster/report/figures/printing.py", "self.svg.height - y", "self.svg.height + y",
          "the texts of an SVG stand below it", "cluster/report/test_printing.py",
          ("test_the_svg_is_matplotlibs_own",)),
    Break("cluster/report/figures/printing.py", "-math.sin(turn)", "+math.sin(turn)",
          "a slanted text of a PDF is squeezed", "cluster/report/test_printing.py",
          ("test_the_pdf_is_matplotlibs_own_but_for_a_64th_of_a_point",)),
    Break("cluster/report/figures/sheets.py", "y - self.HALF", "y + self.HALF", "figures stand above their cells",
          "cluster/report/test_heat_maps.py", ("test_the_figures_of_cells_stand_where_a_text_of_its_own_would",)),
    Break("cluster/report/run_tables.py", "run.config.seed == DEFAULT_SEED", "run.config.seed <= DEFAULT_SEED",
          "settings stand in another order", "cluster/report/test_run_tables.py",
          ("test_runs_that_differ_in_their_seed_have_each_its_own",)),
    Break("cluster/report/frames.py", "and all(line[0]", "or all(line[0]", "two torn lines are one that is whole",
          "cluster/report/test_frames.py", ("test_torn_lines_are_read_as_if_each_stood_alone",)),
    Break("cluster/report/figures/sheets.py", "return text if float(", "return text if not float(", "a zero has a sign",
          "cluster/report/test_figures.py", ("test_signs_are_of_what_is_shown",)),
    Break("cluster/report/figures/styles.py", "in known[-WORST:]", "in known[~WORST:]",
          "one more of the worst has a colour", "cluster/report/test_figures.py",
          ("test_of_many_variants_the_baseline_the_best_and_the_worst_are_in_colour",)),
    Break("cluster/report/figures/weight_sharing.py", "if key not in OF_LAYOUT", "if key in OF_LAYOUT",
          "models that differ in more than layout are compared", "cluster/report/test_figures.py",
          ("test_sharing_has_one_line_and_the_models_that_are_like_the_baseline",)),
    Break("cluster/report/wording.py", "'better' if found.advantage > 0", "'better' if found.advantage < 0",
          "the worse one is called better", "cluster/report/test_comparison.py",
          ("test_too_few_seeds_have_no_p_value_but_the_number_that_is_needed",)),
    Break("cluster/status/reading.py", 'known == {"completed"}', 'known != {"completed"}', "what waits is completed",
          "cluster/status/test_status.py", ("test_status_reads_well_at_this_width",)),
    Break("cluster/status/showing.py", "return not console.encoding.lower()", "return console.encoding.lower()",
          "a plain terminal gets what it cannot show", "cluster/status/test_status.py",
          ("test_a_pipe_gets_no_control_codes_and_a_plain_terminal_ascii",)),
)
# fmt: on


# -- the plugin -------------------------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    for name in PACKAGES:
        found = importlib.util.find_spec(name)
        if not (found and found.origin and Path(found.origin).is_relative_to(config.rootpath)):
            raise pytest.UsageError(f"{name} is not that of {config.rootpath}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    why = ""
    if report.outcome == "failed" and call.excinfo:
        why = "" if _is_assertion(call.excinfo, item.config.rootpath) else call.excinfo.exconly().splitlines()[0]
    with open(os.environ[ENDS], "a", encoding="utf-8") as file:
        file.write(json.dumps({"test": item.nodeid, "phase": call.when, "outcome": report.outcome, "why": why}) + "\n")
    return report


def _is_assertion(excinfo: pytest.ExceptionInfo[BaseException], root: Path) -> bool:
    """Return whether a test has asserted something that is not so. An `assert` of the code's own is an error like any
    other, and a test that was too slow has asserted nothing."""
    if isinstance(excinfo.value, pytest.fail.Exception):
        return "pytest-timeout" not in str(excinfo.value)
    if not isinstance(excinfo.value, AssertionError):
        return False
    place = Path(excinfo.traceback[-1].path)
    return not any(place.is_relative_to(root / name) for name in PACKAGES)


# -- trying them ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class End:
    """How one phase of a test ended."""

    test: str
    phase: str  # setup, call, teardown
    outcome: str
    why: str  # it failed, unless that was an assertion


@dataclass(frozen=True)
class Tried:
    """What came of a break, or of none."""

    good: bool
    verdict: str
    seconds: float


def copy_tree(folder: Path) -> Path:
    """Copy the files of this checkout as they are now, but for what git ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


class Copy:
    """A copy of the checkout, with a process in it that runs tests."""

    def __init__(self, folder: Path) -> None:
        self.tree = copy_tree(folder / "checkout")
        self._ends, self._said = folder / "ends", folder / "said"
        path = f"{self.tree}{os.pathsep}{self.tree / 'tests'}"
        # Plugins that happen to be installed may take longer to load than the tests take.
        told = {
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            ENDS: str(self._ends),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", "import breaks; breaks.serve()", str(self._said)],
            cwd=self.tree, env=os.environ | told, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, tests: Sequence[str]) -> tuple[list[End], str]:
        """Run these tests. Returns how they ended, and the last that pytest said."""
        assert self._process.stdin
        assert self._process.stdout
        self._ends.write_text("")
        print(json.dumps(list(tests)), file=self._process.stdin, flush=True)
        if not self._process.stdout.readline():
            raise RuntimeError("the process that runs tests has died")
        said = self._said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        wrong = [line for line in said if line.startswith("ERROR")]
        ends = [End(**json.loads(line)) for line in self._ends.read_text(encoding="utf-8").splitlines()]
        return ends, ["", *said, *wrong][-1]

    def close(self) -> None:
        self._process.communicate()


def serve() -> None:
    """Run the tests that each line of the input names, in a fork each; a line of the output says that they have ended.

    Nothing of ours may be loaded here, for it would be loaded unbroken."""
    for name in LOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    assert not sys.modules.keys() & set(PACKAGES)
    options = ["-q", "--tb=no", "-p", "breaks", "-p", "pytest_timeout", "-o", "addopts=--import-mode=importlib"]
    # A fork does not clear up behind itself: what tests write lies below what is removed in the end.
    options += ["-o", f"timeout={PATIENCE}", "--basetemp", f"{sys.argv[1]}.written"]
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            said = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            null = os.open(os.devnull, os.O_RDONLY)
            for target, descriptor in ((0, null), (1, said), (2, said)):
                os.dup2(descriptor, target)
            code = pytest.main([*options, *json.loads(line)])
            sys.stdout.flush()
            os._exit(code)
        os.waitpid(child, 0)
        print("ended", flush=True)


_moments = itertools.count(1)


@contextmanager
def broken(tree: Path, one: Break) -> Iterator[None]:
    """Have the break in the copy. Python takes compiled code for current by the second and the size of its source, and
    a break may keep the size, so each has a second of its own."""
    path = tree / one.file
    text, stat = path.read_text(encoding="utf-8"), path.stat()
    path.write_text(one.of(text), encoding="utf-8")
    os.utime(path, (stat.st_atime, int(stat.st_mtime) + next(_moments)))
    try:
        yield
    finally:
        path.write_text(text, encoding="utf-8")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def judge(ends: Sequence[End], said: str) -> tuple[bool, str]:
    """Say of the ends of a break's tests whether one has caught it."""
    failed = [end for end in ends if end.outcome == "failed"]
    caught = [end for end in failed if end.phase == "call" and not end.why]
    if caught:
        return True, f"caught by {caught[0].test.removeprefix('tests/')}"
    if failed:
        return False, f"WRONG REASON: {failed[0].test} in {failed[0].phase}: {failed[0].why or 'an assertion'}"
    if any(end.phase == "call" for end in ends):
        return False, "NOT CAUGHT"
    return False, f"WRONG REASON: no test ran: {said}"


def try_break(copy: Copy, one: Break) -> Tried:
    began = time.monotonic()
    with broken(copy.tree, one):
        ends, said = copy.run(one.tests)
    good, verdict = judge(ends, said)
    return Tried(good, f"{one.file}: {one.what}: {verdict}", time.monotonic() - began)


def try_unbroken(copy: Copy, tests: Sequence[str]) -> Tried:
    """Without a break all must pass; one that is skipped catches nothing."""
    began = time.monotonic()
    ends, said = copy.run(tests)
    passed = {end.test for end in ends if end.phase == "call" and end.outcome == "passed"}
    other = {end.test: end for end in ends if end.outcome != "passed"}
    wrong = [f"{end.test} {end.outcome}: {end.why}".rstrip(": ") for end in other.values()]
    heard = {name for end in ends for name in (end.test, end.test.partition("[")[0])}
    wrong += [f"{test} did not run" for test in tests if test not in heard] if ends else [said]
    verdict = f"unbroken: {len(passed)} tests pass" + "".join(f"\n    {line}" for line in wrong)
    return Tried(not wrong, verdict, time.monotonic() - began)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make each break, and see that its tests catch it.")
    parser.add_argument("words", nargs="*", metavar="WORD", help="only breaks whose file, words or tests have it")
    parser.add_argument("-j", type=int, default=2, metavar="N", help="so many at a time, each in a copy of its own (2)")
    options = parser.parse_args(arguments)
    chosen = [
        one
        for one in BREAKS
        if not options.words or any(word in " ".join((one.file, one.what, *one.tests)) for word in options.words)
    ]
    try:
        for one in chosen:
            one.of((ROOT / one.file).read_text(encoding="utf-8"))
    except ValueError as error:  # before any work
        parser.error(str(error))
    began, tests = time.monotonic(), list(dict.fromkeys(test for one in chosen for test in one.tests))
    with tempfile.TemporaryDirectory(prefix="breaks.") as folder, ThreadPoolExecutor(options.j) as pool:
        copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for number in range(options.j):
            copies.put(Copy(Path(folder).resolve() / str(number)))

        def in_a_copy(one: Break | None) -> Tried:
            copy = copies.get()
            try:
                return try_break(copy, one) if one else try_unbroken(copy, tests)
            finally:
                copies.put(copy)

        waiting = [pool.submit(in_a_copy, one) for one in (None, *chosen)]
        found = []
        for future in as_completed(waiting):
            found.append(future.result())
            print(f"{found[-1].seconds:5.1f} s  {found[-1].verdict}", flush=True)
        for _ in range(options.j):
            copies.get().close()
    caught = sum(future.result().good for future in waiting[1:])
    unbroken = "all their tests pass without them" if waiting[0].result().good else "their tests FAIL without them"
    print(f"{caught} of {len(chosen)} breaks are caught, and {unbroken}; {time.monotonic() - began:.0f} s.")
    return 0 if all(each.good for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
