"""Runs a case with the library it names, in float64 or float32."""

import fnmatch
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytorch_optimizer
import schedulefree
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

import around  # noqa: E402
import models  # noqa: E402
import optax_rules  # noqa: E402
import schedules  # noqa: E402
from torch_state import SLOTS as TORCH_SLOTS  # noqa: E402

torch.set_num_threads(1)

# PyTorch's default for the first eps of Adafactor is the machine epsilon of the parameter's type. Ours
# is that of float32 in whichever precision the reference runs.
ADAFACTOR_EPS = (2.0**-23, 1e-3)

TORCH_RULES = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rprop": torch.optim.Rprop,
    "adafactor": torch.optim.Adafactor,
}
MODELS = {"momentum": models.Momentum}
# Their masks let n / (kept + 1) through, as the paper has it. AdEMAMix without its slow average is AdamW.
CAUTIOUS = {
    "adamw": (
        pytorch_optimizer.AdEMAMix,
        {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2, "alpha": 0.0},
    ),
    "lion": (pytorch_optimizer.Lion, {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 1e-3}),
}
# AdamWScheduleFree, since version 1.3, corrects v and leaves the step's size alone; the paper corrects the size.
SCHEDULE_FREE = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "warmup_steps": 0}

# Those of torch.optim, and of what it has not.
SLOTS = TORCH_SLOTS | {
    "momentum": ["momentum_buffer"],
    "lion": ["exp_avg"],
    "adabelief": ["exp_avg", "exp_avg_var"],
    "yogi": ["exp_avg", "exp_avg_sq"],
    "adan": ["exp_avg", "exp_avg_diff", "exp_avg_sq", "prev_grad"],
    "lamb": ["exp_avg", "exp_avg_sq"],
    "lars": ["momentum_buffer"],
    "schedule_free_adamw": ["z", "exp_avg_sq"],
}


def reference(optimizer):
    """Which reference runs a rule with these options."""
    if optimizer.get("cautious"):
        return "pytorch_optimizer"
    if optimizer["rule"] == "schedule_free_adamw":
        return "schedulefree"
    if optimizer["rule"] in MODELS:
        return "model"
    return "torch" if optimizer["rule"] in TORCH_RULES else "optax"


@dataclass
class Result:
    """Arrays by tensor name, `slot` by `tensor.slot`; `eval` only where a rule evaluates elsewhere.

    `scales` are what a dynamic loss scale was before each micro-batch and at the end.
    """

    step01: dict = field(default_factory=dict)
    final: dict = field(default_factory=dict)
    eval: dict = field(default_factory=dict)
    slot: dict = field(default_factory=dict)
    scales: list = field(default_factory=list)


def options_of(config, tensor):
    """The options of one tensor: [optimizer], then the first group that matches. None if it is frozen.

    A group with a rule of its own takes only the learning rate from [optimizer].
    """
    options = dict(config["optimizer"])
    for group in config.get("groups", []):
        if fnmatch.fnmatchcase(tensor, group["match"]):
            if group.get("frozen"):
                return None
            if group.get("rule", options["rule"]) != options["rule"]:
                options = {"lr": options["lr"]}
            options |= {key: value for key, value in group.items() if key not in ("match", "frozen")}
            break
    return options


@dataclass
class Trained:
    """A tensor that takes steps, with an optimizer of its own.

    One each, because PyTorch reads some options (Adagrad's initial value) from the constructor alone,
    whatever the parameter group says.
    """

    name: str
    p: torch.nn.Parameter
    rule: str
    optimizer: torch.optim.Optimizer
    base_lr: float

    def set_lr(self, ratio):
        self.optimizer.param_groups[0]["lr"] = self.base_lr * ratio


def build(config, params):
    """The tensors that are not frozen, ready to train."""
    trained = []
    for name, p in params.items():
        options = options_of(config, name)
        if options is None:
            continue
        rule = options.pop("rule")
        cautious = options.pop("cautious", False)
        if rule == "adafactor":
            options.setdefault("eps", ADAFACTOR_EPS)
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        group = [{"params": [p], **options}]
        if cautious:
            peer, defaults = CAUTIOUS[rule]
            options = defaults | options
            if "alpha" in defaults:
                options["betas"] = (*options["betas"], 0.9999)
            optimizer = peer([p], weight_decouple=True, cautious=True, foreach=False, **options)
        elif rule == "schedule_free_adamw":
            optimizer = schedulefree.AdamWScheduleFreePaper([p], foreach=False, **(SCHEDULE_FREE | options))
            optimizer.train()
        elif rule in MODELS:
            optimizer = MODELS[rule](group)
        elif rule in TORCH_RULES:
            optimizer = TORCH_RULES[rule]([p], foreach=False, **options)
        else:
            optimizer = optax_rules.OptaxRule(group, rule)
        trained.append(Trained(name, p, rule, optimizer, optimizer.param_groups[0]["lr"]))
    return trained


