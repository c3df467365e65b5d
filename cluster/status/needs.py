"""Say what waits for the product of another run, by the requests alone: nobody else's ledger is looked at. And which
follow-ups wait for their choice, and what was chosen."""

from __future__ import annotations

from pathlib import Path

from cluster.console import count
from cluster.files import documents
from cluster.files.documents import RequestFile
from cluster.files.folders import OutputRoot
from cluster.ledger.database import Ledger
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
            found.append(
                f"{count(len(request['runs']), 'run')} wait for {count(len(needs), 'stage run')} in {where}: "
                f"`tiny-transformers tick{output_root.options}` goes on once they have ended"
            )
    return found


def of_choices(ledger: Ledger, output_root: OutputRoot) -> list[str]:
    """Return a sentence for each choice that waits, and for each that was made: what was chosen, and whether its
    scores have changed since."""
    found = []
    for _, _, choice_id, plan in choices.waiting(output_root):
        if plan and choice_id not in ledger.choices():
            standing = choices.judge(ledger, plan)
            ready = f"{choice_words.title(plan)} can be chosen now: `tiny-transformers tick{output_root.options}` does"
            found.append(standing.waits or ready)
    for choice in ledger.choices().values():
        found.append(choice_words.in_short(choice))
        if changed := choice_words.changed(choice, choices.scores_of(ledger, choice["rule"])):
            found.append(changed)
    return found


def _told(path: Path) -> RequestFile | None:
    try:
        return documents.read(path, RequestFile)
    except documents.TornFile:  # `tick` names it
        return None
