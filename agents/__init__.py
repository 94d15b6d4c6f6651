"""The built-in agents, as data: a row for each id, with its code, its reference and its citations.

A control cites the method that it controls for; an unpublished baseline cites lazybench.
"""

from __future__ import annotations

if __name__ != "lazybench.agents":
    raise ImportError(
        "import 'lazybench.agents', not 'agents': a second copy would double the registries"
    )

from functools import partial
from typing import Any

from lazybench.specs import AgentSpec, Family


def _agent(
    family: Family, target: str, name: str, about: str, reference: str, *cites: str, **fields: Any
) -> AgentSpec:
    """Return the row of an agent whose class is at `lazybench.agents.<family>.<target>`."""
    defaults = {
        "kwargs": {"algorithm": name},
        "trains": family != "attack",
        "tuned": family == "fewshot",
    }
    return AgentSpec(
        name,
        (family,),
        f"lazybench.agents.{family}.{target}",
        about=about,
        reference=reference,
        cites=cites,
        **{**defaults, **fields},
    )


_fewshot = partial(_agent, "fewshot")
_gradient = partial(_fewshot, "gradient:GradientAgent")
_embedding = partial(_fewshot, "embedding:EmbeddingAgent")
_features = partial(_fewshot, kwargs={}, trains=False, tuned=False)
_longtail = partial(_agent, "longtail")
_classifier = partial(_longtail, "classifier:ClassifierAgent")
_meta_weight = partial(_longtail, "meta:MetaWeightAgent")
_attacker = partial(_agent, "attack")
_meta_attack = partial(_attacker, "meta_attack:MetaAttackAgent")

