"""Agents: what robots cost that run their own tasks. They are simulated by one process, `fleet`."""
