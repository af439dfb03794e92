"""What every script of `data_preprocess/` shares: read a source, check rows, write parquet, report."""
