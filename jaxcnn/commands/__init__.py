"""The commands: a module for each, whose ``main(args)`` returns the exit code."""
