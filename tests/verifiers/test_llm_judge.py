import pytest

from ponder.core.judging import parse_score


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 7", 0.7),
        ("score = 10/10.", 1.0),
        ("**Score:** 3.5", 0.35),
        ("Score: 2\nOn reflection. Score: 8", 0.8),
        ("Score: N", None),
        ("I would give it full marks", None),
        ("Score: 11", None),
        ("", None),
        ("SCORE: 0", 0.0),
    ],
)
def test_the_last_rating_in_range_counts_and_nothing_else_does(reply, score):
    assert parse_score(reply) == (None if score is None else pytest.approx(score))
