from tasks.cli.filters import BulkCommand


class Command(BulkCommand):
    help = """Cancel all tasks that match and are not over.

One that waits is revoked at once, a running one is stopped by its worker within seconds. Ctrl-C stops after the step
under way; the same command does the rest."""
    examples = """
        cancel_tasks --robot Bender --dry-run
        cancel_tasks --status QUEUED --label night
        cancel_tasks --all --yes
    """
    action = "cancel"
    done = "cancelled"
