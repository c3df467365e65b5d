#!/bin/bash
#SBATCH --partition=compute-p1
#SBATCH --account=research-eemcs-st
#SBATCH --time=10
#SBATCH --mem=200M
sh @BOX@/task.sh $SLURM_ARRAY_TASK_ID
