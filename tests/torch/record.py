"""Records what `tests/torch_state.rs` reads: for each case a checkpoint that `scripts/torch_state.py` made of a torch
optimizer in the middle of a run, and the parameters that torch comes to from there.

    pip install torch numpy safetensors
    python tests/torch/record.py
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent.parent / "scripts")]

from cases import CASES, STEPS, Run, config, gradients, rule  # noqa: E402
from torch_state import from_torch  # noqa: E402


def main():
    out = HERE / "recorded"
    out.mkdir(exist_ok=True)
    steps = gradients()
    flat = {f"{step}.{name}": g for step, gs in enumerate(steps[STEPS:]) for name, g in gs.items()}
    save_file(flat, out / "gradients.safetensors", {"made_with": f"torch {torch.__version__}"})
    for case in CASES:
        run = Run(case)
        for g in steps[:STEPS]:
            run.step(g)
        state = run.optimizer.state_dict()
        path = out / f"{case}.safetensors"
        from_torch(state, path, rule(case), params=run.values(), steps=STEPS)
        for g in steps[STEPS:]:
            run.step(g)
        save_file(run.values(), out / f"{case}.after.safetensors", {"config": config(case)})
        print(case)


if __name__ == "__main__":
    main()
