"""Tags: a closed vocabulary, defaults by kind, mistakes that are told, and filters that equal a scan by hand."""

import itertools
import json
import warnings

import pytest
from click.testing import CliRunner

from ponder.core.registry import REGISTRIES, Registry
from ponder.core.taxonomy import ANY, DEFAULTS, DIMENSIONS, HOW, WHERE_GROUPS, TagFilter, check_tag, read_tags
from ponder.errors import TagError, TaxonomyWarning

SHIPPED = [e for kind in DEFAULTS for e in REGISTRIES[kind].entries() if e.cls.__module__.startswith("ponder.")]


def listed(*arguments):
    from ponder.cli.list import command

    shown = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    return {(row["kind"], row["name"]) for row in json.loads(shown.stdout)}


# ------------------------------------------------------------------------- what is shipped


def test_every_technique_has_valid_tags_in_all_dimensions():
    mistakes = [f"{e.cls.__module__}: {m}" for e in SHIPPED for m in e.mistakes]
    assert not mistakes, "files whose decorators need tags:\n" + "\n".join(mistakes)
    for entry in SHIPPED:
        assert set(entry.tags) == set(DIMENSIONS)
        for dimension, tags in entry.tags.items():
            assert tags or (dimension == "how" and entry.kind == "allocator"), (entry.name, dimension)
            for tag in tags:
                check_tag(dimension, tag)


def test_models_tasks_processes_and_laws_have_no_tags_and_fit_no_filter():
    untagged = [e for kind in set(REGISTRIES) - set(DEFAULTS) for e in REGISTRIES[kind].entries()]
    assert untagged and all(e.tags == {} and not e.mistakes for e in untagged)
    assert not any(TagFilter((("where", "math"),)).fits(e.tags) for e in untagged)


# ------------------------------------------------------------------------- filters


def by_hand(dimension, wanted):
    """The names with a tag, found without the filter's code."""
    found = set()
    for entry in SHIPPED:
        for tag in entry.tags[dimension]:
            words = tag.split(":")
            if wanted in {words[0], *(f"{words[0]}:{detail}" for detail in words[1:])}:
                found.add((entry.kind, entry.name))
            if dimension == "where" and (tag == ANY or tag in WHERE_GROUPS.get(wanted, ())):
                found.add((entry.kind, entry.name))
    return found


EVERY_TAG = [
    *((d, tag) for d, tags in DIMENSIONS.items() for tag in tags),
    *(("how", f"{way}:{detail}") for way, details in HOW.items() for detail in details or ()),
    *(("where", group) for group in WHERE_GROUPS),
]


def test_a_filter_finds_what_a_scan_by_hand_finds_for_every_tag_and_every_pair():
    fits = {(d, t): {(e.kind, e.name) for e in SHIPPED if TagFilter(((d, t),)).fits(e.tags)} for d, t in EVERY_TAG}
    scan = {pair: by_hand(*pair) for pair in EVERY_TAG}
    assert fits == scan
    for first, second in itertools.combinations(EVERY_TAG, 2):
        both = TagFilter((first, second))
        assert {(e.kind, e.name) for e in SHIPPED if both.fits(e.tags)} == scan[first] & scan[second]
        if first[0] == second[0]:
            comma = TagFilter(((first[0], f"{first[1]}, {second[1]}"),))
            either = TagFilter(((first[0], f"{first[1]}|{second[1]}"),))
            assert {(e.kind, e.name) for e in SHIPPED if comma.fits(e.tags)} == scan[first] & scan[second]
            assert {(e.kind, e.name) for e in SHIPPED if either.fits(e.tags)} == scan[first] | scan[second]


def test_the_command_filters_by_tags_and_needs():
    both = by_hand("what", "hybrid") & by_hand("how", "search") & by_hand("how", "verification")
    assert listed("--what", "hybrid", "--how", "search,verification") == both
    assert ("strategy", "mcts") in both and ("strategy", "best_of_n") not in both
    needing = listed("--what", "hybrid", "--how", "search", "--where", "open_ended", "--needs", "logprobs")
    assert needing == {("strategy", "saffron")}
    assert ("strategy", "beam_search") in listed("--needs", "steps") - listed("--needs", "text")
    assert listed("selectors", "--what", "sequential") == set()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--what", "hybird"), "what: 'hybird' is no tag; did you mean hybrid?"),
        (("--how", "mcts"), "how: 'mcts' is no tag; did you mean search:mcts?"),
        (("--how", "search:mtcs"), "did you mean search:mcts"),
        (("--how", "search:"), "how: 'search:' is no tag"),
        (("--where", "zzz"), "the tags are any, math, code"),
        (("--how-well", "efficency"), "did you mean efficiency?"),
        (("--needs", "logprob"), "needs: 'logprob' is no tag; did you mean logprobs?"),
        (("--what", ","), "what: ',' is no tag"),
    ],
)
def test_an_unknown_tag_is_answered_with_the_nearest(arguments, says):
    with pytest.raises(TagError) as error:
        listed(*arguments)
    assert says in str(error.value)


# ------------------------------------------------------------------------- registration


def test_a_kind_brings_its_defaults_and_a_group_stands_for_its_values():
    tags, mistakes = read_tags(
        "selector", {"how": "aggregation:majority, aggregation:majority", "where": "reasoning, math"}
    )
    assert not mistakes and tags["what"] == ("parallel",) and tags["how"] == ("aggregation:majority",)
    assert tags["where"] == WHERE_GROUPS["reasoning"]
    assert read_tags("recipe", {"how": "rl:grpo"})[0]["how"] == ("rl:grpo",)
    assert read_tags("model", {"what": "nonsense"}) == ({}, ())


def test_missing_and_misspelt_tags_warn_and_the_technique_works_without_them():
    registry = Registry("strategy", "ponder.strategies")
    with pytest.warns(TaxonomyWarning) as told:

        @registry.register("mine", what="paralel", where="maths, code", kind="odd")
        class Mine:
            """Mine."""

    said = str(told[0].message)
    assert said.startswith("strategy mine: ") and told[0].filename == __file__
    for part in ("kind= is no dimension", "did you mean parallel?", "how is missing", "did you mean math?"):
        assert part in said
    assert registry._entries["mine"].cls is Mine and registry._entries["mine"].tags["where"] == ("code",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.register("good", what="parallel", how="aggregation:majority")
