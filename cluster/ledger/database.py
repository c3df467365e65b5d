"""The ledger: every run, stage run, attempt, submission and score, in SQLite. The only room with SQL.

A view of the files: delete it and `rebuild` makes it again. Rows are dictionaries, whose types are in `rows`; each
module has the questions of one kind of reader."""

from __future__ import annotations

from cluster.ledger.attempts import Attempts
from cluster.ledger.results import Results
from cluster.ledger.states import States
from cluster.ledger.usage import Usage


class Ledger(States, Attempts, Results, Usage):
    """A ledger, open, with the questions of all readers."""
