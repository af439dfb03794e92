"""Train with DFT (arXiv 2508.05629), plain SFT or another objective on verl's FSDP engine.

    torchrun --standalone --nproc_per_node=8 -m verl_ext.trainer.fsdp_dft_trainer \\
        model.path=Qwen/Qwen2.5-Math-1.5B data.train_files=numina_cot/train.parquet \\
        data.prompt_key=extra_info data.prompt_dict_keys=[question] \\
        data.response_key=extra_info data.response_dict_keys=[answer]

Without torchrun it runs as a single process. `--cfg` prints the composed configuration and stops.

Objectives (objective.name=NAME; docs/methods.md says which when), and their parameters with the defaults:

    dft         -p log p with p held, arXiv 2508.05629
    sft         -log p
    power       objective.alpha=1.0
    top_p       objective.threshold=0.1 objective.denominator=kept|all
    top_log_p   objective.threshold=0.1 objective.denominator=kept|all (all: ProFit)
    eaft        objective.alpha=1.0 objective.top_k=20
    asft        objective.kl_weight=0.1 objective.direction=forward|reverse
    iw_sft      objective.level=sequence|token objective.exponent=2.0
    psft        objective.clip_high=0.28 objective.steps=8

One of your own: model.external_lib=MODULE; `--cfg` then shows its parameters too.

Exit codes: 0 done; 2 the input cannot work (one line says why); 3 training diverged; 75 stopped by SIGTERM or
SIGINT after saving, run the same command to continue.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from omegaconf import OmegaConf

from verl_ext.cli import user_errors_exit

CONFIG_NAME = "dft_trainer"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trainer with `key=value` arguments; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return 0
    with user_errors_exit():
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    from verl_ext.trainer.run.command_line import compose_config
    from verl_ext.trainer.supervised.checks import check_device, ranks_from_environment
    from verl_ext.trainer.supervised.dft_checks import check_config, check_rows
    from verl_ext.trainer.supervised.vocabulary import DFT_VOCABULARY

    only_print = "--cfg" in arguments
    config = compose_config(CONFIG_NAME, [argument for argument in arguments if argument != "--cfg"], DFT_VOCABULARY)
    if only_print:
        from verl_ext.trainer.supervised.objective import complete_objective

        complete_objective(config)
        print(OmegaConf.to_yaml(config))
        return 0
    world_size = ranks_from_environment()
    defaults = compose_config(CONFIG_NAME, [])
    check_config(config, world_size=world_size)

    # torch and verl are imported from here on
    from verl_ext.trainer.run import startup
    from verl_ext.trainer.run.launch import choose_device, complete_config, load_datasets

    device = choose_device(config)
    check_device(config, device)
    complete_config(config, device)
    startup.reached("imports")
    train_dataset, val_dataset = load_datasets(config)
    check_rows(config, len(train_dataset))
    startup.reached("data")

    from verl_ext.trainer.supervised.dft import DFTTrainer
    from verl_ext.trainer.supervised.run import train

    return train(
        *(DFTTrainer, config, train_dataset, val_dataset), defaults=defaults, device=device, world_size=world_size
    )


if __name__ == "__main__":
    sys.exit(main())
