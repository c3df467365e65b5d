"""What becomes of what sbatch refuses, with stand-ins for SLURM's clients: a limit lets the rest through later."""

import os

import pytest

from cluster.errors import SubmitError
from cluster.files import whole_files
from cluster.sites.profiles import Site
from cluster.submit import submitting
from cluster.submit.dispatch import SubmitOptions

SITE = Site(name="far", scheduler="slurm", account="acc", runs_per_pack=1, cpus=4)
HEADING = "JOBID|ARRAY_JOB_ID|ARRAY_TASK_ID|STATE|REASON|NODELIST|ACCOUNT|COMMENT|NAME"
POLICY = (
    "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
)
PARTITION = "Batch job submission failed: Invalid partition name specified"
SBATCH = """id=$(basename "$(dirname "$2")"); last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$2")
number=$((${last:-0} + 1)); echo $number >> asked; calls=$(wc -l < asked)
[ $(($number + $(grep -c PENDING queue))) -le $(cat most) ] || { cat words >&2; exit 1; }
for task in $(seq 0 $((number - 1))); do echo "${calls}_$task|$calls|$task|PENDING|x||acc|$id|tt-$id" >> queue; done
echo $calls"""


class Cluster:
    """A cluster whose account may have so many jobs, of which sacctmgr need not say a word."""

    def __init__(self, folder):
        self.folder = folder
        self.most(0, f"sbatch: error: {POLICY}")
        (folder / "queue").write_text(HEADING + "\n")
        (folder / "asked").touch()
        self.client("sbatch", SBATCH)
        self.client("srun", "exit 0")
        self.client("squeue", "cat queue")
        self.client("sacct", "echo 'JobID|'")
        self.client("scontrol", "exit 1")
        self.reads("")

    def client(self, name, script):
        path = self.folder / name
        path.write_text(f"#!/bin/sh\ncd {self.folder}\n{script}\n")
        path.chmod(0o755)

    def most(self, number, *words):
        """Let so many jobs in, and refuse any more in these words."""
        (self.folder / "most").write_text(str(number))
        (self.folder / "words").write_text("".join(f"{line}\n" for line in words))

    def reads(self, max_submit):
        """Say what sacctmgr tells of how many jobs the account may have."""
        self.client("sacctmgr", f"""case "$*" in
*assoc*) echo 'c|acc|me||||{max_submit}||||';;
*) echo 'x';;
esac""")  # fmt: skip

    @property
    def asked(self):
        """The number of tasks of each array that sbatch was given."""
        return [int(line) for line in (self.folder / "asked").read_text().split()]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()
    return Cluster(tmp_path / "bin")


@pytest.fixture
def where(root, tmp_path):
    return SubmitOptions(root, tmp_path / "logs", yes=True)


@pytest.fixture
def submit(where, runs):
    def submit(site=SITE):
        submitting.submit_missing(where, runs, site, [], None, {"name": "a", "sha256": "b", "text": "c"})

    return submit


@pytest.fixture
def tick(where):
    return lambda: submitting.tick(where, None, None)


LIMITS = (
    "AssocGrpSubmitJobsLimit",
    "AssocMaxSubmitJobLimit",
    "QOSGrpSubmitJobsLimit",
    "QOSMaxSubmitJobPerUserLimit",
    "MaxSubmitJobsPerAccount",
)


