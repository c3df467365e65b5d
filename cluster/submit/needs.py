"""Say what runs wait for that is the product of another run, a need: in another pack, submission or ledger.

A request (`requests/<name>.json`) names its needs, and `tick` leaves its runs alone while one of them is open. It is
judged by the ledger of the OUTPUT_ROOT in which it is made, and so by files: met once the stage has completed; open
while it is under way, and also after that, unless the need says what is done without it. So a failed calibration blocks
nothing for ever, and what cannot do without a tokenizer or a teacher waits until somebody has mended it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cluster.console import count
from cluster.files.documents import Need, RequestFile
from cluster.files.folders import OutputRoot
from cluster.files.statuses import LIVE
from cluster.ledger.database import Ledger
from cluster.plan import choosing
from cluster.reconcile import session
from cluster.slurm.queries import Slurm
from cluster.submit.dispatch import States

StatesOf = Callable[[str], States]  # of the OUTPUT_ROOT of this name, below the one that is spoken of; "": itself


@dataclass(frozen=True)
class Waiting:
    """The runs of requests that wait for the product of another run, and what is to be told of needs."""

    runs: frozenset[str] = frozenset()
    told: tuple[str, ...] = ()


def waiting(requests: Iterable[RequestFile], states_of: StatesOf) -> Waiting:
    """Judge the needs of these requests."""
    runs: set[str] = set()
    told: list[str] = []
    for request in requests:
        needs = request.get("needs", [])
        open_ones = [need for need in needs if _is_open(need, states_of)]
        others = [need for need in needs if "or_else" in need and _status(need, states_of) != "completed"]
        if open_ones:
            runs |= set(request["runs"])
            told.append(
                f"{count(len(request['runs']), 'run', 'waits', 'wait')} for {count(len(open_ones), 'stage run')} in "
                f"{_places(open_ones)}; {len(needs) - len(open_ones)} of {len(needs)} have ended."
            )
        elif others:
            status = f"{count(len(others), 'stage run')} in {_places(others)} did not complete"
            told.append(f"{status}, so {others[0].get('or_else')}.")
    return Waiting(frozenset(runs), tuple(told))


def _places(needs: Iterable[Need]) -> str:
    return " and ".join(sorted({need["root"] or "." for need in needs}))


def _is_open(need: Need, states_of: StatesOf) -> bool:
    status = _status(need, states_of)
    return status in LIVE or (status != "completed" and "or_else" not in need)


def _status(need: Need, states_of: StatesOf) -> str:
    return choosing.status(states_of(need["root"]).get(need["run_id"], {}), need["stage"])


def states_of(output_root: OutputRoot, own: Ledger) -> StatesOf:
    """Return how the ledgers below an OUTPUT_ROOT are looked up, each once, after a look at what has become of its
    jobs; `own` is the one of this OUTPUT_ROOT, which the caller has locked."""
    known: dict[str, States] = {}

    def look(name: str) -> States:
        if not name:
            return own.states()
        if name not in known:
            root = OutputRoot(output_root.path / name)
            known[name] = {}
            if root.ledger.exists():
                with session.reading(root, Slurm()) as (view, _):
                    known[name] = view.ledger.states()
        return known[name]

    return look
