"""Benchmarks: each compares ways to do one thing in one run, interleaved, and prints ratios.

``make bench`` runs all, ``make bench ONLY=router,open`` some, ``QUICK=1`` ends each
within 40 s (its figures say whether it still works, not how fast). A timing never decides
a test, so nothing here is one: a goal that is missed is printed, and the exit code is 0.
"""