_FEWSHOT: tuple[AgentSpec, ...] = (
    _fewshot(
        "baselines:Chance",
        "chance",
        "baseline: random answers (0 for regression)",
        "",
        "lazybench",
        kwargs={},
        trains=False,
    ),
    _fewshot(
        "baselines:NearestPixel",
        "nearest_pixel",
        "baseline: label of the nearest support instance in raw pixels",
        "",
        "lazybench",
        kwargs={},
        trains=False,
    ),
    _gradient(
        "finetune",
        "baseline: trains the network from scratch on each support set",
        "",
        "lazybench",
        trains=False,
        version=2,
    ),
    # Version 3 adapts to the whole support set at meta-test.
    _gradient("maml", "second-order MAML", "Finn et al. 2017", "finn2017maml", version=3),
    _gradient(
        "fomaml",
        "first-order MAML, without a graph",
        "Finn et al. 2017, section 5.2",
        "finn2017maml",
        version=3,
    ),
    _gradient(
        "anil",
        "MAML that adapts the last layer alone",
        "Raghu et al. 2020",
        "raghu2020anil",
        version=3,
    ),
    _gradient(
        "meta_sgd",
        "MAML with learned step sizes, one per weight",
        "Li et al. 2017",
        "li2017metasgd",
        version=3,
    ),
    _gradient(
        "meta_curvature",
        "MAML with learned curvature along each axis of the weights",
        "Park & Oliva 2019, MC2",
        "park2019curvature",
        version=3,
    ),
    _gradient(
        "imaml",
        "implicit meta-gradient of a proximal inner loop, by conjugate gradient",
        "Rajeswaran et al. 2019",
        "rajeswaran2019imaml",
        version=3,
    ),
    _gradient(
        "taml",
        "MAML kept unbiased between tasks, by entropy or an inequality of losses",
        "Jamal & Qi 2019",
        "jamal2019taml",
        version=3,
    ),
    _gradient(
        "mr_maml",
        "MAML on the last layer above a noisy body, with a penalty on what the body remembers",
        "Yin et al. 2020, meta-regularisation on weights",
        "yin2020memorization",
        version=3,
    ),
    _gradient(
        "reptile",
        "moves towards the adapted models",
        "Nichol et al. 2018",
        "nichol2018reptile",
        version=2,
    ),
    _gradient(
        "reptile_matched",
        "control: Reptile with the mean step of Lazy Reptile, without its search",
        "a control of lazybench",
        "nichol2018reptile",
        "jamal2021lazy",
        version=2,
    ),
    _gradient(
        "minibatch_prox",
        "Reptile with a proximal inner loop",
        "Zhou et al. 2019",
        "zhou2019prox",
        version=2,
    ),
    _gradient(
        "lazy_maml",
        "lazy teacher on MAML: one leap carries the meta-gradient",
        "Algorithm 1",
        "jamal2021lazy",
        "finn2017maml",
        version=3,
    ),
    _gradient(
        "lazy_anil",
        "lazy teacher on ANIL: the leap is the last layer's",
        "Algorithm 1",
        "jamal2021lazy",
        "raghu2020anil",
        version=3,
    ),
    _gradient(
        "lazy_meta_sgd",
        "lazy teacher on Meta-SGD: the leap also carries the step sizes' gradient",
        "Algorithm 1",
        "jamal2021lazy",
        "li2017metasgd",
        version=3,
    ),
    _gradient(
        "lazy_reptile",
        "lazy teacher on Reptile",
        "Algorithm 1 with Table 1's line 13",
        "jamal2021lazy",
        "nichol2018reptile",
        version=2,
    ),
    _embedding(
        "protonet",
        "nearest class mean in a learned embedding",
        "Snell et al. 2017",
        "snell2017protonet",
        version=2,
    ),
    _embedding(
        "matching_net",
        "attention over the support set",
        "Vinyals et al. 2016",
        "vinyals2016matching",
    ),
    _embedding(
        "relation_net",
        "learned similarity of class and query",
        "Sung et al. 2018",
        "sung2018relation",
    ),
    _embedding(
        "r2d2",
        "ridge regression, solved in closed form",
        "Bertinetto et al. 2019",
        "bertinetto2019r2d2",
    ),
    _fewshot(
        "pretrain:PretrainedAgent",
        "baseline_finetune",
        "pre-trains on all train classes, then learns a new last layer on each task",
        "Chen et al. 2019",
        "chen2019closer",
        kwargs={},
    ),
    # Frozen features: nothing is trained, though two take the mean of training images.
    _features(
        "classifiers:SimpleShot",
        "simple_shot",
        "nearest class mean of frozen features, centred by the training classes and normalised",
        "Wang et al. 2019",
        "wang2019simpleshot",
        trains=True,
    ),
    _features(
        "classifiers:LogisticRegression",
        "logistic_regression",
        "logistic regression on frozen features by L-BFGS",
        "Tian et al. 2020",
        "tian2020rethinking",
    ),
    _features(
        "classifiers:Ridge",
        "ridge",
        "ridge regression on frozen features in closed form",
        "Hoerl & Kennard 1970",
        "hoerl1970ridge",
    ),
    _features(
        "classifiers:Knn",
        "knn",
        "votes of the nearest support instances on frozen features",
        "Cover & Hart 1967; Wu et al. 2018",
        "cover1967nearest",
        "wu2018instance",
    ),
    _features(
        "transductive:BdCspn",
        "bd_cspn",
        "transductive; prototypes of frozen features, rectified by the queries",
        "Liu et al. 2020",
        "liu2020prototype",
    ),
    _features(
        "transductive:LaplacianShot",
        "laplacian_shot",
        "transductive; nearest prototype with agreement among neighbouring queries",
        "Ziko et al. 2020",
        "ziko2020laplacian",
        trains=True,
    ),
    _features(
        "transductive:Tim",
        "tim",
        "transductive; most information between frozen features of queries and their labels",
        "Boudiaf et al. 2020",
        "boudiaf2020tim",
    ),
    _features(
        "transductive:PtMap",
        "pt_map",
        "transductive; power transform, then class centres by optimal transport of the queries",
        "Hu et al. 2021",
        "hu2021ptmap",
    ),
)

