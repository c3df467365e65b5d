import re
import subprocess
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from waiting import wait_for

from cluster.errors import InputError, SlurmSilent, SubmitError
from cluster.files import documents, processes
from cluster.files.folders import OutputRoot
from cluster.ledger import recording
from cluster.ledger.database import Ledger
from cluster.plan import choosing, cost, packing
from cluster.plan.retry import Adjustment
from cluster.sites import profiles
from cluster.slurm import environment
from cluster.submit import launch
from tiny_transformers.common.provenance import decisive_versions

RECORDED = Path(__file__).parent / "delftblue.sbatch"


def arrange(runs, where):
    work = [choosing.item(run, run.stages, {}, cost.Measured(where.flops)) for run in runs]
    return packing.arrange(work, {run.id: run for run in runs}, where)


def test_the_script_for_delftblue_is_the_recorded_one(runs):
    where = profiles.load("delftblue", account="education-eemcs-courses-cse3000").model_copy(
        update={"python": "/venv/bin/python", "runs_per_pack": 4}
    )
    (array,) = arrange(runs, where)
    text = launch.script(array, where, OutputRoot(Path("/scratch/me/output")), "cafe", Path("/scratch/me/slurm_logs"))
    assert text == RECORDED.read_text(), f"if the change is meant, it goes into {RECORDED.name}"


def test_versions_of_libraries_are_told_to_jobs_of_another_python_but_not_of_a_container(runs):
    known = {"libraries": decisive_versions()}
    for changed, told in (({}, known), ({"python": "/venv/bin/python"}, known), ({"container": "image.sif"}, {})):
        where = SLURM.model_copy(update=changed)
        array = arrange(runs, where)[0]
        intent = launch.describe(array, where, OutputRoot(Path("/output")), "cafe", ORIGIN)
        assert {key: intent[key] for key in intent if key == "libraries"} == told


