"""What runs for hours: cells that are pure and named by what they ask, on an engine that exists.

A *cell* is one question (`cells`). A *kind* says which cells there are and answers one of them (`kinds`). A *folder*
holds the manifest and one file for every answer (`folder`). An *engine* is somebody else's executor (`engines`), and
`running` hands it what is missing.
"""
