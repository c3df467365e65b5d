"""Say what waits for the product of another run, by the requests alone: nobody else's ledger is looked at."""

from __future__ import annotations

from pathlib import Path

from cluster.console import count
from cluster.files import documents
from cluster.files.documents import RequestFile
from cluster.files.folders import OutputRoot


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


def _told(path: Path) -> RequestFile | None:
    try:
        return documents.read(path, RequestFile)
    except documents.TornFile:  # `tick` names it
        return None
