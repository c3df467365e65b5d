"""`python -m cluster.cli` is the command `tiny-transformers`."""

from cluster.cli.entry import main

main()
