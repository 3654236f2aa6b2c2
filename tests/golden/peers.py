"""Runs a case with the library it names, in float64 or float32."""

import fnmatch
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

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
MODELS = {"momentum": models.Momentum, "schedule_free_adamw": models.ScheduleFreeAdamW}
CAUTIOUS = {"adamw": models.CautiousAdamW, "lion": models.CautiousLion}

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
    if optimizer.get("cautious") or optimizer["rule"] in MODELS:
        return "model"
    return "torch" if optimizer["rule"] in TORCH_RULES else "optax"


@dataclass
class Result:
    """Arrays by tensor name, `slot` by `tensor.slot`; `eval` only where a rule evaluates elsewhere."""

    step01: dict = field(default_factory=dict)
    final: dict = field(default_factory=dict)
    eval: dict = field(default_factory=dict)
    slot: dict = field(default_factory=dict)


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
            optimizer = CAUTIOUS[rule](group)
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

    result = Result()
    for step in range(len(grads) // batches):
        micro = grads[step * batches : (step + 1) * batches]
        for tensor in trained:
            if schedule is not None:
                lr = config["optimizer"]["lr"]
                tensor.set_lr(schedules.value(schedule, lr, step) / lr)
            total = sum(torch.tensor(g[tensor.name], dtype=tensor.p.dtype) for g in micro)
            tensor.p.grad = total / (gradient.get("loss_scale", 1.0) * batches)
        condition(live, gradient)
        for tensor in trained:
            tensor.optimizer.step()
        limit_weights(live, config.get("weights", {}))
        if step == 0:
            result.step01 = arrays(params)
    result.final = arrays(params)

    for tensor in trained:
        state = tensor.optimizer.state[tensor.p]
        present = {slot: state[slot] for slot in SLOTS[tensor.rule] if state.get(slot) is not None}
        result.slot |= {f"{tensor.name}.{slot}": array for slot, array in arrays(present).items()}
        if tensor.rule == "schedule_free_adamw":
            result.eval |= arrays({tensor.name: state["x"]})
    return result


def arrays(tensors):
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}
