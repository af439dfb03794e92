"""log p of the rows of the next steps under the policy as it was before the first of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from verl.utils import tensordict_utils as tu

if TYPE_CHECKING:
    from verl_ext.trainer.supervised.dft import DFTTrainer


class OldPolicy:
    """Computes them once every so many steps, and keeps those of the steps to come.

    A checkpoint in between keeps them too: the weights that they are of are no longer there.

    Args:
        trainer: whose rows and engine.
        steps: between two old policies.
    """

    def __init__(self, trainer: DFTTrainer, steps: int) -> None:
        self.trainer = trainer
        self.steps = steps
        self._of_step: dict[int, list[Tensor]] = {}

    def of_step(self, step: int) -> list[Tensor]:
        """Of this rank's rows of a step (from 0), in their order; (tokens,) each, fp32, laid out like log-probs.

        Called by all ranks together, before the step's update.
        """
        if step not in self._of_step:
            first = step - step % self.steps
            last = min(first + self.steps, self.trainer.total_training_steps)
            self._of_step = {later: self._compute(later) for later in range(step, last)}
        return self._of_step[step]

    def state(self, step: int) -> dict[str, Tensor]:
        """What a checkpoint after so many steps has to keep: nothing where the next step has a new old policy."""
        return {
            f"{later}.{row}": values.cpu()
            for later, rows in self._of_step.items()
            if later >= step
            for row, values in enumerate(rows)
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        steps: dict[int, dict[int, Tensor]] = {}
        for name, values in state.items():
            step, row = map(int, name.split("."))
            steps.setdefault(step, {})[row] = values
        self._of_step = {step: [rows[row] for row in sorted(rows)] for step, rows in steps.items()}

    def _compute(self, step: int) -> list[Tensor]:
        trainer = self.trainer
        data = trainer._batch(trainer._local_rows(step))
        tu.assign_non_tensor(data, sp_size=trainer.config.engine.ulysses_sequence_parallel_size)
        with trainer.engine.eval_mode():
            output = trainer.engine.infer_batch(data, loss_function=None)  # every rank keeps what its loss needs
        return [values.cpu() for values in output["model_output"]["log_probs"].unbind()]
