"""What is asked of SLURM, with stand-ins for its clients."""

import os

import pytest

from cluster.slurm import answers, queries
from cluster.slurm.queries import NodeKind, Slurm

TOKEN = "abcdefabcdef"
HEADING = "JOBID|ARRAY_JOB_ID|ARRAY_TASK_ID|STATE|REASON|NODELIST|ACCOUNT|COMMENT|NAME"


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Write a stand-in for one of SLURM's commands."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(name, script):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return write


def test_a_refused_or_hanging_query_is_no_answer(client, monkeypatch):
    client("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert Slurm().queue() is None
    monkeypatch.setattr(queries, "TIMEOUT", 0.2)
    client("squeue", "exec sleep 5")
    assert Slurm().queue() is None


def test_an_empty_queue_is_an_answer_and_an_empty_answer_is_none(client):
    client("squeue", f"echo '{HEADING}'")
    assert Slurm().queue() == {}
    client("squeue", "exit 0")
    assert Slurm().queue() is None
    client("sacct", "exit 0")
    assert Slurm().history(["tt-a"], 2) is None


def test_bytes_that_are_no_text_end_no_command(client):
    client("squeue", "printf '%b' '7|7|N/A|RUNNING|None|n1|a|b|caf\\0351\\n'")
    assert Slurm().queue()["7"].name == "caf\ufffd"
    for name in ("sacct", "sacctmgr", "scontrol", "sinfo"):
        client(name, "printf '%b' '\\0377\\0376|\\0351=\\n'")
    slurm = Slurm()
    assert (slurm.history(["a"], 1), slurm.limits(None, None), slurm.accounts()) == (None, None, None)
    assert (slurm.configuration(), slurm.partition("gpu"), slurm.nodes("gpu")) == (None, None, None)


def test_what_a_site_prints_around_an_answer_is_not_taken_for_part_of_it(client):
    noise = "echo Welcome; echo; echo '= scheduled maintenance ='; echo '| soon |'"
    client("sacctmgr", f"{noise}; echo 'Account|User'; echo 'mine|'$(id -un); {noise}")
    config = "echo 'ClusterName = one'; echo 'MaxArraySize  = 101'"
    partition = "echo 'PartitionName=gpu MaxTime=1:00:00'"
    client("scontrol", f"{noise}; case $2 in config) {config};; *) {partition};; esac; {noise}")
    client("sinfo", f"{noise}; echo '4|64|256000|gpu:a100:4'; {noise}")
    slurm = Slurm()
    assert slurm.accounts() == ["mine"]
    assert slurm.configuration()["MaxArraySize"] == "101"
    assert slurm.partition("gpu")["MaxTime"] == "1:00:00"
    assert slurm.nodes("gpu") == [NodeKind(4, 64, 256_000, "gpu:a100:4")]


def test_switched_off_accounting_has_no_record_and_a_dead_one_no_answer(client):
    client("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert Slurm().history(["tt-a"], 2) == {}
    client("sacct", "echo 'sacct: error: slurm_persist_conn_open_without_init: connection refused' >&2; exit 1")
    assert Slurm().history(["tt-a"], 2) is None


def test_without_slurm_nothing_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Slurm().queue() is None
    assert Slurm().cancel([("1", TOKEN)]) == "squeue gave no answer"


def test_limits_are_the_narrowest_of_account_and_qos(client):
    client(
        "sacctmgr",
        """case "$*" in
*assoc*) echo 'c|innovation|root||||11||1||1-00:00:00'; echo 'c|research|root|||gold||200|||';;
*qos*) echo '50|20|||||2:00:00';;
*) echo innovation;;
esac""",
    )
    assert Slurm().limits(None, None) == queries.Limits(11, 1, 1440)
    client(
        "sacctmgr",
        """case "$*" in
*assoc*) echo 'c|research|root|||gold||200|8|4|';;
*) echo '50|20|||||02:00:00';;
esac""",
    )
    assert Slurm().limits("research", None) == queries.Limits(20, 4, 120)
    client("sacctmgr", "exit 1")
    assert Slurm().limits("research", None) is None


ROWS = """\
one|innovation|me||||11||1||1-00:00:00
one|research|me||||200||||
one|research|me|gpu|||30||4||2:00:00
two|research|me||||2||||
one|research|||faculty|||400||100|
one|research|another||||1||||
one|faculty|||root|||90||50|
two|faculty|||root|||3|||
one|root|||||||||"""
QUALITIES = {"normal": "500|||50|||", "of-gpu": "|60||||20|", "shared": "||70||||3-00:00:00"}


@pytest.fixture
def accounting(client, tmp_path):
    """sacctmgr of a database that serves the clusters one and two; it gives what it is asked for, and no more."""
    (tmp_path / "rows").write_text(ROWS + "\n")
    for name, row in QUALITIES.items():
        (tmp_path / f"qos-{name}").write_text(row + "\n")
    client("sacctmgr", f"""
user=; account=; shift 2
case "$1" in qos) for name in $(echo "$2" | tr , ' '); do cat {tmp_path}/qos-$name || exit 1; done; exit;; esac
for word; do case "$word" in user=*) user=me;; account=*) account=$(echo "${{word#*=}}" | tr , '|');; esac; done
grep -E "^[a-z]+\\|(${{account:-.*}})\\|" {tmp_path}/rows | grep -F "${{user:+|me|}}"
true""")  # fmt: skip
    client("scontrol", "echo 'ClusterName = one'")


@pytest.mark.usefixtures("accounting")
@pytest.mark.parametrize(
    ("account", "qos", "partitions", "expected"),
    [
        ("research", None, {}, (90, 50, None)),  # the faculty's, which has the account
        ("research", None, {"gpu": {}}, (30, 4, 120)),  # the row of this partition
        ("research", None, {"cpu": {}}, (90, 50, None)),  # the row of none
        ("research", None, {"cpu": {}, "gpu": {}}, (30, 4, 120)),
        ("research", None, {"cpu": {"QoS": "of-gpu"}}, (60, 20, None)),
        ("research", "shared", {"cpu": {"QoS": "of-gpu"}}, (60, 20, 4320)),
        ("research", "shared", {"cpu": {"QoS": "N/A"}}, (70, 50, 4320)),
        ("innovation", "normal", {}, (11, 1, 1440)),
    ],
)
def test_limits_are_of_this_cluster_this_partition_the_accounts_above_and_both_qos(
    monkeypatch, account, qos, partitions, expected
):
    monkeypatch.setattr(queries.environment, "user", lambda: "me")
    assert Slurm().limits(account, qos, partitions) == queries.Limits(*expected)


GROUPS = """\
Current Association Manager state
ClusterName=one Account=faculty UserName= Partition= Priority=0 ParentAccount=root(1) GrpSubmitJobs=90(88) X=
ClusterName=one Account=faculty UserName=eve(9) Partition= GrpJobs=N(0) GrpSubmitJobs=1(1) GrpWall=N(0.00)
ClusterName=one Account=research UserName= Partition= GrpJobs=100(5) GrpSubmitJobs=400(60) MaxSubmitJobs=
ClusterName=one Account=other UserName= Partition= GrpSubmitJobs=2(2) GrpWall=N(0.00)
QOS=shared(3) UsageRaw=0 GrpSubmitJobs=70(69) Account Limits= research={MaxSubmitJobsPA=9(3) MaxTRESPA=cpu=N(2)} \
other={MaxSubmitJobsPA=5(5)} User Limits= 0={MaxSubmitJobsPU=8(8) MaxTRESPU=cpu=N(2)}
QOS=full UsageRaw=0 GrpSubmitJobs=9(11) MaxWallPJ=
QOS=free(1) UsageRaw=0 GrpSubmitJobs=N(60) Account Limits= other={MaxSubmitJobsPA=5(5)} User Limits= No Users
"""


@pytest.mark.parametrize(
    ("accounts", "qos", "room"),
    [
        (["research", "faculty", "root"], [], 2),  # the faculty's, others' jobs counted
        (["research"], [], 340),
        (["research"], ["free"], 340),
        (["research"], ["shared"], 1),
        (["other"], ["free"], 0),
        (["nobodys"], ["shared"], 1),
        (["research"], ["full", "shared"], 0),  # lowered since
        (["root"], ["free"], None),
    ],
)
def test_room_is_what_the_narrowest_limit_of_a_group_leaves_beside_everybodys_jobs(accounts, qos, room):
    assert answers.room_in_groups(GROUPS, accounts, qos) == room
    assert answers.room_in_groups(f"Welcome\n{GROUPS}| soon |\n", accounts, qos) == room
    assert answers.room_in_groups("", accounts, qos) is answers.room_in_groups("<html>\n", accounts, qos) is None


@pytest.mark.usefixtures("accounting")
@pytest.mark.parametrize("hidden", [False, True])
def test_limits_tell_the_room_unless_the_site_hides_it(client, monkeypatch, tmp_path, hidden):
    monkeypatch.setattr(queries.environment, "user", lambda: "me")
    (tmp_path / "groups").write_text(GROUPS)
    shown = "echo 'error: Malformed RPC' >&2; exit 1" if hidden else f"cat {tmp_path}/groups"
    of_groups = f'echo "$*" > {tmp_path}/asked; {shown}'
    client("scontrol", f'case "$*" in *assoc_mgr*) {of_groups};; *) echo ClusterName = one; esac')
    assert Slurm().limits("research", "shared") == queries.Limits(70, 50, 4320, None, None if hidden else 1)
    assert "accounts=research,faculty,root flags=assoc,qos qos=shared" in (tmp_path / "asked").read_text()


@pytest.mark.usefixtures("accounting")
def test_where_the_clusters_name_is_not_known_the_narrowest_of_all_rows_holds(client):
    client("scontrol", "exit 1")
    assert Slurm().limits("research", None) == queries.Limits(2, 50, None)


@pytest.mark.usefixtures("accounting")
def test_a_qos_of_a_partition_that_is_not_told_leaves_the_limits_unknown():
    assert Slurm().limits("research", None, {"gpu": {"QoS": "nobodys"}}) is None


def test_what_one_job_may_have_is_the_narrowest_of_its_qualities(client):
    client("sacctmgr", "echo 'cpu=2,gres/gpu=1,mem=16G'; echo 'cpu=4,mem=8000M'; echo")
    names = queries.qualities({"QoS": "small"}, "gold")
    assert (names, queries.qualities({"QoS": "N/A"}, None)) == (["small", "gold"], [])
    assert Slurm().most_of_a_job(names) == {"cpu": 2, "gres/gpu": 1, "mem": 8000}
    assert Slurm().most_of_a_job([]) == {}
    client("sacctmgr", "exit 1")
    assert Slurm().most_of_a_job(names) is None


def test_kinds_of_nodes_know_their_gpus(client):
    lines = (
        "Welcome | to | the | cluster",
        "4|48|185000|(null)",
        "10|64|512000|gpu:a100:4(S:0-1)",
        "1|64|512000|gpu:a100_1g.10gb:28,shard:8",
        "2|32|1+|gpu:2",
    )
    client("sinfo", "\n".join(f"echo '{line}'" for line in lines))
    found = Slurm().nodes("gpu")
    assert [kind.gpus for kind in found] == [{}, {"a100": 4}, {"a100_1g.10gb": 28}, {"": 2}]
    assert str(found[0]) == "4 nodes, 48 CPUs, 185000 MB, (null)"
    client("sinfo", "echo 'debug'; echo 'gpu-a100*'")
    assert Slurm().default_partition() == "gpu-a100"
    client("sinfo", "exit 1")
    assert Slurm().nodes("gpu") is Slurm().default_partition() is None


@pytest.mark.parametrize("silent", ["*qos*", "*defaultaccount*"])
def test_limits_of_which_a_part_is_not_known_are_not_known(client, silent):
    rows = "echo 'c|innovation|root|||gold|11||1||'; echo 'c|research|root||||||||'"
    client("sacctmgr", f'case "$*" in *assoc*) {rows};; {silent}) exit 1;; *) echo innovation;; esac')
    assert Slurm().limits(None, None) is None


@pytest.fixture
def cancelled(client, tmp_path):
    """Tell what squeue shows; what scancel is then given for these jobs of the submission, or what went wrong."""

    def cancel(shown, *wanted):
        (tmp_path / "shown").write_text(f"{HEADING}\n{shown}")
        client("squeue", f"cat {tmp_path / 'shown'}")
        client("scancel", f'echo "$@" >> {tmp_path / "calls"}')
        problem = Slurm().cancel([(key, TOKEN) for key in wanted])
        calls = tmp_path / "calls"
        return problem or (calls.read_text().split()[1:] if calls.exists() else [])

    return cancel


def line(key, labels, state="PENDING"):
    array, _, task = key.partition("_")
    return f"{key}|{array}|{task or 'N/A'}|{state}|None||a|{labels}\n"


OURS, RENAMED, OTHERS = f"{TOKEN}|tt-{TOKEN}", f"{TOKEN}|renamed", "(null)|train"


@pytest.mark.parametrize(
    ("shown", "wanted", "ids"),
    [
        (line("7_0", OURS) + line("7_1", OURS), ["7"], ["7"]),
        (line("7_0", OURS) + line("7_1", RENAMED), ["7"], ["7"]),
        (line("7_0", OURS) + line("7_1", OURS), ["7_1"], ["7_1"]),
        (line("7", OURS), ["7_0"], ["7_0"]),  # of an array of one
        (line("7", OTHERS), ["7"], []),  # numbers begin again where a controller has lost its state
        (line("7_0", OTHERS) + line("7_1", OTHERS), ["7_0", "7_1"], []),
        (line("7_0", OURS) + line("7_1", OTHERS), ["7"], ["7_0"]),
        (line("7_0", OURS, "COMPLETED") + line("8", OURS), ["7"], []),
        (line("7_0", "cut"), ["7_0"], []),  # whose it is was not shown
        ("", ["7"], []),
    ],
)
def test_only_what_is_a_submissions_own_is_cancelled(cancelled, shown, wanted, ids):
    assert cancelled(shown, *wanted) == ids


def test_without_a_look_nothing_is_cancelled(cancelled, client, tmp_path):
    assert cancelled("") == []
    client("squeue", "exit 1")
    assert Slurm().cancel([("7", TOKEN)]) == "squeue gave no answer"
    assert not (tmp_path / "calls").exists()
