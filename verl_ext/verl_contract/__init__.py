"""What this package relies on in verl: `table.yaml`, held against the source of the installed verl.

    python -m verl_ext.verl_contract            what moved since the table was written; the first thing to run
                                                after another verl has been installed
    python -m verl_ext.verl_contract --write    write the table anew from today's code and the installed verl

`source` reads Python files without importing them, so parts of verl that need a GPU or vLLM are held too.
"""