def condition(params, gradient):
    """Conditions the gradients of these parameters in place.

    The clip by value comes first; then one norm-type key, over what the clip by value left. PyTorch's
    and Optax's own functions where they have one.
    """
    if "clip_value" in gradient:
        torch.nn.utils.clip_grad_value_(params, gradient["clip_value"], foreach=False)
    if "clip_global_norm" in gradient:
        torch.nn.utils.clip_grad_norm_(params, gradient["clip_global_norm"], foreach=False)
    if "normalize_global_norm" in gradient:
        norm = torch.nn.utils.get_total_norm([p.grad for p in params], foreach=False)
        for p in params:
            p.grad.mul_(gradient["normalize_global_norm"] / norm if norm != 0 else 0.0)
    for p in params:
        if "clip_tensor_norm" in gradient:
            torch.nn.utils.clip_grad_norm_([p], gradient["clip_tensor_norm"], foreach=False)
        if "clip_max_abs" in gradient:
            p.grad.copy_(limited(p.grad, p.grad.abs().max(), gradient["clip_max_abs"]))
        if "clip_adaptive" in gradient:
            p.grad.copy_(optax_rules.adaptive_clip(p, p.grad, gradient["clip_adaptive"]))


def limited(x, size, limit):
    """x scaled so that its size is the limit, if it is larger."""
    return x * (limit / size) if size > limit else x


def limit_weights(params, weights):
    """clip_value clamps; max_abs and max_norm scale a tensor whose max|w| or ‖w‖ is too large."""
    with torch.no_grad():
        for p in params:
            if "clip_value" in weights:
                p.clamp_(-weights["clip_value"], weights["clip_value"])
            if "max_abs" in weights:
                p.copy_(limited(p, p.abs().max(), weights["max_abs"]))
            if "max_norm" in weights:
                p.copy_(limited(p, torch.linalg.vector_norm(p), weights["max_norm"]))


def spoil(case, number, name, gradient):
    """The gradient with what the case puts into that micro-batch of it."""
    for micro, tensor, element, value in case.spoiled:
        if (micro, tensor) == (number, name):
            gradient.view(-1)[element] = float(value)
    return gradient


def run(case, params, grads, dtype):
    """The case in one precision. `grads` holds one set of gradients a micro-batch."""
    # The default type decides in what PyTorch keeps its step counts; float32 runs keep the usual one.
    torch.set_default_dtype(torch.float64 if dtype == np.float64 else torch.float32)
    config = case.config
    gradient, schedule = config.get("gradient", {}), config.get("schedule")
    params = {t: torch.nn.Parameter(torch.tensor(p, dtype=torch.get_default_dtype())) for t, p in params.items()}
    trained = build(config, params)
    live = [tensor.p for tensor in trained]
    batches = gradient.get("accumulate", 1)
    together = around.Together([tensor.optimizer for tensor in trained])
    fixed = gradient.get("loss_scale", 1.0)
    scaler = around.grad_scaler(fixed) if isinstance(fixed, dict) else None
    average = around.Average(config["ema"], live) if "ema" in config else None

    result, taken = Result(), 0
    for step in range(len(grads) // batches):
        first = step * batches
        scale = scaler.get_scale() if scaler else fixed
        for tensor in trained:
            if schedule is not None:
                lr = config["optimizer"]["lr"]
                tensor.set_lr(schedules.value(schedule, lr, step) / lr)
            # In float32, as the caller brings them.
            scaled = [g[tensor.name] * np.float32(scale if scaler else 1.0) for g in grads[first : first + batches]]
            micro = [torch.tensor(g, dtype=tensor.p.dtype) for g in scaled]
            total = sum(spoil(case, first + k, tensor.name, g) for k, g in enumerate(micro))
            tensor.p.grad = total / ((1.0 if scaler else scale) * batches)
        if scaler:
            scaler.scale(torch.ones(()))
            scaler.unscale_(together)
        condition(live, gradient)
        if scaler:
            result.scales += [scale] * batches
            scaler.step(together)
            scaler.update()
            taken += scaler.get_scale() >= scale
        else:
            together.step()
            taken += 1
        limit_weights(live, config.get("weights", {}))
        if average:
            average.after(step + 1)
        if taken == 1 and not result.step01:
            result.step01 = arrays(params)
    if scaler:
        result.scales.append(scaler.get_scale())
    result.final = arrays(params)

    for tensor in trained:
        state = tensor.optimizer.state[tensor.p]
        present = {slot: state[slot] for slot in SLOTS[tensor.rule] if state.get(slot) is not None}
        result.slot |= {f"{tensor.name}.{slot}": array for slot, array in arrays(present).items()}
    if average:
        named = zip((tensor.name for tensor in trained), average.values(), strict=True)
        result.slot |= arrays({f"{name}.ema": value for name, value in named})
    for tensor in trained:
        if tensor.rule == "schedule_free_adamw":
            tensor.optimizer.eval()
            result.eval |= arrays({tensor.name: tensor.p})
    return result


def arrays(tensors):
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}
