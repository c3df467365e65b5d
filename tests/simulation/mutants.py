"""Put faults back, and others in, and tell after how many walks the simulated worlds find each.

    python tests/simulation/mutants.py [-j N] [--walks N] [WORD ...]

PUT_BACK has the faults that the commands had once, by small patches; MUTANTS has mechanical ones, each a token, in what
keeps the promise of exactly once. Each is made in a copy of the checkout. A WORD chooses those whose words or file have
it."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("cluster", "jobs", "tiny_transformers", "templates", "tests/simulation", "pyproject.toml")


@dataclass(frozen=True)
class Mutant:
    what: str
    file: str
    changes: tuple[tuple[str, str], ...]  # each old text is once in the file

    def of(self, text: str) -> str:
        """Return the file's text with the mutant. Raises ValueError if its place is not clear."""
        for old, new in self.changes:
            if text.count(old) != 1:
                raise ValueError(f"{self.file}: has {old!r} {text.count(old)} times, not once")
            text = text.replace(old, new)
        return text


def one(what: str, file: str, old: str, new: str) -> Mutant:
    return Mutant(what, file, ((old, new),))


# fmt: off
PUT_BACK = (
    Mutant("a list that sacct has cut is a KeyError", "cluster/slurm/answers.py", (
        ("    if cut:\n        named.pop()  # its number may be the first half of one\n", ""),
        ("            cut |= bool(item)\n            continue\n", "            raise KeyError(item)\n"))),
    one("sbatch's answer has no line beside the id", "cluster/slurm/sbatch.py",
        'for line in text.split("\\n") if (match := ACCEPTED', "for line in [text] if (match := ACCEPTED"),
    one("squeue and sacct run in the user's environment", "cluster/slurm/environment.py",
        "return for_jobs(environment) | FORMS", "return dict(environment)"),
    one("sbatch and jobs have the user's environment", "cluster/slurm/environment.py",
        "unwanted = set(left_out(environment))", "unwanted: set[str] = set()"),
    one("a refusal for a limit is for good", "cluster/slurm/sbatch.py",
        "if limit or any(words in last for words in BUSY):", "if False:"),
    one("SLURM's own MaxArraySize is not read", "cluster/submit/dispatch.py",
        "site.max_time, size or None)", "site.max_time, None)"),
    one("the limits of the account itself are not read", "cluster/slurm/queries.py",
        "for row in (*rows, *above))", "for row in rows)"),
    one("the limits of another cluster count", "cluster/slurm/queries.py",
        "return [each for each in found if not cluster or each.cluster.lower() == cluster.lower()]", "return found"),
    one("another's job with a line end in its name spoils the answer", "cluster/slurm/answers.py",
        "not _STATE.fullmatch(fields[3]):\n            continue",
        "not _STATE.fullmatch(fields[3]):\n            return None"),
    one("a lock that holds other JSON is a traceback", "cluster/ledger/lock.py",
        "return documents.read(path, Process)", "return whole_files.read_json(path)"),
    one("an heir does not look again whose the lock is", "cluster/ledger/lock.py",
        "if _holder(path) != first:", "if False:"),
    one("a folder of logs may have a percent sign in its name", "cluster/submit/launch.py",
        "if part in str(log_dir)]:", "if False]:"),
    one("a job that another cluster took is taken for ours", "cluster/slurm/sbatch.py",
        "        if cluster:\n", "        if False:\n"),
    Mutant("a task that was cancelled and forgotten is lost", "cluster/reconcile/judging.py", (
        ("if known and pack_index not in opened.tasks and not cancelled:", "if False:"),
        ("if pack_index not in opened.tasks:  # as what is", "if False:  # as what is"))),
    one("a rebuilt ledger has only what submissions speak of", "cluster/reconcile/reconciling.py",
        "        orphans.take_in(ledger, output_root, torn)\n", ""),
    one("a profile may set what tiny-transformers tells sbatch", "cluster/sites/profiles.py",
        "    if own:\n", "    if False:\n"),
    one("a profile may have a line end", "cluster/sites/profiles.py", "if not text.isprintable():", "if False:"),
    one("a profile's variables may have any name", "cluster/sites/profiles.py",
        'if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):', "if False:"),
    one("a job's script has the modules as they are", "templates/slurm.sh.j2",
        "module load {{ module | quote }}", "module load {{ module }}"),
    one("status needs to write", "cluster/reconcile/session.py",
        "except (LedgerBusy, OSError, OperationalError) as problem:", "except LedgerBusy as problem:"),
    one("a deleted reservation is no reason to look", "cluster/slurm/reasons.py",
        '    "ReservationDeleted": f"its reservation is there no longer: {MEND}",\n', ""),
    one("only the last line of a refusal is told", "cluster/slurm/sbatch.py",
        "raise _refusal(_told(complaint, said), last)", "raise _refusal(last, last)"),
    one("a job that was requeued and held is shown as running", "cluster/slurm/answers.py",
        "if self.state not in WAITING:", 'if self.state != "PENDING":'),
    one("a state that nobody knows has ended", "cluster/slurm/answers.py",
        "return self.state not in CAUSES", "return self.state in LIVE"),
    one("a file of another form is read", "cluster/files/documents.py",
        "if wrong := find_fault(value, kind):", 'if wrong := "":'),
    one("a request of a choice that was made is dropped for another question", "cluster/submit/choices.py",
        "and not made and other", "and other"),
    one("jobs have submitit's wckey", "cluster/submit/launch.py", '| {"wckey": None}', "| {}"),
)
INTENTS, JUDGING = "cluster/reconcile/intents.py", "cluster/reconcile/judging.py"
LATE = "cluster/reconcile/late.py"
OPENED, RECONCILING = "cluster/reconcile/opened.py", "cluster/reconcile/reconciling.py"
DISPATCH, CLAIMS, LIVES = "cluster/submit/dispatch.py", "jobs/attempts.py", "jobs/lives.py"
CHOICES, OTHERS = "cluster/submit/choices.py", "cluster/submit/others.py"
MUTANTS = (
    one("an answer that was heard is asked for again", INTENTS,
        'answer["state"] != "intended":', 'answer["state"] == "intended":'),
    one("an intent on disk is void at once", INTENTS,
        "if not opened.directory.submission.exists():", "if opened.directory.submission.exists():"),
    one("one answer proves absence", INTENTS,
        "seen.queue is not None and seen.history is not None", "seen.queue is not None or seen.history is not None"),
    one("absence is not waited for", INTENTS,
        "if not absent or _may_still_arrive", "if not absent and _may_still_arrive"),
    one("patience is for the old ones", INTENTS, "<= patience()", ">= patience()"),
    one("a job that came at the last moment is not seen", INTENTS,
        "    if opened.tasks:\n", "    if not opened.tasks:\n"),
    one("a number that is ours is taken for another", INTENTS,
        'opened.row["job_id"] not in shown', 'opened.row["job_id"] in shown'),
    one("files are not read again before a judgement", JUDGING,
        "    if ended:  # what", "    if not ended:  # what"),
    one("who beats is lost", JUDGING, "if sign <= FRESH or (known", "if sign >= FRESH or (known"),
    one("who lives has ended", JUDGING, "if job and job.live:", "if job and not job.live:"),
    one("accounting's end is not believed", JUDGING, "if known and not known.live:", "if known and known.live:"),
    one("silence is an answer", JUDGING,
        "if seen.queue is None or opened.just_seen", "if seen.queue is None and opened.just_seen"),
    one("an interrupted attempt is judged by its pack", JUDGING,
        "        if is_superseded(opened, attempt):\n            _settle",
        "        if not is_superseded(opened, attempt):\n            _settle"),
    one("a late result is not taken", LATE,
        'if not result or result["status"] != "completed":', 'if not result or result["status"] == "completed":'),
    one("who needs nothing is out of turn", JUDGING, "out_of_turn = any(", "out_of_turn = all("),
    one("a life too many is looked for", JUDGING, "if restart < len(lives_seen)", "if restart <= len(lives_seen)"),
    one("claims of ours are passed over", OPENED,
        'claim["submission_id"] != attempt', 'claim["submission_id"] == attempt'),
    one("the last life is superseded", OPENED, 'restart < task["restart"]', 'restart <= task["restart"]'),
    one("what SLURM hides is judged", OPENED, "in (None, environment.user())", "not in (None, environment.user())"),
    one("what is intended is not settled", RECONCILING,
        '            if each.row["state"] == "intended":', '            if each.row["state"] != "intended":'),
    one("the answer is for others", RECONCILING, "told = seen if each.ours else", "told = seen if not each.ours else"),
    one("what is due waits", "cluster/submit/retries.py", 'decision["due"] <= now', 'decision["due"] > now'),
    one("room grows as it is filled", DISPATCH, "room -= len(fitting)", "room += len(fitting)"),
    one("jobs make room", DISPATCH, "narrowed.max_submit - _live", "narrowed.max_submit + _live"),
    one("a life takes over from itself", CLAIMS,
        'holder["restart"] < task.restart\n', 'holder["restart"] <= task.restart\n'),
    one("a claim stands beside one at work", CLAIMS,
        "    if at_work(run, stage, number, submission_id, task):\n        return False\n    dead",
        "    if not at_work(run, stage, number, submission_id, task):\n        return False\n    dead"),
    one("what has no result is over", CLAIMS,
        "        if has_result(attempt):  # completed", "        if not has_result(attempt):  # completed"),
    one("earlier attempts are not looked at", CLAIMS,
        "else attempt.number < number\n", "else attempt.number > number\n"),
    one("what was done before is done again", CLAIMS, "begun[-1].number <= known.get", "begun[-1].number >= known.get"),
    one("a choice does not wait for all scores", CHOICES, "if pending or (failed", "if pending and (failed"),
    one("the choice that comes before is not waited for", CHOICES,
        'source["choice"] not in made', 'source["choice"] in made'),
    one("what an earlier choice left is chosen from", CHOICES,
        'each["before"] in chosen[each["study"]]', 'each["before"] not in chosen[each["study"]]'),
    one("whoever fails holds nobody up", CHOICES, 'rule["failed"] == "wait")', 'rule["failed"] != "wait")'),
    one("what was done again counts as failed", CHOICES,
        "if run_id in failures and run_id not in scores]", "if run_id in failures and run_id in scores]"),
    one("a choice has another kind of id", "cluster/files/choices.py",
        "choice: str  # the id", "choice: int  # the id"),
    one("who is trained is waited for", OTHERS, '!= "completed":', '== "completed":'),
    one("a teacher that is trained again is not waited for", OTHERS, "if place in again or", "if place in again and"),
    one("a model that is gone is taken for there", OTHERS,
        "not output_root.run(place[0]).model.is_dir()", "output_root.run(place[0]).model.is_dir()"),
    one("a pack is taken twice", LIVES, 'holder["restart"] >= task.restart', 'holder["restart"] < task.restart'),
)
# fmt: on


