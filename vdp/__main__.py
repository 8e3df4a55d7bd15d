"""`python -m vdp`."""

from vdp.cli.app import main

main()
