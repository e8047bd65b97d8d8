"""What runs jobs: services of one shape, and their composition. ``ls rqueue/worker`` is the list of what goes on at once."""