def find(mutant: Mutant | None, walks: int) -> tuple[int | None, str]:
    """In which walk it was found, and how; None: in none."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            (root / name).parent.mkdir(exist_ok=True)
            copy(ROOT / name, root / name)
        if mutant:
            path = root / mutant.file
            path.write_text(mutant.of(path.read_text()))
        command = [sys.executable, "tests/simulation/run.py", "--walks", str(walks), "--stop"]
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    told = re.search(r"^seed \d+: (.*)", done.stdout, re.MULTILINE)
    if told is None:
        return None, done.stderr[-300:] if done.returncode else ""
    number = re.search(r"^(\d+) walks", done.stdout, re.MULTILINE)
    return int(number[1]) if number else 0, told[1].partition(":: ")[0]


def main(words: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("-j", type=int, default=os.cpu_count() or 1)
    options.add_argument("--walks", type=int, default=2000)
    options.add_argument("words", nargs="*")
    asked = options.parse_args(words)
    chosen = [
        mutant for mutant in (*PUT_BACK, *MUTANTS)
        if not asked.words or any(word in f"{mutant.what} {mutant.file}" for word in asked.words)
    ]  # fmt: skip
    missed = 0
    with ThreadPoolExecutor(asked.j) as pool:
        for mutant, (number, how) in zip(chosen, pool.map(lambda each: find(each, asked.walks), chosen), strict=True):
            missed += number is None
            after = f"{number:5}" if number is not None else "    -"
            print(f"{after}  {mutant.file:36} {mutant.what}: {how or 'NOT FOUND'}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} found")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
