"""From whatever a trainer leaves to a Hugging Face folder: shards are put together, LoRA adapters merged."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from verl_ext.errors import ConfigError, UserError
from verl_ext.evaluation.store import write_json
from verl_ext.model_folder import looks_like_hub_id, require_model_folder
from verl_ext.model_rope import add_old_spelling
from verl_ext.run_folder import INCOMPLETE_SUFFIX

SOURCE_FILE = "exported_from.json"
TOKENIZER_SUFFIXES = (".json", ".jinja", ".model", ".txt")


@dataclass(frozen=True)
class ModelSource:
    """What a path holds: a finished model, the shards of one, or an adapter."""

    kind: Literal["model", "shards", "adapter"]
    path: str


def find_model(path: str) -> ModelSource:
    """What there is at a path: a Hugging Face folder, a checkpoint or a run of a trainer, a LoRA adapter, or a hub id.

    Raises:
        UserError: none of these.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        require_model_folder(path)
        return ModelSource("model", path)
    if (folder / "adapter_config.json").is_file():
        return ModelSource("adapter", str(folder))
    if (folder / "config.json").is_file():
        require_model_folder(path)
        return ModelSource("model", str(folder))
    inner = folder / "huggingface"
    if any(inner.glob("*.safetensors")) and not inner.with_name(inner.name + INCOMPLETE_SUFFIX).exists():
        return ModelSource("model", str(inner))
    if next(folder.glob("model_world_size_*.pt"), None):
        return ModelSource("shards", str(folder))
    if (folder / "actor").is_dir():
        return find_model(str(folder / "actor"))
    tracker = folder / "latest_checkpointed_iteration.txt"
    if tracker.is_file():
        return find_model(str(folder / f"global_step_{tracker.read_text().strip()}"))
    require_model_folder(path)
    raise UserError(f"model: nothing in {path} that can be evaluated")


def model_folder_of(path: str, output_dir: Path) -> str:
    """A folder or hub id that transformers loads: the path itself, or what is made of it in `output_dir/model`.

    Raises:
        UserError: see `find_model`; or the export there is that of another checkpoint.
    """
    source = find_model(path)
    if source.kind == "model":
        return source.path
    target = output_dir / "model"
    if not target.exists():
        print(f"model: {path} holds {_WORDS[source.kind]}: exporting it to {target}", file=sys.stderr)
        export(path, target)
    elif not _is_export_of(source, target):
        raise UserError(f"output_dir: {target} was not exported from {path} as it is now; choose another folder")
    return str(target)


_WORDS = {"shards": "a sharded checkpoint", "adapter": "a LoRA adapter"}


def export(path: str, target: Path, *, base: str | None = None, dtype: str | None = None) -> None:
    """Write the model of a checkpoint or an adapter as a Hugging Face folder; it appears only when complete.

    Args:
        path: as for `find_model`.
        target: must not exist.
        base: the base model of an adapter, where its own configuration does not say it or says another path.
        dtype: of the weights; None for that of the model's configuration.

    Raises:
        UserError: see `find_model`; the target is there already; the base model cannot be found.
    """
    if target.exists():
        raise UserError(f"{target} is there already; name a new folder")
    source = find_model(path)
    partial = target.with_name(target.name + INCOMPLETE_SUFFIX)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    if source.kind == "adapter":
        _merge_adapter(Path(source.path), base, partial, dtype)
    elif source.kind == "shards":
        _merge_shards(Path(source.path), partial, dtype)
    elif looks_like_hub_id(source.path) and not Path(source.path).exists():
        raise ConfigError("export", given=path, expected="a checkpoint or an adapter; the hub's models need no export")
    else:
        _rewrite(Path(source.path), partial, dtype)
    write_json(partial / SOURCE_FILE, _stamp(source))
    partial.rename(target)


def _merge_shards(folder: Path, target: Path, dtype: str | None) -> None:
    from transformers import AutoConfig

    with warnings.catch_warnings():  # verl probes for engines that nobody asked for
        warnings.filterwarnings("ignore", message=".*engine is not available.*")
        from verl_ext.engine.hf_export import merge_into_base, write_model
        from verl_ext.engine.shards import adapter_of_shards, read_shards

    described = folder / "huggingface"
    if not (described / "config.json").is_file():
        raise UserError(f"{folder}: no huggingface/config.json beside the shards")
    config = AutoConfig.from_pretrained(described)
    weights = read_shards(folder)
    adapter = adapter_of_shards(folder, weights)
    if adapter is not None:
        config, weights = merge_into_base(config, adapter, weights)
    write_model(
        config,
        weights,
        dtype=_torch_dtype(dtype, config),
        generation_config=_generation_config(described),
        folder=target,
    )
    _copy_tokenizer(described, target)


def _merge_adapter(adapter: Path, base: str | None, target: Path, dtype: str | None) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():  # as above
        warnings.filterwarnings("ignore", message=".*engine is not available.*")
        from verl_ext.engine.adapters import read_adapter_config, why_not_mergeable
        from verl_ext.engine.hf_export import merge_into_base, write_model

    described = read_adapter_config(adapter)
    base = base or described.base_model_name_or_path
    if not base:
        raise UserError(f"{adapter}: its adapter_config.json names no base model; give it with base=PATH")
    require_model_folder(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    reason = why_not_mergeable(model.config, described)
    if reason is not None:
        raise UserError(f"{adapter}: cannot be merged into {base}: {reason}")
    generation = model.generation_config
    model = PeftModel.from_pretrained(model, adapter)
    config, weights = merge_into_base(model.get_base_model().config, model.peft_config["default"], model.state_dict())
    write_model(config, weights, dtype=_torch_dtype(dtype, config), generation_config=generation, folder=target)
    _save_tokenizer(base, target)


def _generation_config(folder: Path):
    from transformers import GenerationConfig

    return GenerationConfig.from_pretrained(folder) if (folder / "generation_config.json").is_file() else None


def _rewrite(folder: Path, target: Path, dtype: str | None) -> None:
    """A finished model once more: a plain copy, or its weights in another dtype."""
    from transformers import AutoModelForCausalLM

    if dtype is None:
        shutil.copytree(folder, target, dirs_exist_ok=True)
        return
    AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(target)
    add_old_spelling(target)
    _copy_tokenizer(folder, target)


def _torch_dtype(name: str | None, config):
    import torch

    if name is None:
        return getattr(config, "dtype", None) or torch.float32
    if name not in ("bfloat16", "float16", "float32"):
        raise ConfigError("dtype", given=name, expected="bfloat16, float16 or float32")
    return getattr(torch, name)


def _copy_tokenizer(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if path.suffix in TOKENIZER_SUFFIXES and not (target / path.name).exists():
            shutil.copy(path, target)


def _save_tokenizer(base: str, target: Path) -> None:
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(base).save_pretrained(target)


def _stamp(source: ModelSource) -> dict[str, object]:
    """What an export came from; another checkpoint under the same path has another one."""
    files = sorted(path for path in Path(source.path).glob("*") if path.suffix in (".pt", ".safetensors", ".json"))
    return {
        "path": str(Path(source.path).resolve()),
        "files": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files],
    }


def _is_export_of(source: ModelSource, target: Path) -> bool:
    stamp = target / SOURCE_FILE
    return stamp.is_file() and json.loads(stamp.read_text()) == _stamp(source)
