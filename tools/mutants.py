"""Whether tests catch faults: each mutant changes one place of the code, and a test must fail.

    python tools/mutants.py [NAME …] [--jobs 2]

Works in temporary copies of the tree, never in the tree itself. Prints a Markdown table, and ends
with 1 where a mutant lives, and with 2 where one can't be tried: its text isn't found exactly once,
or its tests fail without it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 300.0
"""Seconds after which a mutant's tests are stopped; it counts as killed, since it hangs them."""

LEDGER = "envs/attack/ledger.py"
DEFENCE = "envs/attack/defence.py"
BLACKBOX = "envs/attack/blackbox.py"
ORACLE = "envs/attack/oracle.py"
EPISODES = "envs/fewshot/episodes.py"
LONGTAIL = "envs/longtail/env.py"
HIDDEN = "envs/longtail/metrics.py"
METRICS = "envs/longtail/metrics.py"
INNER = "lazybench/learning/inner.py"
META = "lazybench/learning/meta_gradient.py"
TEACHER = "lazybench/learning/teacher.py"
STATS = "lazybench/stats.py"
VARIANCE = "lazybench/stats.py"
JUDGE = "lazybench/runner/evaluate.py"
CHECKPOINT = "lazybench/runner/checkpoint.py"
STORE = "lazybench/records/store.py"
ATOMIC = "lazybench/files.py"
BOARDS = "lazybench/boards/write.py"
ROWS = "lazybench/boards/rows.py"
CHARTS = "lazybench/boards/charts.py"
SWAP = "lazybench/files.py"
FLAGS = "lazybench/boards/flags.py"
CLAIMS = "lazybench/paper/claims.py"
SEARCHES = "lazybench/paper/searches.py"
VERDICTS = "lazybench/paper/verdicts.py"

T_LEDGER = "tests/envs/attack/test_ledger.py"
T_DEFENCE = "tests/envs/attack/test_defence.py"
T_BAD = "tests/envs/attack/test_bad_queries.py"
T_BLACKBOX = "tests/envs/attack/test_blackbox.py"
T_FAULTS = "tests/faults/test_agents.py"
T_EPISODES = "tests/envs/fewshot/test_episodes.py"
T_STREAM = "tests/envs/longtail/test_stream.py"
T_CHEATERS = "tests/envs/longtail/test_cheaters.py"
T_METRICS = "tests/envs/longtail/test_metrics.py"
T_INNER = "tests/learning/test_inner.py"
T_META = "tests/learning/test_meta_gradient.py"
T_TEACHER = "tests/learning/test_teacher.py"
T_STATS = "tests/test_stats.py"
T_PAIRS = "tests/test_pairs.py"
T_EFFECTS = "tests/test_random_effects.py"
T_FLAGS = "tests/boards/test_flags.py"
T_CLAIMS = "tests/paper/test_claims.py"
T_SEARCHES = "tests/paper/test_searches.py"
T_VERDICTS = "tests/paper/test_verdicts.py"
T_EVALUATE = "tests/runner/test_external.py"
T_CHECKPOINT = "tests/runner/test_checkpoint.py"
T_STORE = "tests/records/test_store.py"
T_ATOMIC = "tests/test_files_written.py"
T_BOARDS = "tests/boards/test_write.py"
T_CHARTS = "tests/boards/test_charts.py"
T_TO_TARGET = "tests/boards/test_to_target.py"
T_CACHE = "tests/data/test_cache.py"


