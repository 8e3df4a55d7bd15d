"""Values that params.yaml, the command line, the Python API and the evaluation share; no torch."""

MIN_START_TIME = 0.8  # least diffusion time at which sampling may start from pure noise
