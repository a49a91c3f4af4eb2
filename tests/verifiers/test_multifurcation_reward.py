"""Heads that rate all next tokens: least squares on what was observed, unseen ones forbidden; saffron on the model."""

import asyncio
import importlib.util
import math

import numpy as np
import pytest

import ponder
from ponder.api import build_process, default_sampling
from ponder.core.context import Context
from ponder.core.runtime import Runtime
from ponder.engine.vocabulary import by_name
from ponder.errors import ParameterError, TaskError
from ponder.models.catalog import CATALOG
from ponder.recipes.multifurcation_reward_model import (
    Observed,
    RewardPlan,
    fit_multifurcation_head,
    train_multifurcation,
)
from ponder.verifiers._head_file import save_head
from ponder.verifiers.multifurcation_reward import rewards_of

pytest.importorskip("torch")
MODEL = "embedded:smollm2-135m(engine=torch, precision=fp32)"
here = importlib.util.find_spec("xllamacpp") is not None and CATALOG["smollm2-135m"].present
real = pytest.mark.skipif(
    not here or importlib.util.find_spec("gguf") is None,
    reason="needs gguf, xllamacpp and `ponder models pull smollm2-135m`",
)


def observed(n=6000, width=10, vocabulary=20, seed=0):
    """Rewards that are a rank-two function of state and token; token 19 never follows."""
    rng = np.random.default_rng(seed)
    world = np.random.default_rng(99)
    left, right, bias = (world.normal(size=s) for s in ((width, 2), (vocabulary, 2), (vocabulary,)))
    x = rng.normal(1.0, 2.0, size=(n, width)).astype(np.float32)
    tokens = rng.integers(0, vocabulary - 1, n)
    rewards = ((x - 1.0) @ left / 4 * right[tokens]).sum(1) + bias[tokens]
    return Observed(x, tokens, rewards, np.array([f"p{i % 50}" for i in range(n)]))


def test_one_observed_token_a_prefix_teaches_the_rewards_of_all_and_unseen_tokens_are_forbidden():
    data, new = observed(), observed(500, seed=1)
    head, fit = fit_multifurcation_head(data, np.arange(6000) % 5 == 0, rank=4)
    given = np.array(rewards_of(head, new.states, [[t] for t in new.tokens])).ravel()
    assert ((given - new.rewards) ** 2).mean() < 0.02 * new.rewards.var()
    assert fit["error"] < 0.02 * data.rewards.var()
    (row,) = rewards_of(head, new.states[:1], [[3, 19, -1, 3]])
    assert row[1] == row[2] == -math.inf and row[0] == row[3] > -math.inf
    assert rewards_of(head, new.states[:1], [[]]) == [[]]
    assert head["rows"].shape == (19, 4) and 19 not in head["tokens"]


def test_fitting_twice_gives_the_same_rewards_up_to_rounding():
    data = observed(300)
    first, again = (
        rewards_of(fit_multifurcation_head(data, np.arange(300) % 5 == 0)[0], data.states, [[t] for t in data.tokens])
        for _ in range(2)
    )
    assert np.allclose(first, again, atol=1e-2)


def test_plans_that_cannot_be_are_refused():
    for bad in ({"traces": 0}, {"limit": 4}, {"rank": 0}):
        with pytest.raises(ParameterError, match=next(iter(bad))):
            RewardPlan(**bad)
    with pytest.raises(ParameterError, match="head=''"):
        ponder.verifier('multifurcation_reward("")')


# ---------------------------------------------------------------- on the real model


def flat_head(folder, model, *, unseen=()):
    """Rewards that prefer rare token numbers, all tokens seen but a few."""
    size, width = model.running().vocabulary.size, 576
    seen = np.array([t for t in range(size) if t not in unseen])
    arrays = {
        "projection": np.zeros((width, 1), np.float32), "offset": np.zeros(1, np.float32),
        "rows": np.zeros((len(seen), 1), np.float32), "bias": (seen % 97).astype(np.float32), "tokens": seen,
    }  # fmt: skip
    card = {"kind": "multifurcation_reward", "model": str(model), "identity": model.identity, "layers": [-1]}
    save_head(folder, card, arrays)


def search(text, model, prompt="Once upon a time there was a small", **options):
    plan = ponder.parse(text)
    ctx = Context(
        ponder.Problem("p", prompt), build_process(None, (plan,), model),
        sampling=default_sampling(plan, model), runtime=Runtime(), **options,
    )  # fmt: skip
    return asyncio.run(plan.run(ctx.problem, ctx)), ctx


