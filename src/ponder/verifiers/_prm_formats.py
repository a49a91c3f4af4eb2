"""How published process reward models are asked: what they read, where a step's score stands, what the number means.

qwen           Zhang et al. 2025, "The Lessons of Developing Process Reward Models": chat; `<extra_0>` ends each step
               of the answer; two classes at that token.
skywork        Skywork-o1 Open PRM: question and steps as plain text; a value at each step's end, through a sigmoid.
rlhflow        RLHFlow "RLHF-Reward-Modeling": each step is a user's turn, answered by `+`; the logit of `+` against
               `-` just before that answer.
math_shepherd  Wang et al. 2024, "Math-Shepherd": `ки` ends each step; the logit of `+` against `-` at that token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ponder.errors import CapabilityError

FormatName = Literal["qwen", "skywork", "rlhflow", "math_shepherd"]

QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
QWEN_STEP_END, SHEPHERD_STEP_END = "<extra_0>", "ки"

Encoded = tuple[list[int], list[int]]
"""Token numbers, and at which of them the scores of the steps are read."""


def detect(where: str, config: Any, tokenizer: Any, names: Sequence[str]) -> FormatName:
    """The format of a checkpoint, by its architecture, its tokenizer and the names of its tensors.

    Raises:
        CapabilityError: it could be none of them, or several.
    """
    architectures = " ".join(getattr(config, "architectures", None) or ())
    if any(name.startswith("v_head.") for name in names):
        return "skywork"
    if _known(tokenizer, QWEN_STEP_END) and any(name.startswith("score.") for name in names):
        return "qwen"
    if "CausalLM" in architectures and any(_known(tokenizer, sign) for sign in ("+", "▁+")):
        if tokenizer.chat_template:
            return "rlhflow"
        if len(_plain(tokenizer, SHEPHERD_STEP_END)) <= 2:
            return "math_shepherd"
    raise CapabilityError(
        f"process_reward: what {where} ({architectures or 'no architecture named'}) wants to read cannot be told from "
        "its files; say it with format=qwen|skywork|rlhflow|math_shepherd. A model with one score for a whole answer "
        "is an outcome_reward."
    )


def encode(name: FormatName, tokenizer: Any, question: str, steps: Sequence[str]) -> Encoded:
    """The tokens that a model of this format reads, and where the steps' scores stand."""
    return _ENCODERS[name](tokenizer, question, steps)


def signs(name: FormatName, tokenizer: Any) -> list[int]:
    """Tokens of a good and of a bad step, for formats that read a language model's own logits."""
    if name == "rlhflow":
        return [_plain(tokenizer, "+")[-1], _plain(tokenizer, "-")[-1]]
    return _plain(tokenizer, "+ -")[-2:]


def qwen_messages(question: str, steps: Sequence[str]) -> list[Mapping[str, str]]:
    """A question and its steps, each ended by the separator, as messages."""
    return [
        {"role": "system", "content": QWEN_SYSTEM},
        {"role": "user", "content": question},
        {"role": "assistant", "content": "".join(step + QWEN_STEP_END for step in steps)},
    ]


def shepherd_text(question: str, steps: Sequence[str]) -> str:
    """A question and its steps in one text, each step ended by the tag."""
    return f"{question} " + "\n".join(f"{step} {SHEPHERD_STEP_END}" for step in steps)


def _qwen(tokenizer: Any, question: str, steps: Sequence[str]) -> Encoded:
    text = tokenizer.apply_chat_template(qwen_messages(question, steps), tokenize=False)
    return _marked(_plain(tokenizer, text), _plain(tokenizer, QWEN_STEP_END)[-1])


def _skywork(tokenizer: Any, question: str, steps: Sequence[str]) -> Encoded:
    ids = _plain(tokenizer, f"{tokenizer.bos_token or ''}{question}\n")
    end, positions = _plain(tokenizer, "\n")[-1], []
    for step in steps:
        ids += [*_plain(tokenizer, step), end]
        positions.append(len(ids) - 1)
    return ids, positions


def _rlhflow(tokenizer: Any, question: str, steps: Sequence[str]) -> Encoded:
    """The template's text is cut at each answer, so that a `+` elsewhere is not taken for one."""
    turns: list[Mapping[str, str]] = []
    ids: list[int] = []
    positions: list[int] = []
    done = ""
    for i, step in enumerate(steps):
        turns.append({"role": "user", "content": f"{question} {step}" if i == 0 else step})
        asked = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        if not asked.startswith(done):
            raise CapabilityError("process_reward: this chat template rewrites earlier turns; rlhflow cannot use it")
        ids += _plain(tokenizer, asked[len(done) :])
        positions.append(len(ids) - 1)
        turns.append({"role": "assistant", "content": "+"})
        done = asked
    return ids, positions


def _shepherd(tokenizer: Any, question: str, steps: Sequence[str]) -> Encoded:
    ids = list(tokenizer.encode(shepherd_text(question, steps)))
    return _marked(ids, _plain(tokenizer, f"a {SHEPHERD_STEP_END}")[-1])  # as it stands after a step


_ENCODERS = {"qwen": _qwen, "skywork": _skywork, "rlhflow": _rlhflow, "math_shepherd": _shepherd}


def _marked(ids: list[int], mark: int) -> Encoded:
    return ids, [i for i, token in enumerate(ids) if token == mark]


def _plain(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _known(tokenizer: Any, token: str) -> bool:
    return token in tokenizer.get_vocab()
