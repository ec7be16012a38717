"""Messages to Celery's workers.

`app.send_task` asks routers, signals and a retry's machinery about each message, which have nothing to say about ours,
and takes three times as long. This sends the same, over a connection that is up:
https://docs.celeryq.dev/en/stable/internals/protocol.html
"""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from kombu import Producer
from uuid_utils.compat import uuid7

from fmv.celery import app

#: of the protocol's headers, those that it asks for and that are the same in all messages
HEADERS: dict[str, Any] = {"lang": "py", "parent_id": None, "group": None, "retries": 0, "timelimit": [None, None]}
HEADERS |= {"kwargsrepr": "{}", "ignore_result": True}
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def send(name: str, arguments: Sequence[str], *, queue: str, confirm_timeout: float, **options: Any) -> None:
    """Send a message for the task of this name, whose result nobody wants.

    `confirm_timeout`: seconds for the broker to confirm it; `options`: `priority`, and `expires`, in seconds. Raises
    what `app.send_task` would when the broker does not take it.
    """
    with app.producer_pool.acquire(block=True) as producer:
        connection: Any = producer.connection
        if connection.connected:
            try:
                _publish(producer, name, arguments, queue=queue, confirm_timeout=confirm_timeout, **options)
                return
            except (*connection.recoverable_connection_errors, *connection.recoverable_channel_errors):
                connection.collect()  # it was not up after all: Celery makes a new one
    app.send_task(name, arguments, queue=queue, confirm_timeout=confirm_timeout, ignore_result=True, **options)


def _publish(
    producer: Producer,
    name: str,
    arguments: Sequence[str],
    *,
    queue: str,
    priority: int = 0,
    expires: float | None = None,
    confirm_timeout: float,
) -> None:
    id = str(uuid7())
    headers = HEADERS | {"task": name, "id": id, "root_id": id, "argsrepr": repr(tuple(arguments))}
    if expires is not None:
        headers["expires"] = (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=expires)).isoformat()
    producer.publish(
        (arguments, {}, EMBED),
        exchange="",
        routing_key=queue,
        declare=[app.amqp.queues[queue]],
        serializer="json",
        delivery_mode=2,  # kept on disk
        headers=headers,
        correlation_id=id,
        priority=priority,
        expiration=expires,
        confirm_timeout=confirm_timeout,
    )
