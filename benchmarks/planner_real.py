"""Planner, compute-optimal allocation, early stopping and allocators on stored samples of SmolLM2-135M.

    python benchmarks/planner.py --real [--folder runs/planner] [--tasks products,sums,letters,gcd] [--seeds 16]

Each task's samples are drawn once, into `folder/TASK` (a study; what is there is not drawn again: about 20 minutes on
two idle cores for all), and everything else is replayed: a stand-in for the model answers with the stored samples of a
problem, in another order in each repeat, through the same strategies, ledger and planner as a model. Intervals are 95 %
bootstraps over the different questions of a task, the repeats of a question staying together.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ponder
from ponder.core.model import Capabilities, Completion, Model, Request
from ponder.core.problem import Problem, Prompt
from ponder.core.seeds import derive_seeds
from ponder.studies.measured import Measured
from ponder.studies.offline import StoredStudy
from ponder.studies.pilot import Chosen

Floats = NDArray[np.float64]

SEED, TEMPERATURE = 41, 0.7
BANKS = {
    "products": ("products(min_terms=2, max_terms=2, min_digits=1, max_digits=1, shots=8, max_new_tokens=8)", 200, 64),
    "sums": ("chain_sum(min_terms=2, max_terms=2, min_digits=1, max_digits=2, shots=8, max_new_tokens=8)", 120, 40),
    "letters": ("letter_counting(min_words=3, max_words=5, shots=6, max_new_tokens=6)", 120, 40),
    "gcd": ("gcd(min_value=2, max_value=30, shots=8, max_new_tokens=8)", 100, 40),
}
"""Task, problems, samples of each."""

MAJORITY, BEST = "repeated_sampling | majority", "best_of_n(verifier=log_probability)"
STOPPING = ["bayesian_stopping", "adaptive_consistency", "early_stopping_consistency", "stop_at_saturation"]
CANDIDATES = [MAJORITY, BEST, "adaptive_consistency", "bayesian_stopping", "stop_at_saturation"]

ALLOCATORS = [
    f'marginal_gain(strategy="{MAJORITY}")',
    "marginal_gain(verifier=exact)",
    f'bandit(arms=["{MAJORITY}", {BEST}])',
    f'bandit(arms=["{MAJORITY}", {BEST}], verifier=exact)',
    f'bandit(arms=["{MAJORITY}", {BEST}], rule=uniform)',
]


def collect(name: str, folder: Path) -> Path:
    """Draw a task's samples if they are not there."""
    task, problems, samples = BANKS[name]
    ponder.bench(model="embedded:smollm2-135m", task=f"reasoning_gym:{task}", strategies=[MAJORITY, BEST],
                 samples=[samples], limit=problems, seed=SEED, sampling={"temperature": TEMPERATURE},
                 out=folder / name, check=False)  # fmt: skip
    return folder / name


@dataclass(frozen=True)
class Stored:
    """One problem's samples; `prompt` is the prompt's tokens."""

    problem: Problem
    texts: tuple[str, ...]
    answers: tuple[Any, ...]
    right: Floats
    logprobs: Floats
    tokens: NDArray[np.int64]
    finishes: tuple[str, ...]
    prompt: int

    def groups(self) -> NDArray[np.int64]:
        """The answer of each sample as a number, -1 for none."""
        known = {a: i for i, a in enumerate(dict.fromkeys(a for a in self.answers if a is not None))}
        return np.array([known.get(a, -1) for a in self.answers])


