"""Refusing, before any work, rows that a method could not hold."""

from raydc.data.load import free_memory


def refuse_beyond_memory(what: str, total: int, each: float, power: int, advice: str) -> None:
    """Raise MemoryError, with both numbers, where `each` * total ** `power` bytes are more than is free here, now."""
    need, free = each * total**power, free_memory()
    if need > free:
        raise MemoryError(
            f"{total} rows {what}, about {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: "
            f"at most {int((free / each) ** (1 / power))} rows fit; {advice}"
        )
