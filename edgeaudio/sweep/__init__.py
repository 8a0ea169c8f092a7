"""The table method x calibration x path: what each way of quantizing one checkpoint costs and saves."""
