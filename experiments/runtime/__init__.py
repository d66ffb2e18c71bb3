"""Where and how a run goes: devices, checkpoints, folders, interruptions."""
