"""Storage: the verbs that move jobs, and the only place that talks to Redis. Told what to do, it decides nothing."""
