"""`make simulate`: FMV on paper, with 10, 1,000 and 100,000 robots. It is a simulation: no server, no machines.

    model.py      robots, doorbells, worker processes: what `tasks.worker.attempt` does, in simulated time
    sweepers.py   beat and the maintenance worker: what `tasks.queue.periodic` and `tasks.reports.queue_stats` do
    figures.py    what is read off a run
    __main__.py   options, the runs, the report

Periods, leases, steps and prefetch are FMV's own, read where they are set; test_simulation.py holds the commands
to MongoDB against those that FMV sends. What a command or a message costs is an option, with a default measured once.

What it leaves out: MongoDB, RabbitMQ and web servers have no queues of their own (a command takes as long as it is said
to take, however many there are; `mongodb_cores` tells when that cannot hold). Nor are there retries of handlers,
priorities, tasks for later, cancels, bulk runs, and robots out of service.
"""