class Mutant(NamedTuple):
    """One fault that tests must catch.

    Attributes:
        name: what goes wrong, in words of letters, digits and hyphens.
        file: the file that is changed.
        old: text that the file holds exactly once.
        new: what takes its place.
        tests: the test files that must catch it.
        only: pytest's `-k`, where the files have slow tests of other things.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    only: str = ""


class Tried(NamedTuple):
    """What became of a mutant: `killed`, `lived`, or `doesn't apply: WHY`."""

    mutant: Mutant
    outcome: str


MUTANTS = (
    # Attacks: ledger, black box and oracle.
    Mutant(
        "one-query-more-of-one-row-each",
        LEDGER,
        "            position = self.queries[owner] + 1\n"
        "            served = (position <= self.budget) & ~self.done[owner]",
        "            position = self.queries[owner] + 1\n"
        "            served = (position <= self.budget + 1) & ~self.done[owner]",
        (T_LEDGER,),
    ),
    Mutant(
        "noise-is-the-same-for-each-query",
        DEFENCE,
        'mix("attack noise 1", trial[:, None], position[:, None], pixels)',
        'mix("attack noise 1", trial[:, None], pixels)',
        (T_DEFENCE,),
    ),
    Mutant(
        "a-lucky-draw-is-a-success",
        BLACKBOX,
        "found, given = found[sure], given[sure]",
        "found, given = found[sure | True], given[sure | True]",
        (T_DEFENCE,),
    ),
    Mutant(
        "the-last-window-is-left-out",
        DEFENCE,
        "windows = values.shape[1] - self._window + 1",
        "windows = max(values.shape[1] - self._window, 1)",
        (T_DEFENCE,),
    ),
    Mutant(
        "a-flagged-success-counts",
        LEDGER,
        "(self.success_query < self.detected)",
        "(self.success_query <= self.detected)",
        (T_DEFENCE,),
    ),
    Mutant(
        "one-bad-query-more",
        BLACKBOX,
        "bad_budget=bad_query_budget",
        "bad_budget=bad_query_budget and bad_query_budget + 1",
        (T_BAD,),
    ),
    Mutant(
        "one-bad-query-too-many-at-once",
        LEDGER,
        "return np.asarray(_numbered(owner, counts) <= left[owner])",
        "return np.asarray(_numbered(owner, counts) <= left[owner] + 1)",
        (T_BAD,),
    ),
    Mutant(
        "distance-one-bad-query-late",
        LEDGER,
        "there = number == checkpoint",
        "there = number == checkpoint + 1",
        (T_BAD,),
    ),
    Mutant(
        "bad-queries-of-a-success-include-later-ones",
        LEDGER,
        "early = np.bincount(of[at < self.success_query[of]], minlength=images)",
        "early = np.bincount(of, minlength=images)",
        (T_BAD,),
    ),
    Mutant(
        "a-goal-missed-is-the-true-class",
        BLACKBOX,
        'bad = ~wrong if self._bad_answers == "missed" else self._bad(labels, place)',
        'bad = labels == self._label[place] if self._bad_answers == "missed" else self._bad('
        "labels, place)",
        (T_BAD,),
    ),
    Mutant(
        "two-extra-rows-at-the-target",
        BLACKBOX,
        "scores = self._oracle(self._defence.seen(sent, self._trial[of], position))",
        "scores = self._oracle(torch.cat([sent, sent[:2]]))[: len(sent)]",
        (T_FAULTS,),
        "test_25",
    ),
    Mutant(
        "success-8bit-without-success",
        BLACKBOX,
        "            rounded = np.where(success, rounded, 0.0)\n",
        "",
        (T_BLACKBOX,),
    ),
    Mutant(
        "ball-a-thousandth-larger",
        BLACKBOX,
        "hit[found] = near = far <= self.eps + TOLERANCE",
        "hit[found] = near = far <= self.eps * 1.001 + TOLERANCE",
        (T_BLACKBOX,),
    ),
    Mutant(
        "ball-of-the-verdict-a-thousandth-larger",
        BLACKBOX,
        "near = (self.ledger.nearest <= self.eps + TOLERANCE)",
        "near = (self.ledger.nearest <= self.eps * 1.001 + TOLERANCE)",
        (T_BLACKBOX,),
    ),
    Mutant(
        "tolerance-of-the-ball-100-times",
        BLACKBOX,
        "TOLERANCE = 1e-6",
        "TOLERANCE = 1e-4",
        (T_BLACKBOX,),
    ),
    Mutant(
        "rows-keep-their-graph",
        ORACLE,
        "    return Tensor.detach(found)",
        "    return found",
        (T_BLACKBOX,),
    ),
    Mutant(
        "reopened-images-keep-their-queries",
        LEDGER,
        "self.queries[images] = self.success_query[images] = 0",
        "self.success_query[images] = 0",
        (T_LEDGER,),
    ),
    Mutant(
        "reopened-images-keep-their-nearest",
        LEDGER,
        "self.nearest[images] = self._least[images] = np.inf",
        "self._least[images] = np.inf",
        (T_LEDGER,),
    ),
    Mutant(
        "charged-past-the-budget",
        LEDGER,
        "self.queries += np.minimum(counts, np.where(self.done, 0, self.left))",
        "self.queries += np.where(self.done, 0, counts)",
        (T_LEDGER,),
    ),
    Mutant("least-l2-one-query-short", LEDGER, "early = at <= by", "early = at < by", (T_LEDGER,)),
    Mutant(
        "later-success-replaces-the-first",
        LEDGER,
        "fresh = (self.success_query == 0) & (first <= self.budget)",
        "fresh = first <= self.budget",
        (T_LEDGER,),
    ),
    Mutant(
        "spent-budget-does-not-finish",
        LEDGER,
        "self.done |= self.queries >= self.budget",
        "self.done |= self.queries > self.budget",
        (T_LEDGER,),
    ),
    Mutant(
        "success-is-not-asked-again",
        BLACKBOX,
        "for result, rows in ((success, best), (rounded, to_levels(best, 256))):",
        "for result, rows in ((rounded, to_levels(best, 256)),):",
        (T_BLACKBOX,),
    ),
    Mutant(
        "eight-bits-have-255-levels",
        BLACKBOX,
        "(rounded, to_levels(best, 256))",
        "(rounded, to_levels(best, 255))",
        (T_BLACKBOX,),
    ),
    Mutant(
        "rows-that-are-not-finite-succeed",
        BLACKBOX,
        "(wrong if finite is None else wrong & finite)",
        "wrong",
        (T_BLACKBOX,),
    ),
    Mutant(
        "any-wrong-class-is-the-goal",
        BLACKBOX,
        "return labels == self._goal[place]",
        "return labels != self._label[place]",
        (T_BLACKBOX,),
    ),
    Mutant(
        "best-l2-in-the-norm-of-the-attack",
        BLACKBOX,
        'l2 = far if self.norm == "l2" else distance(images, clean, "l2")',
        "l2 = far",
        (T_BLACKBOX,),
    ),
    Mutant(
        "reopened-images-keep-their-invalid-rows",
        BLACKBOX,
        "            self.invalid[images] = 0\n",
        "",
        (T_BLACKBOX,),
    ),
    Mutant(
        "best-image-is-the-last-adversarial",
        BLACKBOX,
        "self._best[place[found[chosen]]] = images[chosen]",
        "self._best[place[found]] = images",
        (T_BLACKBOX,),
    ),
    Mutant(
        "rows-are-not-clipped",
        BLACKBOX,
        "sent = queries.clamp_(0.0, 1.0)",
        "sent = queries",
        (T_BLACKBOX,),
    ),
    Mutant(
        "rows-not-finite-are-not-counted",
        BLACKBOX,
        "            np.add.at(self.invalid, of[(~finite).cpu().numpy()], 1)\n",
        "            self.invalid[of[(~finite).cpu().numpy()]] = 1\n",
        (T_BLACKBOX,),
    ),
    # Trials: scored, and paired.
    Mutant(
        "later-infos-overwrite-finished-rows",
        JUDGE,
        "            fresh = fresh & ~done\n",
        "",
        (T_EVALUATE,),
    ),
    Mutant(
        "infos-of-rows-that-have-none-are-taken",
        JUDGE,
        "            numbers[name][fresh] = np.asarray(info[name])[fresh]\n",
        "            numbers[name][~done] = np.asarray(info[name])[~done]\n",
        (T_EVALUATE,),
    ),
    Mutant(
        "later-answers-overwrite-those-of-finished-rows",
        JUDGE,
        "            given[done] = answers[done]\n",
        "            pass\n",
        (T_EVALUATE,),
    ),
    Mutant(
        "block-that-is-not-full-counts-whole",
        JUDGE,
        "block = _first_of(whole, min(rows, trials - first))",
        "block = whole",
        (T_EVALUATE,),
    ),
    Mutant(
        "plans-may-set-the-split",
        JUDGE,
        '_RESERVED = ("split", "backend",',
        '_RESERVED = ("backend",',
        (T_EVALUATE,),
    ),
    Mutant(
        "headline-metric-is-the-mean-of-trials",
        JUDGE,
        "return float(self.metrics.get(metric, self.scores.mean()))",
        "return float(self.scores.mean())",
        (T_EVALUATE,),
    ),
    Mutant(
        "means-narrower-than-their-studies",
        STATS,
        "q = max(1.0, squares / (k - 1))",
        "q = squares / (k - 1)",
        (T_EFFECTS,),
    ),
    Mutant("baselines-by-the-upper-end", FLAGS, "return lo > 0\n", "return hi > 0\n", (T_FLAGS,)),
    Mutant("curves-rise-by-two-points", FLAGS, "RISE = 1.0", "RISE = 2.0", (T_FLAGS,)),
    Mutant(
        "pairs-across-processors",
        FLAGS,
        "mixed = sides[0] != sides[1] if paired",
        "mixed = False if paired",
        (T_FLAGS,),
    ),
    Mutant(
        "alike-refuted-by-any-difference",
        CLAIMS,
        'return "refuted" if lo > ALIKE or hi < -ALIKE',
        'return "refuted" if lo > 0 or hi < 0',
        (T_CLAIMS, T_VERDICTS),
    ),
    Mutant(
        "searches-of-any-size",
        SEARCHES,
        "same = (self.env, self.trials) == (other.env, other.trials)",
        "same = self.env == other.env",
        (T_VERDICTS,),
    ),
    Mutant(
        "settings-that-no-search-chose",
        SEARCHES,
        "first.config.get(name) == value for name, value in chosen.items()",
        "bool(name) or value for name, value in chosen.items()",
        (T_SEARCHES,),
    ),
    Mutant("verdict-without-a-baseline", VERDICTS, "if found.missing:", "if False:", (T_VERDICTS,)),
    Mutant("control-10-points-off", VERDICTS, "COMPETENT = 5.0", "COMPETENT = 10.0", (T_VERDICTS,)),
    Mutant("eight-validations", VERDICTS, "VALIDATIONS = 9", "VALIDATIONS = 8", (T_VERDICTS,)),
    Mutant(
        "flat-under-a-falling-rate",
        VERDICTS,
        "if silent and not lengths:",
        "if False:",
        (T_VERDICTS,),
    ),
    Mutant(
        "difference-may-fall-to-a-quarter",
        VERDICTS,
        "abs(two) < abs(one) / 2",
        "abs(two) < abs(one) / 4",
        (T_VERDICTS,),
    ),
    Mutant("trap-of-5-points", VERDICTS, "MEMORISED = 10.0", "MEMORISED = 5.0", (T_VERDICTS,)),
    Mutant(
        "verdict-from-two-seeds",
        VERDICTS,
        "    if result.seeds < FEWEST_SEEDS:",
        "    if result.seeds < 2:",
        (T_VERDICTS,),
    ),
    Mutant(
        "published-with-four-seeds",
        VERDICTS,
        "PUBLISHED_SEEDS = 5",
        "PUBLISHED_SEEDS = 4",
        (T_VERDICTS,),
    ),
    Mutant(
        "one-reading-is-enough",
        VERDICTS,
        "if not means or missing:",
        "if not means:",
        (T_VERDICTS,),
    ),
    Mutant(
        "contradictions-dont-count",
        VERDICTS,
        'return "mixed" if len(said) > 1 else own',
        "return own",
        (T_VERDICTS,),
    ),
    Mutant(
        "means-are-not-corrected",
        VERDICTS,
        "undecided=id(mean) in weak",
        "undecided=False",
        (T_VERDICTS,),
    ),
    Mutant("two-seeds-are-paired", STATS, "FEWEST_PAIRS = 3", "FEWEST_PAIRS = 2", (T_STATS,)),
    Mutant(
        "classes-add-the-variance-that-trials-have-already",
        "lazybench/class_effects.py",
        "float((whole**2).sum()) - squares / self.n)",
        "float((whole**2).sum()))",
        ("tests/test_class_effects.py",),
    ),
    Mutant(
        "classes-weigh-evenly",
        "lazybench/class_effects.py",
        "even if design.weights is None else np.asarray(design.weights)[held]",
        "even",
        ("tests/test_class_effects.py",),
    ),
    Mutant(
        "classes-of-another-concentration",
        "lazybench/boards/group.py",
        "kwargs={**spec.kwargs, **chosen}",
        "kwargs={**spec.kwargs}",
        ("tests/boards/test_columns.py",),
    ),
    Mutant(
        "mixed-images-keep-one-label",
        "agents/longtail/learner.py",
        "loss = mixed.share * loss + (1 - mixed.share) * other",
        "loss = mixed.share * loss + (1 - mixed.share) * loss",
        ("tests/agents/longtail/test_learner.py",),
    ),
    Mutant(
        "draws-have-no-slopes",
        "agents/longtail/meta.py",
        "(hard + (soft - soft.detach())).mean(0)",
        "(hard + 0 * soft).mean(0)",
        ("tests/agents/longtail/test_meta.py",),
    ),
    Mutant(
        "shares-of-classes-fall-linearly",
        "lazybench/boards/class_shift.py",
        "float(ratio) ** (-np.arange(classes) / max(1, classes - 1))",
        "1 - (1 - 1 / ratio) * np.arange(classes) / max(1, classes - 1)",
        ("tests/boards/test_class_shift.py",),
    ),
    Mutant(
        "trials-have-the-classes-of-validation",
        "envs/trial_classes.py",
        '"test"), np.arange(trials))',
        '"val"), np.arange(trials))',
        ("tests/envs/test_trial_classes.py",),
    ),
    Mutant(
        "ranks-take-the-test-classes-as-fixed",
        "lazybench/boards/build.py",
        "effects = ranked[firm[0]].class_effects() if firm else None",
        "effects = None",
        ("tests/boards/test_columns.py",),
    ),
    Mutant(
        "more-trials-than-there-are",
        STATS,
        "n = min(most, share * (1 - share) * (z / half) ** 2) if",
        "n = share * (1 - share) * (z / half) ** 2 if",
        (T_STATS,),
    ),
    Mutant(
        "hits-without-any-width-are-refused",
        STATS,
        "(z / half) ** 2) if half > 0 else most",
        "(z / half) ** 2)",
        (T_STATS,),
    ),
    Mutant(
        "pairs-are-not-corrected",
        STATS,
        "p = (1 - LEVEL) * left / total",
        "p = 1 - LEVEL",
        (T_PAIRS,),
    ),
    Mutant(
        "constant-differences-one-sided",
        STATS,
        "p = 1.0 if mean == 0 else min(1.0, 2.0 * 0.5**differences.size)",
        "p = 1.0 if mean == 0 else min(1.0, 0.5**differences.size)",
        (T_STATS,),
    ),
    Mutant(
        "noise-of-unequal-seeds-by-count",
        VARIANCE,
        "for array in arrays) / count**2",
        "for array in arrays) / count",
        (T_STATS,),
    ),
    Mutant(
        "chance-counts-as-seeds",
        VARIANCE,
        "        seeds = max(0.0, between - noise)\n",
        "        seeds = between\n",
        (T_STATS,),
    ),
    Mutant(
        "seeds-by-too-many-degrees-of-freedom",
        VARIANCE,
        "return cls(seeds, len(arrays) - 1, noise, max(1, n - 1))",
        "return cls(seeds, len(arrays), noise, max(1, n - 1))",
        (T_STATS,),
    ),
    Mutant(
        "welch-adds-degrees-of-freedom",
        VARIANCE,
        "df = seeds**2 / welch if welch else sum(df for _, df in found)",
        "df = sum(df for _, df in found)",
        (T_STATS,),
    ),
    Mutant(
        "episodes-order-queries-by-a-used-word",
        EPISODES,
        "seeding.permutation(seeding.mix(keys, 2 * self.task.way), self.task.query_rows)",
        "seeding.permutation(seeding.mix(keys, 0), self.task.query_rows)",
        (T_EPISODES,),
    ),
    Mutant(
        "episodes-draw-the-same-instances-of-each-class",
        EPISODES,
        "self._instances(words[:, way:].reshape(-1), classes.reshape(-1))",
        "self._instances(words[:, way].repeat(way), classes.reshape(-1))",
        (T_EPISODES,),
    ),
    Mutant(
        "groups-without-their-key",
        EPISODES,
        'seeding.mix(key, "groups")[None]',
        'seeding.mix("groups")[None]',
        (T_EPISODES,),
    ),
    # The long tail's hidden test.
    Mutant(
        "negative-probabilities",
        HIDDEN,
        "np.isfinite(sums).all() and probs.min() >= 0 and",
        "np.isfinite(sums).all() and",
        (T_STREAM,),
    ),
    Mutant(
        "probabilities-sum-to-1.1",
        HIDDEN,
        "_SUM_WITHIN = 1e-3",
        "_SUM_WITHIN = 0.11",
        (T_STREAM,),
    ),
    Mutant(
        "calibration-of-half-a-pass",
        HIDDEN,
        "whole = self._with_probs == self._size",
        "whole = self._with_probs > 0",
        (T_STREAM,),
    ),
    Mutant(
        "pass-in-the-order-of-the-files",
        HIDDEN,
        "return np.asarray(seeding.permutation(seeding.mix(key), int(part.count.sum())))",
        "return np.arange(int(part.count.sum()))",
        (T_CHEATERS,),
    ),
    Mutant(
        "same-order-in-each-pass",
        LONGTAIL,
        "self._part, key = self._labelled.test, secrets.randbits(64)",
        "self._part, key = self._labelled.test, 0",
        (T_CHEATERS,),
    ),
    Mutant(
        "validation-tells-which-were-right",
        LONGTAIL,
        'if self.track == "LT":\n                # Which',
        'if self.track == "":\n                # Which',
        (T_STREAM,),
    ),
    Mutant("one-validation-more", LONGTAIL, "_VALIDATIONS = 20", "_VALIDATIONS = 21", (T_STREAM,)),
    Mutant(
        "likelihood-cut-at-a-millionth",
        METRICS,
        "_LEAST_PROBABILITY = 1e-12",
        "_LEAST_PROBABILITY = 1e-6",
        (T_METRICS,),
    ),
    # Learning: inner steps, teachers, meta-gradients.
    Mutant(
        "proximal-term-twice",
        INNER,
        "return loss(params) + lam / 2 *",
        "return loss(params) + lam *",
        (T_INNER,),
    ),
    Mutant(
        "preconditioned-steps-go-up",
        INNER,
        "torch._foreach_sub_(list(params), [steps[name] for name in order])",
        "torch._foreach_add_(list(params), [steps[name] for name in order])",
        (T_INNER,),
    ),
    Mutant(
        "first-order-through-the-gradients",
        INNER,
        "create_graph=order == 2",
        "create_graph=True",
        (T_INNER,),
    ),
    Mutant(
        "no-sum-of-no-gradients",
        INNER,
        "deque([detached(total)], maxlen=keep)",
        "deque([], maxlen=keep)",
        (T_INNER,),
    ),
    Mutant(
        "sums-of-gradients-are-not-copied",
        INNER,
        "sums.append(detached(total) if keep > 1 else total)",
        "sums.append(total)",
        (T_INNER,),
    ),
    Mutant("ties-go-to-the-last", TEACHER, "or score > best", "or score >= best", (T_TEACHER,)),
    Mutant(
        "alphas-off-by-a-hundredth",
        TEACHER,
        "abs(sum(alpha) - 1.0) <= 1e-6",
        "abs(sum(alpha) - 1.0) <= 1e-2",
        (T_TEACHER,),
    ),
    Mutant(
        "simplex-steps-off-by-a-hundredth",
        TEACHER,
        "abs(parts * step - 1.0) > 1e-9",
        "abs(parts * step - 1.0) > 1.5e-2",
        (T_TEACHER,),
    ),
    Mutant(
        "leap-on-rates-takes-the-other-end",
        TEACHER,
        "combine(trail.drift, leap.alpha)",
        "combine(trail.drift, leap.alpha[::-1])",
        (T_TEACHER,),
    ),
    Mutant(
        "meta-gradient-clipped-above-alone",
        META,
        "gradient[name].clamp(-clip, clip)",
        "gradient[name].clamp(max=clip)",
        (T_META,),
    ),
    Mutant(
        "annealing-goes-below-zero",
        META,
        "max(0.0, 1.0 - step / total)",
        "1.0 - step / total",
        (T_META,),
    ),
    Mutant(
        "weights-past-the-leap-have-no-gradient",
        META,
        "for part in (moved.get(name), direct.get(name)) if part",
        "for part in (moved.get(name),) if part",
        (T_META,),
    ),
    Mutant(
        "outer-adam-is-not-annealed",
        META,
        "new_theta[name] = value - (lr * factor /",
        "new_theta[name] = value - (lr /",
        (T_META,),
    ),
    # Checkpoints, records and files.
    Mutant(
        "steps-sorted-as-text",
        CHECKPOINT,
        "return sorted(int(name) for name in names if _STEP.fullmatch(name))",
        "return [int(name) for name in sorted(names) if _STEP.fullmatch(name)]",
        (T_CHECKPOINT,),
    ),
    Mutant("one-checkpoint-is-kept", CHECKPOINT, "_KEPT = 2", "_KEPT = 1", (T_CHECKPOINT,)),
    Mutant(
        "damaged-checkpoints-are-used",
        CHECKPOINT,
        "if hashlib.sha256(data).hexdigest() != sha256[name]:",
        "if False:",
        (T_CHECKPOINT,),
    ),
    Mutant(
        "copies-share-memory",
        CHECKPOINT,
        "return _changed(state, Tensor.clone)",
        "return _changed(state, Tensor.detach)",
        (T_CHECKPOINT,),
    ),
    Mutant(
        "oldest-checkpoint-first",
        CHECKPOINT,
        "for step in reversed(steps(folder)):",
        "for step in steps(folder):",
        (T_CHECKPOINT,),
    ),
    Mutant(
        "temporary-file-is-not-exclusive",
        ATOMIC,
        "os.O_WRONLY | os.O_CREAT | os.O_EXCL",
        "os.O_WRONLY | os.O_CREAT",
        (T_ATOMIC,),
    ),
    Mutant(
        "somebody-else-s-temporary-file-is-removed",
        ATOMIC,
        "        # Another program owns the file of that name, so it stays.\n",
        "        temporary.unlink()\n",
        (T_ATOMIC,),
    ),
    Mutant(
        "leftovers-of-living-writers-removed",
        ATOMIC,
        "if older_than_s <= 0 or path.stat().st_mtime < latest:",
        "if True:",
        (T_ATOMIC,),
    ),
    Mutant(
        "boards-remove-leftovers-of-living-writers",
        BOARDS,
        "remove_leftovers(store.root, older_than_s=LEFTOVER_S)",
        "remove_leftovers(store.root)",
        (T_BOARDS,),
    ),
    Mutant(
        "boards-without-their-lock",
        BOARDS,
        "with alone(root / LOCK, busy, partial(_closed, root), WAIT_S):",
        "with contextlib.nullcontext():",
        (T_BOARDS,),
    ),
    Mutant(
        "quota-is-no-full-disk",
        ATOMIC,
        "FULL = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT})",
        "FULL = frozenset({errno.ENOSPC, errno.EFBIG})",
        (T_ATOMIC,),
    ),
    Mutant(
        "sync-does-not-sync",
        ATOMIC,
        "            if sync:\n",
        "            if False:\n",
        (T_ATOMIC,),
    ),
    Mutant(
        "files-are-renamed-before-they-are-on-the-disk",
        ATOMIC,
        "            _write_all(fd, data)\n            os.fsync(fd)\n",
        "            _write_all(fd, data)\n",
        (T_ATOMIC,),
    ),
    Mutant(
        "renames-are-not-on-the-disk",
        ATOMIC,
        "    _sync_folder(target.parent)\n",
        "",
        (T_ATOMIC,),
    ),
    Mutant(
        "half-a-line-is-left",
        ATOMIC,
        "                os.ftruncate(fd, end)\n            raise",
        "                pass\n            raise",
        (T_ATOMIC,),
    ),
    Mutant(
        "sync-of-a-data-file-does-not-sync",
        SWAP,
        "    os.fsync(file.fileno())\n",
        "",
        (T_CACHE,),
    ),
    Mutant(
        "folders-have-their-place-before-they-are-on-the-disk",
        SWAP,
        "        _sync_folder(place)\n",
        "",
        (T_CACHE,),
    ),
    Mutant(
        "old-folder-is-not-put-back",
        SWAP,
        "                os.replace(old / _ASIDE, folder)\n                raise",
        "                raise",
        (T_CACHE,),
    ),
    Mutant(
        "leftovers-of-other-folders-removed",
        SWAP,
        'mark = f"{folder.name}{TEMPORARY}"',
        "mark = folder.name",
        (T_CACHE,),
    ),
    Mutant(
        "failed-try-replaces-a-failed-try",
        STORE,
        "            if record.status in RETRIABLE:\n                return path\n",
        "",
        (T_STORE,),
    ),
    Mutant(
        "true-equals-1",
        STORE,
        "same = old == new and isinstance(old, bool) == isinstance(new, bool)",
        "same = old == new",
        (T_STORE,),
    ),
    Mutant(
        "other-keys-failed-record-is-overwritten",
        STORE,
        "if stored.key == record.key and stored.status in RETRIABLE:",
        "if stored.status in RETRIABLE:",
        (T_STORE,),
    ),
    Mutant(
        "reserved-names-before-a-dot",
        STORE,
        'safe = safe.replace(".", "-")',
        "pass",
        (T_STORE,),
    ),
    Mutant(
        "reserved-names-of-windows",
        STORE,
        "if safe and safe == name and not _RESERVED.match(safe):",
        "if safe and safe == name:",
        (T_STORE,),
    ),
    Mutant(
        "seeds-that-never-reach-a-target-are-left-out",
        ROWS,
        "math.inf if point is None else point.get(name) for point in points]",
        "point.get(name) for point in points if point is not None] or [math.inf]",
        (T_TO_TARGET,),
    ),
    Mutant(
        "bands-that-begin-at-the-mean",
        CHARTS,
        "band = tuple(zip(values.min(0).tolist()",
        "band = tuple(zip(values.mean(0).tolist()",
        (T_CHARTS,),
    ),
    Mutant(
        "keys-of-five-digits",
        "lazybench/arguments.py",
        "KEY_DIGITS = 6",
        "KEY_DIGITS = 5",
        (T_STORE,),
    ),
    Mutant(
        "records-of-any-environment",
        STORE,
        "elif (env is None or env in _env_names(record)) and agent in (None, record.agent.id):",
        "elif agent in (None, record.agent.id):",
        (T_STORE,),
    ),
)


def changed(text: str, mutant: Mutant) -> str:
    """Return a file's text with a mutant in it.

    Raises:
        ValueError: its old text isn't there exactly once.
    """
    found = text.count(mutant.old)
    if found != 1:
        raise ValueError(f"its old text is found {found} times in {mutant.file}, not once")
    return text.replace(mutant.old, mutant.new)


class Copy:
    """A copy of the tree in a temporary folder, where tests run on changed files."""

    def __init__(self, folder: Path) -> None:
        """Copy what git tracks, and new files that it doesn't ignore; links stay links."""
        self.folder = folder
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_symlink() or (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
        kept = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
        path = os.pathsep.join(filter(None, [str(folder), kept.get("PYTHONPATH")]))
        # A file of the same size and second would be taken for the one that was compiled.
        self._environment = {**kept, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        asked = "import lazybench, lazybench.envs; print(lazybench.__file__)"
        told = subprocess.run(
            [sys.executable, "-c", asked],
            cwd=folder, env=self._environment, check=True, capture_output=True, text=True,
        )  # fmt: skip
        if not Path(told.stdout.strip()).is_relative_to(folder):
            raise SystemExit(f"tests would import {told.stdout.strip()}, not the copy in {folder}")

    def test(self, tests: Sequence[str], only: str = "") -> tuple[int | None, str]:
        """Return pytest's exit code, None where it took too long, and its output."""
        words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        words += ["-k", only] if only else []
        try:
            done = subprocess.run(
                words, cwd=self.folder, env=self._environment, timeout=LIMIT_S,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None, f"took longer than {LIMIT_S:g} s"
        return done.returncode, done.stdout

    def tried(self, mutant: Mutant) -> Tried:
        """Return what the tests make of a mutant; the file is as before afterwards."""
        place = self.folder / mutant.file
        text = place.read_text(encoding="utf-8")
        try:
            place.write_text(changed(text, mutant), encoding="utf-8")
            code, output = self.test(mutant.tests, mutant.only)
        except ValueError as error:
            return Tried(mutant, f"doesn't apply: {error}")
        finally:
            place.write_text(text, encoding="utf-8")
        if code == 0:
            return Tried(mutant, "lived")
        if code in (None, 1):
            return Tried(mutant, "killed")
        last = (output.strip().splitlines() or [""])[-1]
        return Tried(mutant, f"doesn't apply: pytest ended with {code}: {last}")


def unknown_paths(mutants: Sequence[Mutant]) -> list[str]:
    """Return one line for each mutant that names a file which isn't there."""
    return [
        f"{mutant.name}: no file {name}"
        for mutant in mutants
        for name in (mutant.file, *mutant.tests)
        if not (ROOT / name).is_file()
    ]


def try_all(mutants: Sequence[Mutant], jobs: int) -> list[Tried]:
    """Return what became of mutants, in their order, tried in so many copies side by side."""
    done: list[Tried] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(jobs) as pool:
        own = threading.local()

        def one(mutant: Mutant) -> Tried:
            if not hasattr(own, "copy"):
                own.copy = Copy(Path(tempfile.mkdtemp(dir=folder)))
            return own.copy.tried(mutant)

        for tried in pool.map(one, mutants):
            print(f"{tried.mutant.name}: {tried.outcome}", file=sys.stderr, flush=True)
            done.append(tried)
    return done


def sound(mutants: Sequence[Mutant]) -> list[str]:
    """Return one line for each group of tests that fail without any mutant."""
    groups = sorted({(mutant.only, mutant.tests) for mutant in mutants})
    together = [name for only, names in groups if not only for name in names]
    asked = [(only, names) for only, names in groups if only]
    asked += [("", tuple(dict.fromkeys(together)))] if together else []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Copy(Path(folder))
        found = [(names, *copy.test(names, only)) for only, names in asked]
    return [f"{', '.join(names)}: {output[-2000:]}" for names, code, output in found if code != 0]


def table(tried: Sequence[Tried]) -> str:
    """Return the outcomes as Markdown."""
    rows = [
        f"| {mutant.name} | {mutant.file} | {outcome} |"
        for mutant, outcome in ((each.mutant, each.outcome) for each in tried)
    ]
    return "\n".join(["| mutant | file | outcome |", "|---|---|---|", *rows])


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 where all mutants are killed, 1 where one lives, else 2."""
    parser = argparse.ArgumentParser(description="Try mutants: tests must fail on each.")
    parser.add_argument("names", nargs="*", help="mutants to try [default: all]")
    parser.add_argument("--jobs", type=int, default=1, help="how many side by side")
    parser.add_argument("--list", action="store_true", help="list the mutants and end")
    asked = parser.parse_args(words)
    known = {mutant.name: mutant for mutant in MUTANTS}
    if asked.list:
        print("\n".join(known))
        return 0
    if wrong := [name for name in asked.names if name not in known]:
        parser.error(f"no mutant {wrong[0]!r}; see --list")
    if asked.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {asked.jobs}")
    chosen = [known[name] for name in asked.names] or list(MUTANTS)
    if faults := unknown_paths(chosen) or sound(chosen):
        print("\n".join(faults), file=sys.stderr)
        return 2
    tried = try_all(chosen, asked.jobs)
    print(table(tried))
    outcomes = [each.outcome for each in tried]
    if any(outcome not in ("killed", "lived") for outcome in outcomes):
        return 2
    return int("lived" in outcomes)


if __name__ == "__main__":
    sys.exit(main())
