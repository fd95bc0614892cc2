"""Other libraries' programs for the same task, each run by an interpreter that has the library.

They are scripts: nothing imports them, and they import nothing of `bmg`.
"""
