# SPDX-License-Identifier: Apache-2.0
"""Geometries of other programs: RTK, ASTRA, TIGRE, LEAP and CIL, to and from our 12 numbers a view.

One module for each program; `reconstruction.exchange.files` reads and writes their files by name.  What a program
cannot hold is refused with a sentence that says what it lacks and which one would do.  NumPy and the standard library
only.
"""