@dataclass(frozen=True)
class Bank:
    """A task's samples."""

    name: str
    task: Any
    rows: tuple[Stored, ...]

    @classmethod
    def load(cls, name: str, folder: Path) -> Bank:
        """Read what `collect` drew."""
        return ponder.api.run_sync(lambda: cls._load(name, folder))

    @classmethod
    async def _load(cls, name: str, folder: Path) -> Bank:
        rows = []
        samples = BANKS[name][2]
        with StoredStudy.open(folder / name) as stored:
            for problem in stored.problems():
                source = ponder.parse(f"repeated_sampling(n={samples})")
                ctx, drawn = await stored.candidates(problem, source)
                verdict = {c.output: bool(stored.right(problem, c.output)) for c in drawn}
                rows.append(Stored(
                    problem, tuple(c.output for c in drawn), tuple(c.answer for c in drawn),
                    np.array([float(verdict[c.output]) for c in drawn]), np.array([c.logprob for c in drawn]),
                    np.array([c.n_tokens for c in drawn]), tuple(c.finish for c in drawn),
                    ctx.ledger.total.prompt_tokens,
                ))  # fmt: skip
            return cls(name, stored.task, tuple(rows))

    @property
    def samples(self) -> int:
        """Samples of each problem."""
        return min(len(r.texts) for r in self.rows)

    def questions(self) -> NDArray[np.int64]:
        """Which question each problem asks: some are drawn twice."""
        asked = [str(r.problem.metadata.get("question", r.problem.prompt)) for r in self.rows]
        return np.unique(asked, return_inverse=True)[1]

    def weights(self, resamples: int = 1000) -> Floats:
        """Bootstrap over questions: shape (resamples, problems); rows sum to about the number of problems."""
        of = self.questions()
        rng = np.random.default_rng(0)
        counts = rng.multinomial(of.max() + 1, np.full(of.max() + 1, 1 / (of.max() + 1)), size=resamples)
        return counts[:, of].astype(float)


class Replay(Model):
    """Answers with the stored samples of a bank, in an order of its own for each repeat."""

    name = "replay"

    def __init__(self, bank: Bank, repeat: int) -> None:
        self.bank, self.repeat = bank, repeat
        self.capabilities = Capabilities(n=True, logprobs=True, prefix=False, seeds=True)
        self._of = {row.problem.id: row for row in bank.rows}
        self._seats: dict[str, dict[int, int]] = {}

    def __str__(self) -> str:
        return f"replay:{self.bank.name}-{self.repeat}"

    @property
    def identity(self) -> str:
        """Of this repeat."""
        return str(self)

    def count_tokens(self, prompt: Prompt) -> int:
        """Of the bank's prompts, which differ by a few tokens."""
        return max(row.prompt for row in self.bank.rows)

    async def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """The samples at the places that the request's seeds stand for."""
        assert request.problem is not None
        name = request.problem.id
        row, most = self._of[name], self.bank.samples
        if name not in self._seats:
            order = np.random.default_rng([self.repeat, *name.encode()]).permutation(most)
            self._seats[name] = dict(zip(derive_seeds((SEED, name), range(most)), order.tolist(), strict=True))
        for i, seed in enumerate(request.seeds):
            k = self._seats[name][seed]
            yield i, Completion(
                row.texts[k], int(row.tokens[k]), row.finishes[k], logprob=float(row.logprobs[k]),
                prompt_tokens=0 if i else row.prompt, requests=0 if i else 1,
            )  # fmt: skip


def replayed(bank: Bank, repeat: int, **study: Any) -> Measured:
    """A study on the stored samples."""
    with tempfile.TemporaryDirectory() as out:
        ponder.bench(model=Replay(bank, repeat), task=bank.task, limit=len(bank.rows), seed=SEED, out=out, check=False,
                     sampling={"temperature": TEMPERATURE}, baselines=False, **study)  # fmt: skip
        return Measured.load(out)


def say(estimate: float, draws: Sequence[float] | Floats, places: int = 3) -> str:
    """An estimate with its interval."""
    known = np.asarray(draws, dtype=float)
    known = known[~np.isnan(known)]
    if not known.size or np.isnan(estimate):
        return "-"
    low, high = np.quantile(known, [0.025, 0.975])
    return f"{estimate:.{places}f} ({low:.{places}f} to {high:.{places}f})"


def mean(values: Floats, weights: Floats | None = None) -> Any:
    """Over problems; with weights in each resample."""
    return values.mean(axis=-1) if weights is None else (weights @ values) / weights.sum(axis=1)


# ---------------------------------------------------------------- (a) compute-optimal allocation


