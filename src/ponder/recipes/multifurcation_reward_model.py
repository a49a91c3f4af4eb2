"""A reward model that rates all next tokens of a prefix in one pass, trained on rewards of single continuations.

Paper    Qiu et al. 2025, "Saffron-1: Towards an Inference Scaling Paradigm for LLM Safety Assurance": a multifurcation
         reward model, trained with partial supervision.
Equal    For each position of a text the squared error of one number only: the reward of the prefix with the token that
         does follow. Tokens that never followed anything are forbidden. One pass gives all positions of a text.
Differs  The model is frozen, and the head is linear in its states, of low rank, with a bias for each token; the paper
         tunes a guard model with LoRA. Rewards are what a verifier (the teacher) says of each prefix, not a guard's
         log-odds. Only rows of observed tokens are kept, since no other is ever read.
Needs    A task whose prompts lead to what is to be rated, a teacher that rates partial texts, a GGUF model in this
         process (extra `torch`).    Cost: the draws, a score for each of their tokens, and one pass over each text.
"""

from __future__ import annotations

import asyncio
import codecs
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ponder.api import build_process
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.model import Model, Sampling
from ponder.core.problem import Task, merged_sampling
from ponder.core.registry import recipe
from ponder.core.runtime import Runtime
from ponder.core.seeds import generator
from ponder.core.state import State
from ponder.core.verifier import Verifier
from ponder.engine.vocabulary import Vocabulary
from ponder.engine.weights import need_torch
from ponder.errors import ParameterError, TaskError
from ponder.laws.calibration import measure_calibration
from ponder.ledger.budget import Budget, Meter
from ponder.ledger.spend import Ledger, Spend
from ponder.recipes._value_head_fit import split_problems
from ponder.studies.store import Store
from ponder.verifiers._head_file import Arrays, save_head
from ponder.verifiers._hidden_states import HiddenStates, hidden_states
from ponder.verifiers.multifurcation_reward import rewards_of

_STEPS, _PATIENCE, _BATCH = 3000, 12, 512
_CHECKED_EVERY = 25
_PRIOR = 2.0
"""Observations that a token's first bias is drawn to the mean by."""


@dataclass(frozen=True)
class RewardPlan:
    """How a head is trained.

    Args:
        traces: texts drawn per problem.
        limit: problems; three fifths are fitted on, one fifth says when to stop, one is only reported on.
        seed: of problems, draws and fitting.
        layers: whose states are read; -1 is the last, normed.
        rank: numbers between the states and the tokens' rewards.
    """

    traces: int = 4
    limit: int = 100
    seed: int = 0
    layers: tuple[int, ...] = (-1,)
    rank: int = 16

    def __post_init__(self) -> None:
        for name, least in (("traces", 1), ("limit", 5), ("rank", 1)):
            if getattr(self, name) < least:
                raise ParameterError("train-prm", name, getattr(self, name), allowed=f"an integer ≥ {least}")


@dataclass(frozen=True)
class Observed:
    """Tokens that followed prefixes, and the reward that came of each.

    Attributes:
        states: features of the prefixes, shape (n, width).
        tokens: what followed, shape (n,).
        rewards: of prefix and token together, shape (n,).
        problems: of each, shape (n,).
    """

    states: npt.NDArray[np.float32]
    tokens: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float64]
    problems: npt.NDArray[Any]

    def where(self, rows: npt.NDArray[np.bool_]) -> Observed:
        """Some of them."""
        return Observed(self.states[rows], self.tokens[rows], self.rewards[rows], self.problems[rows])


async def observed_rewards(
    ctx: Context, states: HiddenStates, candidates: Sequence[Candidate], teacher: Verifier
) -> Observed:
    """The teacher's rating of each beginning of some texts, with the state before its last token.

    Args:
        ctx: of the problem that the texts answer.
        states: read the texts.
        candidates: the texts; failed ones are left out. One that ended by itself ends with the model's end token.
        teacher: rates what is written up to a token. What it cannot rate is left out.
    """
    vocabulary = states.vocabulary
    prompt = vocabulary.tokens(vocabulary.text(ctx.problem.prompt))
    rows: list[npt.NDArray[np.float32]] = []
    tokens: list[int] = []
    rewards: list[float] = []
    for candidate in candidates:
        if candidate.error is not None:
            continue
        written = vocabulary.plain(str(candidate.output))
        ended = candidate.finish == "stop" and vocabulary.end >= 0
        chain = _chain(ctx.root(), vocabulary, written, ended)
        if not chain:
            continue
        whole = (*prompt, *written)
        ctx.charge_reading(states.model, len(whole), states.trie.cached(whole))
        features = await asyncio.to_thread(states.trie.path_states, states.trie.place(whole))
        rated = await ctx.score(ctx.problem, chain, teacher)
        known = ~np.isnan(rated)
        rows.append(features.numpy()[len(prompt) - 1 :][: len(chain)][known])
        tokens += np.array([*written, vocabulary.end])[: len(chain)][known].tolist()
        rewards += rated[known].tolist()
    x = np.concatenate(rows) if rows else np.zeros((0, states.trie.width), np.float32)
    return Observed(x, np.array(tokens, np.int64), np.array(rewards), np.full(len(tokens), str(ctx.problem.prompt)))


