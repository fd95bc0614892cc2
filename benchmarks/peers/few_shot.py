"""Second-order MAML in PyTorch, three ways: torch.func, TorchOpt, learn2learn.

    python few_shot.py PEER SIZES

PEER is torch-func, torchopt or learn2learn; SIZES is a JSON object of the fields of `Sizes`. The
program prints {"versions": TEXT} once it is ready. Then each line of its input,
{"inner_steps": K, "seconds": S}, is answered by {"seconds": TIME}: the median time of the
meta-steps that begin within S seconds, one at least. It ends with its input.

A meta-step: in each task K steps of gradient descent on the mean cross-entropy of the support set,
and the query loss after them; its mean over tasks is differentiated, and Adam takes one step. The
network is that of MAML's code. Images are random, and in memory before the clock starts.

It needs an environment of its own. learn2learn's C files are for Python up to 3.10:

    python3.10 -m venv ENVIRONMENT
    ENVIRONMENT/bin/pip install torch torchvision torchopt learn2learn "numpy<2"
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from burst import burst  # beside this program
from torch import nn

EPSILON = 1e-3  # of the normalisation: TensorFlow's default, in MAML's code
INNER_RATE = 0.05  # on the mean over 5 classes: MAML's 0.01 on their sum
META_RATE = 1e-3

Batch = tuple[torch.Tensor, ...]  # support x and y, query x and y: [tasks, images, ...] each
# Batch, K -> nothing: the gradient of the mean query loss is left in the parameters' `grad`.
MetaGradient = Callable[[Batch, int], None]


class Sizes(NamedTuple):
    """Of the tasks and the network."""

    side: int  # pixels of an image, each way
    channels: int
    filters: int  # of each convolution
    ways: int
    shots: int
    queries: int  # of each class
    meta_batch: int
    threads: int


class Normalisation(nn.Module):
    """Of each channel over the batch, always, with an offset and without a scale."""

    def __init__(self, filters: int):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(filters))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Without a weight but with a bias, batch_norm has no second derivative.
        ones = torch.ones_like(self.offset)
        return F.batch_norm(x, None, None, ones, self.offset, training=True, eps=EPSILON)


def make_network(sizes: Sizes) -> nn.Module:
    """Four convolutions, each normalised, rectified and halved, and a linear layer."""
    layers, channels, side = [], sizes.channels, sizes.side
    for _ in range(4):
        layers += [nn.Conv2d(channels, sizes.filters, 3, padding=1), Normalisation(sizes.filters)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        channels, side = sizes.filters, side // 2
    layers += [nn.Flatten(), nn.Linear(sizes.filters * side * side, sizes.ways)]
    return nn.Sequential(*layers)


def random_tasks(sizes: Sizes) -> Batch:
    """A meta-batch of random images."""

    def images(per_class: int) -> Batch:
        count = sizes.ways * per_class
        x = torch.rand(sizes.meta_batch, count, sizes.channels, sizes.side, sizes.side)
        y = torch.arange(sizes.ways).repeat_interleave(per_class)
        return x, y.expand(sizes.meta_batch, -1)

    return *images(sizes.shots), *images(sizes.queries)


def torch_func(network: nn.Module) -> tuple[MetaGradient, str]:
    """Parameters as arguments, by `torch.func.functional_call`."""
    from torch.func import functional_call, grad

    start = dict(network.named_parameters())

    def loss(params, x, y):
        return F.cross_entropy(functional_call(network, params, (x,)), y)

    def query_loss(params, support_x, support_y, query_x, query_y, inner_steps):
        for _ in range(inner_steps):
            gradient = grad(loss)(params, support_x, support_y)
            params = {name: x - INNER_RATE * gradient[name] for name, x in params.items()}
        return loss(params, query_x, query_y)

    def meta_gradient(batch, inner_steps):
        detached = {name: x.detach() for name, x in start.items()}
        for task in zip(*batch):
            gradient = grad(query_loss)(detached, *task, inner_steps)
            for name, x in start.items():
                share = gradient[name] / len(batch[0])
                x.grad = share if x.grad is None else x.grad + share

    return meta_gradient, f"torch {torch.__version__}"


def torchopt(network: nn.Module) -> tuple[MetaGradient, str]:
    """One network, put back to its first state after each task, as in the library's tutorial."""
    import torchopt

    inner = torchopt.MetaSGD(network, lr=INNER_RATE)

    def meta_gradient(batch, inner_steps):
        start = torchopt.extract_state_dict(network), torchopt.extract_state_dict(inner)
        for support_x, support_y, query_x, query_y in zip(*batch):
            for _ in range(inner_steps):
                inner.step(F.cross_entropy(network(support_x), support_y))
            loss = F.cross_entropy(network(query_x), query_y)
            torchopt.recover_state_dict(network, start[0])
            torchopt.recover_state_dict(inner, start[1])
            (loss / len(batch[0])).backward()

    return meta_gradient, f"torchopt {torchopt.__version__}, torch {torch.__version__}"


def learn2learn(network: nn.Module) -> tuple[MetaGradient, str]:
    """A clone of the network in each task, as in the library's example of MAML."""
    library = import_learn2learn()
    maml = library.algorithms.MAML(network, lr=INNER_RATE, first_order=False)

    def meta_gradient(batch, inner_steps):
        for support_x, support_y, query_x, query_y in zip(*batch):
            learner = maml.clone()
            for _ in range(inner_steps):
                learner.adapt(F.cross_entropy(learner(support_x), support_y))
            (F.cross_entropy(learner(query_x), query_y) / len(batch[0])).backward()

    return meta_gradient, f"learn2learn {library.__version__}, torch {torch.__version__}"


def import_learn2learn():
    """The library; also where torchvision, which it imports, was built for another torch."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # its compiled part is not loaded, and two operators are missing
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        learn2learn.operators = operators  # they last as long as this object
    import learn2learn as library

    return library


PEERS = {"torch-func": torch_func, "torchopt": torchopt, "learn2learn": learn2learn}


def main(peer: str, sizes: Sizes) -> None:
    """Answers the lines of the input."""
    answers, sys.stdout = sys.stdout, sys.stderr  # where libraries print to
    warnings.simplefilter("ignore")
    torch.set_num_threads(sizes.threads)
    torch.manual_seed(0)
    network, batch = make_network(sizes), random_tasks(sizes)
    meta_gradient, versions = PEERS[peer](network)
    adam = torch.optim.Adam(network.parameters(), lr=META_RATE)

    def meta_step(inner_steps: int) -> None:
        adam.zero_grad()
        meta_gradient(batch, inner_steps)
        adam.step()

    print(json.dumps({"versions": versions}), file=answers, flush=True)
    warm = set()
    for line in sys.stdin:
        request = json.loads(line)
        inner_steps = request["inner_steps"]
        if inner_steps not in warm:
            meta_step(inner_steps)
            warm.add(inner_steps)
        seconds = burst(lambda: meta_step(inner_steps), request["seconds"])
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Sizes(**json.loads(sys.argv[2])))
