"""How a batch divides over devices that train one run together."""


def check_parts(batch_size: int, accumulation: int, devices: int) -> None:
    """Refuse a batch that does not divide.

    Raises:
        ValueError: if what goes through the model at a time is no whole number of sequences for each device.
    """
    at_a_time = batch_size // accumulation
    if at_a_time % devices == 0:
        return
    nearest = devices * accumulation * max(round(at_a_time / devices), 1)
    parts = f" in {accumulation} parts of {at_a_time}" if accumulation > 1 else ""
    raise ValueError(
        f"batch_size={batch_size}{parts} does not divide over gpus_per_run={devices}, each of which takes as many "
        f"sequences; try batch_size={nearest}"
    )
