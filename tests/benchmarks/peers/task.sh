#!/bin/sh
# task.sh NUMBER: the one task of every tool here. Each execution leaves a marker and says its name, so that executions
# can be counted and the log of each found; it waits while `hold` is there and fails if `fail/NUMBER` is.
box=$(dirname "$0")
execution="$1.${SLURM_JOB_ID:-0}.$(date +%s%N)"
echo "execution $execution"
: > "$box/marks/$execution"
while [ -e "$box/hold" ]; do sleep 0.2; done
[ ! -e "$box/fail/$1" ]
