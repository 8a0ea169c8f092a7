"""Counting events over more audio than one process hears in a day: shard by shard, on Ray where wanted, resumable."""
