"""Process reward models: what is read where, against a forward pass by hand; batches, costs, splitting, refusals."""

import asyncio
import json
import math
import sys
from pathlib import Path

import pytest

import ponder
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.search_tree import aggregate
from ponder.errors import CapabilityError, ModelError, ModelNotFoundError, ParameterError
from ponder.ledger.budget import Budget
from ponder.processes.text_steps import TextSteps
from ponder.verifiers._reward_model import Settings
from ponder.verifiers.process_reward import ProcessReward, load

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
import tiny_rewards as tiny  # noqa: E402

QUESTION = "What is 2+2?"
STEPS = ["First, 2+2 is 4.", "Then + nothing - is left.", "So the answer is 4. π"]
TEXT = "\n\n".join(STEPS)
PROBLEM = ponder.Problem("p", ({"role": "user", "content": QUESTION},), "4")


def context(budget=None):
    return Context(PROBLEM, TextSteps(ponder.model("sim:strong")), budget=budget)


def score(verifier, items, ctx=None, calls=1):
    """Scores of `calls` calls after each other, the last one's returned, and the context."""
    ctx = ctx or context()
    items = [Candidate(item, index=i) if isinstance(item, str) else item for i, item in enumerate(items)]

    async def go():
        for _ in range(calls):
            got = await ctx.score(PROBLEM, items, verifier)
        return got.tolist()

    return asyncio.run(go()), ctx


def step_scores(verifier, text=TEXT):
    async def go():
        return (await verifier.step_scores(PROBLEM, [Candidate(text)], context()))[0]

    return asyncio.run(go())


def states_of(model, ids):
    with torch.no_grad():
        return model.model(torch.tensor([ids])).last_hidden_state[0]


def test_qwen_reads_two_classes_at_each_separator(tmp_path):
    model, words, head = tiny.qwen(tmp_path)
    system = "Please reason step by step, and put your final answer within \\boxed{}."
    text = (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n"
        f"<|im_start|>assistant\n{''.join(s + '<extra_0>' for s in STEPS)}<|im_end|>\n"
    )
    ids = words.encode(text, add_special_tokens=False)
    at = [i for i, token in enumerate(ids) if token == words.convert_tokens_to_ids("<extra_0>")]
    assert len(at) == 3
    hidden = torch.relu(states_of(model, ids)[at] @ head["score.0.weight"].T + head["score.0.bias"])
    expected = (hidden @ head["score.2.weight"].T + head["score.2.bias"]).softmax(-1)[:, 1].tolist()
    got = step_scores(ProcessReward(str(tmp_path)))
    assert got == pytest.approx(expected, abs=1e-6) and len(set(got)) == 3


def test_skywork_reads_a_value_at_the_end_of_each_step(tmp_path):
    model, words, head = tiny.skywork(tmp_path)
    ids, at = words.encode(QUESTION + "\n", add_special_tokens=False), []
    for step in STEPS:
        ids = [*ids, *words.encode(step + "\n", add_special_tokens=False)]
        at.append(len(ids) - 1)
    value = states_of(model, ids)[at] @ head["v_head.summary.weight"].T + head["v_head.summary.bias"]
    got = step_scores(ProcessReward(str(tmp_path)))
    assert got == pytest.approx(torch.sigmoid(value)[:, 0].tolist(), abs=1e-6)


