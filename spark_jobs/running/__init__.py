# SPDX-License-Identifier: Apache-2.0
"""The driver: stages, submits, the runner of queued jobs, sessions, settings, reports."""
