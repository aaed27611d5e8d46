#!/bin/bash
# A run on several nodes under SLURM, one process per GPU:
#     sbatch --nodes 2 --gpus-per-node 4 --ntasks-per-node 4 scripts/slurm.sh --config CONFIG.yaml
# When the time is nearly up the step is ended and kept, and the job is queued again; what a
# pre-emption stops goes on too, where the cluster requeues. The store must be on a file system that
# all nodes see.
#SBATCH --job-name=unlearn
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# To every process, three minutes before the end: longer than a step, a checkpoint and a look.
#SBATCH --signal=SIGUSR1@180
set -euo pipefail

# Where SLURM gives each process only one GPU, Lightning would count one device per node.
exec srun --kill-on-bad-exit=1 --gpu-bind=none \
    "${PYTHON:-python}" -m lightning_unlearn fit \
    --trainer.accelerator gpu \
    --trainer.devices "$SLURM_NTASKS_PER_NODE" \
    --trainer.num_nodes "$SLURM_JOB_NUM_NODES" \
    --trainer.strategy fsdp2 "$@"
