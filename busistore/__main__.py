"""`python -m busistore` is the command `busistore`."""

from busistore.cli import main

main()
