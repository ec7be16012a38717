import time, pytest
from tests.probes import *
from tests.factories import make_robot
from tasks import services
from tasks.models import Task
pytestmark = pytest.mark.django_db(transaction=True)
def test_it():
    r = make_robot(name="R")
    t0=time.perf_counter()
    for _ in range(20): services.submit(r, by="x", handler="noop")
    print("submit mongo broker", (time.perf_counter()-t0)/20)
    with bell_box() as bells:
        t0=time.perf_counter()
        for _ in range(20): services.submit(r, by="x", handler="noop")
        print("submit memory", (time.perf_counter()-t0)/20)
        print(bells())
        print(bells())
    t0=time.perf_counter()
    t=claim("R")
    print("claim", time.perf_counter()-t0)
    with listening() as c:
        t0=time.perf_counter()
        for r in [{"$add":[1,1]}, "$robot", {"a.b":1}, {"$x": 2}, {"": 1}]:
            Task.objects.filter(pk=t.pk).update(result=r)
            print(r, Task.objects.get(pk=t.pk).result)
        t.succeed("$x", "$message")
        print("5", time.perf_counter()-t0)
        print(c.sent)
        d = 1
        for i in range(90): d=[d]
        Task.objects.filter(pk=t.pk).update(result=d)
        for i in range(90): d=[d]
        Task.objects.filter(pk=t.pk).update(result=d)
        for i in range(90): d=[d]
        try: Task.objects.filter(pk=t.pk).update(result=d)
        except Exception as e: print(repr(e), repr(e.__cause__))
def test_second(): pass
def test_third(): pass
