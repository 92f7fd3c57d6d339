# SPDX-License-Identifier: Apache-2.0
"""The files of a run in the store: their names, their forms, and the sweep of what killed jobs left."""
