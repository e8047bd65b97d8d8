"""Facts: a job's record, its states, its bytes and the keys it lives under. No I/O, no await."""
