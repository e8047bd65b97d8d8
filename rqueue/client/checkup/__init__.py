"""``rqueue doctor``: what is looked at, what is found, and what is done about it."""
