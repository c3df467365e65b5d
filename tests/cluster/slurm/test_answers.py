"""What SLURM's clients print, in the forms of several versions and in none."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.slurm import answers, sbatch
from cluster.slurm.answers import Job

FORMS = yaml.safe_load((Path(__file__).parent / "forms.yaml").read_text(encoding="utf-8"))
PARSERS = {"squeue": answers.parse_queue, "sacct": answers.parse_history}
RECORDED = [pytest.param(client, form, id=f"{client}: {form['what']}") for client in PARSERS for form in FORMS[client]]
TOKEN = "abcdefabcdef"


def states(jobs):
    return None if jobs is None else {key: job.state for key, job in jobs.items()}


@pytest.mark.parametrize(("client", "form"), RECORDED)
def test_the_forms_of_slurms_versions_are_understood(client, form):
    wanted = form.get("jobs")
    found = PARSERS[client](answers.in_utf8(form["text"].encode("latin-1")))
    assert states(found) == (None if wanted is None else {str(key): state for key, state in wanted.items()})


@pytest.mark.parametrize("form", [pytest.param(form, id=form["what"]) for form in FORMS["sbatch"]])
def test_sbatchs_answer_is_the_last_line_that_has_an_ids_form(form):
    found = sbatch.read_answer(form["text"])
    assert found == ((form["job"], form.get("cluster")) if form["job"] else None)


@pytest.mark.parametrize(
    "text",
    ["", "\n \n", "Welcome to Cluster5\n", "<html>\n<body>502 Bad Gateway</body>\n</html>\n", "7_0|7|0\n", "7\n",
     "|||||||||\n", "7|7|N/A||None|n1|a|b|c\n", "\N{SUPERSCRIPT TWO}|2|2|RUNNING|None|n1|a|b|c\n",
     "7;gpu|7|N/A|RUNNING|None|n1|a|b|c\n", "slurm_load_jobs error: Zero Bytes were transmitted or received\n"],
)  # fmt: skip
@pytest.mark.parametrize("parse", PARSERS.values())
def test_what_has_no_line_in_slurms_form_is_no_answer(parse, text):
    assert parse(text) is None


@pytest.mark.parametrize("client", PARSERS)
def test_banners_and_notices_before_between_and_after_are_passed_over(client):
    for form in FORMS[client]:
        noise = "  Welcome\n\n| scheduled | maintenance |\nCLUSTER: gpu\n<p>7|\n\x07\x1b[31m!\n"
        lines = form["text"].split("\n")
        for text in (noise + form["text"], form["text"] + noise, f"{lines[0]}\n{noise}" + "\n".join(lines[1:])):
            assert PARSERS[client](text) == PARSERS[client](form["text"])


def test_a_last_line_that_is_cut_off_is_no_answer():
    text = next(form["text"] for form in FORMS["squeue"] if "told apart" in form["what"])
    first = text.split("\n")[0]
    assert answers.parse_queue(text + "1_54|1|54|RUNN") is None
    assert answers.parse_queue(first[:20]) is None
    assert answers.parse_queue(text + "bye") == answers.parse_queue(text)


@pytest.mark.parametrize(
    ("said", "state", "live"),
    [("CANCELLED by 1001", "CANCELLED", False), ("OUT_OF_ME+", "OUT_OF_MEMORY", False), ("NODE_F+", "NODE_FAIL", False),
     ("COMPLET+", "COMPLET+", True), ("REQUEUED", "REQUEUED", True), ("EXPEDITING", "EXPEDITING", True),
     ("?", "?", True), ("R+", "R+", True)],
)  # fmt: skip
def test_a_state_is_alive_until_it_is_known_to_be_an_end(said, state, live):
    for text, parse in ((f"7|7|N/A|{said}|None|n1|a|b|c\n", answers.parse_queue),
                        (f"7|c|{said}|0:0|n1|Unknown||4G|1\n", answers.parse_history)):  # fmt: skip
        job = parse(text)["7"]
        assert (job.state, job.live) == (state, live)


def test_what_a_list_does_not_tell_of_an_array_stands_for_all_its_other_tasks():
    name = f"tt-{TOKEN}"
    jobs = answers.parse_history(
        f"61_[0,2-3,5-6,32-3...%4]|{name}|PENDING|0:0|None assigned|Unknown||4G|1\n"
        f"61_1|{name}|FAILED|1:0|n1|Unknown||4G|1\n"
    )
    assert sorted(jobs) == ["61_*", "61_0", "61_1", "61_2", "61_3", "61_5", "61_6"]
    known = {key: answers.find(jobs, key, TOKEN) for key in ("61_1", "61_6", "61_32", "61_33", "62_1", "61")}
    told = {key: job and job.state for key, job in known.items()}
    assert told == {
        "61_1": "FAILED",
        "61_6": "PENDING",
        "61_32": "PENDING",
        "61_33": "PENDING",
        "62_1": None,
        "61": "PENDING",
    }


def test_of_a_list_longer_than_any_array_not_all_are_told_apart(monkeypatch):
    monkeypatch.setattr(answers, "MOST_TASKS", 100)
    jobs = answers.parse_queue(f"6_[0-999999999]|6|0-999999999%4|PENDING|None||a|b|tt-{TOKEN}\n")
    assert len(jobs) == 101
    assert answers.find(jobs, "6_999999", TOKEN).state == "PENDING"


@pytest.mark.parametrize(
    ("labels", "ours"),
    [(f"(null)|tt-{TOKEN}", True), (f"{TOKEN}|renamed", True), (f"{TOKEN}|with|bars", True),
     (f"my|own|comment|tt-{TOKEN}", True), (f"tt-{TOKEN}", True), ("(null)|renamed", False),
     (f"(null)|tt-{TOKEN[:-1]}0", False), (f"tt-{TOKEN}|{TOKEN}", False), ("cut", None)],
)  # fmt: skip
def test_a_job_is_a_submissions_by_its_name_or_its_comment(labels, ours):
    job = answers.parse_queue(f"7_0|7|0|RUNNING|None|n1|a|{labels}\n")["7_0"]
    assert job.is_of(TOKEN) is ours


def test_two_jobs_of_one_number_are_nobodys():
    job = answers.parse_queue(f"7|7|N/A|RUNNING|None|n1|a|(null)|x\n7|7|N/A|FAILED|None|n1|a|{TOKEN}|tt-{TOKEN}\n")["7"]
    assert (job.is_of(TOKEN), job.live) == (None, True)


def test_of_two_submissions_whose_jobs_have_one_number_each_finds_its_own_and_its_lives():
    other = "0123456789ab"
    jobs = answers.parse_history(
        f"7_1|tt-{TOKEN}|REQUEUED|0:0|n2|2027-01-15T08:00:04||800M|4\n"
        f"7_1|tt-{TOKEN}|CANCELLED by 1000|0:0|None assigned|Unknown||800M|4\n"
        f"7_[0-3%4]|tt-{other}|PENDING|0:0|None assigned|Unknown||800M|4\n"
    )
    found = {token: answers.find(jobs, "7_1", token) for token in (TOKEN, other)}
    lives = {token: job and [life.state for life in (*job.earlier, job)] for token, job in found.items()}
    assert lives == {TOKEN: ["REQUEUED", "CANCELLED"], other: ["PENDING"]}
    assert answers.arrays_of(jobs, TOKEN) == answers.arrays_of(jobs, other) == {"7"}


def test_a_list_that_is_cut_tells_of_ours_where_anothers_task_has_its_number():
    other = "0123456789ab"
    jobs = answers.parse_history(
        f"7_[0...%4]|tt-{TOKEN}|PENDING|0:0|None assigned|Unknown||800M|4\n"
        f"7_1|tt-{other}|COMPLETED|0:0|n1|2027-01-15T08:00:04||800M|4\n"
    )
    assert answers.find(jobs, "7_1", TOKEN).state == "PENDING"
    assert answers.find(jobs, "7_1", other).state == "COMPLETED"


HISTORY = """\
5_[1-2,7%2]|tt-a|PENDING|0:0|None assigned|Unknown||4000M|20
5_0|tt-a|CANCELLED by 0|0:0|n1|2026-11-22T08:00:00||4000M|20
6|b|NODE_FAIL|0:0|n1|2026-11-22T08:08:30||4000M|20
6.batch|batch|CANCELLED||n1|2026-11-22T08:08:30|||20
6|b|FAILED|0:9|n2|2026-11-22T08:09:47||4000M|20
6.batch|batch|FAILED|0:9|n2|2026-11-22T08:09:47|10532K||20
6.0|python3|FAILED|0:9|n2|2026-11-22T08:09:47|3.9G||20
"""


def test_accountings_bundled_tasks_are_told_apart():
    jobs = answers.parse_history(HISTORY)
    assert sorted(jobs) == ["5_0", "5_1", "5_2", "5_7", "6"]
    assert (jobs["5_0"].state, jobs["5_0"].cause, jobs["5_2"].live) == ("CANCELLED", "cancelled", True)


def test_a_jobs_lives_are_told_apart_and_its_steps_know_its_memory():
    job = answers.parse_history(HISTORY)["6"]
    assert (job.state, job.node, job.exit_code, job.asked) == ("FAILED", "n2", "0:9", 4000)
    assert job.memory == pytest.approx(3993.6)
    assert [(life.state, life.cause) for life in job.earlier] == [("NODE_FAIL", "node_fail")]


@pytest.mark.parametrize(
    ("state", "code", "peak", "cause"),
    [("FAILED", "0:9", 3990, "out_of_memory"), ("FAILED", "0:9", 900, "error"), ("FAILED", "1:0", 3990, "error"),
     ("OUT_OF_MEMORY", "0:125", 0, "out_of_memory"), ("FAILED", "0:9", 0, "error")],
)  # fmt: skip
def test_a_kill_with_nearly_full_memory_is_one_for_memory(state, code, peak, cause):
    assert Job("1", "a", state, exit_code=code, memory=peak, asked=4000).cause == cause


@pytest.mark.parametrize(
    ("text", "value"),
    [("1024K", 1), ("1.5K", 1.5 / 1024), ("200Mc", 200), ("1.5G", 1536), ("4Gn", 4096), ("1T", 2**20), ("", 0),
     ("?", 0), ("1.2.3G", 1.2e-6), ("\N{SUPERSCRIPT TWO}G", 0)],
)  # fmt: skip
def test_slurms_sizes_are_megabytes(text, value):
    assert answers.megabytes(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1-00:30:00", 1470), ("00:10:59", 10), ("UNLIMITED", None), ("", None), ("9" * 5000 + ":1:1", None)],
)
def test_slurms_times_are_minutes(text, value):
    assert answers.minutes(text) == value


# -- anything ---------------------------------------------------------------------------------------------------------

anything = settings(deadline=None, database=None)  # a busy machine is slow; nothing is kept for the next time
WHOLE = {client: [form["text"] for form in FORMS[client] if form["text"]] for client in FORMS}
PIECES = st.sampled_from(
    ["|", "\n", "\r\n", "_", "[", "]", "-", "%", ":", "...", "+", ";", ",", ".", "0", "7", "99999999999", "N/A", "?",
     "RUNNING", "CANCELLED by 0", f"tt-{TOKEN}", "\x00", "\x85", "\u2028", "\u0663", "caf\xe9"]
)  # fmt: skip


@st.composite
def mangled(draw, client):
    """A real answer of which parts are lost, doubled or replaced, as bytes."""
    text = draw(st.sampled_from(WHOLE[client]))
    for _ in range(draw(st.integers(0, 4))):
        first, last = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        text = text[:first] + draw(st.one_of(PIECES, st.just(text[first:last] * 2), st.just(""))) + text[last:]
    return text.encode("latin-1", "replace") if draw(st.booleans()) else text.encode("utf-8")


CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def is_sound(jobs):
    """Whether it is no answer, or jobs of which everything can be kept and shown."""
    return jobs is None or all(
        key == job.key and job.state and job.memory >= 0 and not CONTROL.search(f"{job.name}{job.reason}{job.node}")
        for key, job in jobs.items()
    )  # fmt: skip


@anything
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_an_answer_or_none(said):
    text = answers.in_utf8(said)
    assert all(is_sound(parse(text)) for parse in PARSERS.values())
    assert sbatch.read_answer(text) is None or sbatch.read_answer(text)[0].isdecimal()
    assert answers.rows(text, "Account", 3) is None or all(len(row) == 3 for row in answers.rows(text, "Account", 3))
    assert isinstance(answers.pairs(text), dict)


@pytest.mark.parametrize("client", PARSERS)
@anything
@given(data=st.data())
def test_mangled_answers_are_an_answer_or_none(client, data):
    assert is_sound(PARSERS[client](answers.in_utf8(data.draw(mangled(client)))))


@anything
@given(data=st.data())
def test_an_answer_that_stops_anywhere_ends_no_job_that_lives(data):
    """Cut off in the middle of a line it is no answer; cut off between two, what it tells of is as in the whole."""
    text = data.draw(st.sampled_from(WHOLE["squeue"]))
    whole, found = answers.parse_queue(text), answers.parse_queue(text[: data.draw(st.integers(0, len(text)))])
    for key, job in (found or {}).items():
        same = whole[key]
        assert job.live or not same.live or same.state == answers.UNKNOWN, (
            "two jobs of one number, of which one is shown"
        )


def test_of_two_numbers_none_is_taken_for_the_jobs():
    assert sbatch.read_answer("102\n2027\n") is None
    assert sbatch.read_answer("Welcome.\n102\nSubmitted batch job 102\n") == ("102", None)
