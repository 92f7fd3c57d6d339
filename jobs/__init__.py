# SPDX-License-Identifier: Apache-2.0
"""A durable queue of jobs: kind and JSON parameters, states, leases, events."""
