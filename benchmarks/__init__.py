"""What the agent costs on this machine: each module is a command that prints JSON."""
