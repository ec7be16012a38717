"""`make bench`: what FMV costs, as ratios to the same work done without it. README.md explains options and rows."""
