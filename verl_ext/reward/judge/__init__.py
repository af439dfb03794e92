"""A remote judge for free-form answers such as proofs: an OpenAI-compatible endpoint and prompts from files.

`config` says where the judge is and how its reply becomes a number, `prompt` what it is shown and what of its reply is
the score, `endpoint` how it is asked, `replies` what is kept of it, and `grade` puts them together.
"""

from verl_ext.reward.judge.config import JudgeConfig
from verl_ext.reward.judge.grade import Judge

__all__ = ["Judge", "JudgeConfig"]
