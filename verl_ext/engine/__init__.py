"""How verl's FSDP engine is extended: attention, log-probabilities in fp32, the processor as a device."""

ENGINE_VENDOR = "verl_ext"
"""Value of `VERL_ENGINE_VENDOR` under which verl finds our engines on a GPU."""

# verl first: the end of this import fills its registry with our engines (see verl_ext.plugin). Were it to happen
# in the middle of one of the modules here, that module would be needed before it is complete.
import verl.workers.engine  # noqa: F401
