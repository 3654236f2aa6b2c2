"""The table of golden cases: every rule, every option away from its default, every conditioning."""

from dataclasses import dataclass, field


@dataclass
class Case:
    """One run. `config` holds the keys of the run configuration, tables that are not used left out."""

    name: str
    config: dict
    gradient_scale: float = 1.0
    steps: int = 20
    # Elements that a micro-batch has instead of its own: its number, the tensor, the element, "inf", "-inf" or "nan".
    spoiled: list = field(default_factory=list)


CASES: list[Case] = []


def case(
    rule, label, *, groups=None, gradient=None, weights=None, schedule=None, ema=None, gradient_scale=1.0, spoiled=(),
    **options,
):
    config = {"optimizer": {"rule": rule, **options}}
    tables = {"groups": groups, "gradient": gradient, "weights": weights, "schedule": schedule, "ema": ema}
    config |= {key: table for key, table in tables.items() if table is not None}
    CASES.append(Case(f"{rule}_{label}", config, gradient_scale, spoiled=list(spoiled)))


# Rules. The learning rates of the option cases are large, so that an error in the update shows beside
# the rounding of the parameters; each rule has one case with its own defaults.

case("sgd", "default")
case("sgd", "plain", lr=0.5)
case("sgd", "momentum", lr=0.1, momentum=0.9)
case("sgd", "dampening", lr=0.2, momentum=0.8, dampening=0.4)
case("sgd", "nesterov", lr=0.1, momentum=0.9, nesterov=True)
case("sgd", "weight_decay", lr=0.5, weight_decay=0.1)
case("sgd", "all", lr=0.1, momentum=0.7, nesterov=True, weight_decay=0.1)
case("sgd", "all_dampened", lr=0.1, momentum=0.7, dampening=0.25, weight_decay=0.1)

case("momentum", "default")
case("momentum", "lr", lr=0.5)
case("momentum", "beta", lr=0.5, beta=0.6)
case("momentum", "nesterov", lr=0.5, nesterov=True)
case("momentum", "weight_decay", lr=0.5, weight_decay=0.1)
case("momentum", "all", lr=0.5, beta=0.8, nesterov=True, weight_decay=0.1)

case("adagrad", "default")
case("adagrad", "lr", lr=0.1)
case("adagrad", "lr_decay", lr=0.1, lr_decay=0.2)
case("adagrad", "initial_accumulator_value", lr=0.1, initial_accumulator_value=0.05)
case("adagrad", "eps", lr=0.1, eps=1e-2)
case("adagrad", "weight_decay", lr=0.1, weight_decay=0.1)
case("adagrad", "all", lr=0.1, lr_decay=0.05, initial_accumulator_value=0.01, eps=1e-3, weight_decay=0.05)

case("adadelta", "default")
case("adadelta", "lr", lr=20.0)
case("adadelta", "rho", lr=10.0, rho=0.7)
case("adadelta", "eps", eps=1e-3)
case("adadelta", "weight_decay", lr=10.0, weight_decay=0.1)
case("adadelta", "all", lr=0.7, rho=0.8, eps=1e-3, weight_decay=0.1)

case("rmsprop", "default")
case("rmsprop", "alpha", lr=0.02, alpha=0.9)
case("rmsprop", "eps", lr=0.02, eps=1e-2)
case("rmsprop", "centered", lr=0.02, alpha=0.9, centered=True)
case("rmsprop", "momentum", lr=0.01, alpha=0.9, momentum=0.8)
case("rmsprop", "centered_momentum", lr=0.005, alpha=0.9, centered=True, momentum=0.8)
case("rmsprop", "weight_decay", lr=0.02, alpha=0.9, weight_decay=0.1)
case("rmsprop", "all", lr=0.01, alpha=0.8, eps=1e-3, centered=True, momentum=0.6, weight_decay=0.1)

