"""Two torchrun agents, as on two nodes, over loopback: the numbers of one node with as many ranks."""

from __future__ import annotations

import pytest

from tests.support.launch import finish, free_port, metrics, run, start, trainer_arguments


@pytest.mark.slow
def test_two_nodes_train_like_one(model_folder, train_file, tmp_path):
    port = free_port()
    more = ("trainer.total_training_steps=3", "trainer.save_freq=2")
    arguments = trainer_arguments(model_folder, train_file, tmp_path / "two", *more)
    nodes = [
        start(
            arguments,
            ranks=1,
            log=tmp_path / f"node{rank}.log",
            launcher=[
                *("--nnodes=2", f"--node_rank={rank}"),
                *("--master_addr=127.0.0.1", f"--master_port={port}"),
            ],
        )
        for rank in range(2)
    ]
    for rank, node in enumerate(nodes):
        assert finish(node) == 0, (tmp_path / f"node{rank}.log").read_text()
    run(trainer_arguments(model_folder, train_file, tmp_path / "one", *more), ranks=2, log=tmp_path / "one.log")
    assert metrics(tmp_path / "two") == metrics(tmp_path / "one")
    # Both nodes see the same disk here: whoever came first put the checkpoint in place, the other one found it there.
    assert sorted(path.name for path in (tmp_path / "two").glob("global_step_*")) == ["global_step_2", "global_step_3"]
