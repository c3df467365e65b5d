"""Say what waits for the product of another run: by the ledger, for one in the same OUTPUT_ROOT, such as a teacher;
else by the requests alone, and nobody else's ledger is looked at. And which follow-ups wait for their choice, and what
was chosen."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cluster.console import clean, count
from cluster.files import documents
from cluster.files.documents import RequestFile
from cluster.files.folders import OutputRoot
from cluster.ledger.database import Ledger
from cluster.ledger.rows import NeedRow
from cluster.plan import choice_words
from cluster.submit import choices


def told(output_root: OutputRoot) -> list[str]:
    """Return a sentence for each request that has needs: which `tick` goes on once they have ended."""
    found = []
    for path in output_root.requests():
        request = _told(path)
        if needs := request.get("needs", []) if request else []:
            assert request
            where = " and ".join(sorted({str(output_root.path / need["root"]) for need in needs}))
            who = count(len(request["runs"]), "run", "waits", "wait")
            found.append(
                f"{who} for {count(len(needs), 'stage run')} in {where}: "
                f"`tiny-transformers tick{output_root.options}` goes on once they have ended"
            )
    return found


def of_choices(ledger: Ledger, output_root: OutputRoot) -> list[str]:
    """Return a sentence for each choice that waits, and for each that was made: what was chosen, and whether its
    scores have changed since."""
    found, made = [], ledger.choices()
    for _, _, choice_id in choices.waiting(output_root):
        plan = choices.plan_of(output_root, choice_id)
        if plan and choice_id not in made:
            standing = choices.judge(ledger, plan)
            ready = f"{choice_words.title(plan)} can be chosen now: `tiny-transformers tick{output_root.options}` does"
            found.append(standing.waits or ready)
    for choice in made.values():
        found.append(choice_words.in_short(choice))
        if changed := choice_words.changed(choice, choices.scores_of(ledger, choice["rule"])):
            found.append(changed)
    return found


def told_of_others(needs: Iterable[NeedRow], options: str) -> list[str]:
    """Return a sentence for each stage run for whose product runs of the same OUTPUT_ROOT wait: that `tick` goes on
    then, or, where it failed, why and what frees them."""
    found = []
    for need in needs:
        what = f"{need['stage']} of {need['name'] or 'a run that is gone'} ({need['run_id']})"
        if need["status"] == "failed":
            why = ": ".join(filter(None, (need["cause"], clean(need["message"] or ""))))
            frees = f"`rerun --failed --run {need['run_id']}{options}` frees them"
            found.append(f"{count(need['runs'], 'run')} blocked, since {what} failed ({why}): {frees}")
        else:
            goes_on = f"`tiny-transformers tick{options}` goes on once it has completed"
            who = count(need["runs"], "run", "waits", "wait")
            found.append(f"{who} for {what}, which is {need['status']}: {goes_on}")
    return found


def _told(path: Path) -> RequestFile | None:
    try:
        return documents.read(path, RequestFile)
    except documents.TornFile:  # `tick` names it
        return None