def options_of(runs, where, tmp_path, **resources):
    """What sbatch is told for these runs at this site: option -> value."""
    (array,) = arrange(runs, where)
    array = replace(array, resources=replace(array.resources, **resources))
    text = launch.script(array, where, OutputRoot(tmp_path / "output"), "cafe", tmp_path / "logs")
    told = [line.removeprefix("#SBATCH --").partition("=") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert len({option for option, _, _ in told}) == len(told)
    return {option: value for option, _, value in told}


def test_options_of_a_profile_are_added_replace_what_they_may_and_are_left_out_when_null(runs, tmp_path):
    where = SLURM.model_copy(update={"gpus": 1, "runs_per_pack": 9})
    plain = options_of(runs, where, tmp_path)
    assert "wckey" not in plain
    asked = {"wckey": None, "exclusive": False, "nice": True, "gpus_per_task": "v100:1", "exclude": "n1"}
    where = profiles.Site.model_validate({**where.model_dump(), "sbatch": asked})
    changed = {"nice": "", "gpus-per-task": "v100:1", "exclude": "n2,n1"}
    assert options_of(runs, where, tmp_path, exclude=("n2",)) == {**plain, **changed}


def test_in_a_container_delftblues_jobs_see_their_folders_and_have_what_the_prologue_has_set(runs, tmp_path):
    image = str(tmp_path / "my image.sif")
    where = profiles.load("delftblue", account="a").model_copy(
        update={"container": image, "python": "/opt/python", "binds": ("/scratch/me/code:/code",), "runs_per_pack": 9}
    )
    (array,) = arrange(runs, where)
    root, logs, data = OutputRoot(tmp_path / "out put"), tmp_path / "it's", tmp_path / "data"
    (logs / "cafe").mkdir(parents=True)
    (root.code("CODE") / "jobs").mkdir(parents=True)
    text = launch.script(array, launch.with_data(where, data), root, "cafe", logs)
    stand_ins = (
        'module() { :; }; srun() { while [ "$1" != apptainer ]; do shift; done; printf \'%s\\0\' "$@" "$HF_HOME"; }'
    )
    told = subprocess.run(["bash", "-c", f"{stand_ins}\n{text}"], capture_output=True, text=True, check=True).stdout
    binds = [word for folder in (root.path, logs, "/scratch/me/code:/code", data) for word in ("--bind", str(folder))]
    started = ["apptainer", "exec", "--nv", *binds, image, "/opt/python", "-u", "-m", "submitit.core._submit"]
    assert told.split("\0")[:-1] == [*started, str(logs / "cafe"), str(root.cache / "huggingface")]
    assert launch.describe(array, where, root, "cafe", ORIGIN)["requeues"] == 0
    with pytest.raises(InputError, match="--output-root .*a comma"):
        launch.check(where, OutputRoot(tmp_path / "a,b"), logs)
    with pytest.raises(InputError, match="--data-root .*a comma"):
        launch.with_data(where, tmp_path / "a:b")


ODD = """$(touch RAN) `touch RAN` "; touch RAN; " '; touch RAN; ' \\ # %j"""


def test_a_job_script_runs_no_word_of_a_profile(runs, tmp_path):
    lines = f"{ODD}\ntouch RAN\n\ttouch RAN"
    asked = {
        "modules": (ODD,),
        "environment": {"A": lines},
        "account": ODD,
        "partition": ODD,
        "sbatch": {"constraint": ODD},
        "runs_per_pack": 9,
    }
    where = profiles.Site.model_validate(SLURM.model_dump() | asked)
    (array,) = arrange(runs, where)
    root = OutputRoot(tmp_path / ODD.replace("/", ""))
    (root.code("CODE") / "jobs").mkdir(parents=True)
    text = launch.script(array, where, root, "cafe", tmp_path / "lo'gs $(touch RAN)")
    (tmp_path / "lo'gs $(touch RAN)" / "cafe").mkdir(parents=True)
    before, _, _ = text.partition("srun ")
    module = 'module() { printf "%s\\0" "$@"; false; }'
    code = f"{module}; unset SLURM_ARRAY_JOB_ID; SLURM_JOB_ID=7\n{before}\nprintf '%s' \"$A\""
    done = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"load\0{ODD}\0{where.environment['A']}"
    assert ODD in done.stderr
    assert not (tmp_path / "RAN").exists()
    assert sorted(path.name for path in tmp_path.glob("*/cafe/*")) == ["7_submitted.pkl"]


@pytest.mark.parametrize("name", ["50%j", "a\\b", "a\nb", "caf\udce9", "\u2028"])
def test_a_folder_of_logs_that_slurm_would_take_for_a_pattern_is_refused(ledger, root, runs, tmp_path, sbatch, name):
    sbatch("echo 41")
    with pytest.raises(InputError, match="--log-dir .*Nothing was submitted"):
        submit(ledger, root, runs, SLURM, tmp_path / name)
    assert (ledger.submissions(), root.submission_ids()) == ([], set())


def test_an_output_root_may_have_any_name_that_can_be_printed(ledger, runs, tmp_path, sbatch):
    sbatch("echo 41")
    for name in ("50%j %41?#", "a\\b", "größe '\"", "-x", "[red]"):
        assert submit(ledger, OutputRoot(tmp_path / name), runs, SLURM, tmp_path) == ["41", "41"]
    with pytest.raises(InputError, match="--output-root .*Nothing was submitted"):
        submit(ledger, OutputRoot(tmp_path / "a\nb"), runs, SLURM, tmp_path)


def submit(ledger, root, runs, where, tmp_path):
    recording.record_runs(ledger, root, runs, "2026-01-01")
    return launch.submit(ledger, root, arrange(runs, where), where, ORIGIN, tmp_path / "logs")


ORIGIN = launch.Origin("submit", "2026-01-01", None, {"digest": "c0de"}, None)
SLURM = profiles.Site(name="test", scheduler="slurm", runs_per_pack=3, max_array_size=2)


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A stand-in for sbatch, and an srun so that submitit believes in SLURM."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def write(script):
        for name, text in (("sbatch", script), ("srun", "exit 0")):
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)

    return write


