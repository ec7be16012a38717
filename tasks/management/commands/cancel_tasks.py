from tasks.cli.filters import BulkCommand


class Command(BulkCommand):
    help = """Cancel all tasks that match and have not finished.

A waiting task is revoked at once; a running task is stopped by its worker within seconds. Ctrl-C stops after the
current step; run the same command again for the rest."""
    examples = """
        cancel_tasks --robot Bender --dry-run
        cancel_tasks --status QUEUED --label night
        cancel_tasks --all --yes
    """
    action = "cancel"
    done = "cancelled"
