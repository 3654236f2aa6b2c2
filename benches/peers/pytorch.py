"""AdamW of PyTorch and of this engine, in turns on the same machine.

Usage: python benches/peers/pytorch.py [path of the built program]

On the CPU PyTorch's `fused`, `foreach` and plain loop against `wgpu-optim bench --backend cpu`, with the
same number of threads. With a CUDA GPU also `fused` there against `--backend gpu`. A turn of ours is the
program's own median; what is compared is the median of the ratios of turns that follow one another.
"""

import json
import os
import statistics
import subprocess
import sys
import time

import torch

PROGRAM = sys.argv[1] if len(sys.argv) > 1 else "target/release/wgpu-optim"
MIB = 1 << 20
CASES = [(16 * MIB, 1), (16 * MIB, 1000), (MIB, 1000)]
ROUNDS = 5
STEPS = 10


def tensors(elements, count, device):
    ends = [elements * (i + 1) // count for i in range(count)]
    sizes = [end - start for start, end in zip([0, *ends], ends)]
    params = [torch.nn.Parameter(torch.randn(n, device=device)) for n in sizes]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def peer(elements, count, device, options):
    """A function that times one step."""
    optimizer = torch.optim.AdamW(tensors(elements, count, device), **options)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    # As training does between steps, and as the program does with its stream: other memory goes through the
    # caches, or a step finds there what the one before has left.
    elsewhere = torch.zeros(4 * elements, device=device)

    def turn():
        times = []
        for _ in range(STEPS):
            elsewhere.add_(1)
            wait()
            start = time.perf_counter()
            optimizer.step()
            wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    turn()
    return turn


def ours(elements, count, backend):
    """Seconds a step by configuration, from the program."""
    command = [PROGRAM, "bench", "--rule", "adamw", "--backend", backend, "--format", "json"]
    command += ["--elements", str(elements), "--tensors", str(count)]
    threads = {**os.environ, "RAYON_NUM_THREADS": str(torch.get_num_threads())}
    rows = json.loads(subprocess.run(command, check=True, capture_output=True, env=threads).stdout)
    return {row["config"]: row["median_s"] for row in rows}


def compare(device, backend, kinds):
    print(f"\n{device}, {torch.get_num_threads()} threads" if device == "cpu" else f"\n{torch.cuda.get_device_name()}")
    print("| parameters | tensors | PyTorch | its ms | ours, `propagate`, ms | its time over ours | over `default` |")
    print("|---|---|---|---|---|---|---|")
    for elements, count in CASES:
        turns = {kind: peer(elements, count, device, options) for kind, options in kinds.items()}
        found = {kind: [] for kind in kinds}
        for _ in range(ROUNDS):
            for kind, turn in turns.items():
                found[kind].append((turn(), ours(elements, count, backend)))
        for kind, pairs in found.items():
            its = statistics.median(t for t, _ in pairs)
            mine = statistics.median(o["propagate"] for _, o in pairs)
            ratios = [statistics.median(t / o[config] for t, o in pairs) for config in ("propagate", "default")]
            print(f"| {elements} | {count} | {kind} | {its * 1e3:.2f} | {mine * 1e3:.2f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")


if __name__ == "__main__":
    print(f"PyTorch {torch.__version__}")
    compare("cpu", "cpu", {"fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {"foreach": False}})
    if torch.cuda.is_available():
        compare("cuda", "gpu", {"fused": {"fused": True}, "foreach": {"foreach": True}})
