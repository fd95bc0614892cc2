"""The configuration of few-shot learning, and the options of its commands."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from bmg.agents.convolution import Convolution
from bmg.experiments.config import (
    FiguresOptions,
    LifetimesConfig,
    SuiteOptions,
    check_lifetimes,
)
from bmg.experiments.few_shot.data.config import DataConfig
from bmg.storage.fields import (
    Count,
    FieldError,
    Lookahead,
    Positive,
    Seed,
    Several,
    Weight,
    check_fields,
    check_lists,
)

Matching = Literal["kl", "reverse_kl", "symmetric_kl", "squared_l2"]


@dataclasses.dataclass(frozen=True)
class FewShotConfig(LifetimesConfig):
    """Meta-learn an initialisation from which a few steps learn to tell new classes apart."""

    counted: ClassVar[str] = "meta-batches"

    steps: Count = 60_000
    """Meta-batches of each lifetime. MAML; the BMG paper has up to 300,000."""
    record_every: Count = 500
    """Meta-batches that a row of the results averages. Ours."""
    workdir: str = "runs/few-shot/bmg"
    """Run directory."""

    objective: Literal["maml", "bmg"] = "bmg"
    """The query loss after K steps, or the distance to a bootstrapped target. BMG section 6."""
    inner_steps: Lookahead = 5
    """K, steps on the support set that are differentiated through. BMG table 4: 1, 5, for MAML 10
    as well."""
    target_steps: Lookahead = 5
    """L, further steps on the query set to the target; BMG. Table 4: 1, 5, 10."""
    matching: Matching = "kl"
    """Distance to the target, on the query set; BMG. Table 4: kl is KL(target || adapted),
    reverse_kl the other direction; squared_l2, of the weights, is ours."""
    temperature: Positive = 1.0
    """The target's logits are divided by it; BMG. Ours: the paper only suggests it."""
    first_order: bool = False
    """FOMAML: the inner gradient is a constant to the meta-gradient. Table 4."""
    head_only: bool = False
    """ANIL: the steps change the linear layer alone; all of it is meta-learned. Table 4."""
    inner_learning_rate: Positive = 0.01
    """Alpha, of the steps on a loss that is the sum over the images of the batch divided by those
    of one class: ways times the mean. MAML's code; of the mean alone, 0.05 is the same."""
    target_learning_rate: Positive | None = None
    """Of the steps to the target; None for the inner one. The paper has no other."""
    meta_learning_rate: Positive = 1e-3
    """Beta, of the meta-learner's Adam. MAML; BMG table 4: 1e-3, 1e-4."""
    meta_gradient_clip: Weight = 10.0
    """Each element of the meta-gradient is cut to plus or minus this; 0 for none. MAML's code, for
    MiniImagenet."""

    ways: Several = 5
    """Classes of a task. BMG section 6."""
    shots: Count = 5
    """Images of a class in the support set. BMG section 6."""
    queries: Count = 5
    """Images of a class in the query set, in training. BMG appendix D.2; MAML has 15."""
    meta_batch: Several = 4
    """Tasks of a meta-batch. MAML's code, for 5-way 5-shot."""
    filters: Count = 32
    """Of each convolution. BMG appendix D.2."""

    evaluate_every: Count = 5_000
    """Meta-batches from one evaluation to the next, on validation and test classes. Ours; MAML
    validates every 500, with few tasks."""
    evaluation_tasks: Several = 600
    """Tasks of an evaluation, the same ones each time. MAML."""
    evaluation_steps: Lookahead = 10
    """Steps on the support set in an evaluation. BMG appendix D.2, MAML."""
    evaluation_queries: Count = 5
    """Images of a class in the query set of an evaluation. MAML's code."""

    convolution: Convolution = "lax"
    """How a convolution is computed in training: as XLA has it, or as one matrix product with the
    nine neighbours side by side. Ours."""
    evaluation_convolution: Convolution | None = None
    """The same in evaluations, which are loops. None: im2col on a CPU, where lax takes ten times as
    long in a loop; lax elsewhere. Ours."""
    tasks_mapped: Literal["unrolled", "together", "loop"] | None = None
    """The tasks of a meta-batch: side by side in the program, as a batch, or one after the other.
    None: unrolled on a CPU, where a batch of kernels is slow; together elsewhere. Ours."""
    evaluation_batch: Count | None = None
    """Tasks of an evaluation that are learned at once. None: one on a CPU, 100 elsewhere. Ours."""
    differentiation: Literal["mixed", "plain"] = "mixed"
    """Inner steps are computed again for the meta-gradient, or kept in memory. Ours."""

    data: DataConfig = DataConfig()

    def settled(self, backend: str) -> FewShotConfig:
        """What is left open, settled for "cpu" or another backend of JAX."""
        on_cpu = backend == "cpu"
        return dataclasses.replace(
            self,
            evaluation_convolution=self.evaluation_convolution or ("im2col" if on_cpu else "lax"),
            evaluation_batch=self.evaluation_batch or (1 if on_cpu else 100),
            tasks_mapped=self.tasks_mapped or ("unrolled" if on_cpu else "together"),
        )

    @property
    def most_devices(self) -> int:
        """One for each task."""
        return self.seeds * self.meta_batch

    @property
    def steps_per_update(self) -> int:
        """Meta-batches of a meta-update."""
        return 1

    def __post_init__(self):
        check_fields(self)
        check_lifetimes(self, 1)
        if self.evaluate_every <= self.steps and self.evaluate_every % self.record_every:
            raise FieldError(
                "evaluate_every",
                f"is {self.evaluate_every}; allowed are multiples of record_every, "
                f"{self.record_every}: a row of the results holds one evaluation",
            )

    @property
    def method(self) -> str:
        """What decides how long a meta-batch takes: objective, K and L, FOMAML, ANIL."""
        name = f"{self.objective}-k{self.inner_steps}"
        if self.objective == "bmg":
            name += f"-l{self.target_steps}"
        return name + "-fomaml" * self.first_order + "-anil" * self.head_only

    @property
    def label(self) -> str:
        """In legends and tables, and as the name of a run directory."""
        matching = f"-{self.matching}" if self.objective == "bmg" else ""
        return f"{self.method}{matching}-{self.meta_learning_rate:g}"


