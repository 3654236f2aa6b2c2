#!/usr/bin/env python3
"""Converts optimizer state between torch.optim and checkpoints of wgpu-optim, both ways.

    pip install torch numpy safetensors
    torch_state.py from-torch OPTIMIZER.pt OUT.safetensors --rule adamw [--model MODEL.pt] [--names a,b,..] [--steps N]
    torch_state.py to-torch CHECKPOINT.safetensors TEMPLATE.pt OUT.pt [--names a,b,..]

OPTIMIZER.pt and TEMPLATE.pt hold `optimizer.state_dict()`, MODEL.pt `model.state_dict()`. PyTorch numbers parameters, and
wgpu-optim names them: the names come from --names, or from the state dict where the optimizer was made of
`model.named_parameters()`. With --model the parameters go into the checkpoint too. OUT.pt is for
`optimizer.load_state_dict(torch.load(...))`; its groups and options are the template's.

Slots have the same names on both sides. What differs: PyTorch's SGD does not count steps (--steps says how many it took;
without it, one if there is a buffer), and its NAdam keeps the product of the momenta, which wgpu-optim computes from the
count. Not converted: learning-rate schedulers and GradScaler, which are no part of an optimizer's state dict.

As a module: `from_torch` and `to_torch`.
"""

import argparse

import torch
from safetensors import safe_open
from safetensors.torch import save_file

SLOTS = {
    "sgd": ["momentum_buffer"],
    "adagrad": ["sum"],
    "adadelta": ["square_avg", "acc_delta"],
    "rmsprop": ["square_avg", "grad_avg", "momentum_buffer"],
    "adam": ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"],
    "adamw": ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"],
    "adamax": ["exp_avg", "exp_inf"],
    "nadam": ["exp_avg", "exp_avg_sq"],
    "radam": ["exp_avg", "exp_avg_sq"],
    "rprop": ["prev", "step_size"],
    "adafactor": ["row_var", "col_var", "variance"],
}


def names_of(state_dict, names):
    """The parameters' names by their number."""
    groups = state_dict["param_groups"]
    numbers = [number for group in groups for number in group["params"]]
    if names is None:
        if not all("param_names" in group for group in groups):
            raise SystemExit("the state dict has no names: give --names in the order of the optimizer's parameters")
        names = [name for group in groups for name in group["param_names"]]
    if len(names) != len(numbers):
        raise SystemExit(f"{len(names)} names for {len(numbers)} parameters")
    return dict(zip(numbers, names))


def from_torch(state_dict, path, rule, names=None, params=None, steps=None):
    """Writes the state dict of a torch optimizer as a checkpoint. `params` are tensors by name, for the file."""
    if rule not in SLOTS:
        raise SystemExit(f"torch.optim has no rule {rule!r}: known are {', '.join(SLOTS)}")
    tensors = {} if params is None else {name: tensor.detach().float().contiguous() for name, tensor in params.items()}
    metadata = {
        "format": "wgpu-optim",
        "version": "2",
        "parameters": "false" if params is None else "true",
        "steps_skipped": "0",
        "micro_batches": "0",
        "loss_scale": "1.0",
        "loss_scale.dynamic": "false",
        "good_steps": "0",
        "plateau.factor": "1.0",
        "plateau.bad_reports": "0",
        "plateau.cooldown": "0",
    }
    taken = 0
    for number, name in names_of(state_dict, names).items():
        state = state_dict["state"].get(number, {})
        slots = {slot: state[slot] for slot in SLOTS[rule] if state.get(slot) is not None}
        unknown = set(state) - set(SLOTS[rule]) - {"step", "mu_product"}
        if unknown:
            raise SystemExit(f"{name}: {rule} has no {', '.join(sorted(unknown))}: is the rule right?")
        count = int(state["step"]) if "step" in state else steps if steps is not None else int(bool(slots))
        for slot, values in slots.items():
            tensors[f"{name}.{slot}"] = values.detach().float().contiguous()
        metadata[f"rule:{name}"] = rule
        metadata[f"steps:{name}"] = str(count)
        taken = max(taken, count)
    metadata["steps_taken"] = str(taken)
    save_file(tensors, path, metadata)


def momentum_product(group, steps):
    """Π μ_t of NAdam (Dozat 2016), as torch.optim.NAdam keeps it."""
    product = 1.0
    for t in range(1, steps + 1):
        product *= group["betas"][0] * (1.0 - 0.5 * 0.96 ** (t * group["momentum_decay"]))
    return product


def to_torch(path, template, names=None):
    """The state dict of a torch optimizer that goes on from a checkpoint. The groups are the template's."""
    state = {}
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        # Versions differ in what sums of micro-batches are, which PyTorch has not.
        if metadata.get("format") != "wgpu-optim" or metadata.get("version") not in ("2", "3"):
            raise SystemExit(f"{path}: not a checkpoint of wgpu-optim, version 2 or 3")
        keys = set(file.keys())
        for group in template["param_groups"]:
            for number in group["params"]:
                name = names_of(template, names)[number]
                rule = metadata.get(f"rule:{name}")
                if rule not in SLOTS:
                    raise SystemExit(f"{path}: {name!r} has rule {rule!r}, which torch.optim has not")
                steps = int(metadata[f"steps:{name}"])
                slots = {slot: file.get_tensor(f"{name}.{slot}") for slot in SLOTS[rule] if f"{name}.{slot}" in keys}
                if any(values.dtype == torch.uint8 for values in slots.values()):
                    raise SystemExit(f"{path}: {name!r} has compressed state, which torch.optim has not")
                slots = {slot: values.float() for slot, values in slots.items()}
                if steps == 0:
                    continue  # PyTorch makes the state at the first step.
                if rule != "sgd":
                    slots["step"] = torch.tensor(float(steps))
                if rule == "nadam":
                    slots["mu_product"] = torch.tensor(momentum_product(group, steps))
                state[number] = slots
    return {"state": state, "param_groups": template["param_groups"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    names = {"type": lambda text: text.split(","), "metavar": "A,B,..", "help": "the parameters' names in order"}
    one = commands.add_parser("from-torch")
    one.add_argument("optimizer")
    one.add_argument("out")
    one.add_argument("--rule", required=True, choices=SLOTS)
    one.add_argument("--model", help="a model's state dict, whose parameters the checkpoint is to hold")
    one.add_argument("--names", **names)
    one.add_argument("--steps", type=int, help="steps that SGD has taken")
    other = commands.add_parser("to-torch")
    other.add_argument("checkpoint")
    other.add_argument("template")
    other.add_argument("out")
    other.add_argument("--names", **names)
    args = parser.parse_args()
    if args.command == "from-torch":
        state_dict = torch.load(args.optimizer)
        params = None
        if args.model:
            model = torch.load(args.model)
            params = {name: model[name] for name in names_of(state_dict, args.names).values()}
        from_torch(state_dict, args.out, args.rule, args.names, params, args.steps)
    else:
        torch.save(to_torch(args.checkpoint, torch.load(args.template), args.names), args.out)


if __name__ == "__main__":
    main()
