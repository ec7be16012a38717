from typing import Any

from fmv.cli import FmvCommand
from robots import services
from robots.errors import NameTaken

ROBOTS: list[dict[str, Any]] = [
    {"name": "Bender", "is_great": True, "location": "Earth", "description": "Please insert girder"},
    {"name": "Crow T. Robot", "location": "Satellite of Love", "description": "You know you want me baby"},
    {"name": "Wall-E", "location": "Earth", "description": "Waste Allocation Load Lifter: Earth-class"},
]


class Command(FmvCommand):
    help = "Add the three sample robots. Those that exist are not changed."
    so_far = "Some may be added."

    def handle(self, *args: object, **options: Any) -> None:
        for values in ROBOTS:
            try:
                services.create(**values, by="command")
            except NameTaken:
                self.stdout.write(f"{values['name']} exists already.")
            else:
                self.stdout.write(f"Added {values['name']}.")