@dataclasses.dataclass(frozen=True)
class FewShotSuiteOptions(SuiteOptions):
    """Run the sweep of table 4, one method after the other; go on where it was stopped."""

    steps: Count = FewShotConfig.steps
    """Meta-batches of each lifetime."""
    root: str = "runs/few-shot"
    """Folder of the run directories."""
    maml: bool = True
    """The 24 runs of MAML: step size, K, FOMAML, ANIL."""
    bmg: bool = True
    """The 24 runs of BMG: step size, K, L, direction of the divergence."""
    ways: Several = FewShotConfig.ways
    """Classes of a task."""
    shots: Count = FewShotConfig.shots
    """Images of a class in the support set."""
    evaluate_every: Count = FewShotConfig.evaluate_every
    """Meta-batches from one evaluation to the next; where a lifetime is shorter, at its end."""
    record_every: Count = FewShotConfig.record_every
    """Meta-batches that a row of the results averages; in a short lifetime, all of it."""
    meta_learning_rates: tuple[Positive, ...] = (1e-3, 1e-4)
    """Beta. Table 4."""
    inner_steps: tuple[Lookahead, ...] = (1, 5, 10)
    """K; BMG leaves out the largest of several, as the paper does. Table 4."""
    target_steps: tuple[Lookahead, ...] = (1, 5, 10)
    """L. Table 4."""

    def __post_init__(self):
        super().__post_init__()
        if not (self.maml or self.bmg):
            raise FieldError("maml", "and bmg are both left out; give one of them")
        check_lists(self, "meta_learning_rates", "inner_steps", "target_steps")


@dataclasses.dataclass(frozen=True)
class FewShotEvaluateOptions:
    """Learn new tasks from the initialisation that a run has found."""

    workdir: str = FewShotConfig.workdir
    """Run directory."""
    initialisation: Literal["best", "last"] = "best"
    """The one with the best accuracy on validation classes so far, or that of the newest
    checkpoint."""
    classes: Literal["test", "validation", "train"] = "test"
    """Which classes the tasks are drawn from."""
    tasks: Several = FewShotConfig.evaluation_tasks
    """How many."""
    steps: Lookahead = FewShotConfig.evaluation_steps
    """On the support set of each."""
    shots: Count | None = None
    """Images of a class in the support set; None for those of the run."""
    seed: Seed = 1
    """Of the tasks. 1: on test classes, those that the run itself was evaluated on."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class FewShotFiguresOptions(FiguresOptions):
    """Draw accuracies from the runs in a folder, and print the best ones, chosen by validation."""

    root: str = "runs/few-shot"
    """Folder of the run directories, as `all` leaves it."""
    speeds: str = ""
    """What `bmg benchmark few-shot --json FILE` has written for tasks of this size: times then come
    from there. Without it they are the runs' own, which whatever else the machine did is part
    of."""
