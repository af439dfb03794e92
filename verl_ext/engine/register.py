"""Importing this module registers our engines with verl (see `verl_ext.plugin`)."""

import verl_ext.engine.attention
import verl_ext.engine.fsdp
import verl_ext.engine.fsdp_cpu  # noqa: F401
