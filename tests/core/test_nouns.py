"""Numbers with what they count."""

import pytest

from raydc.core.nouns import counted


@pytest.mark.parametrize(("number", "said"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (12_000, "12,000 rows")])
def test_one_is_singular(number: int, said: str) -> None:
    assert counted(number, "row") == said
