"""Writes the golden vectors: inputs, and what PyTorch, Optax, others or a model make of them.

    pip install torch torchvision pillow optax jax schedulefree pytorch_optimizer timm torch_ema numpy safetensors
    python generate.py [--out DIR]

Everything is deterministic: the inputs come from a fixed NumPy seed and the references run in
float64 on one thread. The versions that made the committed files are in `cases.json`, `made_with`.

Each case is run twice by the same reference. The float64 run is the golden vector. The float32 run,
in the library's default form, is not stored; only its distance to float64 is, so that a test can say
"no worse than the library itself" where rounding the parameters sets a floor.
"""

import argparse
import importlib.metadata
import json
import math
import platform
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import peers
import schedules
from cases import CASES

PACKAGES = (
    "torch", "optax", "jax", "jaxlib", "schedulefree", "pytorch_optimizer", "timm", "torch_ema", "numpy", "safetensors"
)
STEPS = 20
SHAPES = {
    "layer1.weight": (17, 61),
    "layer1.bias": (61,),
    "layer2.weight": (3, 5, 7),
    "scale": (1,),
    "odd": (257,),
}
GRADIENT_SIZE = {
    "layer1.weight": 0.1,
    "layer1.bias": 0.05,
    "layer2.weight": 1.0,
    "scale": 0.3,
    "odd": 0.01,
}
# The gradient of this tensor is wholly zero in these steps: the first one, where every second
# moment is still zero too, and one in the middle of the run.
SILENT = "layer1.bias"
SILENT_STEPS = (0, 12)
# Below this a gradient is set to zero, so that no case makes a subnormal number of it: what a
# subnormal becomes is the device's choice.
SMALLEST_GRADIENT = 1e-6


def make_inputs():
    """Parameters and one gradient a step, as float32.

    A gradient is the sum of a part that drifts slowly (so that momentum builds up) and fresh noise;
    about one element in twenty is exactly zero, another set in each step.
    """
    rng = np.random.default_rng(20240607)
    params = {t: rng.normal(0.0, 0.5, shape).astype(np.float32) for t, shape in SHAPES.items()}
    drift = {t: rng.normal(size=shape) for t, shape in SHAPES.items()}
    grads = []
    for step in range(STEPS):
        grad = {}
        for t, shape in SHAPES.items():
            drift[t] = 0.9 * drift[t] + np.sqrt(1 - 0.9**2) * rng.normal(size=shape)
            g = GRADIENT_SIZE[t] * (0.7 * drift[t] + 0.7 * rng.normal(size=shape))
            g[rng.random(shape) < 0.05] = 0.0
            g[np.abs(g) < SMALLEST_GRADIENT] = 0.0
            if t == SILENT and step in SILENT_STEPS:
                g[...] = 0.0
            grad[t] = g.astype(np.float32)
        grads.append(grad)
    return params, grads


def scaled(grads, scale):
    """The gradients as a training loop would hand them over: the product is rounded to float32."""
    with np.errstate(over="raise", under="raise"):
        return [{t: g * np.float32(scale) for t, g in grad.items()} for grad in grads]


def distance(out, ref, start):
    """‖out − ref‖ / ‖ref − start‖.

    None where that says nothing: the reference did not move, or the float32 run failed outright, with
    a number that is not finite or without moving at all (a norm that overflowed clips to zero).
    """
    moved = np.linalg.norm(ref - start)
    if moved == 0 or not np.isfinite(out).all() or (out == start).all():
        return None
    return float(np.linalg.norm(out.astype(np.float64) - ref) / moved)


def check(name, tensors):
    for key, value in tensors.items():
        assert value.dtype == np.float64, f"{name}: {key} is {value.dtype}"
        assert np.isfinite(value).all(), f"{name}: {key} is not finite"


def write_case(case, params, grads, out, seen):
    """Runs one case in both precisions, writes its vectors and returns its row of `cases.json`.

    A slot that came out as in an earlier case of the same rule (the learning rate does not touch most
    of them) is not stored again; `seen` remembers them.
    """
    grads = scaled(grads[: case.steps], case.gradient_scale)
    ref = peers.run(case, params, grads, np.float64)
    peer = peers.run(case, params, grads, np.float32)

    slot_values = {}
    for key, value in ref.slot.items():
        content = (case.config["optimizer"]["rule"], key, value.tobytes())
        if content not in seen:
            seen.add(content)
            slot_values[key] = value

    tensors = {}
    for part, values in (("step01", ref.step01), ("final", ref.final), ("eval", ref.eval), ("slot", slot_values)):
        tensors |= {f"{part}/{key}": value for key, value in values.items()}
    check(case.name, tensors)
    save(tensors, out / "cases" / f"{case.name}.safetensors")

    slots = {}
    for key in slot_values:
        tensor, slot = key.rsplit(".", 1)
        slots.setdefault(slot, []).append(tensor)
    row = {
        "name": case.name,
        "reference": peers.reference(case.config["optimizer"]),
        "config": case.config,
        "gradient_scale": case.gradient_scale,
        "steps": case.steps,
        "slots": slots,
        "peer_f32_error": {t: distance(peer.final[t], ref.final[t], params[t]) for t in ref.final},
        "peer_f32_slot_error": {k: distance(peer.slot[k], ref.slot[k], 0.0) for k in slot_values},
    }
    if ref.scales:
        row |= {"scales": ref.scales, "spoiled": case.spoiled}
    if ref.eval:
        row["peer_f32_eval_error"] = {t: distance(peer.eval[t], ref.eval[t], params[t]) for t in ref.eval}
    return row


def save(tensors, path):
    """A safetensors file of contiguous arrays, readable by all, as any other file of a checkout."""
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, path)
    path.chmod(0o644)


def versions():
    made_with = {"python": platform.python_version()}
    for package in PACKAGES:
        made_with[package] = importlib.metadata.version(package)
    return made_with


def lines(rows):
    """A JSON array with one row a line, so that a change shows as the rows it touched."""
    return "[\n" + ",\n".join(json.dumps(row, allow_nan=False) for row in rows) + "\n]"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    (out / "cases").mkdir(parents=True, exist_ok=True)
    for old in (out / "cases").glob("*.safetensors"):
        old.unlink()

    params, grads = make_inputs()
    inputs = {f"params/{t}": p for t, p in params.items()}
    inputs |= {f"grads/{k:02}/{t}": g for k, grad in enumerate(grads) for t, g in grad.items()}
    save(inputs, out / "inputs.safetensors")

    rows, seen = [], set()
    for case in CASES:
        row = write_case(case, params, grads, out, seen)
        worst = max((e for e in row["peer_f32_error"].values() if e is not None), default=math.nan)
        print(f"{case.name:44} {row['reference']:6} float32 {worst:.1e}", flush=True)
        rows.append(row)
    (out / "cases.json").write_text(f'{{"made_with": {json.dumps(versions())},\n"cases": {lines(rows)}}}\n')
    (out / "schedules.json").write_text(lines(schedules.rows()) + "\n")


if __name__ == "__main__":
    main()
