"""Measured claims: each file runs its contenders side by side in one process and quotes medians and ratios."""
