"""The proof that checks can fail: recorded answers, replayed with lies in them."""
