#!/usr/bin/env bash
# Every GPU measurement of the project in one go, in under nine minutes on one H100-class card.
#
#     OUT=results bash benchmarks/gpu.sh
#     OUT=results bash benchmarks/gpu.sh trainings    # whole trainings, up to half an hour
#     JAXCNN_QUICK=1 bash benchmarks/gpu.sh           # on a CPU: does the script work?
#
# The trainings want the whole package and CIFAR-10 as TFDS prepares it. What is cut off goes on in
# the next call, if $OUT is the same folder.
#
# The measurements need jax, flax (and with it rich), optax, orbax, numpy, jaxtyping and torch;
# pytest, matplotlib and keras are used where they are installed. Results, logs and a line for each
# step (name, exit code, seconds) go to the folder $OUT. A step that fails or takes too long does not
# keep the others from running; the exit code says whether all went well.
set -u
cd "$(dirname "$0")/.."

if [[ -n ${JAXCNN_QUICK:-} ]]; then
  OUT=${OUT:-$(mktemp -d)}
  models='["lenet5"]' layers=lenet5 settings='bench.Settings("fp32", 4, 1, 2)'
  fusions=(lenet5 --batch-size 4)
  train_step=(--batch-size 4 --steps 2 --rounds 1 --calls lenet5)
  seeds=(--seeds 2 --batch-size 4 --steps 2 --rounds 1 --modes vmap)
  ops=(--select "Inception avg_pool" --quick --name ops)
  peers=(lenet5 --rounds 1 --batch-size 4)
  tests=(-k "avg_pool_agrees and shape0")
  compiled=(lenet5 --batch-size 4) imagenet=("alexnet_imagenet 1") widen=1
  short=(--data.batch_size 1 --data.eval_batch_size 1 --train.epochs 1)
  cifar=("${short[@]}" --data.name synthetic --data.examples 2 1 --data.image_size 32)
  scale=3 # a CPU that has other work to do, too, comes to the end
else
  OUT=${OUT:-benchmarks/results/gpu}
  # A compilation is not interrupted: what takes longest to compile comes last.
  models='["resnet50", "lenet5", "vgg16", "convnext_tiny", "mobilenet_v2"]' layers=resnet50
  settings='bench.Settings("bf16", 256, 10, 40)'
  fusions=(resnet50 --batch-size 256 --dtype bfloat16)
  train_step=(--batch-size 256 --rounds 7 --calls lenet5 resnet20)
  seeds=(--seeds 8 --modes vmap layers)
  ops=(--card --dtype bfloat16 --name ops)
  peers=(resnet50 --dtype bf16 --rounds 5)
  compiled=(mobilenet_v2)
  # With the batch of each recipe.
  imagenet=("resnet50_imagenet 256" "resnet50_a2_imagenet 2048" "vgg16_imagenet 256"
    "googlenet_imagenet 32" "alexnet_imagenet 128")
  short=() cifar=() widen=10
  scale=1
  # Stems, pools whose windows do and do not overlap, batch norm: what is rewritten on a GPU.
  stems="x_shape18 or x_shape20" pools="max_pool and distinct and (shape0 or shape3)"
  norms="batch_norm and gpu and (plain_form or (True and shape2))"
  tests=(-k "$stems or ($pools) or ($norms)")
fi
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd) || exit 2
export OUT PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export XLA_PYTHON_CLIENT_PREALLOCATE=false TF_CPP_MIN_LOG_LEVEL=2
: >"$OUT/steps.txt"
failed=0 given=$SECONDS

# A step may also use the time that earlier steps left over.
step() { # NAME LIMIT_IN_SECONDS COMMAND...
  local name=$1 start=$SECONDS code=0
  given=$((given + $2 * scale))
  shift 2
  timeout --kill-after=5 "$((given - SECONDS))" "$@" >"$OUT/$name.log" 2>&1 || code=$?
  echo "$name exit $code after $((SECONDS - start)) s" | tee -a "$OUT/steps.txt"
  ((code == 0)) || { failed=1; tail -n 20 "$OUT/$name.log"; }
}

finish() {
  echo "results in $OUT${1:-}"
  exit $failed
}

if [[ ${1:-} == trainings ]]; then
  # The limits add up to 1,740 s.
  for level in 4 2 1; do # of timing algorithms; 4 is the usual one
    XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_autotune_level=$level" step "autotune_$level" 80 \
      python -m jaxcnn.cli bench "${compiled[@]}" --train --out "$OUT/autotune_$level.csv"
  done
  for pair in "${imagenet[@]}"; do # a hundred steps on noise, of which a fast learner might diverge
    read -r recipe batch <<<"$pair"
    step "$recipe" 90 python -m jaxcnn.cli train "experiments/$recipe.py" --data.name synthetic \
      --data.examples $((10 * batch)) "$batch" --data.num_classes 1000 --data.streaming false \
      --augment.random_crop false --optim.peak_lr 1e-6 --model.dtype bfloat16 \
      --train.epochs 10 --train.eval_every 10 \
      "${short[@]}" --workdir "$OUT/$recipe"
  done
  step resnet20_cifar10 240 python -m jaxcnn.cli train experiments/resnet20_cifar10.py \
    --train.epochs 164 "${cifar[@]}" --workdir "$OUT/resnet20_cifar10"
  step wide_resnet28_10 810 python -m jaxcnn.cli train experiments/wide_resnet_cifar10.py \
    --model.options depth 28 widen $widen --data.batch_size 128 --model.dtype bfloat16 \
    --train.epochs 200 "${cifar[@]}" --workdir "$OUT/wide_resnet28_10"
  finish
fi

# The limits add up to 540 s. What matters most comes first. A budget leaves out what would be cut.
step bench 145 python -c "
from pathlib import Path
from jaxcnn.analysis import bench
from jaxcnn.analysis.budget import Budget
problems = bench.run(
    $models, ['infer', 'train'], Path('$OUT/bench.csv'), $settings, budget=Budget(85))
raise SystemExit('; '.join(problems) or None)"
step fusions 35 python -m benchmarks.fusions "${fusions[@]}" --out fusions
step layers 50 python -c "
from pathlib import Path
from rich.console import Console
from jaxcnn.analysis import bench, layers
from jaxcnn.analysis.budget import Budget
report = Console(width=160).print
problems = layers.run(
    ['$layers'], ['train'], Path('$OUT/layers.csv'), $settings, report, Budget(32))
raise SystemExit('; '.join(problems) or None)"
step train_step 50 python -m benchmarks.train_step "${train_step[@]}"
step seeds 35 python -m benchmarks.seeds "${seeds[@]}"
step ops 40 python -m benchmarks.ops --no-torch "${ops[@]}"
if python -c 'import pytest' 2>/dev/null; then
  # Without the settings of the suite, whose plugins need not be there; TF32 would not agree.
  JAX_DEFAULT_MATMUL_PRECISION=highest step parity 20 python -m pytest -c /dev/null --rootdir . \
    --noconftest --import-mode=importlib -q tests/ops/test_agreement.py tests/ops/test_norm.py \
    "${tests[@]}"
else
  echo "parity skipped: no pytest" | tee -a "$OUT/steps.txt"
fi
# Compiling for PyTorch takes minutes.
step vs_peers 165 python -m benchmarks.vs_peers "${peers[@]}"
finish "; whole trainings: bash benchmarks/gpu.sh trainings, python -m benchmarks.speedrun --peer"
