#!/usr/bin/env bash
# Several machines by hand: run this on each of them.
#
#   HEAD=node0 NODES=2 GPUS=8 train/launch/torchrun.sh shrinkcnn-a --data /data/ImagenetTF --out /shared/runs/a
#
# HEAD is any one of the machines; --out must be on a disk that all of them share. A machine that is lost and comes
# back joins again: all processes then go on from the last checkpoint, MAX_RESTARTS times at most.
#
# Security: PORT (29500 by default) on HEAD and random ports on all nodes have no authentication; who reaches them can
# run code as you. Let only the training nodes reach each other's ports (firewall or private network).
set -euo pipefail

: "${HEAD:?the name of one of the machines}" "${NODES:?how many machines}"

# Processes that are started again must not find what lost ones left in torchrun's store.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

exec torchrun \
  --nnodes "$NODES" \
  --nproc-per-node "${GPUS:-gpu}" \
  --rdzv-backend c10d \
  --rdzv-endpoint "$HEAD:${PORT:-29500}" \
  --rdzv-id "${RUN_ID:-shrinkserve}" \
  --max-restarts "${MAX_RESTARTS:-3}" \
  -m shrinkserve train run "$@" --resume
