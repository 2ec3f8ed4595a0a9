"""The verdict on coordinate sizes: slopes, validity, diagnosis, judgement."""