def nodes_of(model, texts):
    sequences = [model.running().tokens(text) for text in texts]
    return len({s[:i] for s in sequences for i in range(1, len(s) + 1)})


@real
@pytest.mark.model
def test_a_search_evaluates_each_node_of_its_trie_once_in_the_policy_and_once_in_the_reward_model(tmp_path):
    from ponder.verifiers._hidden_states import hidden_states

    model = ponder.model(MODEL)
    flat_head(tmp_path, model)
    trie = hidden_states(model, (-1,), "test").trie
    prompt = "It was a bright cold day in April, and the clocks were striking"
    read, before = trie.evaluated, sum(c.evaluated for c in model.running().counters().values())
    text = f'saffron(n=3, verifier=multifurcation_reward("{tmp_path}"), top_p=0.9, max_new_tokens=8, min_new_tokens=8)'
    result, ctx = search(text, model, prompt)
    asked = {prompt} | {prompt + "".join(n.parent.steps()) for n in result.tree.nodes}
    distinct = nodes_of(model, asked)
    assert len(asked) > 8 and distinct == len(model.running().tokens(prompt)) + len(asked) - 1
    assert sum(c.evaluated for c in model.running().counters().values()) - before == distinct
    assert trie.evaluated - read == distinct
    spent = ctx.ledger.stages["verify"]
    assert spent.verifier_calls == len(asked) and spent.prompt_tokens - spent.cached_tokens == distinct


@real
@pytest.mark.model
def test_logits_read_from_the_cache_are_those_of_reading_the_whole_text():
    torch = pytest.importorskip("torch")
    from ponder.engine import forward as net
    from ponder.verifiers._hidden_states import hidden_states

    model = ponder.model(MODEL)
    trie, box = hidden_states(model, (-1,), "test").trie, model.whitebox()
    stem = model.running().vocabulary.tokens("The quick brown fox jumps over the lazy dog and then it")
    trie.states([trie.place(stem)])
    longer = [(*stem, *more) for more in ((5, 6), (5, 7, 9), (300,))]
    states = trie.states([trie.place(s) for s in longer])
    with torch.inference_mode():
        for state, sequence in zip(states, longer, strict=True):
            cached, whole = net.logits(trie.weights, state[None])[0], box(sequence).logits[-1]
            assert (cached - whole).abs().max() < 1e-4 * max(1.0, float(whole.abs().max()))


@real
@pytest.mark.model
def test_unseen_tokens_do_not_appear_and_another_writer_is_refused_unless_its_text_is_reencoded(tmp_path):
    model = ponder.model(MODEL)
    vocabulary = model.running().vocabulary
    free, _ = search("saffron(n=1, max_new_tokens=1, min_new_tokens=0, top_p=0.1)", model)
    (likeliest,) = {n.step for n in free.tree.nodes}
    flat_head(tmp_path, model, unseen=(by_name(vocabulary)[likeliest],))
    judge = f'multifurcation_reward("{tmp_path}")'
    kept, _ = search(f"saffron(n=1, verifier={judge}, max_new_tokens=1, min_new_tokens=0, top_p=0.9)", model)
    assert likeliest not in {n.step for n in kept.tree.nodes} and kept.details["all_forbidden"] == 0
    sim = ponder.model("sim:strong")
    chat = ({"role": "user", "content": "What is 1+1?"},)
    asking = f'multifurcation_reward("{tmp_path}", model={MODEL}%s)'
    with pytest.raises(ParameterError, match=r"the model that writes, sim.*reencode=true"):
        search(f"saffron(n=1, verifier={asking % ''}, max_new_tokens=4)", sim, chat)
    done, ctx = search(f"saffron(n=1, verifier={asking % ', reencode=true'}, max_new_tokens=4)", sim, chat)
    assert done.candidates and ctx.ledger.total.verifier_tokens > 0


@real
@pytest.mark.model
def test_a_teacher_that_rates_everything_alike_teaches_nothing_and_that_is_said(tmp_path):
    with pytest.raises(TaskError, match=r"all rated 1; a head learns from differences"):
        asyncio.run(
            train_multifurcation(
                ponder.model(MODEL), Starts(), ponder.verifier("banned_words"), tmp_path, RewardPlan(traces=1, limit=5),
                sampling={"max_new_tokens": 4},
            )
        )  # fmt: skip


class Starts(ponder.Task):
    name = "starts"

    def __str__(self):
        return "starts"

    def problems(self, limit=None, *, seed=0):
        return [ponder.Problem(f"s{i}", f"The number {i} is") for i in range(limit or 5)]

    def grade(self, problem, output):
        raise NotImplementedError

    def extract(self, output):
        return str(output)
