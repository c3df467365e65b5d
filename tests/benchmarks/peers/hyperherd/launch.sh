#!/bin/bash
# Called with "experiment_name=... run=3".
set -euo pipefail
for word in $1; do
    case $word in run=*) sh @BOX@/task.sh "${word#run=}" ;; esac
done
