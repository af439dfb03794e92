"""DFT and NFT for verl: supervised objectives as strong as RL for math reasoning."""

from verl_ext.registration import REGISTRATIONS, register_when_imported

__version__ = "0.1.0"

# Here, before any other module of this package can be imported: then it does not matter whether verl's registries or
# what we register there is imported first. Until verl is imported this only waits.
for _owner, _registration in REGISTRATIONS.items():
    register_when_imported(_owner, _registration)
