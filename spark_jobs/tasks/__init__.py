# SPDX-License-Identifier: Apache-2.0
"""What runs on the workers: a plan and a task's number in, figures out."""
