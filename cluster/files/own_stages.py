"""The stages of users' own that the runs below an OUTPUT_ROOT have: stages/<name>.json, each as a manifest defines it.

Whoever opens an OUTPUT_ROOT, a command or a job, makes them known first: without them its runs cannot be read."""

from __future__ import annotations

from pydantic import ValidationError

from cluster.files import whole_files
from cluster.files.folders import OutputRoot
from cluster.files.whole_files import TornFile
from tiny_transformers.settings.stage.known import make_known
from tiny_transformers.settings.stage.own import OwnStage


def read(root: OutputRoot) -> dict[str, OwnStage]:
    """Raises TornFile for a file that defines no stage."""
    found = {}
    for path in root.own_stages():
        try:
            found[path.stem] = OwnStage.model_validate(whole_files.read_json(path))
        except ValidationError as error:
            raise TornFile(f"{path}: defines no stage ({error.errors()[0]['msg']})") from None
    return found


def load(root: OutputRoot) -> None:
    """Make them known. Raises TornFile."""
    if found := read(root):
        try:
            make_known(found)
        except ValueError as error:
            raise TornFile(f"{root.path / 'stages'}: {error}") from None


def write(root: OutputRoot, name: str, own: OwnStage) -> None:
    whole_files.write_json(root.own_stage(name), own.model_dump(mode="json"))