def _chain(root: State, vocabulary: Vocabulary, tokens: Sequence[int], ended: bool) -> list[State]:
    """One state for each token, the end included; what a token says is known when its last character is whole."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    out: list[State] = []
    state = root
    for i, token in enumerate(tokens):
        state = state.child(i, decoder.decode(vocabulary.piece(token)), n_tokens=1)
        out.append(state)
    if ended:
        out.append(state.child(len(tokens), "", n_tokens=1, finish="stop"))
    return out


def fit_multifurcation_head(
    data: Observed, stop: npt.NDArray[np.bool_], *, rank: int = 16, seed: int = 0
) -> tuple[Arrays, dict[str, float]]:
    """A low-rank linear head with a bias for each token, least squares on what was observed, with early stopping.

    Args:
        data: what followed what.
        stop: which rows decide when to stop; the others are fitted, and only their tokens count as seen.
        rank: see `RewardPlan`.
        seed: of first weights and batches.

    Returns:
        `projection` (width, rank), `offset` (rank,), `rows` (tokens seen, rank), `bias` and `tokens` (tokens seen,);
        and what was reached: `steps`, `error` on the stopping rows.
    """
    torch = need_torch()
    fitted = data.where(~stop)
    seen, at = np.unique(fitted.tokens, return_inverse=True)
    held = data.where(stop & np.isin(data.tokens, seen))
    held_at = np.searchsorted(seen, held.tokens)
    mean, scale = fitted.states.mean(0), fitted.states.std(0) + 1e-4
    average = float(fitted.rewards.mean())
    counts = np.bincount(at, minlength=len(seen))
    first = (np.bincount(at, fitted.rewards, len(seen)) + _PRIOR * average) / (counts + _PRIOR)
    rng = torch.Generator().manual_seed(seed)
    projection = (torch.randn(len(mean), rank, generator=rng) * len(mean) ** -0.5).requires_grad_()
    rows = torch.zeros(len(seen), rank, requires_grad=True)
    bias = torch.tensor(first, dtype=torch.float32, requires_grad=True)
    optimiser = torch.optim.AdamW([projection, rows, bias], lr=3e-3, weight_decay=0.01)

    def tensors(some: Observed, places: npt.NDArray[Any]) -> tuple[Any, Any, Any]:
        return (
            torch.from_numpy((some.states - mean) / scale), torch.from_numpy(places.ravel()),
            torch.tensor(some.rewards, dtype=torch.float32),
        )  # fmt: skip

    def error(x: Any, token: Any, reward: Any) -> Any:
        given = ((x @ projection) * rows[token]).sum(1) + bias[token]
        return ((given - reward) ** 2).mean()

    x, token, reward = tensors(fitted, at)
    apart = tensors(held, held_at)
    best, since = (np.inf, 0, [t.detach().clone() for t in (projection, rows, bias)]), 0
    batches = generator(seed, "batches")
    for step in range(_STEPS):
        if step % _CHECKED_EVERY == 0:
            with torch.no_grad():
                now = float(error(*apart))
            if now < best[0] - 1e-6:
                best, since = (now, step, [t.detach().clone() for t in (projection, rows, bias)]), 0
            since += 1
            if since > _PATIENCE:
                break
        some = torch.from_numpy(batches.integers(len(x), size=min(_BATCH, len(x))))
        optimiser.zero_grad()
        error(x[some], token[some], reward[some]).backward()
        optimiser.step()
    p, r, b = (t.numpy() for t in best[2])
    folded = p / scale[:, None]
    arrays = {"projection": folded, "offset": -mean @ folded, "rows": r, "bias": b, "tokens": seen}
    return arrays, {"error": best[0], "steps": best[1]}


@recipe(
    "multifurcation_reward_model",
    how="sft:partial_supervision, verification:process:reward_model", where="open_ended",
)  # fmt: skip
async def train_multifurcation(
    model: Model,
    task: Task,
    teacher: Verifier,
    out: Path,
    plan: RewardPlan = RewardPlan(),
    *,
    budget: Budget | None = None,
    sampling: dict[str, Any] | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Draw, rate, fit, measure and save `multifurcation_reward.safetensors` and its card; returns the card.

    Args:
        model: writes, and shows its states.
        task: its prompts are continued; nothing is graded.
        teacher: rates every beginning of what is written.
        out: its `store.sqlite` holds finished calls.
        plan: how much of what.
        budget: over all draws.
        sampling: settings over the task's.
        told: hears what is being done.

    Raises:
        CapabilityError, MissingExtraError: the model's states cannot be seen.
        TaskError: nothing was written, or the teacher rates everything alike.
    """
    states = hidden_states(model, plan.layers, "train-prm")
    process = build_process("text_steps", (), model)
    settings = merged_sampling(Sampling(temperature=1.0), task.sampling, sampling or {})
    problems = task.problems(plan.limit, seed=plan.seed)
    identity = {
        "recipe": "train-prm multifurcation", "model": model.identity, "task": task.identity,
        "sampling": settings.key(), "seed": str(plan.seed),
    }  # fmt: skip
    with Store(out, identity) as store:
        shared = Runtime(cache=store, meter=Meter(budget) if budget is not None else None)
        contexts = [
            Context(p, process, task=task, sampling=settings, seed=plan.seed, runtime=shared, ledger=Ledger())
            for p in problems
        ]
        told(f"{len(problems)} problems, {plan.traces} texts each")
        drawn = await asyncio.gather(*(ctx.draw(ctx.problem, n=plan.traces) for ctx in contexts))
        told("rating each beginning, reading hidden states")
        parts = [await observed_rewards(c, states, some, teacher) for c, some in zip(contexts, drawn, strict=True)]
    data = Observed(*(np.concatenate([getattr(p, f) for p in parts]) for f in Observed.__dataclass_fields__))
    if not data.rewards.size or np.ptp(data.rewards) == 0:
        what = f"{data.rewards.size} tokens, all rated {data.rewards[0]:g}" if data.rewards.size else "no token"
        raise TaskError(
            f"{task}: {teacher} gave {what}; a head learns from differences. Use prompts that lead to good and to "
            "bad texts"
        )
    told(f"{data.rewards.size} tokens; fitting the head")
    split = split_problems(data.problems.tolist(), plan.seed)  # two problems that ask the same are one
    stop, test = (np.isin(data.problems, list(part)) for part in (split.stop, split.test))
    arrays, fit = fit_multifurcation_head(data.where(~test), stop[~test], rank=plan.rank, seed=plan.seed)
    lost = Counter(f"{f.stage}: {f.kind}" for ctx in contexts for f in ctx.failures)
    spend = sum((ctx.ledger.total for ctx in contexts), Spend())
    card = {
        "kind": "multifurcation_reward", "model": str(model), "identity": model.identity, "layers": list(plan.layers),
        "vocabulary": states.vocabulary.size, "task": str(task), "teacher": str(teacher), "settings": asdict(plan),
        "fit": fit, "quality": _quality(arrays, data.where(test), data.where(~(test | stop))), "lost": dict(lost),
        "spend": {k: v for k, v in spend.as_dict().items() if v},
    }  # fmt: skip
    path = save_head(out, card, arrays)
    told(f"saved {path} ({path.stat().st_size / 1024:.0f} kB)")
    return card


