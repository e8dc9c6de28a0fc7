"""`python -m autocompress.cli`."""

from autocompress.cli.app import main

main()
