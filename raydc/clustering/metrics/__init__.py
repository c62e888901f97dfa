"""How good clusters are, as pure functions of arrays: with labels (`external`) and without (all others)."""