def test_without_sbatch_nothing_is_submitted_or_recorded(ledger, root, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="there is no sbatch on this machine"):
        submit(ledger, root, runs, SLURM, tmp_path)
    assert ledger.submissions() == []


def test_a_refusal_gives_sbatchs_words_and_keeps_what_was_accepted(ledger, root, runs, tmp_path, sbatch):
    once = tmp_path / "once"
    sbatch(f"[ -e {once} ] && {{ echo 'sbatch: error: Invalid account' >&2; exit 1; }}; touch {once}; "
           "echo 41")  # fmt: skip
    with pytest.raises(SubmitError, match=r"sbatch refused array 2 of 2 .*Invalid account.*array 1 is submitted"):
        submit(ledger, root, runs, SLURM, tmp_path)
    assert sorted(row["state"] for row in ledger.submissions()) == ["refused", "submitted"]
    status = [run["stages"]["pretrain"]["status"] for run in ledger.overview()]
    assert (status.count("submitted"), status.count("eligible")) == (6, 1)


def test_no_answer_leaves_the_intent_to_be_looked_up(ledger, root, runs, tmp_path, sbatch):
    sbatch("echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1")
    with pytest.raises(SlurmSilent, match="array 1 of 2 .*nothing was submitted.*run the command again"):
        submit(ledger, root, runs, SLURM, tmp_path)
    (row,) = ledger.submissions()
    assert row["state"] == "intended"
    assert SlurmSilent.exit_code == 3


def test_an_sbatch_that_did_not_get_as_far_as_the_controller_need_not_be_waited_for(
    ledger, root, runs, tmp_path, sbatch
):
    """As on a cluster whose nodes have their configuration from the controller, which is away."""
    sbatch("echo 'sbatch: error: fetch_config: DNS SRV lookup failed' >&2; "
           "echo 'sbatch: error: _establish_config_source: failed to fetch config' >&2; "
           "echo 'sbatch: fatal: Could not establish a configuration source' >&2; exit 1")  # fmt: skip
    with pytest.raises(SlurmSilent, match="configuration source"):
        submit(ledger, root, runs, SLURM, tmp_path)
    (row,) = ledger.submissions()
    assert documents.read(root.submission(row["submission_id"]).answer, documents.AnswerFile)["reached"] is False


def test_a_wrong_prologue_stops_before_the_first_intent(ledger, root, runs, tmp_path, sbatch):
    sbatch("exit 1")
    template = tmp_path / "mine.sh.j2"
    template.write_text("module load {{ modul }}")
    where = SLURM.model_copy(update={"prologue": str(template)})
    with pytest.raises(InputError, match="'modul' is undefined"):
        submit(ledger, root, runs, where, tmp_path)
    assert ledger.submissions() == []


def test_a_users_prologue_may_extend_ours(root, tmp_path):
    template = tmp_path / "mine.sh.j2"
    template.write_text("{% extends 'slurm.sh.j2' %}{% block site %}module load {{ modules[0] | quote }}{% endblock %}")
    lines = launch.prologue(SLURM.model_copy(update={"prologue": str(template), "modules": ("a b",)}), root)
    assert lines[-1] == "module load 'a b'"
    assert any("HF_HUB_OFFLINE=1" in line for line in lines)


@pytest.mark.parametrize(
    "script",
    [
        "echo Submitted, somehow",
        "echo 'sbatch: warning: odd' >&2; echo 'job seventeen'",
        "echo Killed >&2; exit 137",
        "exit 1",
    ],
)
def test_an_answer_that_is_not_sbatchs_refusal_is_none(ledger, root, runs, tmp_path, sbatch, script):
    sbatch(script)
    with pytest.raises(SlurmSilent):
        submit(ledger, root, runs, SLURM, tmp_path)
    assert [row["state"] for row in ledger.open_submissions()] == ["intended"]