def pool_accuracy(row: Stored, pool: NDArray[np.int64], n: int, rule: str, rng: np.random.Generator) -> float:
    """Mean over 24 subsets of n of the pool's samples; ties share the credit."""
    groups, total = row.groups(), 0.0
    for _ in range(24):
        chosen = rng.choice(pool, size=n, replace=False)
        if rule == "best":
            per_token = row.logprobs[chosen] / np.maximum(row.tokens[chosen], 1)
            total += row.right[chosen[int(per_token.argmax())]]
            continue
        valid = chosen[groups[chosen] >= 0]
        if len(valid):
            votes = np.bincount(groups[valid])
            top = np.flatnonzero(votes == votes.max())
            total += float(np.mean([row.right[valid[groups[valid] == g][0]] for g in top]))
    return total / 24


def compute_optimal(bank: Bank, repeats: int = 8, bins: int = 5) -> None:
    """Accuracy against mean samples: by difficulty, and of one rule for all; two-fold, and the ratio of compute."""
    half = bank.samples // 2
    ns = [n for n in (1, 2, 4, 8, 16, 32) if n <= half]
    arms = [(rule, n) for n in ns for rule in ("vote", "best") if not (n == 1 and rule == "best")]
    cost = np.array([n for _, n in arms])
    weights = bank.weights()
    held: dict[str, list[tuple[Floats, Floats]]] = {}
    tables = []
    for repeat in range(repeats):
        rng = np.random.default_rng([repeat, 7])
        table = np.empty((len(bank.rows), len(arms)))
        known = {
            "oracle": np.empty(len(bank.rows)),
            "score": np.empty(len(bank.rows)),
            "vote": np.empty(len(bank.rows)),
        }
        for i, row in enumerate(bank.rows):
            order = rng.permutation(bank.samples)
            pool, other = order[:half], order[half:]  # the samples that tell the difficulty are not those judged
            known["oracle"][i] = row.right[other].mean()
            known["score"][i] = (row.logprobs[pool[:4]] / np.maximum(row.tokens[pool[:4]], 1)).mean()
            groups = row.groups()[pool[:4]]
            known["vote"][i] = np.bincount(groups[groups >= 0]).max(initial=0) / 4
            table[i] = [pool_accuracy(row, pool, n, rule, rng) for rule, n in arms]
        tables.append(table)
        fold = np.zeros(len(bank.rows), dtype=int)
        fold[np.isin(bank.questions(), rng.permutation(bank.questions().max() + 1)[::2])] = 1
        for by, values in known.items():
            edges = np.unique(np.quantile(values, np.arange(1, bins) / bins))
            member = np.searchsorted(edges, values, side="right")
            least = 0 if by == "oracle" else 4
            for most in ns:
                held.setdefault(f"{by}: one budget for all, {most}", []).append(
                    _by_bin(table, cost, member, fold, float(most), least, cap=True)
                )
                held.setdefault(f"{by}: mean budget, {most}", []).append(
                    _by_bin(table, cost, member, fold, float(most), least, cap=False)
                )
    table = np.mean(tables, axis=0)
    print(f"\n### {bank.name}: compute-optimal allocation ({repeats} splits of the samples)\n")
    print("| | " + " | ".join(f"{n}" for n in ns) + " |\n|---|" + "---|" * len(ns))
    for rule in ("vote", "best"):
        cells = [table[:, arms.index((rule if n > 1 else "vote", n))] for n in ns]
        print(f"| {rule}, all | " + " | ".join(say(float(mean(c)), mean(c, weights)) for c in cells) + " |")
    fixed = {
        rule: (np.array(ns, float), np.stack([table[:, arms.index((rule if n > 1 else "vote", n))] for n in ns]))
        for rule in ("vote", "best")
    }
    for by in ("oracle", "score", "vote"):
        for kind in ("one budget for all", "mean budget"):
            runs = [held[f"{by}: {kind}, {n}"] for n in ns]
            right = np.stack([np.mean([r for r, _ in run], axis=0) for run in runs])
            paid = np.stack([np.mean([c for _, c in run], axis=0) for run in runs])
            cells = [
                f"{say(float(r.mean()), mean(r, weights))} at {c.mean():.1f}" for r, c in zip(right, paid, strict=True)
            ]
            print(f"| by {by}, {kind} | " + " | ".join(cells) + " |")
            for rule, (n, values) in fixed.items():
                for target in (8, ns[-1]):
                    at = ns.index(target)
                    estimate = _ratio(n[at], values[at].mean(), paid.mean(axis=1), right.mean(axis=1))
                    draws = [
                        _ratio(n[at], float(values[at] @ w / w.sum()), paid @ w / w.sum(), right @ w / w.sum())
                        for w in weights[:300]
                    ]
                    never = np.mean(np.isnan(draws))
                    print(f"  - {by}, {kind}: {rule} at {target} with {say(estimate, draws, 2)} times less; "
                          f"never in {never:.0%} of resamples")  # fmt: skip