_LONGTAIL: tuple[AgentSpec, ...] = (
    _classifier(
        "cross_entropy", "baseline: plain cross-entropy on the long-tailed stream", "", "lazybench"
    ),
    _classifier(
        "class_balanced",
        "classes weighted by the inverse of their effective number",
        "Cui et al. 2019",
        "cui2019classbalanced",
        version=2,
    ),
    _classifier(
        "class_balanced_finetune",
        "cross-entropy, then a last stage of mini-batches balanced over classes",
        "Cui et al. 2018",
        "cui2018transfer",
    ),
    _classifier(
        "logit_adjust",
        "log priors on the logits in training",
        "Menon et al. 2021, eq. (10)",
        "menon2021logit",
    ),
    _classifier(
        "logit_adjust_posthoc",
        "cross-entropy, log priors subtracted from the trained logits",
        "Menon et al. 2021, eq. (9)",
        "menon2021logit",
    ),
    _classifier(
        "balanced_softmax",
        "log counts on the logits in training",
        "Ren et al. 2020",
        "ren2020softmax",
    ),
    _classifier(
        "mixup",
        "cross-entropy on pairs of images, mixed in random shares",
        "Zhang et al. 2018",
        "zhang2018mixup",
    ),
    _classifier(
        "sade",
        "three heads on one body, for many, all and few images a class; mean of their logits",
        "Zhang et al. 2022, without test-time aggregation",
        "zhang2022sade",
    ),
    _classifier(
        "drw",
        "cross-entropy, then class weights: two_component with tau 0",
        "Cao et al. 2019, deferred re-weighting",
        "cao2019ldam",
    ),
    _classifier(
        "ldam_drw",
        "margins by class counts, then class weights",
        "Cao et al. 2019, algorithm 1",
        "cao2019ldam",
    ),
    _classifier(
        "crt",
        "cross-entropy, then a new head on balanced mini-batches",
        "Kang et al. 2020",
        "kang2020decoupling",
    ),
    _classifier(
        "tau_norm",
        "cross-entropy, the trained head's rows scaled to one norm",
        "Kang et al. 2020",
        "kang2020decoupling",
    ),
    _classifier(
        "dev_finetune",
        "control: cross-entropy, then a last stage on the dev set alone",
        "Shu et al. 2019, the fine-tuning row",
        "shu2019mwnet",
    ),
    _classifier(
        "balanced_softmax_dev",
        "control: balanced softmax on the stream and the dev set together",
        "a control of lazybench",
        "ren2020softmax",
    ),
    _meta_weight(
        "l2rw",
        "weighs each example by how its step would help the dev set",
        "Ren et al. 2018 (learning to reweight examples)",
        "ren2018reweight",
    ),
    _meta_weight(
        "meta_weight_net",
        "weighs each example by a function of its loss, learned on the dev set",
        "Shu et al. 2019",
        "shu2019mwnet",
    ),
    _meta_weight(
        "balms",
        "balanced softmax on mini-batches drawn again at class rates learned on the dev set",
        "Ren et al. 2020 (Balanced Meta-Softmax)",
        "ren2020softmax",
    ),
    _meta_weight(
        "two_component",
        "class weights plus a weight of each example, learned on the dev set",
        "Jamal et al. 2020",
        "jamal2020rethinking",
    ),
    _meta_weight(
        "lazy_two_component",
        "lazy teacher on two-component weighting",
        "Algorithm 2",
        "jamal2021lazy",
        "jamal2020rethinking",
    ),
)

