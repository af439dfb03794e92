r"""Arithmetic problems with worked solutions, made on the spot: no download, any number, every answer checked.

    python data_preprocess/arithmetic.py --local_dir data/arithmetic

writes `train.parquet` and `test.parquet`. Problems come from reasoning-gym (`chain_sum`, and
`basic_arithmetic` with parentheses); the worked solution, one step for each operation, is ours:

    What is 47 + 12 - 33? Put your final answer within \boxed{}.
    47 + 12 = 59, 59 - 33 = 26. The answer is \boxed{26}.

No problem occurs twice, in one split or in both, a reordered sum counting as the same problem. The
test problems depend on the seed, the levels and the test size alone, so more training data leaves
them as they were. Here the instruction belongs to the problem: it is in `prompt` and in `question`.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from reasoning_gym.arithmetic.basic_arithmetic import BasicArithmeticDataset, BasicArithmeticDatasetConfig
from reasoning_gym.arithmetic.chain_sum import ChainSumConfig, ChainSumDataset
from reasoning_gym.dataset import ProceduralDataset

from verl_ext.cli import user_errors_exit
from verl_ext.data.prepare.rows import make_row
from verl_ext.data.prepare.script import Arguments, prepare, whole_number
from verl_ext.data.prepare.split_report import SplitReport
from verl_ext.errors import DataError

_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}
_MAX_REPEATS_IN_A_ROW = 1_000


def _chain_sum(terms: tuple[int, int], digits: tuple[int, int]) -> Callable[[int], ProceduralDataset]:
    def dataset(seed: int) -> ProceduralDataset:
        return ChainSumDataset(
            ChainSumConfig(
                min_terms=terms[0], max_terms=terms[1], min_digits=digits[0], max_digits=digits[1], seed=seed
            )
        )

    return dataset


def _mixed(seed: int) -> ProceduralDataset:
    # With parentheses only: without them reasoning-gym 0.1.25 computes its answers from left to
    # right whatever the operators, and shows another divisor than the one it divides by.
    return BasicArithmeticDataset(
        BasicArithmeticDatasetConfig(
            min_terms=2,
            max_terms=4,
            min_digits=1,
            max_digits=1,
            operators=["+", "-", "*"],
            allow_negation=False,  # of a parenthesis: it nests into --(--(...))
            seed=seed,
        )
    )


def _sums(seed: int) -> ProceduralDataset:
    # Small models fail at some of these some of the time, which is what a group of answers can teach; of three
    # two-digit terms with a difference SmolLM2-135M got 1 in 40 right after 40 steps of DFT.
    return BasicArithmeticDataset(
        BasicArithmeticDatasetConfig(
            min_terms=3,
            max_terms=3,
            min_digits=2,
            max_digits=2,
            operators=["+"],
            allow_parentheses=False,
            allow_negation=False,
            seed=seed,
        )
    )


LEVELS: dict[str, Callable[[int], ProceduralDataset]] = {
    "sums": _sums,
    "easy": _chain_sum(terms=(2, 2), digits=(1, 2)),
    "standard": _chain_sum(terms=(3, 3), digits=(1, 2)),
    "hard": _chain_sum(terms=(4, 6), digits=(2, 3)),
    "mixed": _mixed,
}


def worked_solution(expression: str) -> tuple[str, int]:
    """The steps that evaluate `expression` in its usual order, as one line, and the value."""
    steps: list[str] = []

    def evaluate(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(value)):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))):
                return -value
            case ast.BinOp(left=left, op=operator, right=right):
                first, symbol, second = evaluate(left), _OPERATORS[type(operator)], evaluate(right)
                value = {"+": first + second, "-": first - second, "*": first * second}[symbol]
                steps.append(f"{first} {symbol} {second} = {value}")
                return value
        raise ValueError(f"no arithmetic: {ast.dump(node)}")

    value = evaluate(ast.parse(expression, mode="eval").body)
    return f"{', '.join(steps)}. The answer is \\boxed{{{value}}}.", value


class ProblemStream:
    """An endless stream of different problems that takes its levels in turn.

    Args:
        levels: names in `LEVELS`.
        seed: any integer; the same stream comes back for the same levels and seed.
    """

    def __init__(self, levels: list[str], seed: int) -> None:
        self._levels = levels
        self._draws = {level: _draws(level, seed) for level in levels}
        self._seen: set[Hashable] = set()

    def take(self, count: int, report: SplitReport) -> Iterator[dict[str, Any]]:
        """The rows of the next `count` problems, with repeated draws told to `report`."""
        for index in range(count):
            level = self._levels[index % len(self._levels)]
            expression, answer = self._next_new(level, report)
            solution, value = worked_solution(expression)
            if value != answer:
                raise RuntimeError(f"{expression}: reasoning-gym says {answer}, the worked solution {value}")
            problem = f"What is {expression}? Put your final answer within \\boxed{{}}."
            yield make_row(
                data_source=f"arithmetic/{level}",  # verl reports validation accuracy for each data source
                split=report.split,
                index=index,
                prompt=problem,
                question=problem,
                answer=solution,
                ground_truth=str(answer),
            )

    def _next_new(self, level: str, report: SplitReport) -> tuple[str, int]:
        for _ in range(_MAX_REPEATS_IN_A_ROW):
            draw, expression, answer = next(self._draws[level])
            report.read += 1
            identity = _identity(expression)
            if identity not in self._seen:
                self._seen.add(identity)
                return expression, answer
            report.drop("repeats a problem", f"level {level} draw {draw}")
        raise DataError(
            f"level {level}: no new problem after {len(self._seen)}; ask for fewer rows or add a harder level"
        )


def _draws(level: str, seed: int) -> Iterator[tuple[int, str, int]]:
    # reasoning-gym seeds item i with seed + i, so that neighbouring seeds share nearly all their
    # problems: a hash moves them apart.
    digest = hashlib.sha256(f"{level}/{seed}".encode()).digest()
    dataset = LEVELS[level](int.from_bytes(digest[:8], "big"))
    draw = 0
    while True:
        item = dataset[draw]
        # The round trip drops parentheses that group nothing: ( ( -8 * 1 ) ) + 2 becomes -8 * 1 + 2.
        yield draw, ast.unparse(ast.parse(item["metadata"]["expression"], mode="eval")), int(item["answer"])
        draw += 1


def _identity(expression: str) -> Hashable:
    """Equal for expressions that are one problem: for a sum, whatever the order of its terms."""
    if "*" in expression or "(" in expression:
        return expression
    tokens = ["+", *expression.split()]
    return tuple(sorted(zip(tokens[::2], tokens[1::2], strict=True)))


def main(argv: list[str] | None = None) -> None:
    parser = Arguments("Arithmetic problems with worked solutions.", local_dir="data/arithmetic")
    parser.add_argument("--train_size", type=whole_number(1), default=640, help="training problems")
    parser.add_argument("--test_size", type=whole_number(1), default=128, help="held-out problems")
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=["standard"], help="taken in turn")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other problems")
    with user_errors_exit():
        arguments = parser.parse_args(argv)
        stream = ProblemStream(list(dict.fromkeys(arguments.levels)), arguments.seed)
        prepare(
            arguments,
            {
                # First, so that the size of the training split cannot change it.
                "test": lambda report: stream.take(arguments.test_size, report),
                "train": lambda report: stream.take(arguments.train_size, report),
            },
        )


if __name__ == "__main__":
    main()
