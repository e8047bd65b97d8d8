"""The benchmarks: ``python -m benchmarks`` runs all queues side by side; README.md says how."""
