"""What strangers and bad luck may do to a run: text with escape sequences, signals, full disks, torn files, exceptions.

Nothing here knows what hyper-connections are, and nothing here imports another room.
"""
