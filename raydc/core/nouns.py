"""Numbers with what they count, as people write them."""


def counted(number: int, noun: str) -> str:
    """ "1 cluster", "2 clusters", "12,000 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
