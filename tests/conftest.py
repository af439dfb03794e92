"""Small real inputs shared by the tests (a model folder, parquet files); tests marked `gpu` need a GPU."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

# Ranks and workers share the cores of the machine; without this torch gives each of them all.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Of the processes that tests start.
QUICK_IMPORTS = Path(__file__).parent / "support" / "quick_imports"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(QUICK_IMPORTS), os.environ.get("PYTHONPATH")]))


def arithmetic_rows(count: int, seed: int = 0) -> list[dict]:
    """Rows as `data_preprocess/numina_cot.py` writes them, of different lengths."""
    generator = random.Random(seed)
    rows = []
    for index in range(count):
        numbers = [generator.randint(1, 99) for _ in range(generator.randint(2, 5))]
        question, total = " + ".join(map(str, numbers)), sum(numbers)
        rows.append(
            {
                "data_source": "arithmetic",
                "prompt": [{"role": "user", "content": question}],
                "reward_model": {"style": "rule", "ground_truth": str(total)},
                "extra_info": {
                    "split": "train",
                    "index": index,
                    "question": question,
                    "answer": f"The sum of {len(numbers)} numbers is \\boxed{{{total}}}.",
                },
            }
        )
    return rows


def write_parquet(path: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    from tests.support.tiny_model import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def train_file(tmp_path_factory) -> Path:
    return write_parquet(tmp_path_factory.mktemp("data") / "train.parquet", arithmetic_rows(48))


@pytest.fixture(scope="session")
def val_file(tmp_path_factory) -> Path:
    return write_parquet(tmp_path_factory.mktemp("data") / "val.parquet", arithmetic_rows(7, seed=1))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_tests:
        return
    import torch  # takes a second: only where a GPU test was collected

    if not torch.cuda.is_available():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="no GPU"))
