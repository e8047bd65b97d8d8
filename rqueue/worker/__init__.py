"""What runs jobs: services of one shape, and their composition; ``ls rqueue/worker`` lists what goes on at once."""
