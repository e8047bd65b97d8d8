"""The parent of worker processes: it starts them, watches them, and takes back what a dead one leaves."""