@pytest.mark.parametrize(
    "words",
    [
        *([f"sbatch: error: {limit}", f"sbatch: error: {POLICY}"] for limit in LIMITS),
        ["sbatch: lua: checking", "sbatch: error: QOSMaxSubmitJobPerUserLimit", f"sbatch: error: {POLICY}"],
        ["sbatch: error: Batch job submission failed: Resource temporarily unavailable"],
        ["sbatch: error: Batch job submission failed: Unable to create job record, try again"],
        ["sbatch: error: Batch job submission failed: Invalid job array specification"],
    ],
    ids=lambda words: words[-2 if POLICY in words[-1] else -1].rpartition(": ")[2],
)
def test_a_refusal_for_a_limit_or_by_a_busy_controller_is_told_whole_and_the_next_tick_submits_it(
    cluster, root, submit, tick, capsys, words
):
    cluster.most(0, *words)
    submit()
    told = capsys.readouterr().out.split("\n")[-2]
    assert all(line.removeprefix("sbatch: ").removeprefix("error: ") in told for line in words)
    assert "7 packs wait until SLURM takes more. `tick` submits them" in told
    assert len(list((root.path / "requests").iterdir())) == 1
    cluster.most(99)
    assert tick().submitted
    assert cluster.asked == [7, 7]
    assert "Submitted 2" in capsys.readouterr().out
    assert list((root.path / "requests").iterdir()) == []
    tick()
    assert "Nothing to do." in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified"],
        ["sbatch: error: cli_filter: MaxSubmitJobs is 3, but that is not it", f"sbatch: error: {PARTITION}"],
        ["sbatch: error: lua: Unable to contact the licence server, try again", f"sbatch: error: {PARTITION}"],
        ["sbatch: error: QOSMaxCpuPerJobLimit", f"sbatch: error: {POLICY}"],
        ["sbatch: error: AssocGrpBillingMinutes", f"sbatch: error: {POLICY}"],
    ],
    ids=["account", "a plug-in names a limit", "a plug-in has no answer", "size", "budget"],
)
def test_a_refusal_of_another_kind_is_final_and_tick_says_so(cluster, root, submit, tick, capsys, words):
    cluster.most(0, *words)
    whole = "; ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in words)
    with pytest.raises(SubmitError) as refused:
        submit()
    assert f"sbatch refused array 1 of 1 ({whole}); nothing was submitted." in str(refused.value)
    cluster.most(99)
    capsys.readouterr()
    assert not tick().submitted
    assert f"7 runs left alone, since sbatch refused: {whole}. Mend that" in capsys.readouterr().out
    assert (cluster.asked, list((root.path / "requests").iterdir())) == ([7], [])


def test_what_was_accepted_before_a_limit_is_kept_and_the_rest_waits(cluster, ledger, submit, tick, capsys):
    cluster.most(5, "sbatch: error: AssocMaxSubmitJobLimit", f"sbatch: error: {POLICY}")
    submit(SITE.model_copy(update={"max_array_size": 3}))
    told = capsys.readouterr().out
    assert "array 2 of 3 for now (AssocMaxSubmitJobLimit;" in told
    assert "array 1 is submitted and recorded. 4 packs wait" in told
    assert sorted(row["state"] for row in ledger.submissions()) == ["refused", "submitted"]
    cluster.most(99)
    ticked = tick()
    assert (ticked.submitted, ticked.more, cluster.asked) == (True, False, [3, 3, 3, 1])


def test_a_refused_tick_is_tried_again_by_the_next_one_though_no_request_is_left(cluster, root, submit, tick, ledger):
    cluster.most(3, "sbatch: error: AssocMaxSubmitJobLimit", f"sbatch: error: {POLICY}")
    cluster.reads(3)
    submit()
    cluster.reads(7)
    assert not tick().submitted
    for path in (root.path / "requests").iterdir():
        path.unlink()  # as after a `rerun`
    cluster.most(7)
    assert tick().submitted
    assert cluster.asked == [3, 4, 4]
    assert [run["stages"]["pretrain"]["status"] for run in ledger.overview()] == ["submitted"] * 7


UNREAD = "sbatch: error: QOSMaxSubmitJobPerUserLimit", f"sbatch: error: {POLICY}"


def test_a_limit_that_nobody_can_read_is_found_and_kept_to(cluster, submit, tick, capsys):
    cluster.most(2, *UNREAD)
    submit()
    for _ in range(3):
        tick()
    assert cluster.asked == [7, 7, 3, 1], "once more, in case it was for others' jobs; then half as many each time"
    capsys.readouterr()
    for _ in range(3):
        assert not tick().submitted
    assert "6 packs wait for room: the account may have 1 job waiting" in capsys.readouterr().out
    assert cluster.asked == [7, 7, 3, 1]
    queue = cluster.folder / "queue"
    queue.write_text(queue.read_text().replace("PENDING", "COMPLETED"))
    assert tick().submitted, "that one has ended"
    assert cluster.asked == [7, 7, 3, 1, 1]


