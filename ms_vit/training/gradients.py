"""Loss and gradients of a batch: whole, with less memory (recomputed), or in micro-batches (accumulated)."""

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_vit.models.kernels import on

# Maps a function over all parameters; a Python loop over them takes MindSpore several times as long to compile.
hyper_map = ops.HyperMap()
added = ops.MultitypeFuncGraph("added")
scaled = ops.MultitypeFuncGraph("scaled")


@added.register("Tensor", "Tensor")
def _added(x, y):
    return x + y


@scaled.register("Tensor", "Tensor")
def _scaled(factor, x):
    return x * factor.astype(x.dtype)


def top1(logits, labels):
    """The share of a batch whose largest logit is the label's, float32: logits [B, C], labels [B] -> a scalar.

    Targets [B, C], or those of Teacher, [B, 2, C], may take the labels' place, and logits of both heads be given, whose
    mean is what such a network answers.
    """
    if isinstance(logits, tuple):
        logits = logits[0] + logits[1]
    if labels.ndim == 3:
        labels = labels[:, 0]
    if labels.ndim == 2:
        labels = ops.argmax(labels, -1)
    answers = ops.argmax(logits.astype(ms.float32), -1)
    return (answers.astype(ms.int32) == labels.astype(ms.int32)).astype(ms.float32).mean()


class Gradients(nn.Cell):
    """(images [B, C, H, W], labels [B] or targets [B, C]) -> (the batch's mean loss, its top-1), gradients by `params`.

    Loss and gradients are multiplied by the scale of `scaler` where there is one (float16).
    """

    def __init__(self, net: nn.Cell, loss: nn.Cell, params: list[Parameter], scaler=None):
        super().__init__(auto_prefix=False)
        self.net = net
        self.loss = loss
        self.scaler = scaler
        self.loss_and_gradients = ops.value_and_grad(self.forward, None, ParameterTuple(params), has_aux=True)

    def judge(self, logits, labels):
        loss = self.loss(logits, labels)
        return self.scaler.scale(loss) if self.scaler is not None else loss, top1(logits, labels)

    def forward(self, images, labels):
        return self.judge(self.net(images), labels)

    def construct(self, images, labels):
        return self.loss_and_gradients(images, labels)


class RecomputedGradients(Gradients):
    """Keeps the input of each block alone, and runs a block again when its gradient is due (Chen et al. 2016).

    Cell.recompute() is meant to do the same, and on the CPU saves nothing. The second run of a block draws what the
    first drew, since dropout follows the step (kernels/dropout.py).
    """

    def __init__(self, net: nn.Cell, loss: nn.Cell, params: list[Parameter], scaler=None):
        super().__init__(net, loss, params, scaler)
        learning = {param.name for param in params}
        of_blocks = [[param for param in block.trainable_params() if param.name in learning] for block in net.blocks]
        inner = {param.name for block in of_blocks for param in block}
        outer = [param for param in params if param.name not in inner]
        made = [param.name for param in (*outer, *(param for block in reversed(of_blocks) for param in block))]
        self.order = tuple(made.index(param.name) for param in params)
        self.blocks = list(net.blocks)
        self.depth = len(self.blocks)
        self.of_blocks = [ParameterTuple(block) for block in of_blocks]
        self.outer = ParameterTuple(outer)
        self.end = ops.value_and_grad(self.classify, 0, self.outer, has_aux=True)
        self.block_gradients = ops.GradOperation(get_all=True, get_by_list=True, sens_param=True)
        self.embed_gradients = ops.GradOperation(get_by_list=True, sens_param=True)

    def classify(self, x, labels):
        return self.judge(self.net.classify(x), labels)

    def embed(self, images):
        return self.net.embed(images)

    def construct(self, images, labels):
        inputs = [self.embed(images)]                                                  # of each block, [B, N, D]
        for i in range(self.depth):
            inputs.append(self.blocks[i](inputs[i]))
        loss_and_top1, (gradient, at_end) = self.end(inputs[self.depth], labels)
        inner: tuple = ()
        for i in range(self.depth - 1, -1, -1):
            # The second run waits for the gradient; else it would be merged with the first, and nothing saved.
            x = ops.depend(inputs[i], gradient)
            (gradient,), of_block = self.block_gradients(self.blocks[i], self.of_blocks[i])(x, gradient)
            inner = inner + of_block
        at_start = self.embed_gradients(self.embed, self.outer)(ops.depend(images, gradient), gradient)
        made = hyper_map(added, at_start, at_end) + inner
        gradients: tuple = ()
        for place in self.order:
            gradients = (*gradients, made[place])
        return loss_and_top1, gradients


class Accumulated(nn.Cell):
    """Cuts a batch into `count` equal micro-batches, takes their gradients one after the other, and returns the means.

    Activations of one are in memory at a time. The result is the whole batch's, up to rounding. `part`, int32 [1], is
    the number of the first, and then of the one that is under way. On the CPU it is a loop of the graph, which is
    compiled once; a device would wait in each turn for the host, which decides on another, so its graph has them all.
    """

    def __init__(self, gradients: Gradients, count: int, part: Parameter):
        super().__init__(auto_prefix=False)
        self.gradients = gradients
        self.count = count
        self.part = part
        self.first = Tensor(part.asnumpy(), ms.int32)
        self.share = Tensor(1 / count, ms.float32)
        self.loops = on("CPU")

    def of_part(self, images, labels, i):
        number = ops.assign(self.part, self.first + i)
        return self.gradients(ops.depend(ops.gather(images, i, 0), number), ops.gather(labels, i, 0))

    def and_part(self, images, labels, i, loss, right, gradients):
        (next_loss, next_right), next_gradients = self.of_part(images, labels, i)
        return loss + next_loss, right + next_right, hyper_map(added, gradients, next_gradients)

    def construct(self, images, labels):
        images = images.reshape(self.count, -1, *images.shape[1:])                     # [count, B / count, C, H, W]
        labels = labels.reshape(self.count, -1, *labels.shape[1:])
        i = Tensor(0, ms.int32)
        (loss, right), gradients = self.of_part(images, labels, i)
        if self.loops:
            i = i + 1
            while i < self.count:
                loss, right, gradients = self.and_part(images, labels, i, loss, right, gradients)
                i = i + 1
        else:
            for turn in range(1, self.count):
                # A part waits for the one before, so that one's activations are gone.
                i = ops.depend(Tensor(turn, ms.int32), gradients)
                loss, right, gradients = self.and_part(images, labels, i, loss, right, gradients)
        return (loss * self.share, right * self.share), hyper_map(ops.partial(scaled, self.share), gradients)
