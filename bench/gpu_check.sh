#!/usr/bin/env bash
# Checks on one large GPU, in parts of at most 3 minutes: recipe, full, fp16, compile, resume.
#
#   bash bench/gpu_check.sh PART           one part, on a GPU
#   bash bench/gpu_check.sh PART --small   the same with small networks, on any machine
#   bash bench/gpu_check.sh all            every part, each within its own limit
#
# Needs what requirements.txt lists, but neither DVC nor MLflow. PYTHON names the interpreter (default: that of
# .venv, else python3), COMMIT the commit of a copy without .git, LIMIT the seconds of a part (180).
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
command -v "$PYTHON" >/dev/null || { echo "error: $PYTHON: no such interpreter; set PYTHON" >&2; exit 1; }

missing=$("$PYTHON" - <<'EOF'
from importlib.util import find_spec

NEEDED = {
    "albumentations": "albumentations", "cv2": "opencv-python-headless", "einops": "einops",
    "lightning_fabric": "lightning-fabric", "mujoco": "mujoco", "numba": "numba", "numpy": "numpy",
    "pydantic": "pydantic", "ruamel.yaml": "ruamel.yaml", "safetensors": "safetensors", "scipy": "scipy",
    "segmentation_models_pytorch": "segmentation-models-pytorch", "torch": "torch",
    "torchvision": "torchvision", "tqdm": "tqdm",
}


def absent(module: str) -> bool:
    try:
        return find_spec(module) is None
    except ModuleNotFoundError:  # of the parent of a submodule
        return True


print(" ".join(package for module, package in NEEDED.items() if absent(module)))
EOF
)
[ -z "$missing" ] || { echo "error: $PYTHON lacks $missing; install what requirements.txt pins" >&2; exit 1; }

check() {
    local code=0
    timeout --kill-after=10 "${LIMIT:-180}" "$PYTHON" -m bench.gpu_check "$@" || code=$?
    [ "$code" -ne 124 ] || echo "error: $1: not done after ${LIMIT:-180} s; raise LIMIT" >&2
    return "$code"
}

if [ "${1:-}" = all ]; then
    failed=0
    for part in recipe full fp16 compile resume; do
        check "$part" "${@:2}" || failed=1
        echo
    done
    exit "$failed"
fi
check "$@"