for rule in ("adam", "adamw"):
    case(rule, "default")
    case(rule, "lr", lr=0.05)
    case(rule, "betas", lr=0.02, betas=[0.7, 0.95])
    case(rule, "eps", lr=0.02, eps=1e-2)
    case(rule, "amsgrad", lr=0.02, betas=[0.9, 0.9], amsgrad=True)
    case(rule, "weight_decay", lr=0.02, weight_decay=0.1)
    case(rule, "all", lr=0.02, betas=[0.8, 0.9], eps=1e-3, amsgrad=True, weight_decay=0.2)
case("adamw", "no_decay", lr=0.02, weight_decay=0.0)

case("adamax", "default")
case("adamax", "betas", lr=0.02, betas=[0.7, 0.9])
case("adamax", "eps", lr=0.02, eps=1e-2)
case("adamax", "weight_decay", lr=0.02, weight_decay=0.1)
case("adamax", "all", lr=0.02, betas=[0.8, 0.8], eps=1e-3, weight_decay=0.1)

case("nadam", "default")
case("nadam", "betas", lr=0.02, betas=[0.7, 0.95])
case("nadam", "eps", lr=0.02, eps=1e-2)
case("nadam", "momentum_decay", lr=0.02, momentum_decay=0.5)
case("nadam", "weight_decay", lr=0.02, weight_decay=0.1)
case("nadam", "decoupled", lr=0.02, weight_decay=0.1, decoupled_weight_decay=True)
case(
    "nadam", "all", lr=0.02, betas=[0.8, 0.9], eps=1e-3, momentum_decay=0.1, weight_decay=0.2,
    decoupled_weight_decay=True,
)

# With the default betas and with 0.9 or 0.99 the rectification begins at the sixth step; with 0.6 never.
case("radam", "default")
case("radam", "lr", lr=0.05)
case("radam", "betas", lr=0.05, betas=[0.9, 0.9])
case("radam", "betas_long", lr=0.05, betas=[0.8, 0.99])
case("radam", "never_rectified", lr=0.5, betas=[0.9, 0.6])
case("radam", "eps", lr=0.05, betas=[0.9, 0.99], eps=1e-2)
case("radam", "weight_decay", lr=0.05, betas=[0.9, 0.99], weight_decay=0.1)
case("radam", "decoupled", lr=0.05, betas=[0.9, 0.99], weight_decay=0.1, decoupled_weight_decay=True)
case(
    "radam", "all", lr=0.05, betas=[0.7, 0.95], eps=1e-3, weight_decay=0.2, decoupled_weight_decay=True,
)

case("rprop", "default")
case("rprop", "lr", lr=0.001)
case("rprop", "etas", etas=[0.3, 1.5])
case("rprop", "step_sizes", step_sizes=[8e-3, 0.015])
case("rprop", "all", lr=0.02, etas=[0.7, 1.1], step_sizes=[0.01, 0.03])

case("lion", "default")
case("lion", "lr", lr=0.01)
case("lion", "betas", lr=0.01, betas=[0.6, 0.8])
case("lion", "weight_decay", lr=0.01, weight_decay=0.3)
case("lion", "all", lr=0.005, betas=[0.95, 0.98], weight_decay=0.5)

case("adabelief", "default")
case("adabelief", "betas", lr=0.01, betas=[0.7, 0.9])
case("adabelief", "eps", lr=0.1, eps=1e-2)
case("adabelief", "eps_root", lr=0.5, eps_root=1e-4)
case("adabelief", "weight_decay", lr=0.01, weight_decay=0.1)
case("adabelief", "all", lr=0.01, betas=[0.8, 0.95], eps=1e-3, eps_root=1e-6, weight_decay=0.2)

case("yogi", "default")
case("yogi", "betas", lr=0.02, betas=[0.7, 0.95])
case("yogi", "eps", lr=0.2, eps=1e-1)
case("yogi", "initial_accumulator_value", lr=0.5, initial_accumulator_value=1e-2)
case("yogi", "weight_decay", lr=0.02, weight_decay=0.1)
case("yogi", "all", lr=0.02, betas=[0.8, 0.9], eps=1e-2, initial_accumulator_value=1e-3, weight_decay=0.2)

