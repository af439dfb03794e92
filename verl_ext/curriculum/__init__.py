"""Training in stages: a plan on one page, each stage an ordinary run in its own folder, the next begun with its weights.

`plan` reads the page, `state` remembers what is done, `commands` says what each stage starts, `run` starts and watches
them, and `report` draws one curve over all.
"""