def test_what_was_found_of_a_limit_is_forgotten_when_what_is_read_changes(cluster, submit, tick):
    cluster.most(0, *UNREAD)
    submit()
    for _ in range(4):
        tick()
    assert cluster.asked == [7, 7, 3, 1]
    cluster.reads(50)
    cluster.most(7)
    assert tick().submitted
    assert cluster.asked[-1] == 7


def test_what_was_found_of_a_limit_is_forgotten_after_an_hour_since_others_jobs_are_not_seen(
    cluster, root, submit, tick
):
    cluster.most(0, *UNREAD)
    submit()
    for _ in range(4):
        tick()
    cluster.most(7)
    assert not tick().submitted
    for submission_id in root.submission_ids():
        answer = root.submission(submission_id).answer
        os.utime(answer, (answer.stat().st_mtime - 3700,) * 2)
    assert tick().submitted
    assert cluster.asked == [7, 7, 3, 1, 7]


def test_a_limit_that_is_read_explains_a_refusal_when_jobs_came_in_between(cluster, root, submit, tick):
    cluster.reads(9)
    between = [f"{number}|{number}|N/A|PENDING|x||acc|(null)|other" for number in range(90, 95)]
    echoes = "\n".join(f"echo '{line}' >> queue" for line in between)
    cluster.client("sbatch", f"[ -e once ] || {{ touch once; {echoes}\n}}\n{SBATCH}")
    cluster.most(9, "sbatch: error: AssocMaxSubmitJobLimit", f"sbatch: error: {POLICY}")
    submit()
    (refused,) = [root.submission(each).answer for each in root.submission_ids()]
    assert "limit" not in whole_files.read_json(refused)
    assert tick().submitted
    assert cluster.asked == [7, 4], "as many as there was room for"


def group(cluster, jobs):
    """Let the account have nine jobs of everybody's together; `jobs` is a shell's word for how many there are."""
    cluster.client(
        "sacctmgr",
        """case "$*" in
*user=*) echo 'c|acc|me||||||||';;
*assoc*) echo 'c|acc|||root|||9|||';;
*) echo 'x';;
esac""",
    )
    told = "ClusterName=c Account=acc UserName= Partition= GrpSubmitJobs=9"
    cluster.client("scontrol", f'case "$*" in *assoc_mgr*) echo "{told}({jobs}) X";; *) exit 1; esac')


def test_no_more_is_submitted_than_an_account_takes_beside_the_jobs_of_others(cluster, submit, tick, capsys):
    cluster.most(99)
    group(cluster, 7)
    submit()
    told = " ".join(capsys.readouterr().out.split())
    assert "5 packs wait for room: the account may have 9 jobs waiting and running, and beside everybody's" in told
    group(cluster, 9)
    assert not tick().submitted
    group(cluster, 2)
    assert tick().submitted
    assert cluster.asked == [2, 5]


def test_a_refusal_that_the_jobs_of_others_explain_is_not_taken_for_an_unread_limit(cluster, root, submit, tick):
    cluster.most(0, "sbatch: error: AssocGrpSubmitJobsLimit", f"sbatch: error: {POLICY}")
    group(cluster, "$([ -s asked ] && echo 8 || echo 0)")
    submit()
    (refused,) = [root.submission(each).answer for each in root.submission_ids()]
    assert "limit" not in whole_files.read_json(refused)
    cluster.most(99)
    assert tick().submitted
    assert cluster.asked == [7, 1], "as many as there is room for"


@pytest.mark.parametrize("text", ["", "[]", '{"state": "refused", "limit": 3}', '{"state": "refused", "limit": {}}'])
def test_a_spoilt_answer_of_a_refused_submission_stops_no_later_one(cluster, root, submit, text):
    cluster.most(0, f"sbatch: error: {PARTITION}")
    with pytest.raises(SubmitError):
        submit()
    (answer,) = root.path.glob("submissions/*/answer.json")
    answer.write_text(text)
    cluster.most(100)
    submit()
    assert len(cluster.asked) == 2
