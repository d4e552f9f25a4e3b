"""How weights follow gradients: the optimisers that recipes name, and which parameters learn, and how fast.

An optimiser is a Cell that takes the gradients of its `params`, a tuple in the same order, and a factor of them all, a
scalar, by which they are clipped. It keeps a `step` int32 [1] and a `lr_scale` float32 [1], a factor of every rate, and
tells all that a resumed run needs of it by `state()`.
"""

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_vit.models.kernels import compiled
from ms_vit.recipe import Optimizer
from ms_vit.registry import Registry
from ms_vit.training.gradients import hyper_map

# Builds an optimiser of parameters, the learning rate of every step [steps], and the recipe's section.
optimizers: Registry[Callable[[list[Parameter], np.ndarray, Optimizer], nn.Cell]] = Registry("optimizer")

HEAD = ("pre_logits.", "head.", "head_dist.")       # how the names of a head's parameters begin


def decays(param: Parameter) -> bool:
    """Whether weight decay acts on a parameter: on the matrices, not on biases, norms, the class token, positions."""
    return len(param.shape) > 1 and not param.name.endswith(("_token", "pos_embed"))


def learning_rate_scale(name: str, params: list[Parameter], layer_decay: float) -> float:
    """layer_decay to the power of a parameter's distance from the head (Bao et al. 2022, "BEiT", app. H).

    The embeddings are layer 0, the blocks 1 to depth, the last norm and the head depth + 1.
    """
    depth = 1 + max((block_of(param.name) for param in params), default=-1)
    if name.startswith("blocks."):
        layer = block_of(name) + 1
    else:
        layer = 0 if name.startswith("patch_embed.") or name.endswith(("_token", "pos_embed")) else depth + 1
    return layer_decay ** (depth + 1 - layer)


def block_of(name: str) -> int:
    """The block that a parameter belongs to, -1 for none."""
    return int(name.split(".")[1]) if name.startswith("blocks.") else -1


def trainable(params: list[Parameter], tune: str | int) -> list[Parameter]:
    """The parameters that learn: "all", those of the "head", or of the last `tune` blocks and what follows them."""
    if isinstance(tune, str):
        return [param for param in params if tune == "all" or param.name.startswith(HEAD)]
    first = max(0, 1 + max(block_of(param.name) for param in params) - tune)
    after = ("norm.", "fc_norm.", *HEAD)
    return [param for param in params if param.name.startswith(after) or block_of(param.name) >= first]


class Descent(nn.Cell):
    """What optimisers have in common: the count of steps, the rate of each, which parameters decay, and how fast.

    learning_rates: one for each step, float32 [steps]; past the end the last one holds.
    weight_decay: acts on the matrices alone; see decays.
    layer_decay: each block learns by this factor less than the one after it; see learning_rate_scale.

    State: `step` int32 [1]; `lr_scale` float32 [1], a factor of every rate; and what an optimiser remembers of each
    parameter. Its rule is `change(gradients, factor, lr)`, `lr` a scalar before the factors of layers.
    """

    def __init__(self, params: list[Parameter], learning_rates: np.ndarray, *, weight_decay: float = 0.0,
                 layer_decay: float = 1.0):
        super().__init__(auto_prefix=False)
        self.params = ParameterTuple(params)
        self.step = Parameter(Tensor([0], ms.int32), name="step")
        self.lr_scale = Parameter(Tensor([1], ms.float32), name="lr_scale")
        self.learning_rates = Tensor(learning_rates, ms.float32)
        self.last = len(learning_rates) - 1
        self.scales = tuple(learning_rate_scale(param.name, params, layer_decay) for param in params)
        self.decay = tuple(weight_decay if decays(param) else 0.0 for param in params)
        self.memories: tuple[ParameterTuple, ...] = ()

    def remember(self, name: str) -> ParameterTuple:
        """Something more that is kept of each parameter, zero at first."""
        memory = self.params.clone(prefix=name, init="zeros")
        self.memories = (*self.memories, memory)
        return memory

    def state(self) -> list[Parameter]:
        """All that a resumed run needs."""
        return [self.step, self.lr_scale, *(each for memory in self.memories for each in memory)]

    def rate(self):
        """Of the step under way, a scalar."""
        return (self.learning_rates[ops.minimum(self.step, self.last)] * self.lr_scale).reshape(())

    def powers(self, *bases):
        """Each to the power of the step's number, from 1."""
        t = (self.step + 1).astype(ms.float32).reshape(())
        powers: tuple = ()
        for base in bases:
            powers = (*powers, ops.pow(Tensor(base, ms.float32), t))
        return powers

    def construct(self, gradients, factor):
        done = self.change(gradients, factor, self.rate())
        return ops.depend(ops.assign(self.step, self.step + 1), done)


