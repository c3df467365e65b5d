"""What a choice was, in words that status and the report share. Pure.

A score that chose is too good: of many, the best is partly the luckiest. Whoever compares it says so."""

from __future__ import annotations

from cluster.console import count
from cluster.files.choices import ChoiceFile, ChoicePlan, RuleTold
from cluster.plan import following
from cluster.plan.ranking import Scores, show

NAMED = 6  # cells that a sentence names


def asked(rule: RuleTold) -> str:
    """Return how is chosen: "best 2 of each model.family from sharing by LAMBADA (lambada.last_word.accuracy)"."""
    of = f" of each {rule['per']}" if rule["per"] else ""
    return f"best {rule['best']}{of} from {sources(rule)} by {rule['title']} ({measure(rule)})"


def sources(rule: RuleTold) -> str:
    return " and ".join(source["study"] for source in rule["sources"])


def measure(rule: RuleTold) -> str:
    return f"{rule['stage']}.{rule['task']}.{rule['metric']}"


def title(of: ChoicePlan | ChoiceFile) -> str:
    """A follow-up as reports call it."""
    return " ".join([of["study"], *of["overrides"]])


def when(choice: ChoiceFile) -> str:
    return minute(choice["made"])


def minute(moment: str) -> str:
    return moment[:16].replace("T", " at ")


def chosen(choice: ChoiceFile) -> list[str]:
    """What was chosen, a sentence for each group."""
    return [f"Chosen on {when(choice)}: {asked(choice['rule'])}.", *choice["told"]]


def in_short(choice: ChoiceFile) -> str:
    """What was chosen, in a sentence."""
    names = [each["label"] for each in choice["ranked"] if each["chosen"]]
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return (
        f"{title(choice)} was chosen from {sources(choice['rule'])} by {choice['rule']['title']} on {when(choice)}: "
        f"{', '.join(names[:NAMED])}{more}. Only seeds that did not choose tell how good they are; `report` says how "
        "sure the choice is"
    )


def warning(choice: ChoiceFile) -> str:
    """Of the follow-up: which seeds are fresh."""
    return (
        f"Its cells were chosen for their {choice['rule']['title']}, so the scores that chose them are too good, being "
        "the best of many: only seeds that did not choose tell how good they are."
    )


def again(seeds: list[int]) -> str:
    """Say that a follow-up has seeds that choose; nothing if it has none."""
    if not seeds:
        return ""
    which = ", ".join(map(str, seeds))
    return f"{'Seed' if len(seeds) == 1 else 'Seeds'} {which} chose its cells, too: give it fresh `seeds`."


def of_source(choice: ChoiceFile, study: str) -> str:
    """Of a source: what its scores were used for."""
    taken = sum(each["chosen"] for each in choice["ranked"] if each["study"] == study)
    return (
        f"{title(choice)} chose {count(taken, 'cell')} of it by {choice['rule']['title']}: that score of the chosen is "
        "too good, being the best of many. Compare them by seeds that did not choose."
    )


def changed(choice: ChoiceFile, scores: Scores) -> str:
    """Say that scores by which was chosen are others now, since their runs were done again; nothing if none is."""
    known = [run for each in choice["ranked"] for run in each["scores"]]
    others = [run for run in known if run["run_id"] in scores and scores[run["run_id"]][0] != run["value"]]
    if not others:
        return ""
    first = others[0]
    then, now = show(choice["rule"], first["value"]), show(choice["rule"], scores[first["run_id"]][0])
    differ = "is another now" if len(others) == 1 else "are others now"
    return (
        f"{count(len(others), 'score')} by which {title(choice)} was chosen {differ}, of runs that were done again "
        f"({first['name']}: {then} then, {now} now). The choice stands."
    )


def dry(plan: ChoicePlan) -> str:
    """What cannot be planned yet."""
    groups = len({each["group"] for each in plan["candidates"]})
    most = plan["rule"]["best"] * groups
    made = max(len(each["into"]) for each in plan["candidates"])
    combinations = f"{count(most * made, 'combination')} with {count(_seeds(plan), 'seed')}"
    possible = f"at most {most} of {len(plan['candidates']):,} possible cells"
    return f"{title(plan)}: chosen later, {asked(plan['rule'])}: {possible}, {combinations}"


def _seeds(plan: ChoicePlan) -> int:
    return len(following.all_cells(plan)[0]["runs"])
