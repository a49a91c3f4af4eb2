"""Rollout labels against known values; a killed run pays nothing twice; fitting finds what is there; clear faults."""

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest

import ponder
from ponder import testing
from ponder.api import build_process
from ponder.core.cache import MemoryCache
from ponder.core.context import Context
from ponder.core.model import Completion, Model, Sampling
from ponder.core.problem import Grade
from ponder.core.runtime import Runtime
from ponder.errors import CapabilityError, GraderError, ParameterError, TaskError
from ponder.models.simulated import Simulated
from ponder.recipes._value_head_fit import fit_value_head, pairs_in_order, ranking, split_problems
from ponder.recipes.process_reward_model import PrmPlan, label_prefixes, rollout_labels, train_prm
from ponder.verifiers.value_head import values_of


@dataclass
class Coin(Model):
    """Writes H or T, one word a paragraph, fairly and by the seed; stops after four."""

    served: int = 0
    most: int = 1 << 30
    name = "coin"
    max_concurrency = 1
    capabilities: object = field(default_factory=lambda: Simulated(profile="strong").capabilities)

    def __str__(self):
        return "coin"

    @property
    def identity(self):
        return "coin"

    def count_tokens(self, prompt):
        return 4

    async def sample(self, request):
        for position, seed in enumerate(request.seeds):
            if self.served >= self.most:
                raise KeyboardInterrupt
            self.served += 1
            await asyncio.sleep(0)
            written, bits = request.prefix.count("\n\n"), np.random.default_rng(seed).integers(2, size=4)
            words = ["HT"[b] for b in bits[: 4 - written]]
            stepping = "\n\n" in request.sampling.stop and written < 3
            text = words[0] if stepping else "\n\n".join(words)
            yield (
                position,
                Completion(text, 1, "stop", "\n\n" if stepping else "", logprob=-0.7, prompt_tokens=4, requests=1),
            )


@dataclass(frozen=True)
class Heads(testing.Sums):
    """Right if at least `least` heads of four."""

    least: int = 4
    broken: bool = False
    name = "heads"

    def extract(self, output):
        return str(output)

    def grade(self, problem, output):
        if self.broken and str(output).endswith("T"):
            raise GraderError("cannot read T")
        return Grade.of(str(output).count("H") >= self.least)


def labels_of(task, model=None, *, traces=3, rollouts=4, n=6, seed=0, step="paragraph", runtime=None):
    model = model or Coin()
    process = build_process(f"text_steps(step={step})", (), model)
    problems = task.problems(n)
    return asyncio.run(
        rollout_labels(
            task, process, problems, traces=traces, rollouts=rollouts, seed=seed, sampling=Sampling(logprobs=0),
            runtime=runtime or Runtime(),
        )
    )  # fmt: skip


def test_labels_are_unbiased_estimates_of_the_true_value_of_each_prefix():
    labels = labels_of(Heads(), n=40, traces=6, rollouts=16)
    by_value = {}
    for p in labels.prefixes:
        truth = 0.0 if "T" in p.text else 0.5 ** (4 - p.text.count("H"))
        by_value.setdefault(truth, []).append(p)
        if p.finished or truth == 0:
            assert p.value == truth
    for truth, prefixes in by_value.items():
        n = sum(p.rollouts for p in prefixes)
        assert abs(np.mean([p.value for p in prefixes]) - truth) <= 4 * np.sqrt(truth * (1 - truth) / n) + 1e-9
    assert set(by_value) == {0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0}


def test_a_process_without_text_and_without_finishing_in_one_stretch_has_the_values_that_theory_gives():
    task = ponder.task("sim_tree(survival=[0.7], depth=4)")
    problem = task.problems(1)[0]
    process = build_process("sim_tree", (), ponder.model("sim:strong"))
    ctx = Context(problem, process, task=task, runtime=Runtime())
    labelled = asyncio.run(label_prefixes(ctx, traces=40, rollouts=50))
    assert sum(not p.finished for p in labelled) == 1 + 40 * 3
    for depth in range(4):
        alive = [p for p in labelled if p.state.depth == depth and p.state.payload.alive]
        truth, n = 0.7 ** (4 - depth), sum(p.rollouts for p in alive)
        assert abs(np.mean([p.value for p in alive]) - truth) < 4 * np.sqrt(truth * (1 - truth) / n)
    assert all(p.value == p.state.payload.alive for p in labelled if p.finished or not p.state.payload.alive)


def test_equal_prefixes_of_a_problem_are_rolled_out_once_and_every_prefix_is_labelled_once():
    labels = labels_of(Heads(), traces=20, rollouts=2, n=2)
    keys = [(p.state.problem.id, p.text, p.finished) for p in labels.prefixes]
    assert len(keys) == len(set(keys)) <= 2 * (1 + 2 + 4 + 8 + 16)


