"""What the report says of choices: of a follow-up, how its cells were chosen; of a source, that the scores which chose
are too good."""

from __future__ import annotations

from cluster.files.choices import ChoiceFile
from cluster.ledger.database import Ledger
from cluster.plan import choice_words
from cluster.report.results import Study
from cluster.submit import choices


def sentences(ledger: Ledger, study: Study) -> list[str]:
    """Return the sentences on the choices that this study had or was a source of."""
    found: list[str] = []
    for choice in ledger.choices().values():
        overrides = choice["overrides"]
        if study.name == choice_words.title(choice):
            found += [*choice_words.chosen(choice), choice_words.warning(choice)]
            found += filter(None, [choice_words.changed(choice, choices.scores_of(ledger, choice["rule"]))])
            found += filter(None, [choice_words.again(_seeds_again(choice, study))])
        for source in choice["rule"]["sources"]:
            if study.name == " ".join([source["study"], *overrides]):
                found.append(choice_words.of_source(choice, source["study"]))
    return found


def _seeds_again(choice: ChoiceFile, study: Study) -> list[int]:
    """The seeds of the chosen cells' runs that have chosen them."""
    choosing = {run["seed"] for each in choice["ranked"] for run in each["scores"]}
    return sorted(choosing & {run.seed for run in study.runs if run.run_id in choice["runs"]})