adam = ops.Adam()
update = ops.MultitypeFuncGraph("update")
fused_update = ops.MultitypeFuncGraph("fused_update")


@update.register("Tensor", "Tensor", "Tensor", "Tensor", "Number", "Number", "Tensor", "Bool",
                 "Tensor", "Tensor", "Tensor", "Number", "Number", "Tensor")
def _update(factor, beta1_power, beta2_power, base_lr, beta1, beta2, eps, decoupled,
            param, moment1, moment2, scale, decay, gradient):
    lr = base_lr * scale
    gradient = gradient * factor.astype(gradient.dtype)
    if decay != 0.0:
        if decoupled:
            ops.assign(param, param * (1 - lr * decay))
        else:
            gradient = gradient + decay * param
    return adam(param, moment1, moment2, beta1_power, beta2_power, lr, beta1, beta2, eps, gradient)[0]


@fused_update.register("Function", "Tensor", "Tensor", "Tensor", "Tensor", "Tensor", "Tensor")
def _fused_update(fused, common, param, moment1, moment2, own, gradient):
    return fused(param, moment1, moment2, gradient, common, own)


class Adam(Descent):
    """Adam (Kingma & Ba 2015, alg. 1) and AdamW (Loshchilov & Hutter 2019, alg. 2), step by step as in PyTorch.

    MindSpore's nn.AdamWeightDecay leaves out the bias correction, and nn.Adam only knows the L2 form of weight decay.

    decoupled: True shrinks weights by lr * weight_decay (AdamW), False adds weight_decay * w to gradients (Adam).
    It remembers each parameter's first and second moment.
    """

    def __init__(self, params: list[Parameter], learning_rates: np.ndarray, *,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
                 decoupled: bool = True, layer_decay: float = 1.0):
        super().__init__(params, learning_rates, weight_decay=weight_decay, layer_decay=layer_decay)
        self.moment1, self.moment2 = self.remember("moment1"), self.remember("moment2")
        self.beta1, self.beta2 = betas
        self.eps = eps
        self.own = tuple(Tensor(pair, ms.float32) for pair in zip(self.scales, self.decay, strict=True))
        self.decoupled = decoupled
        self.fused = compiled.Adam() if compiled.wanted() else None

    def change(self, gradients, factor, lr):
        beta1_power, beta2_power = self.powers(self.beta1, self.beta2)
        if self.fused is not None:
            common = ops.stack((factor, lr, Tensor(self.beta1, ms.float32), Tensor(self.beta2, ms.float32),
                                beta1_power, beta2_power, Tensor(self.eps, ms.float32),
                                Tensor(float(self.decoupled), ms.float32)))
            rule = ops.partial(fused_update, self.fused, common)
            return hyper_map(rule, self.params, self.moment1, self.moment2, self.own, gradients)
        # The kernel divides by sqrt(v) + eps before the bias correction, PyTorch and the paper after it.
        eps = self.eps * ops.sqrt(1 - beta2_power)
        rule = ops.partial(update, factor, beta1_power, beta2_power, lr, self.beta1, self.beta2, eps, self.decoupled)
        return hyper_map(rule, self.params, self.moment1, self.moment2, self.scales, self.decay, gradients)


lamb_update = ops.MultitypeFuncGraph("lamb_update")


@lamb_update.register("Tensor", "Tensor", "Tensor", "Tensor", "Number", "Number", "Number",
                      "Tensor", "Tensor", "Tensor", "Number", "Number", "Bool", "Tensor")
def _lamb_update(factor, beta1_power, beta2_power, base_lr, beta1, beta2, eps,
                 param, moment1, moment2, scale, decay, adapts, gradient):
    lr = base_lr * scale
    gradient = gradient * factor.astype(gradient.dtype)
    m = ops.assign(moment1, beta1 * moment1 + (1 - beta1) * gradient)
    v = ops.assign(moment2, beta2 * moment2 + (1 - beta2) * gradient * gradient)
    step = m / (1 - beta1_power) / (ops.sqrt(v / (1 - beta2_power)) + eps) + decay * param
    if adapts:
        size, length = ops.sqrt((param * param).sum()), ops.sqrt((step * step).sum())
        both = ops.logical_and(size > 0, length > 0)
        step = step * ops.select(both, size / ops.maximum(length, Tensor(1e-30, ms.float32)), ops.ones_like(size))
    return ops.assign(param, param - lr * step)


