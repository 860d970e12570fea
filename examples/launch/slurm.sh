#!/bin/bash
# Many nodes under Slurm: sbatch examples/launch/slurm.sh my.txt --out runs/mine
# One task is one rank. 2 minutes before the end of the time, or when the job is preempted or requeued, every rank gets
# SIGTERM: the run is saved, the job goes back into the queue, and the same command goes on in the same folder.
#SBATCH --job-name=thetahat
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT

srun --kill-on-bad-exit=1 bash -c '
  export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
  exec thetahat train "$@"' thetahat "$@"
code=$?

if [ $code -eq 143 ]; then  # 128 + SIGTERM: saved
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
