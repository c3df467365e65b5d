"""The launcher of servatus' README: ensure, plan, submit; safe to run again."""

from servatus import Campaign, Profile, Task

tasks = [Task(f"run-{n}", ["/bin/sh", "@BOX@/task.sh", str(n)]) for n in range(int("@RUNS@"))]
campaign = Campaign.ensure("state", tasks)
plan = campaign.plan(Profile.load("SERVATUS.toml"))
print(f"{len(plan.decision.selected)} selected, {len(plan.decision.held)} held")
if plan.decision.selected:
    campaign.submit(plan)