def _by_bin(
    table: Floats, cost: NDArray[np.int64], member: NDArray[np.int64], fold: NDArray[np.int64], most: float,
    least: int, *, cap: bool,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Outcome and samples of each problem under what was best in its bin on the other fold."""
    right, paid = np.zeros(len(table)), np.zeros(len(table))
    real = np.maximum(cost, least)  # the probe's samples are the first of the strategy's own
    bins = np.unique(member)
    for side in (0, 1):
        learn = fold == side
        share = np.array([(learn & (member == b)).sum() for b in bins]) / learn.sum()
        gain = np.stack([
            table[learn & (member == b)].mean(axis=0) if (learn & (member == b)).any() else table[learn].mean(axis=0)
            for b in bins
        ])  # fmt: skip
        if cap:
            inside = np.flatnonzero(cost <= most)
            chosen = np.array([inside[int(np.argmax(g[inside] - 1e-9 * cost[inside]))] for g in gain])
        else:
            chosen = _lagrange(gain, real, share, most)
        for b, arm in zip(bins, chosen, strict=True):
            judged = (fold != side) & (member == b)
            right[judged], paid[judged] = table[judged, arm], real[arm]
    return right, paid


def _lagrange(gain: Floats, cost: NDArray[np.int64], share: Floats, most: float) -> NDArray[np.int64]:
    """An arm for each bin so that the mean cost stays within `most`: the price of a sample is bisected."""
    low, high = 0.0, 1.0
    best = np.full(len(gain), int(np.argmin(cost)))
    for _ in range(40):
        price = (low + high) / 2
        chosen = np.argmax(gain - price * cost, axis=1)
        if float(share @ cost[chosen]) <= most:
            best, high = chosen, price
        else:
            low = price
    return best


def _ratio(budget: float, target: float, paid: Floats, right: Floats) -> float:
    """Compute of the rule over the least with which the allocation reaches its accuracy; NaN if it never does."""
    order = np.argsort(paid, kind="stable")
    x, y = np.log(paid[order]), np.maximum.accumulate(right[order])
    if y[-1] < target:
        return float("nan")
    at = int(np.argmax(y >= target))
    if at == 0:
        return float(budget / np.exp(x[0]))
    share = (target - y[at - 1]) / max(y[at] - y[at - 1], 1e-12)
    return float(budget / np.exp(x[at - 1] + share * (x[at] - x[at - 1])))


# ---------------------------------------------------------------- (c) early stopping, (d) allocators


def against_fixed(bank: Bank, rows: Sequence[str], n: int, repeats: int, kind: str) -> None:
    """Accuracy and samples of each row against a plain vote (or best-of-N) of n."""
    key = "strategies" if kind == "strategies" else "allocators"
    weights = bank.weights()
    right: dict[str, list[Floats]] = {}
    used: dict[str, list[float]] = {}
    for repeat in range(repeats):
        study = {"strategies": [MAJORITY, BEST], "samples": [n]}
        study[key] = [*study.get(key, []), *rows]
        data = replayed(bank, repeat, **study)
        for point in data.points:
            right.setdefault(point.strategy, []).append(point.correct)
            used.setdefault(point.strategy, []).append(
                [point.row["model_calls"], point.row["generated_tokens"],
                 point.row["generated_tokens"] + point.row["prompt_tokens"]]
            )  # fmt: skip
    whole = {name: np.mean(values, axis=0) for name, values in right.items()}
    spent = {name: np.mean(values, axis=0) for name, values in used.items()}
    vote, full = whole[MAJORITY], spent[MAJORITY]
    print(f"\n### {bank.name}: {kind} at n = {n} ({repeats} orders of the samples)\n")
    print("| | accuracy | kept of the vote | difference | samples | generated tokens | all tokens |")
    print("|---|---|---|---|---|---|---|")
    for name, values in whole.items():
        kept = mean(values, weights) / np.maximum(mean(vote, weights), 1e-9)
        share = spent[name] / full
        print(f"| `{name}` | {say(float(values.mean()), mean(values, weights))} | "
              f"{say(float(values.mean() / max(vote.mean(), 1e-9)), kept)} | "
              f"{say(float((values - vote).mean()), mean(values - vote, weights))} | "
              f"{share[0]:.0%} | {share[1]:.0%} | {share[2]:.0%} |".replace("|  |", "| |"), flush=True)  # fmt: skip


# ---------------------------------------------------------------- (b) the planner


def truth(bank: Bank, repeats: int = 4) -> tuple[dict[str, Floats], dict[str, float]]:
    """Of every configuration the outcome of each problem, as a mean over orders of its samples, and the cost."""
    right: dict[str, list[Floats]] = {}
    costs: dict[str, float] = {}
    for repeat in range(repeats):
        data = replayed(bank, 100 + repeat, strategies=CANDIDATES, samples=[1, 2, 4, 8, 16, 32])
        for point in data.points:
            name = str(ponder.parse(point.strategy).with_samples(point.budget))
            right.setdefault(name, []).append(point.correct)
            costs[name] = point.cost(data.axis("generated_tokens"))
    return {name: np.mean(v, axis=0) for name, v in right.items()}, costs


def plans(bank: Bank, seeds: int, per_problem: float, job: int) -> dict[str, Any]:
    """Plans from pilots of at most a tenth of the budget, judged on the problems that the pilot did not see."""
    right, costs = truth(bank)
    fits = {name: v for name, v in right.items() if costs[name] <= per_problem * 1.02}
    ids = [row.problem.id for row in bank.rows]
    picked: list[tuple[str, NDArray[np.bool_], float, Any]] = []
    for seed in range(seeds):
        order = np.random.default_rng([seed, 11]).permutation(len(bank.rows))
        task = Chosen(bank.task, tuple(bank.rows[i].problem for i in order))
        with tempfile.TemporaryDirectory() as out:
            found = ponder.plan(Replay(bank, seed), task, f"generated_tokens={per_problem * job / 0.9:.0f}", out,
                                candidates=CANDIDATES, problems=job, seed=SEED, check=False,
                                sampling={"temperature": TEMPERATURE})  # fmt: skip
            seen = set(Measured.load(out).problem_ids)
        unseen = np.array([i not in seen for i in ids])
        assert found.paid <= 0.1 * found.budget, "the pilot passed its share"
        name = found.choice.strategy if found.choice.strategy in fits else _nearest(found.choice.strategy, fits)
        picked.append((name, unseen, found.paid / found.budget, found))
    return {"bank": bank, "fits": fits, "costs": costs, "picked": picked}


def _nearest(name: str, fits: dict[str, Floats]) -> str:
    """The choice's strategy at the largest number of samples that fits and that the bank has."""
    kind = name.split("(")[0], name.partition("|")[2]
    same = [f for f in fits if (f.split("(")[0], f.partition("|")[2]) == kind]
    return max(same, key=lambda f: int(f.split("n=")[1].split(",")[0].split(")")[0]))


def judge_plans(done: dict[str, Any]) -> None:
    """Print what a task's plans chose, and their regret."""
    bank, fits, picked = done["bank"], done["fits"], done["picked"]
    weights = bank.weights(600)
    rng = np.random.default_rng(1)

    def table(value: Callable[[str, NDArray[np.bool_]], Floats]) -> tuple[float, Floats]:
        per_plan = np.stack([np.where(unseen, value(name, unseen), np.nan) for name, unseen, _, _ in picked])
        estimate = float(np.nanmean([np.nanmean(p) for p in per_plan]))
        draws = []
        for w in weights:
            rows = rng.integers(len(picked), size=len(picked))
            known = ~np.isnan(per_plan[rows])
            filled = np.where(known, per_plan[rows], 0.0)
            draws.append(float(((filled @ w) / (known @ w)).mean()))
        return estimate, np.array(draws)

    best = {id(unseen): max(fits, key=lambda f: fits[f][unseen].mean()) for _, unseen, _, _ in picked}
    print(f"\n### {bank.name}: {len(picked)} plans, judged on the problems that each pilot did not see\n")
    chosen: dict[str, int] = {}
    inside = decided = wrong = 0
    for name, unseen, _, found in picked:
        chosen[name] = chosen.get(name, 0) + 1
        real = fits[name][unseen].mean()
        inside += found.choice.low <= real <= found.choice.high
        decided += found.decided
        others = max(v[unseen].mean() for f, v in fits.items() if f.split("(")[0] != name.split("(")[0])
        wrong += found.decided and others > real + 0.01
    problems = [found.pilot_problems for *_, found in picked]
    shares = [share for _, _, share, _ in picked]
    judged = (
        f"true accuracy inside the stated interval in {inside} of {len(picked)}; decided {decided}, wrongly {wrong}"
    )
    print(f"pilot: {min(shares):.1%} to {max(shares):.1%} of the budget, {min(problems)} to {max(problems)} problems")
    print(judged)
    print("chosen: " + ", ".join(f"`{n}` {k}" for n, k in sorted(chosen.items(), key=lambda c: -c[1])))
    print("\n| | |\n|---|---|")
    print(f"| best configuration in hindsight | {say(*table(lambda n, u: fits[best[id(u)]]))} |")
    print(f"| the planner's choice | {say(*table(lambda n, u: fits[n]))} |")
    print(f"| **regret** | {say(*table(lambda n, u: fits[best[id(u)]] - fits[n]))} |", flush=True)


def main(folder: Path, tasks: Sequence[str], seeds: int, *, plans_only: bool = False) -> list[tuple[Any, ...]]:
    """Everything, task by task; returns of each its name, its plans' outcomes, all configurations', and its questions.

    `plans_only` leaves out what is not about the planner.
    """
    worlds = []
    for name in tasks:
        collect(name, folder)
        bank = Bank.load(name, folder)
        pass_at_1 = np.array([r.right.mean() for r in bank.rows])
        covered = np.mean([r.right.any() for r in bank.rows])
        print(f"\n## {name}: {len(bank.rows)} problems ({bank.questions().max() + 1} different questions), "
              f"{bank.samples} samples each; pass@1 {say(float(pass_at_1.mean()), mean(pass_at_1, bank.weights()))}, "
              f"some sample right in {covered:.1%}", flush=True)  # fmt: skip
        if not plans_only:
            compute_optimal(bank)
            against_fixed(bank, STOPPING, 16, 8, "strategies")
            against_fixed(bank, STOPPING, 40, 4, "strategies")
            against_fixed(bank, ALLOCATORS, 8, 8, "allocators")
        tokens = float(np.mean([r.tokens.mean() for r in bank.rows]))
        done = plans(bank, seeds, 32 * tokens, 400)
        judge_plans(done)
        picks = [np.where(unseen, done["fits"][choice], np.nan) for choice, unseen, _, _ in done["picked"]]
        table = {}
        for text, n in ((text, n) for text in CANDIDATES for n in (1, 2, 4, 8, 16, 32)):
            right = done["fits"].get(str(ponder.parse(text).with_samples(n)))
            if right is not None:
                table[f"{re.sub(r'[(][^()]*[)]', '', text)} @ {n}"] = right
        worlds.append((name, picks, table, bank.questions()))
    return worlds
