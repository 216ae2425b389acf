"""The ``megasam`` command: one module per subcommand, put together in ``app``."""


def main() -> None:
    """Entry point of the console script."""
    from megasam_server.cli.app import main as run

    run()
