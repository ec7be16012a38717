import pytest

from tasks.queue.lanes import free_lanes


@pytest.mark.parametrize(
    ("lanes", "taken", "free"),
    [
        (1, [], [0]),
        (1, [0], []),
        (3, [], [0, 1, 2]),
        (3, [0], [1, 2]),
        (3, [1], [0, 2]),
        (3, [0, 1, 2], []),
        # The robot had more lanes when they started: they count as long as they run.
        (2, [2], [0]),
        (2, [2, 3], []),
        (1, [2], []),
        (1, [0, 1, 2], []),
        (2, [0, 5], []),
        (3, [0, 5], [1]),
        (0, [], []),
    ],
)
def test_free_lanes(lanes, taken, free):
    names = {f"R/{number}" for number in taken}
    assert free_lanes("R", lanes, names) == [f"R/{number}" for number in free]


def test_a_robots_name_may_look_like_a_lane():
    assert free_lanes("R/0", 2, {"R/0/1"}) == ["R/0/0"]
