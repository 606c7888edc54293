import torch
from torch.nn import Linear, Sequential, Tanh
from torch.nn.functional import binary_cross_entropy_with_logits


def run(config, recorder):
    torch.manual_seed(config.seed)
    inputs = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * config.bits)
    wanted = inputs.sum(1) % 2
    network = Sequential(Linear(config.bits, config.width), Tanh(), Linear(config.width, 1))
    weights = dict(network.named_parameters())
    step = torch.tensor(0)
    if recorder.restored is not None:
        state = {name: torch.from_numpy(value) for name, value in recorder.restored.items()}
        step = state.pop("step")
        network.load_state_dict(state)
    while step < config.max_steps:
        recorder.checkpoint({"step": step.numpy(), **{n: w.detach().numpy() for n, w in weights.items()}})
        loss = binary_cross_entropy_with_logits(network(inputs)[:, 0], wanted)
        for weight, slope in zip(weights.values(), torch.autograd.grad(loss, weights.values()), strict=True):
            weight.data -= config.lr * slope
        if step % 100 == 0:
            recorder.trace("loss", int(step), loss.item())
            recorder.progress(int(step), {"loss": loss.item()})
        step += 1
    right = (network(inputs)[:, 0] > 0) == wanted.bool()
    recorder.metric("accuracy", right.double().mean().item())
    recorder.artifact("network", {name: weight.detach().numpy() for name, weight in weights.items()})
