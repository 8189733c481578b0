#!/usr/bin/env bash
# Train on several nodes under SLURM: one torchrun a node, which starts one process a GPU.
#
#   sbatch --nodes=16 nbs/experiments/slurm_train.sh runs/pretrain/big/params.yaml
#
# The parameter file, the corpus and the run folder, in which rank 0 writes, must be on a file system that all nodes
# share. batch_size counts the rows of all processes together: 128 GPUs x 256 rows = 32768.
#
# SLURM sends SIGTERM before it takes the nodes away (--signal). Every process then finishes its step, rank 0 saves a
# checkpoint, and the requeued job continues from it.
#SBATCH --job-name=sentnb
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

params=${1:?usage: sbatch slurm_train.sh PARAMS.yaml}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
gpus=${SLURM_GPUS_ON_NODE:-8}
export OMP_NUM_THREADS=$(( ${SLURM_CPUS_PER_TASK:-8} / gpus ))
# without this, a node that was replaced cannot join those that live on (nbs/6_studies/26_nodes.ipynb)
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# max-restarts: how often all processes start again, from the last checkpoint, after one has died
# join_timeout: seconds that a node may be late
srun --kill-on-bad-exit=1 python -m torch.distributed.run \
    --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$gpus" --max-restarts="${MAX_RESTARTS:-3}" \
    --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="$first:${PORT:-29400}" \
    --rdzv-conf=join_timeout=300,timeout=120,last_call_timeout=10 \
    -m sentnb.training.pretrain "$params"
