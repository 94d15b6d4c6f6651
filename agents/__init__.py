"""The built-in agents, as data: ids and where their code stands."""

from __future__ import annotations

if __name__ != "lazybench.agents":
    raise ImportError(
        "import 'lazybench.agents', not 'agents': a second copy would double the registries"
    )

from dataclasses import replace
from functools import partial

from lazybench.agents import attack_catalogue
from lazybench.agents.citations import CITES
from lazybench.specs import AgentSpec

_GRADIENT = "lazybench.agents.fewshot.gradient:GradientAgent"
_EMBEDDING = "lazybench.agents.fewshot.embedding:EmbeddingAgent"
_FLOORS = "lazybench.agents.fewshot.baselines"
_CLASSIFIER = "lazybench.agents.longtail.classifier:ClassifierAgent"
_META = "lazybench.agents.longtail.meta:MetaWeightAgent"


def _fewshot(
    target: str, name: str, about: str, reference: str, *, trains: bool = True, version: int = 1
) -> AgentSpec:
    return AgentSpec(
        name,
        ("fewshot",),
        target,
        {"algorithm": name},
        trains=trains,
        about=about,
        reference=reference,
        version=version,
    )


_gradient = partial(_fewshot, _GRADIENT, version=2)
# 3: adapts to the whole support set at meta-test.
_whole_support = partial(_fewshot, _GRADIENT, version=3)
_embedding = partial(_fewshot, _EMBEDDING)


def _classifier(
    name: str, about: str, reference: str = "", target: str = _CLASSIFIER, version: int = 1
) -> AgentSpec:
    return AgentSpec(
        name,
        ("longtail",),
        target,
        {"algorithm": name},
        tuned=False,
        about=about,
        reference=reference,
        version=version,
    )


_ROWS: tuple[AgentSpec, ...] = (
    AgentSpec(
        "chance",
        ("fewshot",),
        f"{_FLOORS}:Chance",
        trains=False,
        about="floor: answers at random (0 for regression)",
    ),
    AgentSpec(
        "nearest_pixel",
        ("fewshot",),
        f"{_FLOORS}:NearestPixel",
        trains=False,
        about="floor: label of the nearest support instance in raw pixels",
    ),
    _gradient(
        "finetune", "floor: trains the network from scratch on each support set", "", trains=False
    ),
    _whole_support("maml", "second-order MAML", "Finn et al. 2017"),
    _whole_support("fomaml", "first-order MAML, without a graph", "Finn et al. 2017, section 5.2"),
    _whole_support("anil", "MAML that adapts the last layer alone", "Raghu et al. 2020"),
    _whole_support("meta_sgd", "MAML with learned step sizes, one an entry", "Li et al. 2017"),
    _whole_support(
        "meta_curvature",
        "MAML with learned curvature along each axis of the weights",
        "Park & Oliva 2019, MC2",
    ),
    _whole_support(
        "imaml",
        "implicit meta-gradient of a proximal inner loop, by conjugate gradient",
        "Rajeswaran et al. 2019",
    ),
    _whole_support(
        "taml",
        "MAML kept unbiased between tasks, by entropy or an inequality of losses",
        "Jamal & Qi 2019",
    ),
    _whole_support(
        "mr_maml",
        "MAML on the last layer above a noisy body that pays for what it remembers",
        "Yin et al. 2020, meta-regularisation on weights",
    ),
    _gradient("reptile", "moves towards the adapted models", "Nichol et al. 2018"),
    _gradient(
        "reptile_matched",
        "control: Reptile with the mean step of Lazy Reptile, without its search",
        "README: honesty is a feature",
    ),
    _gradient("minibatch_prox", "Reptile with a proximal inner loop", "Zhou et al. 2019"),
    _whole_support(
        "lazy_maml", "lazy teacher on MAML: one leap carries the meta-gradient", "Algorithm 1"
    ),
    _whole_support(
        "lazy_anil", "lazy teacher on ANIL: the leap is the last layer's", "Algorithm 1"
    ),
    _whole_support(
        "lazy_meta_sgd",
        "lazy teacher on Meta-SGD: the leap carries the step sizes' gradient, too",
        "Algorithm 1",
    ),
    _gradient("lazy_reptile", "lazy teacher on Reptile", "Algorithm 1 with Table 1's line 13"),
    _embedding(
        "protonet", "nearest class mean in a learned embedding", "Snell et al. 2017", version=2
    ),
    _embedding("matching_net", "attention over the support set", "Vinyals et al. 2016"),
    _embedding("relation_net", "learned similarity of class and query", "Sung et al. 2018"),
    _embedding("r2d2", "ridge regression, solved in closed form", "Bertinetto et al. 2019"),
    AgentSpec(
        "baseline_finetune",
        ("fewshot",),
        "lazybench.agents.fewshot.pretrain:PretrainedAgent",
        about="pre-trains on all train classes, then learns a new last layer on each task",
        reference="Chen et al. 2019",
    ),
    _classifier("cross_entropy", "floor: plain cross-entropy on the long-tailed stream"),
    _classifier(
        "class_balanced",
        "classes weighted by the inverse of their effective number",
        "Cui et al. 2019",
        version=2,
    ),
    _classifier(
        "class_balanced_finetune",
        "cross-entropy, then a last stage of mini-batches balanced over classes",
        "Cui et al. 2018",
    ),
    _classifier(
        "logit_adjust", "log priors on the logits in training", "Menon et al. 2021, eq. (10)"
    ),
    _classifier(
        "logit_adjust_posthoc",
        "cross-entropy, log priors taken off the trained logits",
        "Menon et al. 2021, eq. (9)",
    ),
    _classifier("balanced_softmax", "log counts on the logits in training", "Ren et al. 2020"),
    _classifier(
        "drw",
        "cross-entropy, then class weights: two_component with tau 0",
        "Cao et al. 2019, deferred re-weighting",
    ),
    _classifier(
        "ldam_drw", "margins by class counts, then class weights", "Cao et al. 2019, algorithm 1"
    ),
    _classifier(
        "crt", "cross-entropy, then a new head on balanced mini-batches", "Kang et al. 2020"
    ),
    _classifier(
        "tau_norm", "cross-entropy, the trained head's rows scaled to one norm", "Kang et al. 2020"
    ),
    _classifier(
        "dev_finetune",
        "control: cross-entropy, then a last stage on the dev set alone",
        "Shu et al. 2019, the fine-tuning row",
    ),
    _classifier(
        "balanced_softmax_dev",
        "control: balanced softmax on the stream and the dev set together",
        "README: honesty is a feature",
    ),
    _classifier(
        "l2rw",
        "weighs each example by how its step would help the dev set",
        "Ren et al. 2018 (learning to reweight examples)",
        _META,
    ),
    _classifier(
        "meta_weight_net",
        "weighs each example by a function of its loss, learned on the dev set",
        "Shu et al. 2019",
        _META,
    ),
    _classifier(
        "two_component",
        "class weights, and a part of each example's own learned on the dev set",
        "Jamal et al. 2020",
        _META,
    ),
    _classifier(
        "lazy_two_component", "lazy teacher on two-component weighting", "Algorithm 2", _META
    ),
    *attack_catalogue.CATALOGUE,
)

CATALOGUE: tuple[AgentSpec, ...] = tuple(replace(row, cites=CITES[row.id]) for row in _ROWS)
