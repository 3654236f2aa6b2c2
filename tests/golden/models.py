"""Rules that no library has, written plainly from their formulas.

They are PyTorch optimizers, so that groups, conditioning and schedules meet them as they meet the rest.
"""

import torch


class Model(torch.optim.Optimizer):
    """A rule given as the update of one tensor. A frozen tensor has no gradient and is left alone."""

    defaults: dict = {}

    def __init__(self, params):
        super().__init__(params, dict(type(self).defaults))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    g = -p.grad if group.get("maximize") else p.grad
                    state = self.state[p]
                    state["step"] = state.get("step", 0) + 1
                    p.copy_(self.update(p, g, state, group))

    def update(self, p, g, state, o):
        """The new p. `state` is the tensor's own, `o` its options."""
        raise NotImplementedError


class Momentum(Model):
    """Gradient descent along a moving average: v ← βv + (1 − β)g from v₀ = 0, p ← p − lr·v.

    Nesterov's form steps along βv + (1 − β)g with the new v.
    """

    defaults = {"lr": 1e-2, "beta": 0.9, "nesterov": False, "weight_decay": 0.0}

    def update(self, p, g, state, o):
        g = g + o["weight_decay"] * p
        v = state.get("momentum_buffer", torch.zeros_like(p))
        state["momentum_buffer"] = v = o["beta"] * v + (1 - o["beta"]) * g
        u = o["beta"] * v + (1 - o["beta"]) * g if o["nesterov"] else v
        return p - o["lr"] * u
