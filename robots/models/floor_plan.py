"""FloorPlan: the picture of a map on which robots report their positions, and where on the map it lies."""

from django.db import models

MAX_MAP_NAME = 200  # characters, as in a report


class FloorPlan(models.Model):
    """robots.floor_plans writes it. It lies on its map as ROS map_server's YAML file says."""

    name = models.CharField(
        "map", primary_key=True, db_column="_id", max_length=MAX_MAP_NAME, help_text="Empty: the map without a name."
    )
    image = models.BinaryField(help_text="A PNG.")
    digest = models.CharField(max_length=64, help_text="SHA-256 of the image, its ETag.")
    width = models.PositiveIntegerField(help_text="Pixels.")
    height = models.PositiveIntegerField(help_text="Pixels.")
    resolution = models.FloatField(help_text="Metres a pixel.")
    x = models.FloatField(help_text="Of the lower left corner of the picture on the map, in metres.")
    y = models.FloatField(help_text="The same.")
    yaw = models.FloatField(help_text="By which the picture is turned about that corner, in radians, counterclockwise.")
    changed_at = models.DateTimeField()
    changed_by = models.CharField(max_length=150)

    def __str__(self) -> str:
        return self.name
