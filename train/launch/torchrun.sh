#!/usr/bin/env bash
# Several machines by hand: run this on each of them.
#
#   HEAD=node0 NODES=2 GPUS=8 train/launch/torchrun.sh shrinkcnn-a --data /data/ImagenetTF --out /shared/runs/a
#
# HEAD is any one of the machines; --out must be on a disk that all of them share. When a machine is lost and returns,
# all processes continue from the last checkpoint, at most MAX_RESTARTS times.
#
# Security: PORT (29500 by default) on HEAD and random ports on all nodes have no authentication: anyone who can connect
# to them can run code as you. Let only the training nodes connect to each other (firewall or private network).
# With several network interfaces name the right one: GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME.
set -euo pipefail

: "${HEAD:?the name of one of the machines}" "${NODES:?how many machines}"

# Restarted processes must not find the addresses of lost ones in torchrun's store.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

exec torchrun \
  --nnodes "$NODES" \
  --nproc-per-node "${GPUS:-gpu}" \
  --rdzv-backend c10d \
  --rdzv-endpoint "$HEAD:${PORT:-29500}" \
  --rdzv-id "${RUN_ID:-shrinkserve}" \
  --max-restarts "${MAX_RESTARTS:-3}" \
  -m shrinkserve train run "$@" --resume
