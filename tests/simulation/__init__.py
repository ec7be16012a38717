"""`make simulate`: a simulation of fleets of 10, 1,000 and 100,000 robots. README.md explains it and has its tables.

model.py      robots, wake-up messages, worker processes: `tasks.worker` in simulated time
periodic.py   beat and the maintenance worker: `tasks.queue.periodic` and `tasks.reports` in simulated time
figures.py    the figures of a run
report.py     the report
__main__.py   the options and the runs
"""