case("adan", "default")
case("adan", "betas", lr=0.02, betas=[0.9, 0.7, 0.95])
case("adan", "eps", lr=0.02, eps=1e-2)
case("adan", "eps_root", lr=0.02, eps_root=1e-3)
case("adan", "weight_decay", lr=0.02, weight_decay=0.1)
case("adan", "all", lr=0.02, betas=[0.95, 0.8, 0.9], eps=1e-3, eps_root=1e-4, weight_decay=0.2)

case("lamb", "default")
case("lamb", "betas", lr=0.02, betas=[0.7, 0.95])
case("lamb", "eps", lr=0.02, eps=1e-2)
case("lamb", "eps_root", lr=0.02, eps_root=1e-3)
case("lamb", "weight_decay", lr=0.02, weight_decay=0.5)
case("lamb", "all", lr=0.02, betas=[0.8, 0.9], eps=1e-3, eps_root=1e-4, weight_decay=1.0)

case("lars", "default")
case("lars", "lr", lr=5.0)
case("lars", "momentum", lr=5.0, momentum=0.5)
case("lars", "nesterov", lr=5.0, nesterov=True)
case("lars", "trust_coefficient", lr=0.5, trust_coefficient=0.02)
case("lars", "eps", lr=5.0, eps=1.0)
case("lars", "weight_decay", lr=5.0, weight_decay=0.1)
case("lars", "all", lr=0.5, momentum=0.8, nesterov=True, trust_coefficient=0.01, eps=0.1, weight_decay=0.05)
# The buffer holds steps, not gradients: a rate that changes shows in what it has stored.
case("lars", "schedule", lr=5.0, schedule={"kind": "cosine", "total_steps": 20, "warmup_steps": 4})

case("adafactor", "default")
case("adafactor", "lr", lr=0.3)
case("adafactor", "beta2_decay", lr=0.1, beta2_decay=-0.3)
case("adafactor", "eps", lr=0.1, eps=[0.05, 0.6])
case("adafactor", "d", lr=0.1, d=1.5)
case("adafactor", "weight_decay", lr=0.1, weight_decay=0.3)
case("adafactor", "all", lr=0.1, beta2_decay=-0.6, eps=[1e-3, 1e-2], d=1.2, weight_decay=0.2)

case("schedule_free_adamw", "default")
case("schedule_free_adamw", "betas", lr=0.05, betas=[0.7, 0.95])
case("schedule_free_adamw", "eps", lr=0.05, betas=[0.9, 0.99], eps=1e-2)
case("schedule_free_adamw", "weight_decay", lr=0.05, betas=[0.9, 0.99], weight_decay=0.2)
case("schedule_free_adamw", "warmup_steps", lr=0.05, betas=[0.9, 0.99], warmup_steps=8)
case("schedule_free_adamw", "all", lr=0.05, betas=[0.8, 0.95], eps=1e-3, weight_decay=0.1, warmup_steps=5)

# Options of the engine, for any rule.

case("adamw", "cautious", lr=0.02, cautious=True)
case("adamw", "cautious_weight_decay", lr=0.02, betas=[0.8, 0.95], weight_decay=0.2, cautious=True)
case("lion", "cautious", lr=0.01, weight_decay=0.1, cautious=True)
case("sgd", "maximize", lr=0.1, momentum=0.9, weight_decay=0.1, maximize=True)
case("adam", "maximize", lr=0.02, weight_decay=0.1, maximize=True)
case("adamw", "maximize", lr=0.02, maximize=True)
case("rprop", "maximize", maximize=True)
case("lion", "maximize", lr=0.01, maximize=True)

# Gradient conditioning. The norm over all tensors lies between 8.9 and 11.6, nearly all of it from
# layer2.weight.

