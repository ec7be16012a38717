"""System checks that catch an insecure production set-up."""