class Lamb(Descent):
    """LAMB (You et al. 2020, alg. 2): AdamW's step, as long as the weights are, times the rate; for large batches.

    So for each matrix; biases, norms, tokens and positions, which don't decay either, take AdamW's step, as in the
    authors' code. It remembers each parameter's first and second moment.
    """

    def __init__(self, params: list[Parameter], learning_rates: np.ndarray, *,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6, weight_decay: float = 0.0,
                 layer_decay: float = 1.0):
        super().__init__(params, learning_rates, weight_decay=weight_decay, layer_decay=layer_decay)
        self.moment1, self.moment2 = self.remember("moment1"), self.remember("moment2")
        self.beta1, self.beta2 = betas
        self.eps = eps
        self.adapts = tuple(map(decays, params))

    def change(self, gradients, factor, lr):
        beta1_power, beta2_power = self.powers(self.beta1, self.beta2)
        rule = ops.partial(lamb_update, factor, beta1_power, beta2_power, lr, self.beta1, self.beta2, self.eps)
        return hyper_map(rule, self.params, self.moment1, self.moment2, self.scales, self.decay, self.adapts,
                         gradients)


lion_update = ops.MultitypeFuncGraph("lion_update")


@lion_update.register("Tensor", "Tensor", "Number", "Number", "Tensor", "Tensor", "Number", "Number", "Tensor")
def _lion_update(factor, base_lr, beta1, beta2, param, moment, scale, decay, gradient):
    lr = base_lr * scale
    gradient = gradient * factor.astype(gradient.dtype)
    step = ops.sign(beta1 * moment + (1 - beta1) * gradient)
    moved = ops.assign(param, param * (1 - lr * decay) - lr * step)
    return ops.depend(moved, ops.assign(moment, beta2 * moment + (1 - beta2) * gradient))


class Lion(Descent):
    """Lion (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", alg. 2): the sign of a moment.

    Its rate is a third to a tenth of AdamW's, its weight decay as much more. It remembers each parameter's moment.
    """

    def __init__(self, params: list[Parameter], learning_rates: np.ndarray, *,
                 betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0, layer_decay: float = 1.0):
        super().__init__(params, learning_rates, weight_decay=weight_decay, layer_decay=layer_decay)
        self.moment = self.remember("moment1")
        self.beta1, self.beta2 = betas

    def change(self, gradients, factor, lr):
        rule = ops.partial(lion_update, factor, lr, self.beta1, self.beta2)
        return hyper_map(rule, self.params, self.moment, self.scales, self.decay, gradients)


sgd_update = ops.MultitypeFuncGraph("sgd_update")


@sgd_update.register("Tensor", "Tensor", "Number", "Tensor", "Tensor", "Number", "Number", "Tensor")
def _sgd_update(factor, base_lr, momentum, param, velocity, scale, decay, gradient):
    gradient = gradient * factor.astype(gradient.dtype) + decay * param
    moved = ops.assign(velocity, momentum * velocity + gradient)
    return ops.assign(param, param - base_lr * scale * (gradient + momentum * moved))


class Sgd(Descent):
    """Gradient descent with Nesterov's momentum (Sutskever et al. 2013), and weight decay as L2, as in PyTorch.

    It remembers each parameter's momentum.
    """

    def __init__(self, params: list[Parameter], learning_rates: np.ndarray, *, momentum: float = 0.9,
                 weight_decay: float = 0.0, layer_decay: float = 1.0):
        super().__init__(params, learning_rates, weight_decay=weight_decay, layer_decay=layer_decay)
        self.velocity = self.remember("momentum")
        self.momentum = momentum

    def change(self, gradients, factor, lr):
        rule = ops.partial(sgd_update, factor, lr, self.momentum)
        return hyper_map(rule, self.params, self.velocity, self.scales, self.decay, gradients)


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)       # Jordan et al. 2024
orthogonal_update = ops.MultitypeFuncGraph("orthogonal_update")


def orthogonalised(x):
    """The nearest matrix whose singular values are about 1 (0.7 to 1.2): [R, C] -> [R, C], float32.

    Five steps of a Newton-Schulz iteration of degree 5, in matrix products alone.
    """
    a, b, c = NEWTON_SCHULZ
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / (ops.sqrt((x * x).sum()) + 1e-7)
    for _ in range(5):
        gram = ops.matmul(x, x.T)
        x = a * x + ops.matmul(b * gram + c * ops.matmul(gram, gram), x)
    return x.T if tall else x


@orthogonal_update.register("Tensor", "Tensor", "Number", "Tensor", "Tensor", "Number", "Number", "Number", "Tensor")
def _orthogonal_update(factor, base_lr, momentum, param, velocity, scale, decay, size, gradient):
    lr = base_lr * scale
    gradient = gradient * factor.astype(gradient.dtype)
    moved = ops.assign(velocity, momentum * velocity + gradient)
    ahead = gradient + momentum * moved
    turn = orthogonalised(ahead.reshape(param.shape[0], -1)).reshape(param.shape)
    return ops.assign(param, param * (1 - lr * decay) - lr * size * turn)