case("sgd", "clip_value", lr=0.5, gradient={"clip_value": 0.05})
case("adam", "clip_value", lr=0.02, gradient={"clip_value": 0.05})
case("sgd", "clip_global_norm", lr=5.0, gradient={"clip_global_norm": 1.0})
case("sgd", "clip_global_norm_some_steps", lr=0.5, gradient={"clip_global_norm": 11.0})
case("adam", "clip_global_norm", lr=0.02, gradient={"clip_global_norm": 1.0})
case("adamw", "clip_both", lr=0.02, gradient={"clip_value": 0.5, "clip_global_norm": 1.0})
case("sgd", "clip_both", lr=5.0, momentum=0.5, weight_decay=0.01, gradient={"clip_value": 0.5, "clip_global_norm": 1.0})
case("sgd", "clip_global_norm_huge", lr=5.0, gradient={"clip_global_norm": 1.0}, gradient_scale=1e25)
case("adam", "clip_global_norm_huge", lr=0.02, gradient={"clip_global_norm": 1.0}, gradient_scale=1e25)
# c / (norm + 1e-6) is 0.1 here whatever the norm, and the learning rate makes up for the rest.
case("sgd", "clip_global_norm_tiny", lr=5e28, gradient={"clip_global_norm": 1e-7}, gradient_scale=1e-28)
case("sgd", "normalize_global_norm", lr=5.0, gradient={"normalize_global_norm": 1.0})
case("sgd", "normalize_global_norm_huge", lr=5.0, gradient={"normalize_global_norm": 1.0}, gradient_scale=1e25)
case("sgd", "normalize_global_norm_tiny", lr=5.0, gradient={"normalize_global_norm": 1.0}, gradient_scale=1e-28)
case("adam", "normalize_global_norm_tiny", lr=0.02, gradient={"normalize_global_norm": 1.0}, gradient_scale=1e-28)

# Only layer1.bias is trained here, and its gradient is zero in the first step: so is the norm.
case(
    "sgd", "normalize_global_norm_zero", lr=0.1, gradient={"normalize_global_norm": 1.0},
    groups=[{"match": "*.bias", "lr": 0.2}, {"match": "*", "frozen": True}],
)
case("sgd", "clip_tensor_norm", lr=0.5, gradient={"clip_tensor_norm": 0.3})
case("adamw", "clip_tensor_norm", lr=0.02, gradient={"clip_value": 0.5, "clip_tensor_norm": 0.3})
case("sgd", "clip_tensor_norm_huge", lr=0.5, gradient={"clip_tensor_norm": 0.3}, gradient_scale=1e25)
case("sgd", "clip_max_abs", lr=0.5, gradient={"clip_max_abs": 0.1})
case("adam", "clip_max_abs", lr=0.02, gradient={"clip_value": 0.5, "clip_max_abs": 0.1})
case("sgd", "clip_max_abs_huge", lr=0.5, gradient={"clip_max_abs": 0.1}, gradient_scale=1e25)
case("sgd", "clip_adaptive", lr=0.5, gradient={"clip_adaptive": 0.05})
case("adamw", "clip_adaptive", lr=0.02, gradient={"clip_value": 0.5, "clip_adaptive": 0.1})
# The norm of an earlier step's weights would clip differently: these weights move.
case("sgd", "clip_adaptive_large_steps", lr=5.0, gradient={"clip_adaptive": 0.3})

# Micro-batches and the loss scale. A step is the mean of k gradients; `steps` counts micro-batches.

case("sgd", "accumulate", lr=0.5, momentum=0.9, gradient={"accumulate": 4})
case("adamw", "accumulate", lr=0.05, gradient={"accumulate": 4, "clip_global_norm": 1.0})
case("sgd", "loss_scale", lr=0.5, gradient={"loss_scale": 1024.0}, gradient_scale=1024.0)
case("adam", "loss_scale", lr=0.02, weight_decay=0.1, gradient={"loss_scale": 1024.0}, gradient_scale=1024.0)
case(
    "adamw", "loss_scale_clip_accumulate", lr=0.05, gradient_scale=65536.0,
    gradient={"loss_scale": 65536.0, "accumulate": 2, "clip_value": 0.4, "clip_global_norm": 1.0},
    schedule={"kind": "cosine", "total_steps": 10, "warmup_steps": 3},
)

