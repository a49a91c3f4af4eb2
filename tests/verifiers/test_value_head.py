"""Trained heads: what is read and what it costs, on a tiny and on the real model; wrong files and wrong models."""

import asyncio
import importlib.util
import json

import numpy as np
import pytest

import ponder
from ponder.api import build_process
from ponder.core.context import Context
from ponder.core.model import Sampling
from ponder.core.runtime import Runtime
from ponder.errors import CapabilityError, ParameterError
from ponder.ledger.budget import Budget
from ponder.models.catalog import CATALOG
from ponder.verifiers._head_file import load_head, save_head
from ponder.verifiers.value_head import values_of

pytest.importorskip("safetensors")
MODEL = "embedded:smollm2-135m"
here = importlib.util.find_spec("xllamacpp") is not None and CATALOG["smollm2-135m"].present
real = pytest.mark.skipif(
    not here or importlib.util.find_spec("torch") is None or importlib.util.find_spec("gguf") is None,
    reason="needs torch, gguf, xllamacpp and `ponder models pull smollm2-135m`",
)


def head_in(folder, width=576, identity=None, layers=(-1,), seed=0):
    rng = np.random.default_rng(seed)
    arrays = {
        "mean": np.zeros(width, np.float32), "scale": np.ones(width, np.float32),
        "weight": rng.normal(0, 0.02, width).astype(np.float32), "bias": np.float32(0.1).reshape(()),
    }  # fmt: skip
    identity = identity or ponder.model(MODEL).identity
    save_head(folder, {"kind": "value_head", "model": MODEL, "identity": identity, "layers": list(layers)}, arrays)
    return arrays


def context(prompt="The capital of France is", **options):
    model = ponder.model(MODEL)
    problem = ponder.Problem("p", prompt)
    process = build_process("text_steps(step=line)", (), model)
    return Context(problem, process, sampling=Sampling(), runtime=Runtime(), **options)


def grown(root, *texts):
    return [root.child(i, text) for i, text in enumerate(texts)]


def test_values_are_those_of_the_formula_and_nan_stays_nan():
    head = {
        "mean": np.array([1.0, 0.0]), "scale": np.array([2.0, 1.0]), "weight": np.array([1.0, -1.0]), "bias": 0.5,
    }  # fmt: skip
    expected = 1 / (1 + np.exp(-((3.0 - 1.0) / 2 - 4.0 + 0.5)))
    assert values_of(head, [[3.0, 4.0]])[0] == pytest.approx(expected)
    assert np.isnan(values_of(head, [[np.nan, 0.0]])[0])
    deep = head | {"hidden": np.eye(2), "hidden_bias": np.zeros(2)}
    assert values_of(deep, [[3.0, 4.0]])[0] == pytest.approx(expected)
    assert values_of(deep, [[-9.0, -4.0]])[0] == pytest.approx(1 / (1 + np.exp(-0.5)))


def test_a_head_survives_being_saved_and_is_named_by_its_folder_or_file(tmp_path):
    arrays = head_in(tmp_path / "new", identity="x")
    for given in (tmp_path / "new", tmp_path / "new" / "value_head.safetensors"):
        found = load_head("value_head", str(given))
        assert found.card["identity"] == "x"
        assert all(np.array_equal(found.arrays[k], v) for k, v in arrays.items())
    assert (tmp_path / "new" / "value_head.safetensors").stat().st_size < 10_000


