"""Why a stage run failed, in one word. Site profiles, manifests, jobs and the ledger all use these words."""

from __future__ import annotations

from typing import Literal

Cause = Literal[
    "error",
    "timeout",
    "out_of_memory",
    "node_fail",
    "preempted",
    "cancelled",
    "check_failed",
    "lost",
    "vanished",
    "launch_failed",
    "no_gpu",
]
