"""The stages of a run, in the order in which they are done; what each is, is said in its own module of stage/.

A stage from elsewhere is added in the same way, by `STAGES.add`. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stage.add_tokenizer import ADD_TOKENIZER
from tiny_transformers.settings.stage.babylm import BABYLM
from tiny_transformers.settings.stage.blimp import BLIMP
from tiny_transformers.settings.stage.bpc import BPC
from tiny_transformers.settings.stage.interpret import INTERPRET
from tiny_transformers.settings.stage.kind import STAGES
from tiny_transformers.settings.stage.lambada import LAMBADA
from tiny_transformers.settings.stage.lm_eval import LM_EVAL
from tiny_transformers.settings.stage.pretrain import PRETRAIN
from tiny_transformers.settings.stage.speed import SPEED
from tiny_transformers.settings.stage.superglue import SUPERGLUE
from tiny_transformers.settings.stage.trajectory import TRAJECTORY

STAGES.add(PRETRAIN, ADD_TOKENIZER, BLIMP, SUPERGLUE, LAMBADA, BPC, SPEED, BABYLM, LM_EVAL, TRAJECTORY, INTERPRET)


def default_stages() -> tuple[str, ...]:
    """Return the stages of a study that names none."""
    return tuple(name for name, kind in STAGES.items() if kind.by_default)


def needed_by(stages: Iterable[str]) -> set[str]:
    """Return all that these stages need, directly or not."""
    needs = {need for stage in stages for need in STAGES[stage].needs}
    return needs | needed_by(needs) if needs else needs


def read_other_corpora(stages: Iterable[str], is_stream: bool) -> list[str]:
    """Return those of these stages that are not for models of this kind of corpus."""
    other = "stories" if is_stream else "streams"
    found = [stage for stage in stages if STAGES[stage].reads == other]
    return [name for name in STAGES if name in found] if found else []


def misfit(config: RunConfig, stages: Sequence[str]) -> str | None:
    """Return why one of these stages cannot be done with the model or the data, in words; None: all can."""
    if others := read_other_corpora(stages, config.data.is_stream):
        return f"stages: {others[0]} is not for models of {config.data.corpus}"
    for stage in stages:
        if (misfit_of := STAGES[stage].misfit) and (told := misfit_of(config)):
            return told
    return None


def required_files(config: RunConfig, stages: Iterable[str] | None = None, root: Path | None = None) -> list[str]:
    """Return what these stages (None: all) read below DATA_ROOT; for the builtin data, what its generator must have
    written. What only the files there tell is among it if `root` is given.

    Raises ValueError, in the user's words, where these files do not tell."""
    chosen = [STAGES[stage] for stage in (STAGES if stages is None else stages)]
    files = [file for kind in chosen for file in kind.files(config)]
    if root is not None and config.data.source == "files":
        files += [file for kind in chosen for file in kind.found(config, root)]
    return list(dict.fromkeys(files))
