"""`python -m vdp`."""

from vdp.cli import main

main()
