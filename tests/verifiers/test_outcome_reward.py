"""Outcome reward models: what is read where, against transformers' own forward pass; classes, pairs, refusals."""

import asyncio
import sys
from pathlib import Path

import pytest

import ponder
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.errors import ModelError
from ponder.processes.text_steps import TextSteps
from ponder.verifiers._reward_model import Settings
from ponder.verifiers.outcome_reward import OutcomeReward, load

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
import tiny_rewards as tiny  # noqa: E402

PROBLEM = ponder.Problem("p", ({"role": "user", "content": "What is 2+2?"},), "4")
ANSWERS = ["4", "It is four, π times nothing.", ""]


def score(verifier, texts):
    ctx = Context(PROBLEM, TextSteps(ponder.model("sim:strong")))
    items = [Candidate(text, index=i) for i, text in enumerate(texts)]
    return asyncio.run(ctx.score(PROBLEM, items, verifier)).tolist(), ctx


def forward(model, **given):
    with torch.no_grad():
        return model(**given).logits[0]


@pytest.mark.parametrize("labels", [1, 2])
def test_a_decoder_is_read_where_transformers_reads_it(tmp_path, labels):
    model, words = tiny.classifier(tmp_path, labels=labels)
    expected = []
    for answer in ANSWERS:
        chat = [*PROBLEM.prompt, {"role": "assistant", "content": answer}]
        ids = torch.tensor([words.encode(words.apply_chat_template(chat, tokenize=False))])
        logits = forward(model, input_ids=ids)
        expected.append(logits[0].item() if labels == 1 else logits.softmax(-1)[1].item())
    got, ctx = score(OutcomeReward(str(tmp_path)), ANSWERS)
    assert got == pytest.approx(expected, abs=1e-5) and len(set(got)) == 3
    assert ctx.ledger.total.verifier_tokens > 0 and ctx.ledger.total.flops > 0
    if labels == 1:
        squashed = score(OutcomeReward(str(tmp_path), transform="sigmoid"), ANSWERS)[0]
        assert squashed == pytest.approx(torch.sigmoid(torch.tensor(expected)).tolist(), abs=1e-6)


def test_an_answer_that_ends_with_padding_is_read_where_transformers_reads_it(tmp_path):
    model, words = tiny.classifier(tmp_path)
    chat = [*PROBLEM.prompt, {"role": "assistant", "content": "4"}]
    text = words.apply_chat_template(chat, tokenize=False)
    words.chat_template = tiny.CHAT + "<pad>"
    words.save_pretrained(tmp_path)
    ids = torch.tensor([words.encode(text + "<pad>")])
    assert score(OutcomeReward(str(tmp_path)), ["4"])[0] == pytest.approx(
        [forward(model, input_ids=ids).item()], abs=1e-5
    )


def test_an_encoder_reads_question_and_answer_as_a_pair(tmp_path):
    model, words = tiny.classifier(tmp_path, chat=False)
    expected = []
    for answer in ANSWERS:
        given = words("What is 2+2?", answer, return_tensors="pt", return_token_type_ids=False)
        expected.append(forward(model, **given).item())
    assert score(OutcomeReward(str(tmp_path)), ANSWERS)[0] == pytest.approx(expected, abs=1e-5)


def test_best_of_n_keeps_what_it_prefers(tmp_path):
    tiny.classifier(tmp_path)
    result = ponder.solve(
        "2+2?", model="sim:weak", strategy=f"best_of_n(n=6, verifier=outcome_reward(model={tmp_path}))"
    )
    scores = [c.scores["outcome_reward"] for c in result.candidates]
    assert result.candidates[result.chosen[0]].scores["outcome_reward"] == max(scores) > min(scores)


def test_what_is_no_reward_model_is_refused(tmp_path):
    tiny.classifier(tmp_path / "many", labels=3)
    with pytest.raises(ModelError, match="has 3 classes"):
        load(Settings(str(tmp_path / "many")))
    tiny.causal(tmp_path / "chat", chat=True)
    with pytest.raises(ModelError, match="they would have been random numbers"):
        load(Settings(str(tmp_path / "chat")))


def test_scores_are_of_any_size_unless_squashed():
    assert OutcomeReward("x").range == (-float("inf"), float("inf"))
    assert OutcomeReward("x", transform="sigmoid").range == (0.0, 1.0)
