"""What every run has: a command line, a launch, checkpoints, a log, an orderly end."""
