"""Result stores: where what became of jobs is kept for longer than Redis keeps it."""
