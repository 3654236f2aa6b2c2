"""Writes storage.safetensors: runs of AdamW whose numbers are stored in 16 bits or in 8-bit codes.

16 bits: PyTorch's AdamW in float64, from parameters and gradients that PyTorch has rounded, its parameters
rounded by PyTorch at the end: what an f32 master keeps.

8 bits: the algorithm of bitsandbytes' AdamW8bit (Dettmers et al. 2022), written again here in float64: moments
are codes of the dynamic map in blocks of 256, scaled by the block's largest magnitude; a step decodes them,
updates, steps the parameters by the fresh moments, and encodes them; a first moment keeps its sign.
"""

import pathlib

import numpy as np
import torch
from safetensors.numpy import save_file

STEPS = 6
SIZE = 5000
BLOCK = 256
LR, BETAS, EPS, DECAY = 1e-2, (0.9, 0.999), 1e-8, 1e-2


def dynamic_map(signed):
    """Decades from 1e-7 to 1, each with twice the steps of the one below; zero and one."""
    values = [0.0, 1.0]
    for decade in range(7):
        bounds = np.linspace(0.1, 1.0, 2 ** (decade + (0 if signed else 1)) + 1)
        middles = (bounds[:-1] + bounds[1:]) / 2 * 10.0 ** (decade - 6)
        values += list(middles) + (list(-middles) if signed else [])
    assert len(values) == 256
    return np.sort(np.array(values))


def encode(x, table, signed):
    codes, scales = np.zeros(len(x), np.uint8), []
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        scale = np.abs(block).max()
        nearest = np.abs(table[None, :] - block[:, None] / scale).argmin(axis=1)
        if signed:
            nearest -= (table[nearest] == 0) & (block < 0)
        codes[start : start + BLOCK] = nearest
        scales.append(scale)
    return codes, np.array(scales)


def decode(codes, scales, table):
    return table[codes] * np.repeat(scales, BLOCK)[: len(codes)]


def eight_bits(params, gradients):
    signed, unsigned = dynamic_map(True), dynamic_map(False)
    p = params.astype(np.float64)
    m = (np.full(SIZE, 127, np.uint8), np.zeros(-(-SIZE // BLOCK)))
    v = (np.zeros(SIZE, np.uint8), np.zeros(-(-SIZE // BLOCK)))
    for step, g in enumerate(gradients.astype(np.float64), 1):
        first = BETAS[0] * decode(*m, signed) + (1 - BETAS[0]) * g
        second = BETAS[1] * decode(*v, unsigned) + (1 - BETAS[1]) * g * g
        corrections = [1 - beta**step for beta in BETAS]
        p *= 1 - LR * DECAY
        p -= LR * first / corrections[0] / (np.sqrt(second / corrections[1]) + EPS)
        m, v = encode(first, signed, True), encode(second, unsigned, False)
    return {"params": p, "exp_avg": m[0], "exp_avg.absmax": m[1], "exp_avg_sq": v[0], "exp_avg_sq.absmax": v[1]}


def sixteen_bits(params, gradients, dtype):
    rounded = lambda x: torch.from_numpy(x).to(dtype).to(torch.float64)
    p = torch.nn.Parameter(rounded(params))
    optimizer = torch.optim.AdamW([p], lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    for g in gradients:
        p.grad = rounded(g)
        optimizer.step()
    master = p.detach()
    return {"params": master.to(dtype).to(torch.float32).numpy(), "master": master.numpy()}


def main():
    random = np.random.default_rng(8)
    params = random.uniform(-0.1, 0.1, SIZE).astype(np.float32)
    gradients = random.normal(0.0, 1.0, (STEPS, SIZE)).astype(np.float32)
    # From block to block by orders of magnitude, as between layers.
    gradients *= np.repeat(10.0 ** random.uniform(-4, 2, -(-SIZE // BLOCK)), BLOCK)[:SIZE].astype(np.float32)
    runs = {
        "q8": eight_bits(params, gradients),
        "f16": sixteen_bits(params, np.clip(gradients, -6e4, 6e4), torch.float16),
        "bf16": sixteen_bits(params, gradients, torch.bfloat16),
    }
    tensors = {"params": params, "gradients": gradients}
    for name, run in runs.items():
        tensors.update({f"{name}.{key}": np.ascontiguousarray(value) for key, value in run.items()})
    save_file(tensors, pathlib.Path(__file__).with_name("storage.safetensors"))


if __name__ == "__main__":
    main()
