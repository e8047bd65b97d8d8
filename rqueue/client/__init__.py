"""What a process that enqueues needs: tasks, options, handles. It never imports the worker."""
