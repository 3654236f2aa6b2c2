"""The optimizers that state is converted for, as torch makes them and as a run configuration says them."""

import torch

NAMES = ["layer.weight", "layer.bias", "scale"]
SHAPES = [(5, 3), (3,), (2, 2, 2)]
STEPS = 4

CASES = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "sgd_dampened": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.8, "dampening": 0.3}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.05, "lr_decay": 0.1}),
    "adadelta": (torch.optim.Adadelta, {"lr": 1.0}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01, "centered": True, "momentum": 0.5}),
    "adam": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.01}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01}),
    "adamw_amsgrad": (torch.optim.AdamW, {"lr": 0.01, "amsgrad": True}),
    "adamax": (torch.optim.Adamax, {"lr": 0.01}),
    "nadam": (torch.optim.NAdam, {"lr": 0.01}),
    "radam": (torch.optim.RAdam, {"lr": 0.01}),
    "rprop": (torch.optim.Rprop, {"lr": 0.01}),
    "adafactor": (torch.optim.Adafactor, {"lr": 0.01}),
}


def rule(case):
    return case.split("_")[0]


def config(case):
    """The case as a run configuration in TOML."""
    text = f'[optimizer]\nrule = "{rule(case)}"\n'
    for key, value in CASES[case][1].items():
        text += f"{key} = {str(value).lower()}\n"
    return text


def tensors(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in zip(NAMES, SHAPES)}


def gradients():
    """Of the steps before the state changes sides and of those after."""
    return [tensors(10 + step, 0.5) for step in range(2 * STEPS)]


class Run:
    """A torch optimizer over the parameters of a case."""

    def __init__(self, case, params=None):
        params = tensors(1, 1.0) if params is None else params
        self.params = {name: torch.nn.Parameter(params[name].clone()) for name in NAMES}
        make, options = CASES[case]
        self.optimizer = make(self.params.items(), **options)

    def step(self, gradients):
        for name, parameter in self.params.items():
            parameter.grad = gradients[name].clone()
        self.optimizer.step()

    def values(self):
        return {name: parameter.detach().clone().contiguous() for name, parameter in self.params.items()}