_ATTACK: tuple[AgentSpec, ...] = (
    _attacker(
        "meta_attack:Coordinate",
        "coordinate",
        "control: scores; signs of slopes at random coordinates, nothing learned",
        "a control of lazybench",
        "du2020metaattack",
    ),
    _attacker(
        "zoo:Zoo",
        "zoo",
        "scores; Adam on random coordinates by central differences",
        "Chen et al. 2017",
        "chen2017zoo",
    ),
    _attacker(
        "zoo:AutoZoom",
        "autozoom",
        "scores; Adam on a small latent image, one random direction at a time",
        "Tu et al. 2019",
        "tu2019autozoom",
    ),
    _attacker(
        "random_directions:Bandits",
        "bandits",
        "scores; a tiled gradient prior that is updated at each step",
        "Ilyas et al. 2019",
        "ilyas2019bandits",
    ),
    _attacker(
        "random_directions:FrankWolfe",
        "fw_black",
        "scores; Frank-Wolfe by gradients along random directions",
        "Chen et al. 2020 (AAAI)",
        "chen2020frankwolfe",
    ),
    _attacker(
        "random_directions:Nes",
        "nes",
        "scores; gradients along antithetic random directions",
        "Ilyas et al. 2018",
        "ilyas2018nes",
    ),
    _attacker(
        "random_directions:TiledRgf",
        "rgf_tiled",
        "scores; gradients along tiled random directions by forward differences",
        "Cheng et al. 2019 (P-RGF)",
        "cheng2019prior",
    ),
    _attacker(
        "simba:Simba",
        "simba",
        "scores; one random pixel after another, kept where it helps",
        "Guo et al. 2019",
        "guo2019simba",
    ),
    _attacker(
        "simba:Simba",
        "simba_dct",
        "scores; one random cosine wave after another, kept where it helps",
        "Guo et al. 2019",
        "guo2019simba",
    ),
    _attacker(
        "square:Square",
        "square",
        "scores; random squares at the edge of the ball, kept where they help",
        "Andriushchenko et al. 2020",
        "andriushchenko2020square",
    ),
    _attacker(
        "boundary:Boundary",
        "boundary",
        "decisions; random steps along the boundary and towards the image",
        "Brendel et al. 2018",
        "brendel2018boundary",
    ),
    _attacker(
        "rays:OptAttack",
        "opt_attack",
        "decisions; descends the length of a ray by finite differences",
        "Cheng et al. 2019",
        "cheng2019opt",
    ),
    _attacker(
        "rays:SignOpt",
        "sign_opt",
        "decisions; descends the length of a ray by signs of its differences",
        "Cheng et al. 2020",
        "cheng2020signopt",
    ),
    _attacker(
        "hopskipjump:HopSkipJump",
        "hopskipjump",
        "decisions; gradient from decisions around a point on the boundary, and bisection",
        "Chen et al. 2020",
        "chen2020hopskipjump",
    ),
    _attacker(
        "hopskipjump:StealthyHopSkipJump",
        "stealthy_hopskipjump",
        "decisions; HopSkipJump with few bad queries, from the adversarial side",
        "Debenedetti et al. 2024",
        "debenedetti2024evading",
        "chen2020hopskipjump",
    ),
    _attacker(
        "rays:RayS",
        "rays",
        "decisions; rays to the box's corners, flipped block by block",
        "Chen & Gu 2020",
        "chen2020rays",
    ),
    _attacker(
        "geometric:Geoda",
        "geoda",
        "decisions; rays along the boundary's normal, estimated in low frequencies",
        "Rahmati et al. 2020",
        "rahmati2020geoda",
    ),
    _attacker(
        "geometric:Surfree",
        "surfree",
        "decisions; turns to random low-frequency directions, no gradient",
        "Maho et al. 2021",
        "maho2021surfree",
    ),
    _attacker(
        "surrogate_prior:SurrogatePrior",
        "surrogate_prior",
        "scores; estimates gradients along those of the white-box networks and random directions",
        "Cheng et al. 2019, 2021",
        "cheng2019prior",
        "cheng2021convergence",
    ),
    _meta_attack(
        "meta_attack",
        "scores; gradients from a meta-learned network, fine-tuned per image by finite differences",
        "Du et al. 2020",
        "du2020metaattack",
        trains=True,
    ),
    _meta_attack(
        "lazy_meta_attack",
        "scores; lazy teacher on meta-attack's training",
        "Algorithms 3 and 4",
        "jamal2021lazy",
        "du2020metaattack",
        trains=True,
        version=2,
    ),
    _meta_attack(
        "meta_attack_matched",
        "control: meta-attack with the mean step of the lazy one, without its search",
        "a control of lazybench",
        "du2020metaattack",
        "jamal2021lazy",
        trains=True,
        version=2,
    ),
    _meta_attack(
        "meta_attack_untrained",
        "control: meta-attack by a network that has learned nothing before the attack",
        "a control of lazybench",
        "du2020metaattack",
    ),
)

CATALOGUE: tuple[AgentSpec, ...] = (*_FEWSHOT, *_LONGTAIL, *_ATTACK)
