"""However attempts to save end, an update costs little more than a full download."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from updater.ledger import LIMIT, Ledger

FULL = 1_000_000
# What an attempt costs, what it would spare, and whether it works.
ATTEMPTS = st.lists(
    st.tuples(st.integers(0, 40_000), st.integers(0, 200_000), st.booleans()), max_size=40
)


@given(ATTEMPTS, st.integers(0, 30_000))
def test_the_whole_never_exceeds_a_full_download_by_more_than_the_limit(
    attempts: list[tuple[int, int, bool]], looked_up: int
) -> None:
    ledger = Ledger(FULL)
    ledger.look_up(looked_up)
    for cost, spares, works in attempts:
        # Nobody begins one that costs more than it spares.
        if cost < spares <= FULL - ledger.spared and ledger.allows(cost):
            ledger.add(fetched=cost)
            ledger.add(spared=spares) if works else ledger.add(wasted=cost)
    whole = ledger.fetched + FULL - ledger.spared
    assert whole <= FULL * (1 + LIMIT) + looked_up
    assert whole <= FULL * (1 + LIMIT) or ledger.fetched == looked_up


def test_what_is_fetched_ahead_is_no_loss() -> None:
    ledger = Ledger(FULL)
    # A part with the payloads of many runs.
    ledger.add(fetched=300_000)
    assert ledger.allows(20_000)
    ledger.add(wasted=15_000)
    assert ledger.allows(5_000)
    assert not ledger.allows(5_001)


def test_what_was_saved_may_be_risked() -> None:
    ledger = Ledger(FULL)
    ledger.add(fetched=50_000, wasted=30_000)
    assert not ledger.allows(1)
    ledger.add(spared=40_000)
    assert ledger.allows(10_000)
    assert not ledger.allows(10_001)


def test_what_an_interrupted_install_saved_may_be_risked_until_something_goes_wrong() -> None:
    ledger = Ledger(FULL)
    ledger.look_up(25_000)
    assert not ledger.allows(1)
    ledger.add(kept=10_000)
    assert ledger.allows(5_000)
    ledger.add(fetched=5_000, wasted=5_000)
    assert not ledger.allows(1)
