"""Adam (Kingma & Ba 2015, alg. 1) and AdamW (Loshchilov & Hutter 2019, alg. 2), step by step as in PyTorch.

MindSpore's nn.AdamWeightDecay leaves out the bias correction, and nn.Adam only knows the L2 form of weight decay.
"""

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops


def decays(param: Parameter) -> bool:
    """Whether weight decay acts on a parameter: on the matrices, not on biases, norms, the class token, positions."""
    return len(param.shape) > 1 and not param.name.endswith(("cls_token", "pos_embed"))


class Adam(nn.Cell):
    """Updates `params` by their gradients, a tuple in the same order.

    learning_rates: one for each step, float32 [steps]; past the end the last one holds.
    decoupled: True shrinks weights by lr * weight_decay (AdamW), False adds weight_decay * w to gradients (Adam).

    State: `step` int32 [1], and for each parameter its first and second moment.
    """

    def __init__(self, params: list[Parameter], learning_rates: np.ndarray, *,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
                 decoupled: bool = True):
        super().__init__(auto_prefix=False)
        self.params = ParameterTuple(params)
        self.moment1 = self.params.clone(prefix="moment1", init="zeros")
        self.moment2 = self.params.clone(prefix="moment2", init="zeros")
        self.step = Parameter(Tensor([0], ms.int32), name="step")
        self.learning_rates = Tensor(learning_rates, ms.float32)
        self.last = len(learning_rates) - 1
        self.beta1, self.beta2 = betas
        self.eps = eps
        self.decay = tuple(weight_decay if decays(param) else 0.0 for param in params)
        self.decoupled = decoupled
        self.update = ops.Adam()

    def state(self) -> list[Parameter]:
        """All that a resumed run needs, under the names that it is saved by."""
        return [self.step, *self.moment1, *self.moment2]

    def construct(self, gradients):
        lr = self.learning_rates[ops.minimum(self.step, self.last)].reshape(())
        t = (self.step + 1).astype(ms.float32).reshape(())
        beta1_power = ops.pow(Tensor(self.beta1, ms.float32), t)
        beta2_power = ops.pow(Tensor(self.beta2, ms.float32), t)
        # The kernel divides by sqrt(v) + eps before the bias correction, PyTorch and the paper after it.
        eps = self.eps * ops.sqrt(1 - beta2_power)

        for i in range(len(self.params)):
            param, gradient = self.params[i], gradients[i]
            if self.decay[i] != 0.0:
                if self.decoupled:
                    ops.assign(param, param * (1 - lr * self.decay[i]))
                else:
                    gradient = gradient + self.decay[i] * param
            self.update(param, self.moment1[i], self.moment2[i], beta1_power, beta2_power, lr,
                        self.beta1, self.beta2, eps, gradient)
        ops.assign(self.step, self.step + 1)
        return self.step
