"""A GPU in nine minutes: everything that one can show, in one prepared command, ordered by worth.

`plan` says which parts there are and what time each has; `running` runs them, each in processes of its own that are
killed on their deadline, and writes what became of each before the next one begins; `gathering` makes one data file of
the folder, whatever ended the run, and `page` the section of docs/gpu.md. docs/gpu.md is for whoever runs it.
"""