def test_files_that_are_missing_damaged_or_of_another_kind_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(ParameterError, match=r"value_head.safetensors is not there.*ponder train-prm"):
        load_head("value_head", str(tmp_path))
    head_in(tmp_path, identity="x")
    path = tmp_path / "value_head.safetensors"
    with pytest.raises(ParameterError, match="This one is a value_head"):
        load_head("multifurcation_reward", str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    with pytest.raises(ParameterError, match="cannot be read"):
        load_head("value_head", str(path))
    path.write_bytes(whole)
    path.with_suffix(".json").write_text("[1]")
    with pytest.raises(ParameterError, match="This one is a None"):
        load_head("value_head", str(path))
    path.with_suffix(".json").write_text("{")
    with pytest.raises(ParameterError, match="cannot be read"):
        load_head("value_head", str(path))
    with pytest.raises(ParameterError, match="head=' '"):
        ponder.verifier('value_head(" ")')


def test_its_text_form_is_read_back():
    for text in ('value_head("runs/my head")', f"value_head(runs/x, model={MODEL})"):
        built = ponder.verifier(text)
        assert ponder.verifier(str(built)) == built


def test_a_model_elsewhere_has_no_states_and_a_head_of_other_weights_is_refused(tmp_path):
    head_in(tmp_path, identity="gguf:other")
    ctx = context() if here else None
    if ctx is not None:
        with pytest.raises(ParameterError, match=r"gguf:other, this one gguf:.*train a head for this one"):
            asyncio.run(ctx.score(ctx.problem, [ctx.root()], ponder.verifier(f'value_head("{tmp_path}")')))
    sim = ponder.model("sim:strong")
    head_in(tmp_path, identity=sim.identity)
    away = Context(ponder.Problem("p", "x"), build_process(None, (), sim), runtime=Runtime())
    with pytest.raises(CapabilityError, match="hidden states, which sim"):
        asyncio.run(away.score(away.problem, [away.root()], ponder.verifier(f'value_head("{tmp_path}")')))


@real
@pytest.mark.model
def test_scores_are_those_of_the_states_that_the_whole_text_has_and_shared_beginnings_are_evaluated_once(tmp_path):
    torch = pytest.importorskip("torch")
    from ponder.verifiers._hidden_states import hidden_states

    arrays = head_in(tmp_path)
    ctx = context(prompt="Quixotic as it sounds, I have just forgotten which city is the capital of France, namely")
    root = ctx.root()
    items = [root, *grown(root, " Paris", " Rome, which", " Rome, when", " Paris")]
    judge = ponder.verifier(f'value_head("{tmp_path}")')
    scores = asyncio.run(ctx.score(ctx.problem, items, judge))
    model = ponder.model(MODEL)
    box, vocabulary = model.whitebox(), model.running().vocabulary
    texts = [vocabulary.tokens(ctx.problem.prompt + str(ctx.process.output(s))) for s in items]
    with torch.no_grad():
        alone = np.stack([box(t).states[-1].numpy() for t in texts])
    assert np.allclose(scores, values_of(arrays, alone), atol=1e-4)
    spent = ctx.ledger.stages["verify"]
    distinct = len({t[:i] for t in texts for i in range(1, len(t) + 1)})
    assert spent.verifier_tokens == sum(map(len, texts)) == spent.prompt_tokens
    assert spent.prompt_tokens - spent.cached_tokens == distinct
    assert spent.flops > 2 * model.shape.params_active * distinct and spent.verifier_calls == 5
    trie = hidden_states(model, (-1,), "test").trie
    before = trie.evaluated
    asyncio.run(ctx.score(ctx.problem, items, judge))
    assert trie.evaluated == before
    finished = root.child(9, " Paris", finish="stop")
    (ended,) = asyncio.run(ctx.score(ctx.problem, [finished], judge))
    assert ended != scores[1] and trie.evaluated == before + 1  # only the end token is new


@real
@pytest.mark.model
@pytest.mark.parametrize("left", [0, 40, 1000])
def test_what_the_budget_does_not_allow_to_be_read_has_no_score_and_is_told(tmp_path, left):
    head_in(tmp_path)
    ctx = context(prompt="One two three four five six seven eight nine ten", budget=Budget(tokens=left))
    items = grown(ctx.root(), " a", " b b", " c c c", " d d d d")
    scores = asyncio.run(ctx.score(ctx.problem, items, ponder.verifier(f'value_head("{tmp_path}")')))
    assert ctx.ledger.total.tokens <= left and not ctx.failures
    assert np.isnan(scores).sum() == {0: 4, 1000: 0}.get(left, np.isnan(scores).sum())
    assert bool(np.isnan(scores).any()) == any("reading" in s for s in ctx.shortfalls)


@real
@pytest.mark.model
@pytest.mark.slow
def test_a_head_that_is_trained_from_the_command_line_beats_chance_is_small_and_guides_a_search(tmp_path):
    """The whole way on the real model; the task is so small that it takes a minute or two."""
    from click.testing import CliRunner

    from ponder.cli.main import cli

    task = "reasoning_gym:chain_sum(min_terms=2, max_terms=2, min_digits=1, max_digits=2, shots=8, max_new_tokens=8)"
    steps = "text_steps(step=tokens, step_tokens=1)"
    command = [
        "train-prm", "--model", MODEL, "--task", task, "--process", steps, "--limit", "80", "--traces", "4",
        "--rollouts", "4", "--out", str(tmp_path), "--against", "log_probability", "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    card = json.loads((tmp_path / "value_head.json").read_text())
    assert card["quality"]["auroc"][0] > 0.55 and (tmp_path / "value_head.safetensors").stat().st_size < 20_000
    result = ponder.solve(
        ponder.task(task).problems(81)[80], model=MODEL, task=task, process=steps,
        strategy=f'beam_search(n=4, branch=2, verifier=value_head("{tmp_path}"))',
    )  # fmt: skip
    assert result.status == "ok" and result.total.verifier_tokens > 0 and not result.failures
