"""The solver as a service: socket, queue, worker processes. Nothing here knows how to solve."""
