#!/bin/sh
# Stands for SLURM's @NAME@: writes down each call from the login node and commits the fault that was asked for.
export SLURM_CONF=@CONF@
[ -n "$SLURM_JOB_ID" ] && exec @REAL@ "$@"
name=@NAME@
[ "$*" = --version ] && name=version
begun=$(date +%s.%N)
if mv @BOX@/faults/fail-$name @BOX@/faults/done-fail-$name 2>/dev/null; then
    echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2
    code=1
elif mv @BOX@/faults/lose-$name @BOX@/faults/done-lose-$name 2>/dev/null; then
    @REAL@ "$@" > /dev/null
    echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2
    code=1
elif [ -e @BOX@/faults/late-$name ]; then
    answer=$(@REAL@ "$@")
    code=$?
    sleep 0.3
    [ -z "$answer" ] || echo "$answer"
else
    @REAL@ "$@"
    code=$?
fi
echo "$name $begun $(date +%s.%N)" >> @BOX@/calls
exit $code