def _quality(head: Arrays, test: Observed, fitted: Observed) -> dict[str, Any]:
    """Errors on held-out tokens that were seen in training, against constants; how well bad ones are told apart."""
    test = test.where(np.isin(test.tokens, head["tokens"]))
    given = np.array(rewards_of(head, test.states, [[t] for t in test.tokens])).ravel()
    mean = float(fitted.rewards.mean())
    totals, counts = (np.bincount(fitted.tokens, w, int(fitted.tokens.max()) + 1) for w in (fitted.rewards, None))
    by_token = ((totals + _PRIOR * mean) / (counts + _PRIOR))[test.tokens]
    middle = (test.rewards.min() + test.rewards.max()) / 2
    good = test.rewards >= middle
    order = np.unique(given, return_inverse=True)[1].ravel() / max(len(given) - 1, 1)
    area = measure_calibration(order, good.astype(float), problem=test.problems).auroc
    return {
        "tokens": len(given), "problems": len(set(test.problems.tolist())), "tokens_seen": len(head["tokens"]),
        "error": float(((given - test.rewards) ** 2).mean()),
        "error_of_token_means": float(((by_token - test.rewards) ** 2).mean()),
        "error_of_constant": float(((mean - test.rewards) ** 2).mean()),
        "bad": float(1 - good.mean()), "auroc": None if area is None else [round(float(v), 4) for v in area],
    }  # fmt: skip
