"""A model card beside a saved model: what it is, how it was trained, its scores, and what it was made of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.console import clean
from cluster.errors import InputError
from cluster.files.folders import OutputRoot
from cluster.plan.naming import flat
from cluster.render import render
from cluster.report.details import Details, RunDetails
from tiny_transformers.common.files import whole_file

CARD = "README.md"  # as the hub shows it
HEADS = {"gpt_neo": "CausalLM", "roberta": "MaskedLM", "llama": "CausalLM", "brainformer": "CausalLM"}
LIBRARIES = ("torch", "transformers", "tokenizers", "gpu", "cpu")  # of an environment


def write(made_of: Details, output_root: OutputRoot) -> list[str]:
    """Write the card of every run that has a saved model, into the model's folder; return the runs' ids. One that says
    the same is left as it is, and so is a folder that may be read alone."""
    written = []
    for each in made_of.runs:
        folder = output_root.run(each.run.id).model
        if not (folder / "config.json").is_file():
            continue
        text = card(each, made_of)
        path = folder / CARD
        if os.access(folder, os.W_OK) and (not path.is_file() or path.read_text(encoding="utf-8") != text):
            with whole_file(path) as draft:
                draft.write_text(text, encoding="utf-8")
        written.append(each.run.id)
    return written


def card(of: RunDetails, made_of: Details) -> str:
    """Return the card's Markdown."""
    run, config = of.run, of.run.config
    completed = [stage for stage in of.stages if stage.status == "completed"]
    about = f"A {config.model.family} of {run.parameters:,} parameters, trained on {config.data.corpus}"
    trial = "A smoke run, a trial of the machinery" if config.smoke else "A probe" if config.probe else ""
    if not trial and config.data.source == "builtin":
        trial = "Trained on built-in data, which a grammar makes"
    text = render(
        "model_card.md.j2",
        run=run,
        family=config.model.family,
        head=HEADS.get(config.model.family, "CausalLM"),
        about=about,
        trial=trial,
        studies=", ".join(run.studies),
        settings=sorted(flat(config.model_dump(mode="json")).items()),
        scores=[row for stage in completed for row in stage.scores],
        checks=[row for stage in completed for row in stage.checks if not row["passed"]],
        provenance=list(_provenance(of, made_of)),
        data={file: digest for stage in completed if stage.data for file, digest in made_of.data[stage.data].items()},
    )
    return clean(text)


def _provenance(of: RunDetails, made_of: Details) -> Iterator[tuple[str, Any]]:
    trained = next((stage.attempts[-1] for stage in of.stages if stage.name == "pretrain" and stage.attempts), None)
    if trained is None:
        return
    environment = made_of.environments.get(trained["environment"] or "", {})
    yield "code", f"`{trained['code']}`" if trained["code"] else "not known"
    if environment.get("commit"):
        yield "commit", f"`{environment['commit']}`"
    yield from ((name, environment[name]) for name in LIBRARIES if environment.get(name))


def upload(folder: Path, to: str, private: bool) -> str:
    """Upload a model's folder to the hub, into a repository that is made if it is not there; return its address.

    Raises InputError with what the hub, or the lack of a token, says."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi()
    try:
        address = api.create_repo(to, private=private, exist_ok=True)
        api.upload_folder(repo_id=to, folder_path=folder, commit_message="Model of tiny-transformers")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise InputError(f"push: {to}: {' '.join(str(error).split())} (`hf auth login` gives a token.)") from None
    return str(address)
