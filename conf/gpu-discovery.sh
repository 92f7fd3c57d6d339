#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Tells Spark which GPUs a node has: spark.worker.resource.gpu.discoveryScript and spark.executor.resource.gpu.discoveryScript.
# Prints one line of JSON with the indices that nvidia-smi lists; a node without a GPU prints an empty list.
addresses=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | tr -d ' \r' | sed 's/.*/"&"/' | paste -s -d , -)
printf '{"name": "gpu", "addresses": [%s]}\n' "$addresses"
