#!/bin/bash
# A run on several nodes under SLURM, one process per GPU:
#     sbatch --nodes 2 --gpus-per-node 4 --ntasks-per-node 4 scripts/slurm.sh --config CONFIG.yaml
# Three minutes before the time limit, the run stops after the current step with a checkpoint, and
# the job is queued again. A preempted job resumes too, if the cluster requeues it. The store must be
# on a file system that all nodes can read.
#SBATCH --job-name=unlearn
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Signal every process three minutes before the end: longer than a step, a checkpoint and an
# evaluation.
#SBATCH --signal=SIGUSR1@180
set -euo pipefail

# Without --gpu-bind=none each process may see one GPU, and Lightning would count one per node.
exec srun --kill-on-bad-exit=1 --gpu-bind=none \
    "${PYTHON:-python}" -m lightning_unlearn fit \
    --trainer.accelerator gpu \
    --trainer.devices "$SLURM_NTASKS_PER_NODE" \
    --trainer.num_nodes "$SLURM_JOB_NUM_NODES" \
    --trainer.strategy fsdp2 "$@"
