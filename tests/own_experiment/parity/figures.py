from imagination.figures import COLUMN, Drawn


def loss(runs, *, log: bool = False):
    """Draw the loss of each run during the training.

    Example: imagine-results figure loss --where bits=4 --log
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(COLUMN, 2.3), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        axes.plot(*run.traces.get("loss", ((), ())), label=f"width {run.config['width']}")
    axes.set(xlabel="step", ylabel="loss", yscale="log" if log else "linear")
    axes.legend()
    return Drawn(figure)
