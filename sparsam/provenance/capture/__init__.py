"""Seeing what a Python program does to files, without a change to it.

Seen: ``open`` in all its forms with what goes through it (counted where Python calls the system, so buffers cost nothing more),
the functions of ``os`` on descriptors and names, memory maps, and the libraries of :mod:`.libraries` that open files in C.
Not seen: files opened inside other C libraries, unless the program is started with the interposer; ``os.splice``; descriptors
that came from another program. Each log says so.
"""