# A dynamic scale multiplies each gradient as the reference has it then. The first step is skipped, two in a row, and
# one whose second micro-batch is spoiled.

SPOILED = [(0, "odd", 17, "inf"), (5, "layer1.weight", 1036, "nan"), (6, "scale", 0, "-inf"), (13, "odd", 256, "nan")]

case("adamw", "dynamic_scale", lr=0.02, gradient={"loss_scale": {"init": 8.0, "growth_interval": 3}}, spoiled=SPOILED)
case(
    "sgd", "dynamic_scale_factors", lr=0.5, momentum=0.9, spoiled=SPOILED,
    gradient={
        "clip_global_norm": 1.0,
        "loss_scale": {"init": 1000.0, "growth_factor": 1.5, "backoff_factor": 0.3, "growth_interval": 2},
    },
)
case(
    "adam", "dynamic_scale_accumulate", lr=0.02, spoiled=SPOILED,
    gradient={"accumulate": 2, "loss_scale": {"init": 65536.0, "growth_factor": 4.0, "growth_interval": 2}},
)

# The average of the weights.

case("adamw", "ema", lr=0.02, ema={"decay": 0.9})
case("adam", "ema_long", lr=0.02, ema={"decay": 0.999})
case("sgd", "ema_interval", lr=0.5, momentum=0.9, ema={"decay": 0.8, "interval": 3})
# The decay passes 0.5 at the eighth averaging.
case("adam", "ema_warmup", lr=0.02, ema={"decay": 0.5, "warmup": True})
case("lion", "ema_warmup_interval", lr=0.01, ema={"decay": 0.99, "warmup": True, "interval": 2})

# Weight limits, after the step.

case("sgd", "weights_clip_value", lr=0.5, weights={"clip_value": 0.6})
case("sgd", "weights_max_abs", lr=0.5, weights={"max_abs": 0.8})
case("sgd", "weights_max_norm", lr=0.5, weights={"max_norm": 4.0})
case("adamw", "weights_max_norm", lr=0.05, weights={"max_norm": 4.0})
case(
    "adam", "weights_clip_value_frozen", lr=0.05, weights={"clip_value": 0.3},
    groups=[{"match": "layer1.weight", "frozen": True}],
)

# Groups. The first match wins (the second of a group for all is the rate of the rest); a group with a rule of its own states all the options that matter.

case(
    "adamw", "groups", lr=0.02, weight_decay=0.1,
    groups=[{"match": "*.bias", "weight_decay": 0.0, "lr": 0.05}, {"match": "o?d", "betas": [0.5, 0.9], "eps": 1e-4}],
)
case(
    "adam", "groups_first_match", lr=0.02,
    groups=[{"match": "layer1.*", "lr": 0.05}, {"match": "*", "lr": 0.02}],
)
case(
    "adamw", "groups_rule", lr=0.02,
    groups=[{"match": "scale", "rule": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}],
)
case("adamw", "groups_frozen", lr=0.02, groups=[{"match": "layer1.*", "frozen": True}])
# A frozen tensor has no gradient: it takes no part in the norm.
case(
    "sgd", "groups_frozen_clip", lr=0.5, momentum=0.9,
    groups=[{"match": "layer2.*", "frozen": True}, {"match": "*.bias", "momentum": 0.0, "weight_decay": 0.1}],
    gradient={"clip_global_norm": 1.0},
)

# Schedules. total_steps counts the warm-up; after it the last value holds.

case(
    "adamw", "warmup_cosine", lr=0.05,
    schedule={"kind": "cosine", "total_steps": 20, "min_lr": 1e-3, "warmup_steps": 5},
)
case(
    "sgd", "warmup_cosine_short", lr=0.5, momentum=0.9, weight_decay=0.1,
    schedule={"kind": "cosine", "total_steps": 15, "min_lr": 0.05, "warmup_steps": 4},
    groups=[{"match": "layer1.*", "lr": 0.2}],
)
