"""The laws; `properties.core.law.all_laws` lists them by id."""

MODULES = (
    "manifold",
    "manifold_identities",
    "mixing",
    "guarantees",
    "coefficients",
    "block",
    "depth",
    "depth_shapes",
    "gradient",
    "gradient_block",
    "gradient_calls",
    "gradient_depth",
    "gradient_ends",
    "gradient_mappings",
    "gradient_guarantees",
    "execution",
    "execution_floods",
    "execution_poison",
    "execution_strides",
    "execution_shapes",
    "device",
    "device_memory",
    "device_queues",
    "precision",
)
"""The modules that state laws, in the order in which they are listed and tried."""