@pytest.mark.parametrize("words", ["printf 'Welcome\\n--> ok\\n41\\n'", "printf 'caf\\351\\n41\\nBye\\n\\n'"])
def test_a_banner_around_the_id_is_passed_over(ledger, root, runs, tmp_path, sbatch, words):
    sbatch(words)
    assert submit(ledger, root, runs, SLURM, tmp_path) == ["41", "41"]


@pytest.mark.parametrize(
    ("ours", "error", "state"),
    [("gpu", None, "submitted"), ("cpu", SubmitError, "refused"), ("", SlurmSilent, "intended")],
)
def test_a_job_that_went_to_another_cluster_is_refused(ledger, root, runs, tmp_path, sbatch, ours, error, state):
    sbatch("echo '41;gpu'")
    (tmp_path / "bin" / "scontrol").write_text(f"#!/bin/sh\n[ '{ours}' ] && echo 'ClusterName = {ours}'\n")
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    with pytest.raises(error, match="gpu") if error else nullcontext():
        submit(ledger, root, runs, SLURM, tmp_path)
    assert ledger.submissions()[0]["state"] == state


def test_an_id_of_an_sbatch_that_failed_is_no_refusal_and_no_job(ledger, root, runs, tmp_path, sbatch):
    sbatch("echo 41; echo 'sbatch: error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SlurmSilent, match="exit code 1 after it had answered 41"):
        submit(ledger, root, runs, SLURM, tmp_path)
    assert not root.submission(ledger.submissions()[0]["submission_id"]).answer.exists(), "the controller was reached"


def test_a_submission_that_asks_for_another_cluster_is_refused_before_its_intent(ledger, root, runs, tmp_path, sbatch):
    sbatch("echo 41")
    where = SLURM.model_copy(update={"sbatch": {"clusters": "gpu"}})  # as an older submission has it
    with pytest.raises(InputError, match="sbatch.clusters: jobs would go to gpu"):
        submit(ledger, root, runs, where, tmp_path)
    assert ledger.submissions() == []


@pytest.mark.parametrize(
    ("options", "line"),
    [({}, None), ({"wckey": None}, None), ({"wckey": "mine"}, "#SBATCH --wckey=mine"), ({"requeue": None}, None)],
)
def test_an_option_that_nobody_asked_for_is_left_out(root, runs, tmp_path, options, line):
    where = SLURM.model_copy(update={"sbatch": options})
    text = launch.script(arrange(runs, where)[0], where, root, "cafe", tmp_path)
    name = next(iter(options), "wckey")
    assert [each for each in text.splitlines() if f"--{name}" in each] == ([line] if line else [])


def test_whose_jobs_they_are_and_what_is_done_again_is_said_in_the_intent(ledger, root, runs, tmp_path, sbatch):
    sbatch("echo 41")
    submit(ledger, root, runs[:1], SLURM, tmp_path)
    (row,) = ledger.submissions()
    assert row["user"] == environment.user()
    ledger.put_attempt(runs[0].id, "pretrain", 1, status="completed")
    for stage in runs[0].stages[:2]:
        root.run(runs[0].id).attempt(stage, 1).path.mkdir(parents=True)
    work = [choosing.item(runs[0], runs[0].stages, ledger.states()[runs[0].id], cost.Measured(1e12))]
    launch.submit(ledger, root, packing.arrange(work, {runs[0].id: runs[0]}, SLURM), SLURM, ORIGIN, tmp_path / "logs")
    (other,) = ledger.submission_ids() - {row["submission_id"]}
    both = row["submission_id"], other
    intents = [documents.read(root.submission(each).submission, documents.Intent) for each in both]
    assert [intent["packs"][0][0].get("done") for intent in intents] == [None, {"pretrain": 1}]


def test_a_local_pack_is_not_the_job_in_whose_shell_it_was_submitted(ledger, root, runs, tmp_path, monkeypatch):
    for name, value in {"SLURM_JOB_ID": "17", "SLURMD_NODENAME": "gpu001", "SLURM_RESTART_COUNT": "2"}.items():
        monkeypatch.setenv(name, value)
    where = profiles.Site(name="here", scheduler="local", python="/bin/true")
    prologue = tmp_path / "mine.sh.j2"
    prologue.write_text(f"env > {tmp_path}/seen; exit 0")
    where = where.model_copy(update={"prologue": str(prologue)})
    (job,) = submit(ledger, root, runs[:1], where, tmp_path)
    wait_for(lambda: (tmp_path / "seen").exists() and "PATH=" in (tmp_path / "seen").read_text())
    assert "SLURM" not in (tmp_path / "seen").read_text().replace("SLURM_CONF", "")
    wait_for(lambda: processes.process_start(int(job.removeprefix("local-"))) is None)


def test_a_local_pack_sees_the_gpus_that_were_chosen_when_it_was_submitted(ledger, root, runs, tmp_path):
    prologue = tmp_path / "mine.sh.j2"
    prologue.write_text(f"""{{% extends "slurm.sh.j2" %}}{{% block site %}}
env > {tmp_path}/seen; exit 0
{{% endblock %}}""")
    where = profiles.Site(name="here", scheduler="local", python="/bin/true", prologue=str(prologue), gpus=1)
    where = where.model_copy(update={"environment": {"CUDA_VISIBLE_DEVICES": "2"}})
    (job,) = submit(ledger, root, runs[:1], where, tmp_path)
    wait_for(lambda: (tmp_path / "seen").exists() and "PATH=" in (tmp_path / "seen").read_text())
    assert re.findall(r"^CUDA_VISIBLE_DEVICES=(.*)$", (tmp_path / "seen").read_text(), re.M) == ["2"]
    wait_for(lambda: processes.process_start(int(job.removeprefix("local-"))) is None)


def test_where_all_nodes_are_excluded_any_will_do(ledger, root, runs, tmp_path, sbatch):
    words = "Batch job submission failed: Requested node configuration is not available"
    sbatch(f"grep -q exclude $2 && {{ echo 'sbatch: error: {words}' >&2; exit 1; }}; echo 41")
    item = choosing.item(runs[0], runs[0].stages, {}, cost.Measured(1e12), Adjustment(exclude=("n1",)))
    arrays = packing.arrange([item], {runs[0].id: runs[0]}, SLURM)
    recording.record_runs(ledger, root, runs[:1], "2026-01-01")
    assert launch.submit(ledger, root, arrays, SLURM, ORIGIN, tmp_path / "logs") == ["41"]


def test_an_intent_that_cannot_be_recorded_leaves_no_file(ledger, root, runs, tmp_path, sbatch, monkeypatch):
    sbatch("echo 41")
    monkeypatch.setattr(Ledger, "record_submission", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        submit(ledger, root, runs, SLURM, tmp_path)
    assert root.submission_ids() == set()


def test_a_pack_tells_apart_what_may_share_the_device_and_what_must_be_alone_on_it(root, runs):
    first, second, *_ = (replace(run, stages=("pretrain", "blimp", "speed")) for run in runs)
    work = [
        choosing.item(first, first.stages, {}, cost.Measured(1e12)),
        choosing.item(second, ["speed"], {}, cost.Measured(1e12)),
    ]
    (array,) = packing.arrange(work, {run.id: run for run in (first, second)}, SLURM)
    (pack,) = launch.describe(array, SLURM, root, "cafe", ORIGIN)["packs"]
    told = [(item["run_id"], [stage for stage, _ in item["stages"]], item.get("alone", False)) for item in pack]
    assert told == [
        (first.id, ["pretrain", "blimp"], False),
        (first.id, ["speed"], True),
        (second.id, ["speed"], True),
    ]
