"""What is named wrongly is answered by what may have been meant; what the shell may complete is offered."""

import sys

import pytest
import shellingham
from typer.testing import CliRunner

from cluster.cli import completion, entry, shared
from cluster.cli.shared import find_runs
from cluster.errors import InputError, did_you_mean
from cluster.manifest import grids, loading
from cluster.sites import profiles


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("width", "Did you mean width_equal or width_growing?"),
        ("widht_equal", "Did you mean width_equal?"),
        ("qual", "Did you mean width_equal?"),
        ("f", "Did you mean f0, f1, f2 and 20 more?"),
        ("#", f"Known: width_equal, width_growing, {', '.join(f'f{index}' for index in range(18))} and 5 more."),
    ],
)
def test_the_beginning_the_spelling_and_a_part_of_a_word_tell_which_was_meant(word, hint):
    assert did_you_mean(word, ["width_equal", "width_growing", *(f"f{index}" for index in range(23))]) == hint


@pytest.fixture
def known(ledger, runs):
    ledger.record_runs(runs, "2026-01-01")
    return runs


def test_a_run_is_found_by_its_id_its_name_and_what_they_alone_begin_with(ledger, known):
    first = known[0]
    for word in (first.id, first.name, first.id[:8], first.name[:-1]):
        assert find_runs(ledger, [word], one=True) == [first.id]


def test_what_several_names_begin_with_is_no_run_and_no_error_lists_them_all(ledger, known):
    begun = [run for run in known if run.name.startswith("gpt-")]
    more = f" and {len(begun) - 3} more" if len(begun) > 3 else ""
    assert len(begun) > 1
    with pytest.raises(InputError, match=rf"^gpt-: may be gpt-.* \({begun[0].id}\).*{more}\. Write more of it\.$"):
        find_runs(ledger, ["gpt-"])
    with pytest.raises(InputError) as refused:
        find_runs(ledger, ["#"])
    assert str(refused.value) == "#: is no run. `status --runs` lists them."
    with pytest.raises(InputError, match="^'': is no run"):
        find_runs(ledger, [""])


def test_an_unknown_study_file_and_site_are_said_in_their_own_words(manifest_file):
    study = next(iter(loading.load(manifest_file).studies))
    with pytest.raises(InputError, match=f"--study {study[:-1]}: there is no such study. Did you mean {study}"):
        grids.cells(loading.load(manifest_file), studies=[study[:-1]])
    near = manifest_file.with_stem(manifest_file.stem[:-1])
    with pytest.raises(InputError, match=f"there is no such file. Did you mean {manifest_file}"):
        loading.load(near)
    with pytest.raises(InputError, match="there is no such file. `tiny-transformers init` writes one"):
        loading.load(manifest_file.parent / "lacking" / "experiments.yaml")
    with pytest.raises(InputError, match="--site delftblu: there is no such site. Did you mean delftblue,"):
        profiles.load("delftblu")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("submit {manifest} --site delftblue-", {"delftblue-small", "delftblue-v100"}),
        ("submit {manifest} --set train.max_s", {"train.max_steps="}),
        ("submit {manifest} --wai", {"--wait"}),
        ("tiny-transformers compare a b --stage bli", {"blimp"}),
        ("tiny-transformers stat", {"status"}),
        ("status --fai", {"--failed"}),
        ("rerun --stage spe", {"speed"}),
    ],
)
def test_the_shell_completes_options_and_what_they_take_of_short_commands_too(
    line, offered, manifest_file, monkeypatch, capsys
):
    program, *words = line.format(manifest=manifest_file).split()
    name = f"_{program.upper().replace('-', '_')}_COMPLETE"
    for variable, value in {"COMP_WORDS": "\n".join([program, *words]), "COMP_CWORD": len(words)}.items():
        monkeypatch.setenv(variable, str(value))
    monkeypatch.setenv(completion.ASKED, "")  # which a short command sets, and this takes back
    monkeypatch.delenv(completion.ASKED)
    monkeypatch.setenv(name, "complete_bash")
    monkeypatch.setattr(sys, "argv", [program])
    begin = {"submit": entry.submit_main, "status": entry.status_main, "rerun": entry.rerun_main}
    with pytest.raises(SystemExit):
        begin.get(program, entry.main)()
    assert set(capsys.readouterr().out.split()) == offered


def test_the_models_of_the_manifest_are_offered(manifest_file):
    known = loading.load(manifest_file).models

    class Context:
        params = {"manifest_path": manifest_file}

    assert completion.models(Context(), "") == list(known)
    Context.params = {"manifest_path": "lacking.yaml"}
    assert completion.models(Context(), "") == []


def test_a_short_command_has_a_script_for_the_shell_of_its_own(monkeypatch):
    monkeypatch.setattr(shellingham, "detect_shell", lambda *_: ("bash", "/bin/bash"))  # there may be none around tests
    shown = CliRunner().invoke(shared.app, ["--show-completion", "bash"], prog_name="submit")
    assert shown.exit_code == 0
