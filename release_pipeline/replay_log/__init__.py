"""Releases that were logged somewhere, put through the gate on a virtual clock.

``columns`` says which column of a log tells what, ``log_table`` reads the rows, ``frozen`` fixes what a release fixes
at its start, ``arrivals`` lays the rows out by tick, ``virtual_clock`` drives one release, ``results`` tells the end.
"""
