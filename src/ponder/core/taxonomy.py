"""What, how, where, how well: the four dimensions along which techniques are found and compared.

Paper    Zhang et al. 2025, "What, How, Where, and How Well? A Survey on Test-Time Scaling in Large Language Models".
Equal    The dimensions and their values.
Differs  `where` has values for what the survey does not cover (`generation_image`, `generation_video`,
         `theorem_proving`, `optimisation`, `simulation`) and `any` for what makes no assumption about the task.

Tags are written as short texts, several separated by commas, details after a colon:
`how="search:beam, verification:process:judge"`. `where` may name a group: `reasoning` stands for all of its values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ponder.errors import TagError

WHAT = ("parallel", "sequential", "hybrid", "internal")

HOW: Mapping[str, tuple[str, ...] | None] = {
    "stimulation": ("prompt", "decode", "repetition", "mixture"),
    "verification": (
        "outcome", "process", "rule", "executable", "reward_model", "judge", "self_evaluation", "tool",
    ),
    "search": ("beam", "lookahead", "tree", "mcts", "a_star", "best_first", "evolutionary", "particle"),
    "aggregation": ("majority", "best_of_n", "weighted", "fusion"),
    "sft": None,
    "rl": None,
}  # fmt: skip
"""Ways of scaling, with their details; of tuning (`sft`, `rl`) any word is a detail."""

WHERE_GROUPS: Mapping[str, tuple[str, ...]] = {
    "reasoning": ("math", "code", "science", "game", "medical", "logic"),
    "general": ("basics", "agents", "knowledge", "open_ended", "multimodal", "evaluation", "translation"),
    "more": ("generation_image", "generation_video", "theorem_proving", "optimisation", "simulation"),
}

ANY = "any"
WHERE = (ANY, *(value for group in WHERE_GROUPS.values() for value in group))

HOW_WELL = ("performance", "efficiency", "controllability", "scalability")

DIMENSIONS: Mapping[str, tuple[str, ...]] = {"what": WHAT, "how": tuple(HOW), "where": WHERE, "how_well": HOW_WELL}
"""Every dimension with its values."""

_EVERYWHERE = "parallel, sequential, hybrid"
DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "strategy": {"where": ANY, "how_well": "performance, efficiency, scalability"},
    "selector": {
        "what": "parallel", "how": "aggregation", "where": ANY, "how_well": "performance, efficiency, scalability",
    },
    "verifier": {"what": _EVERYWHERE, "how": "verification", "where": ANY, "how_well": "performance, efficiency"},
    "allocator": {
        "what": _EVERYWHERE, "how": "", "where": ANY, "how_well": "performance, efficiency, controllability",
    },
    "recipe": {"what": "internal", "where": ANY, "how_well": "performance"},
}  # fmt: skip
"""What a kind's decorator need not say. Kinds that are not here have no tags."""

Tags = Mapping[str, tuple[str, ...]]


def read_tags(kind: str, given: Mapping[str, str]) -> tuple[Tags, tuple[str, ...]]:
    """A decorator's texts as tags, and what is wrong with them.

    Args:
        kind: the noun; one without defaults has no tags at all.
        given: texts by dimension; empty ones take the kind's default.

    Returns:
        Every dimension's valid values, and one sentence for each mistake.

    >>> read_tags("selector", {"how": "aggregation:majority", "where": "maths"})[1]
    ("where: 'maths' is no tag; did you mean math?",)
    """
    defaults = DEFAULTS.get(kind)
    if defaults is None:
        return {}, ()
    tags: dict[str, tuple[str, ...]] = {}
    problems = [f"{name}= is no dimension of the taxonomy; these are {', '.join(DIMENSIONS)}"
                for name in given if name not in DIMENSIONS]  # fmt: skip
    for dimension in DIMENSIONS:
        text = given.get(dimension) or defaults.get(dimension)
        if text is None:
            problems.append(f"{dimension} is missing; it is one or more of {', '.join(DIMENSIONS[dimension])}")
        values: list[str] = []
        for value in _split(text or ""):
            try:
                check_tag(dimension, value)
                values += WHERE_GROUPS.get(value, (value,))
            except TagError as error:
                problems.append(str(error))
        tags[dimension] = tuple(dict.fromkeys(values))
    return tags, tuple(problems)


def check_tag(dimension: str, tag: str) -> None:
    """Whether a dimension has such a value, with such details.

    Raises:
        TagError: it has not; the nearest ones are given.
    """
    head, *details = tag.split(":")
    if dimension == "how":
        if head not in HOW:
            owners = [f"{way}:{head}" for way, known in HOW.items() if known and head in known]
            raise TagError(dimension, tag, HOW, near=owners)
        known = HOW[head]
        for detail in details:
            if not detail or (known is not None and detail not in known):
                raise TagError(dimension, tag, [f"{head}:{d}" for d in known or ("any_word",)])
        return
    known = (*DIMENSIONS[dimension], *(WHERE_GROUPS if dimension == "where" else ()))
    if tag not in known:
        raise TagError(dimension, tag, known)


@dataclass(frozen=True, slots=True)
class TagFilter:
    """What tags have to be there.

    Args:
        wanted: pairs of a dimension and a text: commas mean and, `|` means or.

    >>> chosen = TagFilter((("how", "search:beam|search:mcts, verification"),))
    >>> chosen.fits({"how": ("search:mcts", "verification:process")}), chosen.fits({"how": ("search:mcts",)})
    (True, False)
    """

    wanted: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        for dimension, text in self.wanted:
            if not _split(text):
                raise TagError(dimension, text, DIMENSIONS[dimension])
            for choice in _split(text):
                for tag in choice.split("|"):
                    check_tag(dimension, tag.strip())

    def fits(self, tags: Tags) -> bool:
        """Whether an entry with these tags is wanted; what has no tags fits only an empty filter."""
        return all(
            any(_holds(dimension, tags.get(dimension, ()), tag.strip()) for tag in choice.split("|"))
            for dimension, text in self.wanted
            for choice in _split(text)
        )


def _holds(dimension: str, tags: Iterable[str], wanted: str) -> bool:
    if dimension == "where":
        options = {wanted, ANY, *WHERE_GROUPS.get(wanted, ())}
        return any(tag in options for tag in tags)
    head, *details = wanted.split(":")
    return any((parts := tag.split(":"))[0] == head and set(details) <= set(parts[1:]) for tag in tags)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
