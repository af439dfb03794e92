"""DFT and NFT for verl: supervised objectives as strong as RL for math reasoning."""

__version__ = "0.1.0"
