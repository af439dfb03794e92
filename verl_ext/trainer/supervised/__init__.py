"""Training on fixed data under torchrun: DFT, SFT and offline NFT."""
