"""What is printed reads back as the same policy, and equal policies print the same bytes."""

import strategies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policygen.document import Document, parse
from policygen.evaluate import evaluate
from policygen.model import Policy
from policygen.normal import normal

slow = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])


@slow
@given(strategies.policies())
def test_round_trip(policy: Policy) -> None:
    expected = normal(policy)
    text = Document(expected).text()
    document = parse(text)
    assert document.policy == expected
    assert document.text() == text


@slow
@given(st.data())
def test_normal_form_means_the_same(data: st.DataObject) -> None:
    policy = data.draw(strategies.policies())
    event = data.draw(strategies.events(policy))
    assert evaluate(normal(policy), event) == evaluate(policy, event)
    assert normal(normal(policy)) == normal(policy)
