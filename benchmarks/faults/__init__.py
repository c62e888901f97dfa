"""Faults as they happen: processes killed, stopped and cut off from what they need, and what it cost.

`python -m benchmarks.faults --out DIR` provokes each fault many times and ends with a table. A fault is a function that
is given a laboratory and the number of the repeat: it provokes, waits, compares with the undisturbed run, and returns
the seconds from the fault to the recovery. A repeat that does not end as it should raises. The laboratory counts what
was left behind.
"""
