"""Sine waves continued by two recurrent cells, trained with L-BFGS on the whole set at once."""

import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.optim as optim


def sine_waves(sequences, length, period=20):
    rng = np.random.default_rng(2)
    x = np.arange(length) + rng.integers(-4 * period, 4 * period, sequences).reshape(sequences, 1)
    return np.sin(x / 1.0 / period).astype("float64")


class Sequence(nn.Module):
    def __init__(self, hidden=8):
        super().__init__()
        self.hidden = hidden
        self.lstm1 = nn.LSTMCell(1, hidden)
        self.lstm2 = nn.LSTMCell(hidden, hidden)
        self.linear = nn.Linear(hidden, 1)

    def start(self, rows):
        return torch.zeros(rows, self.hidden, dtype=torch.double)

    def forward(self, input, future=0):
        outputs = []
        h_t, c_t = self.start(input.size(0)), self.start(input.size(0))
        h_t2, c_t2 = self.start(input.size(0)), self.start(input.size(0))
        for input_t in input.split(1, dim=1):
            h_t, c_t = self.lstm1(input_t, (h_t, c_t))
            h_t2, c_t2 = self.lstm2(h_t, (h_t2, c_t2))
            output = self.linear(h_t2)
            outputs += [output]
        for _ in range(future):
            h_t, c_t = self.lstm1(output, (h_t, c_t))
            h_t2, c_t2 = self.lstm2(h_t, (h_t2, c_t2))
            output = self.linear(h_t2)
            outputs += [output]
        outputs = torch.stack(outputs, dim=1).squeeze(2)
        return outputs


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=2, help="steps to run")
    parser.add_argument("--sequences", type=int, default=20, help="waves, of which some are held back")
    parser.add_argument("--held-back", type=int, default=3)
    parser.add_argument("--length", type=int, default=12, help="points of a wave")
    parser.add_argument("--future", type=int, default=10, help="points to go on")
    opt = parser.parse_args()
    torch.manual_seed(0)
    data = sine_waves(opt.sequences, opt.length)
    input = torch.from_numpy(data[opt.held_back :, :-1])
    target = torch.from_numpy(data[opt.held_back :, 1:])
    test_input = torch.from_numpy(data[: opt.held_back, :-1])
    test_target = torch.from_numpy(data[: opt.held_back, 1:])

    seq = Sequence()
    seq.double()
    criterion = nn.MSELoss()
    optimizer = optim.LBFGS(seq.parameters(), lr=0.8, max_iter=2)
    for i in range(opt.steps):
        print("STEP: ", i)

        def closure():
            optimizer.zero_grad()
            out = seq(input)
            loss = criterion(out, target)
            print("loss:", loss.item())
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.no_grad():
            pred = seq(test_input, future=opt.future)
            known = pred[:, : pred.size(1) - opt.future]
            loss = criterion(known, test_target)
            print("test loss: %.6f" % loss.item())
            continued = pred[:, pred.size(1) - opt.future :].detach().numpy()
        rows = [" ".join(f"{value:.2f}" for value in row[:3]) for row in continued[:3]]
        print("\n".join(rows))
    torch.save({"step": opt.steps, "model": seq.state_dict()}, "waves.pt")


if __name__ == "__main__":
    main()