def is_inner(param: Parameter) -> bool:
    """Whether a parameter is a matrix between the embedding and the head: of a block, or a stem's convolution."""
    return decays(param) and not param.name.startswith(("patch_embed.proj.", "head.", "head_dist."))


class Muon(Descent):
    """Muon (Jordan et al. 2024): Nesterov's momentum, made orthogonal, for the inner matrices; AdamW for all others.

    A convolution's filters [D, C, k, k] count as a matrix [D, C * k * k]. An update is 0.2 * sqrt(max(rows, columns))
    times orthogonal, whose root mean square is AdamW's (Liu et al. 2025, "Muon is Scalable for LLM Training", sec.
    2.2): so one rate and one weight decay, decoupled, serve both. Which matrices: is_inner.

    params: at least one of them inner. It has them, and takes their gradients, in an order of its own: those first.
    others: what Adam takes besides, for its part.

    It remembers each inner matrix's momentum, and what Adam does of the others.
    """

    def __init__(self, params: list[Parameter], learning_rates: np.ndarray, *, momentum: float = 0.95,
                 weight_decay: float = 0.0, layer_decay: float = 1.0, **others):
        shared: dict[str, Any] = {"weight_decay": weight_decay, "layer_decay": layer_decay}
        super().__init__([param for param in params if is_inner(param)], learning_rates, **shared)
        self.matrices, self.velocity = self.params, self.remember("momentum")
        self.adam = Adam([param for param in params if not is_inner(param)], learning_rates, **shared, **others)
        self.adam.step, self.adam.lr_scale = self.step, self.lr_scale       # one count for both
        self.params = ParameterTuple((*self.matrices, *self.adam.params))
        self.memories = (*self.memories, *self.adam.memories)
        self.momentum = momentum
        self.inner = len(self.matrices)
        self.sizes = tuple(0.2 * max(param.shape[0], param.size // param.shape[0]) ** 0.5 for param in self.matrices)

    def change(self, gradients, factor, lr):
        rule = ops.partial(orthogonal_update, factor, lr, self.momentum)
        done = hyper_map(rule, self.matrices, self.velocity, self.scales, self.decay, self.sizes,
                         gradients[:self.inner])
        return done, self.adam.change(gradients[self.inner:], factor, lr)


@optimizers.register("adamw")
def adamw(params: list[Parameter], learning_rates: np.ndarray, settings: Optimizer) -> Adam:
    """Adam with weight decay apart from the gradients."""
    return Adam(params, learning_rates, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay,
                layer_decay=settings.layer_decay)


@optimizers.register("adam")
def adam_l2(params: list[Parameter], learning_rates: np.ndarray, settings: Optimizer) -> Adam:
    """Adam with weight decay as L2, within the gradients."""
    return Adam(params, learning_rates, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay,
                layer_decay=settings.layer_decay, decoupled=False)


@optimizers.register("lamb")
def lamb(params: list[Parameter], learning_rates: np.ndarray, settings: Optimizer) -> Lamb:
    """AdamW's direction, each matrix's step as long as the matrix."""
    return Lamb(params, learning_rates, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay,
                layer_decay=settings.layer_decay)


@optimizers.register("lion")
def lion(params: list[Parameter], learning_rates: np.ndarray, settings: Optimizer) -> Lion:
    """The sign of a moment."""
    return Lion(params, learning_rates, betas=settings.betas, weight_decay=settings.weight_decay,
                layer_decay=settings.layer_decay)


@optimizers.register("sgd")
def sgd(params: list[Parameter], learning_rates: np.ndarray, settings: Optimizer) -> Sgd:
    """Nesterov's momentum."""
    return Sgd(params, learning_rates, **momentum_of(settings), weight_decay=settings.weight_decay,
               layer_decay=settings.layer_decay)


@optimizers.register("muon")
def muon(params: list[Parameter], learning_rates: np.ndarray, settings: Optimizer) -> Descent:
    """Orthogonal updates for the inner matrices, AdamW for all else."""
    if not any(map(is_inner, params)):      # the head alone learns
        return adamw(params, learning_rates, settings)
    return Muon(params, learning_rates, **momentum_of(settings), betas=settings.betas, eps=settings.eps,
                weight_decay=settings.weight_decay, layer_decay=settings.layer_decay)


def momentum_of(settings: Optimizer) -> dict[str, Any]:
    """The argument, where the recipe gives it."""
    return {} if settings.momentum is None else {"momentum": settings.momentum}