def test_rlhflow_reads_plus_against_minus_before_each_answer(tmp_path):
    model, words = tiny.causal(tmp_path, chat=True)
    expected, turns = [], []
    for i, step in enumerate(STEPS):
        turns.append({"role": "user", "content": f"{QUESTION} {step}" if i == 0 else step})
        ids = words.encode(words.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        expected.append(logits[[words.encode("+")[0], words.encode("-")[0]]].softmax(-1)[0].item())
        turns.append({"role": "assistant", "content": "+"})
    got = step_scores(ProcessReward(str(tmp_path)))
    assert got == pytest.approx(expected, abs=1e-5) and max(got) - min(got) > 1e-3


def test_math_shepherd_reads_plus_against_minus_at_each_tag(tmp_path):
    model, words = tiny.causal(tmp_path, chat=False)
    ids = words.encode(f"{QUESTION} " + "\n".join(f"{s} ки" for s in STEPS))
    tag = words.convert_tokens_to_ids("ки")
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    good, bad = words.encode("+ -")[-2:]
    expected = [logits[i, [good, bad]].softmax(-1)[0].item() for i, token in enumerate(ids) if token == tag]
    assert len(expected) == 3
    assert step_scores(ProcessReward(str(tmp_path))) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("how", ["last", "min", "product", "mean", "max"])
def test_a_finished_candidate_scores_as_its_steps_together(tmp_path, how):
    tiny.qwen(tmp_path)
    verifier = ProcessReward(str(tmp_path), how=how)
    assert score(verifier, [TEXT])[0] == pytest.approx([aggregate(step_scores(verifier), how)])


def test_texts_asked_about_together_share_one_pass_and_score_as_alone(tmp_path):
    tiny.qwen(tmp_path)
    verifier = ProcessReward(str(tmp_path))
    texts = ["\n\n".join(STEPS[:k]) for k in (1, 2, 3)] + ["Another one."]
    alone = [score(ProcessReward(str(tmp_path), batch_tokens=1), [text])[0][0] for text in texts]
    weights = asyncio.run(verifier._model()).weights
    before = weights.passes
    assert score(verifier, texts)[0] == pytest.approx(alone, abs=1e-6)
    assert weights.passes == before + 1
    # A causal model's score of a step does not change with what comes after it.
    assert step_scores(verifier) == pytest.approx(alone[:3], abs=1e-6)


def test_a_pass_holds_as_many_tokens_as_allowed(tmp_path):
    tiny.qwen(tmp_path)
    verifier = ProcessReward(str(tmp_path), batch_tokens=1)
    weights = asyncio.run(verifier._model()).weights
    before = weights.passes
    score(verifier, ["a", "b", "c"])
    assert weights.passes == before + 3


def test_tokens_calls_and_operations_are_in_the_ledger_and_equal_texts_are_paid_once(tmp_path):
    model, _words, _ = tiny.qwen(tmp_path)
    verifier = ProcessReward(str(tmp_path))
    (scores, ctx) = score(verifier, [TEXT, TEXT, STEPS[0]], calls=2)
    assert scores[0] == scores[1]
    encode = asyncio.run(verifier._model()).count_tokens

    def prompt(steps):
        return ({"role": "user", "content": QUESTION}, *({"role": "step", "content": s} for s in steps))

    lengths = [encode(prompt(STEPS)), encode(prompt(STEPS[:1]))]
    spent = ctx.ledger.stages["verify"]
    assert spent.prompt_tokens == spent.verifier_tokens == sum(lengths)
    assert (spent.verifier_calls, spent.model_calls, spent.generated_tokens, spent.requests) == (6, 0, 0, 2)
    decoder = sum(p.numel() for p in model.model.parameters())
    assert spent.flops == sum(2.0 * decoder * n + 4.0 * 2 * 16 * n * (n + 1) // 2 for n in lengths)


def test_a_stored_score_is_charged_and_not_read_again(tmp_path):
    from ponder.core.cache import MemoryCache

    tiny.qwen(tmp_path)
    verifier, runtime = ProcessReward(str(tmp_path)), ponder.Runtime(cache=MemoryCache())
    weights = asyncio.run(verifier._model()).weights
    runs = []
    for _ in range(2):
        ctx = Context(PROBLEM, TextSteps(ponder.model("sim:strong")), runtime=runtime)
        runs.append((score(verifier, [TEXT], ctx)[0], ctx.ledger.total.verifier_tokens, weights.passes))
    assert runs[0] == runs[1]


def test_a_budget_that_cannot_bear_the_text_leaves_it_without_a_score(tmp_path):
    tiny.qwen(tmp_path)
    (scores, ctx) = score(ProcessReward(str(tmp_path)), [TEXT], context(Budget(tokens=20)))
    assert math.isnan(scores[0]) and ctx.ledger.total.tokens == 0 and not ctx.failures
    assert any("budget" in why for why in ctx.shortfalls)


def test_a_search_scores_states_by_their_last_step(tmp_path):
    tiny.skywork(tmp_path)
    result = ponder.solve(
        QUESTION, model="sim:strong", strategy=f"beam_search(n=4, branch=2, verifier=process_reward(model={tmp_path}))"
    )
    assert result.output and result.total.verifier_tokens > 0
    for leaf in [c.state for c in result.candidates]:
        again = score(ProcessReward(str(tmp_path)), [leaf])[0][0]
        assert result.tree.score(leaf) == pytest.approx(again, abs=1e-6)


def test_best_of_n_takes_an_aggregate_of_the_steps(tmp_path):
    tiny.qwen(tmp_path)
    text = f"best_of_n(n=4, verifier=process_reward(model={tmp_path}, how=min))"
    assert str(ponder.parse(text)) == text
    result = ponder.solve(QUESTION, model="sim:strong", strategy=text)
    scores = [c.scores["process_reward"] for c in result.candidates]
    assert result.candidates[result.chosen[0]].scores["process_reward"] == max(scores)


@pytest.mark.parametrize("text", ["", " \n\n ", "\n\n\n\n"])
def test_a_text_without_a_step_has_no_score_and_says_so(tmp_path, text):
    tiny.qwen(tmp_path)
    scores, ctx = score(ProcessReward(str(tmp_path)), [text, TEXT])
    assert math.isnan(scores[0]) and scores[1] > 0
    (failure,) = ctx.failures
    assert failure.index == 0 and "no step to score" in failure.message


def test_a_separator_in_the_text_itself_is_a_miscount_not_a_score(tmp_path):
    tiny.qwen(tmp_path)
    scores, ctx = score(ProcessReward(str(tmp_path)), ["One <extra_0> two.\n\nThree."])
    assert math.isnan(scores[0]) and "returned 3 scores for 2 steps" in ctx.failures[0].message


def test_a_text_that_is_too_long_says_how_long_it_may_be(tmp_path):
    tiny.qwen(tmp_path)
    scores, ctx = score(ProcessReward(str(tmp_path)), ["x" * 600, "short"])
    assert math.isnan(scores[0]) and scores[1] > 0
    assert "reads at most 512 tokens" in ctx.failures[0].message


def test_the_format_is_told_by_the_files_and_can_be_said(tmp_path):
    makers = {
        "qwen": tiny.qwen, "skywork": tiny.skywork, "rlhflow": lambda at: tiny.causal(at, chat=True),
        "math_shepherd": lambda at: tiny.causal(at, chat=False),
    }  # fmt: skip
    for name, make in makers.items():
        make(tmp_path / name)
        assert str(load(Settings(str(tmp_path / name)))).endswith(f"({name})")
    assert str(load(Settings(str(tmp_path / "rlhflow")), "math_shepherd")).endswith("(math_shepherd)")
    tiny.classifier(tmp_path / "orm", chat=False)
    with pytest.raises(CapabilityError, match="say it with format=qwen"):
        load(Settings(str(tmp_path / "orm")))
    with pytest.raises(CapabilityError, match="lacks the token <extra_0>"):
        load(Settings(str(tmp_path / "rlhflow")), "qwen")
    tiny.saved(tmp_path / "headless", *tiny.qwen(tmp_path / "again")[:2])
    with pytest.raises(ModelError, match="has no head"):
        load(Settings(str(tmp_path / "headless")), "qwen")


def test_pickled_missing_and_incomplete_weights_are_refused(tmp_path):
    with pytest.raises(ModelNotFoundError, match="there is no directory /nowhere"):
        load(Settings("/nowhere"))
    model, _, _ = tiny.qwen(tmp_path)
    whole = tiny.load_file(tmp_path / "model.safetensors")
    cut = {name: tensor for name, tensor in whole.items() if "layers.1.mlp" not in name}
    tiny.save_file(cut, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 3 tensors"):
        load(Settings(str(tmp_path)))
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match=r"no \.safetensors"):
        load(Settings(str(tmp_path)))


def test_a_checkpoints_own_code_is_run_only_when_asked(tmp_path):
    _model, _, _ = tiny.qwen(tmp_path)
    made = json.loads((tmp_path / "config.json").read_text())
    made["auto_map"] = {"AutoModel": "modeling_own.Own"}
    (tmp_path / "config.json").write_text(json.dumps(made))
    (tmp_path / "modeling_own.py").write_text(
        "import torch\nfrom transformers import Qwen2Model, Qwen2PreTrainedModel\n"
        "class Own(Qwen2PreTrainedModel):\n"
        "    def __init__(self, config):\n"
        "        super().__init__(config)\n"
        "        self.model = Qwen2Model(config)\n"
        "        self.score = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))\n"
        "        self.post_init()\n"
        "    def forward(self, input_ids, attention_mask=None):\n"
        "        return (self.score(self.model(input_ids, attention_mask).last_hidden_state),)\n"
    )
    without = load(Settings(str(tmp_path)), "qwen")
    assert type(without.weights.model).__name__ == "Qwen2Model"
    own = load(Settings(str(tmp_path), trust_remote_code=True), "qwen")
    assert type(own.weights.model).__name__ == "Own"
    here, there = (
        score(ProcessReward(str(tmp_path), "qwen", trust_remote_code=trust), [TEXT])[0] for trust in (False, True)
    )
    assert here == pytest.approx(there, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"model": "score:m@http://h"}, "pooling:NAME@URL"),
        ({"model": "pooling:m"}, "pooling:NAME@http"),
        ({"model": "pooling:m@http://me:secret@h"}, "without a key"),
        ({"model": "pooling:m@http://h", "format": "rlhflow"}, "load the model in this process"),
        ({"model": "x", "batch_tokens": 0}, "batch_tokens"),
    ],
)
def test_impossible_settings_are_refused(options, match):
    with pytest.raises(ParameterError, match=match):
        ProcessReward(**options)


@pytest.mark.parametrize(
    "text",
    [
        'process_reward(model="pooling:org/m@http://h:8000/v1", how=min)',
        "process_reward(model=a/b, format=skywork)",
        'outcome_reward(model="score:m@http://h", transform=sigmoid)',
        "step_judge(model=sim:strong, scale=labels, votes=3)",
        "rollout_value(rollouts=4, verifier=imperfect_oracle(false_positive=0.2))",
    ],
)
def test_the_text_forms_round_trip(text):
    assert str(ponder.verifier(text)) == text
    assert ponder.verifier(text.replace('"', "")) == ponder.verifier(text)