def test_a_run_that_was_killed_and_started_again_asks_for_each_completion_once_and_ends_with_the_same_labels():
    whole = Coin()
    expected = [p.as_dict() for p in labels_of(Heads(), whole, runtime=Runtime(cache=MemoryCache())).prefixes]
    cache, first = MemoryCache(), Coin(most=whole.served // 2)
    with pytest.raises(KeyboardInterrupt):
        labels_of(Heads(), first, runtime=Runtime(cache=cache))
    second = Coin()
    again = labels_of(Heads(), second, runtime=Runtime(cache=cache))
    assert [p.as_dict() for p in again.prefixes] == expected
    assert first.served + second.served <= whole.served + 4  # the one call under way when it was killed
    third = Coin()
    labels_of(Heads(), third, runtime=Runtime(cache=cache))
    assert third.served == 0


def test_what_the_grader_cannot_judge_counts_neither_way_and_is_told():
    labels = labels_of(Heads(least=2, broken=True), n=8, rollouts=8)
    assert labels.failures["grade: GraderError"] > 0
    assert all(p.rollouts >= 1 for p in labels.prefixes)
    assert not any(p.finished and p.text.endswith("T") for p in labels.prefixes)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (Heads(least=5), {}, "none of .* rollouts of 6 problems ended correct"),
        (Heads(least=0), {}, "all .* rollouts ended correct"),
        (Heads(), {"step": "answer"}, "every answer is one step under coin/answer.*--process"),
        (Heads(), {"traces": 0}, "traces=0 is not allowed"),
        (Heads(), {"rollouts": 0}, "rollouts=0 is not allowed"),
        (Heads(), {"model": testing.Counted(fail=True)}, "no rollout was finished.*Lost.*42.*always fails"),
    ],
)
def test_where_nothing_can_be_learnt_it_says_why(task, options, message):
    with pytest.raises((TaskError, ParameterError), match=f"(?s){message}"):
        labels_of(task, **options)


def test_a_budget_ends_the_rollouts_and_what_came_is_labelled():
    from ponder.ledger.budget import Budget, Meter

    labels = labels_of(Heads(least=2), n=4, runtime=Runtime(meter=Meter(Budget(calls=60))))
    assert labels.spend.calls <= 60 and labels.failures["budget"] > 0
    assert 0 < sum(p.rollouts for p in labels.prefixes if not p.finished) < 60


def test_a_model_without_open_states_and_too_few_problems_are_refused_before_anything_is_drawn(tmp_path):
    with pytest.raises(CapabilityError, match=r"hidden states.*embedded:smollm2-135m"):
        asyncio.run(train_prm(ponder.model("sim:strong"), testing.Sums(), tmp_path))
    with pytest.raises(ParameterError, match="limit=9"):
        PrmPlan(limit=9)
    with pytest.raises(ParameterError, match="units=-1"):
        PrmPlan(units=-1)


# ---------------------------------------------------------------- fitting and measuring


def logistic(n, width=12, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(2.0, 3.0, size=(n, width)).astype(np.float32)
    truth = 1 / (1 + np.exp(-(x[:, 0] - 2.0) / 2 + (x[:, 1] - 2.0) / 3))
    return x, truth, rng.binomial(8, truth) / 8


@pytest.mark.parametrize("units", [0, 8])
def test_a_head_finds_the_values_that_soft_labels_were_drawn_from(units):
    pytest.importorskip("torch")
    x, _, y = logistic(3000)
    stop = np.arange(3000) % 4 == 0
    head, fit = fit_value_head(x, y, stop, units=units)
    new_x, new_truth, _ = logistic(500, seed=1)
    assert np.abs(values_of(head, new_x) - new_truth).mean() < 0.05
    assert fit["loss"] < 0.69 and sum(a.nbytes for a in head.values()) < 2000


def test_labels_without_relation_to_the_states_give_the_mean():
    pytest.importorskip("torch")
    x, _, _ = logistic(400, width=100)
    y = np.random.default_rng(5).binomial(4, 0.2, size=400) / 4
    head, _ = fit_value_head(x, y, np.arange(400) % 4 == 0)
    assert np.abs(values_of(head, x) - y.mean()).mean() < 0.05


def test_problems_are_split_without_overlap_and_all_are_used():
    split = split_problems([f"p{i}" for i in range(50)] * 2, 3)
    assert len(split.train) == 30 and len(split.stop) == len(split.test) == 10
    assert len(split.train | split.stop | split.test) == 50
    assert split == split_problems([f"p{i}" for i in range(50)], 3)


def test_pairs_are_of_rollouts_of_different_prefixes_and_ranking_is_by_problem_and_depth():
    assert pairs_in_order([1, 0], [1, 0]) == (1.0, 1.0)
    assert pairs_in_order([0, 1], [1, 0]) == (0.0, 1.0)
    assert pairs_in_order([3.0], [0.5]) == (0.0, 0.0)
    won, of = pairs_in_order([2, 1], [0.75, 0.25])
    assert (won, of) == (pytest.approx(0.75 * 0.75), pytest.approx(0.75 * 0.75 + 0.25 * 0.25))
    # a score that knows only the problem: good over all, no better than chance within
    values = [0.9, 0.7, 0.1, 0.3]
    found = ranking([1, 1, 0, 0], values, ["a", "a", "b", "b"], [1, 1, 1, 2])
    assert found["auroc"][0] > 0.7 and found["auroc_within"][0] == 0.5 and found["auroc_siblings"][0] == 0.5
    nothing = ranking([np.nan], [0.5], ["a"], [0])
    assert nothing["n"] == 0 and nothing["auroc"] is None
