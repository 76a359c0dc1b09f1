"""Files, the network, absent packages, processes and devices: nothing is touched, and what is not known is said."""

import textwrap

import pytest
from checking import checked, line_of, told

pytestmark = pytest.mark.slow

pytest.importorskip("torch")

RIGHT = {
    "writing": """
        import os, pathlib, logging, json
        import torch
        os.makedirs('out/x', exist_ok=True)
        pathlib.Path('out/y').mkdir(parents=True)
        with open('out/log.txt', 'w') as file:
            file.write('12\\n')
        assert int(open('out/log.txt').read()) == 12
        json.dump({'a': [1]}, open('out/a.json', 'w'))
        pathlib.Path('out/b').write_text('b')
        logging.FileHandler('out/c.log').close()
        model = torch.nn.Linear(2, 3)
        torch.save(model.state_dict(), 'out/m.pt')
        other = torch.nn.Linear(2, 3)
        other.load_state_dict(torch.load('out/m.pt'))
        assert other(torch.zeros(4, 2)).shape == (4, 3)
        """,
    "states": """
        import torch
        model = torch.nn.Linear(2, 3)
        optimizer = torch.optim.Adam(model.parameters())
        stored = torch.load('checkpoint.pt', map_location='cpu')
        model.load_state_dict(stored['model'])
        optimizer.load_state_dict(stored['optimizer'])
        model.load_state_dict(torch.hub.load_state_dict_from_url('https://nowhere/m.pth'))
        """,
    "pictures-of-progress": """
        import torch
        import matplotlib
        matplotlib.use('Agg')
        import matplotlib.pyplot as plt
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm, trange
        import wandb
        wandb.init(project='x')
        writer = SummaryWriter('runs')
        figure, axes = plt.subplots(1, 2)
        for i in tqdm(range(3)):
            axes[0].plot([i])
            writer.add_scalar('loss', torch.zeros(()).item(), i)
            wandb.log({'i': i})
        plt.savefig('x.png')
        bar = tqdm(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(5, 2)), batch_size=2))
        for (x,) in bar:
            bar.set_description(f'{x.sum().item():.2f}')
        assert sum(1 for _ in trange(4)) == 4
        """,
    "guarded": """
        import torch
        try:
            import apex
        except ImportError:
            apex = None
        assert apex is None
        """,
    "processes": """
        import torch
        import torch.multiprocessing as mp
        import torch.distributed as dist
        from torch.nn.parallel import DistributedDataParallel
        def work(rank, model, data):
            model(data).sum().backward()
        if __name__ == '__main__':
            mp.set_start_method('spawn')
            model = torch.nn.Linear(3, 2).share_memory()
            workers = [mp.Process(target=work, args=(rank, model, torch.zeros(4, 3))) for rank in range(2)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            dist.init_process_group('gloo')
            wrapped = DistributedDataParallel(model)
            assert wrapped(torch.zeros(4, 3)).shape == (4, 2) and dist.get_world_size() == 1
            assert torch.nn.DataParallel(model).module is model
            mp.spawn(work, args=(model, torch.zeros(1, 3)), nprocs=2)
        """,
    "devices": """
        import torch
        torch.cuda.is_available()
        model = torch.nn.Linear(3, 2).cuda()
        x = torch.zeros(4, 3, device='cuda')
        torch.cuda.synchronize()
        y = model(x.cuda() + torch.ones(3).to('cuda:0', non_blocking=True))
        scaler = torch.amp.GradScaler('cpu')
        with torch.autocast('cpu', dtype=torch.bfloat16):
            loss = model(x).float().sum()
        scaler.scale(loss).backward()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler.step(optimizer)
        scaler.update()
        assert y.cpu().numpy is not None
        """,
    "compiled": """
        import torch
        model = torch.compile(torch.nn.Linear(3, 2))
        assert model(torch.zeros(1, 3)).shape == (1, 2)
        @torch.compile
        def double(x):
            return 2 * x
        @torch.jit.script
        def triple(x):
            return 3 * x
        traced = torch.jit.trace(torch.nn.Linear(3, 2), torch.zeros(1, 3))
        assert traced(double(triple(torch.zeros(5, 3)))).shape == (5, 2)
        with torch.profiler.profile() as profile:
            model(torch.zeros(1, 3))
        profile.export_chrome_trace('x.json')
        torch.onnx.export(model, torch.zeros(1, 3), 'x.onnx')
        """,
    "converted": """
        import copy
        import torch
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model.double()
        model(torch.zeros(4, 3).double()).sum().backward()
        assert model.weight.dtype == torch.float64 and model.weight.grad.dtype == torch.float64
        assert optimizer.param_groups[0]['params'][0] is model.weight
        assert copy.deepcopy(model).half().weight.dtype == torch.float16
        """,
}

UNKNOWN = {
    "missing-module": (
        "import torch\nimport foolib  # here\nx = foolib.make(torch.zeros(2))\n",
        "missing-module",
    ),
    "stored-tensor": ("import torch\nx = torch.load('data.pt')\ntorch.relu(x)  # here\n", "missing-module"),
    "missing-text": ("import torch\ntext = open('corpus.txt').read()  # here\n", "missing-file"),
    "hub": ("import torch\nmodel = torch.hub.load('a/b', 'c')  # here\n", "network"),
    "fetched": (
        "import torch\nimport urllib.request\nurllib.request.urlopen('https://nowhere')  # here\n",
        "network",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_programs_that_touch_the_outside_are_proved(name, tmp_path, monkeypatch):
    """Where the outside cannot change a size, nothing stays unknown, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    report = checked(tmp_path, RIGHT[name])
    assert report.verdict.value == "proved", told(report)
    assert [path.name for path in tmp_path.iterdir()] == ["lines.py"]


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_said_with_its_line(name, tmp_path, monkeypatch):
    """A file that is not there, a package, the network: unknown, at the line that asks, and no alarm."""
    monkeypatch.chdir(tmp_path)
    text, code = UNKNOWN[name]
    report = checked(tmp_path, text)
    assert report.verdict.value == "unknown" and not report.findings, told(report)
    assert (code, line_of(text, "# here")) in {(u.code, u.place and u.place.line) for u in report.unknowns}, (
        told(report)
    )


def test_stand_ins_leave_no_trace(tmp_path):
    """After a check all is as before: functions, modules, the finders of imports."""
    import builtins
    import random
    import sys

    import numpy
    import torch

    before = (
        builtins.open,
        random.random,
        numpy.zeros,
        torch.load,
        torch.nn.Module._apply,
        torch.from_numpy,
        list(sys.meta_path),
    )
    checked(
        tmp_path, textwrap.dedent("import torchvision, matplotlib, torch\nfrom torchvision import datasets\n")
    )
    after = (
        builtins.open,
        random.random,
        numpy.zeros,
        torch.load,
        torch.nn.Module._apply,
        torch.from_numpy,
        list(sys.meta_path),
    )
    assert before == after
    assert not {"torchvision", "torchvision.datasets", "matplotlib"} & set(sys.modules)
