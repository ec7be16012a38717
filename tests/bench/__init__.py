"""`make bench`: what FMV costs, as ratios to the same work done without it, in one run.

Machines are noisy, so no time by itself is a result: each figure is a ratio of two measurements taken in turn, the
median of several such pairs, with the least and the greatest. `PARTS=requests,tasks` runs some of the parts (requests,
servers, tasks, pools, profile, memory, listeners, growth), `QUICK=1` fewer and smaller pairs, `MOST=100000` at most so
many tasks in growth. The report is a table on
the terminal, `var/bench/report.json`, and a plot of each part beside it.

MONGODB_URI names a MongoDB (databases whose names begin with that of the URI and `_bench` are made and dropped), else
there is an embedded one. FMV_BROKER_URL names a broker; else a RabbitMQ is started where rabbitmq-server is installed,
else the embedded MongoDB carries the messages.
"""
