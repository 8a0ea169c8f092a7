"""Speed, memory and sizes of a bundle: medians and ratios, side by side in one run."""
