"""What goes around an optimizer, by those who are used for it: averages of weights and loss scales that move."""

import torch
from timm.utils import ModelEmaV3
from torch_ema import ExponentialMovingAverage


class Average:
    """A moving average that begins as the first weights that it is shown.

    timm's, whose decay is constant; with a warm-up torch_ema's, which counts the first weights as its first update.
    """

    def __init__(self, ema, params):
        self.ema, self.params, self.seen = ema, torch.nn.ParameterList(params), 0
        self.average = None

    def after(self, step):
        """After the `step`-th step, from 1."""
        if step % self.ema.get("interval", 1) != 0:
            return
        self.seen += 1
        if not self.ema.get("warmup"):
            self.average = self.average or ModelEmaV3(self.params, decay=self.ema["decay"], foreach=False)
            self.average.update(self.params, step=self.seen)
        elif self.average is None:
            self.average = ExponentialMovingAverage(self.params, decay=self.ema["decay"])
            self.average.num_updates = 1
        else:
            self.average.update()

    def values(self):
        """By parameter."""
        return self.average.shadow_params if self.ema.get("warmup") else list(self.average.module.parameters())


def grad_scaler(loss_scale):
    """PyTorch's, on the CPU."""
    return torch.amp.GradScaler(
        "cpu",
        init_scale=loss_scale["init"],
        growth_factor=loss_scale.get("growth_factor", 2.0),
        backoff_factor=loss_scale.get("backoff_factor", 0.5),
        growth_interval=loss_scale["growth_interval"],
    )


class Together:
    """The optimizers of all tensors as one: GradScaler lets each optimizer that it knows skip by itself."""

    def __init__(self, optimizers):
        self.optimizers = optimizers
        self.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]

    def step(self):
        for optimizer in self.optimizers:
            optimizer.step()
