"""Faults planted in the programs over sequences: word_language_model, time_series, snli, bert."""

from programs.catalogue import Fault

WIDTH = ("linear-width",)
BROADCAST = ("broadcast",)
LOSS = ("loss-shape", "broadcast")
CLASSES = ("loss-batch", "loss-target-rank")
STATE = ("rnn-state",)
INPUT = ("rnn-width",)

SEQUENCE_FAULTS = (
    Fault(
        "word_language_model-eval-state", "word_language_model",
        (("model.init_hidden(args.eval_batch_size)", "model.init_hidden(args.batch_size)"),),
        ("self.rnn(emb, hidden)",), STATE, "hidden state", ({}, {"model": "GRU"}), ({"eval_batch_size": 4},),
    ),
    Fault(
        "word_language_model-tied", "word_language_model", (("if nhid != ninp:", "if nhid == 0:"),),
        ("self.decoder(self.drop(output))",), WIDTH, "arguments", ({"tied": True, "emsize": 6, "nhid": 5},),
        ({"emsize": 6, "nhid": 5}, {"tied": True}), ("tied=True", "emsize=6", "nhid=5"),
    ),
    Fault(
        "word_language_model-rest-kept", "word_language_model",
        (("    data = data.narrow(0, 0, nbatch * bsz)\n", ""),), ("data.view(bsz, -1)",),
        ("view-numel", "reshape-infer"), "last batch", ({}, {"batch_size": 102}), ({"tokens": 96},),
    ),
    Fault(
        "word_language_model-targets-in-columns", "word_language_model",
        (("source[i + 1 : i + 1 + seq_len].view(-1)", "source[i + 1 : i + 1 + seq_len]"),),
        ("criterion(output, targets)",), CLASSES,
    ),
    Fault(
        "word_language_model-last-chunk", "word_language_model",
        (("data = source[i : i + seq_len]", "data = source[i : i + bptt]"),), ("criterion(output, targets)",),
        CLASSES, "last batch", ({}, {"bptt": 50}), ({"tokens": 88},),
    ),
    Fault(
        "word_language_model-rows-for-columns", "word_language_model", ((".t().contiguous()", ".contiguous()"),),
        ("self.rnn(emb, hidden)",), STATE, "hidden state", ({},), ({"tokens": 16, "eval_batch_size": 4},),
    ),
    Fault(
        "word_language_model-decoded-view", "word_language_model",
        (("decoded.view(-1, self.ntoken)", "decoded.view(-1, self.nhid)"),),
        ("decoded.view(-1, self.nhid)", "criterion(output, targets)"),
        ("view-numel", "reshape-infer", *CLASSES), "network", ({}, {"nhid": 11}), ({"nhid": 33},),
    ),
    Fault(
        "time_series-state-of-four", "time_series", (("torch.zeros(rows,", "torch.zeros(4,"),),
        ("self.lstm1(input_t",), STATE, "hidden state", ({}, {"sequences": 7}), ({"sequences": 8, "held_back": 4},),
    ),
    Fault(
        "time_series-cell-width", "time_series",
        (("self.lstm2 = nn.LSTMCell(hidden, hidden)", "self.lstm2 = nn.LSTMCell(hidden, hidden + 1)"),),
        ("self.lstm2(h_t",), STATE,
    ),
    Fault(
        "time_series-stack-dim", "time_series", (("torch.stack(outputs, dim=1)", "torch.stack(outputs, dim=3)"),),
        ("torch.stack(outputs, dim=3)",), ("dim-range",),
    ),
    Fault(
        "time_series-squeeze", "time_series", ((".squeeze(2)", ".squeeze()"),), ("known = pred[:",),
        ("dim-range", "index-rank"), "squeeze", ({"held_back": 1},), ({}, {"sequences": 3}, {"length": 2}),
    ),
    Fault(
        "time_series-target-not-shifted", "time_series",
        (("target = torch.from_numpy(data[opt.held_back :, 1:])", "target = torch.from_numpy(data[opt.held_back :])"),),
        ("loss = criterion(out, target)",), LOSS, "arguments", ({},), ({"length": 2},),
    ),
    Fault(
        "time_series-future-compared", "time_series",
        (("known = pred[:, : pred.size(1) - opt.future]", "known = pred"),), ("criterion(known, test_target)",), LOSS,
        "arguments", ({}, {"future": 1}), ({"future": 0}, {"length": 2}),
    ),
    Fault(
        "time_series-split", "time_series", (("input.split(1, dim=1)", "input.split(2, dim=1)"),),
        ("self.lstm1(input_t",), INPUT, "arguments", ({},), ({"length": 2},),
    ),
    Fault(
        "time_series-single-precision", "time_series", (("    seq.double()\n", ""),), ("self.lstm1(input_t",),
        ("dtype-mix",), "dtype",
    ),
    Fault(
        "snli-all-layers", "snli", (("ht[-2:].transpose", "ht.transpose"),), ("return super().forward(input)",), WIDTH,
        "arguments", ({"n_layers": 2},), ({},), ("n_layers=1..3",),
    ),
    Fault(
        "snli-one-direction", "snli", (("        if config.birnn:\n            seq_in_size *= 2\n", ""),),
        ("return super().forward(input)",), WIDTH, "network", ({},), ({"no_bidirectional": True},),
    ),
    Fault(
        "snli-cells", "snli", (("(2 if self.config.birnn else 1)", "1"),), ("self.rnn(inputs, (h0, c0))",), STATE,
        "hidden state", ({}, {"n_layers": 2}), ({"no_bidirectional": True},),
    ),
    Fault(
        "snli-state-batch", "snli", (("= cells, batch_size,", "= cells, self.config.batch_size,"),),
        ("self.rnn(inputs, (h0, c0))",), STATE, "last batch", ({}, {"examples": 8}, {"examples": 3}),
        ({"examples": 8, "dev_examples": 4},),
    ),
    Fault(
        "snli-projected-width", "snli",
        (("config.d_proj if config.projection else config.d_embed", "config.d_embed"),),
        ("self.rnn(inputs, (h0, c0))",), INPUT, "arguments", ({},), ({"no_projection": True}, {"d_proj": 12}),
    ),
    Fault(
        "snli-cat-dim", "snli", (("torch.cat([premise, hypothesis], 1)", "torch.cat([premise, hypothesis], 0)"),),
        ("return super().forward(input)",), WIDTH,
    ),
    Fault(
        "snli-bottle", "snli", (("input.view(size[0] * size[1], -1)", "input.view(size[0], -1)"),),
        ("out = super().forward(",), WIDTH, "arguments", ({}, {"batch_size": 2}), ({"batch_size": 1},),
    ),
    Fault(
        "snli-both-at-once", "snli",
        ((
            "        premise = self.encoder(prem_embed)\n        hypothesis = self.encoder(hypo_embed)\n",
            "        both = torch.cat([prem_embed, hypo_embed], 1)\n"
            "        premise, hypothesis = self.encoder(both).chunk(2)\n",
        ),),
        ("torch.cat([prem_embed, hypo_embed], 1)",), ("cat-sizes",), "arguments", ({},), ({"premise_length": 8},),
    ),
    Fault(
        "bert-context-view", "bert",
        (("context.view(*context.size()[:-2], self.all_head_size)", "context.view(*context.size()[:-2], 16)"),),
        ("context.view(*context.size()[:-2], 16)",), ("view-numel",),
    ),
    Fault(
        "bert-not-contiguous", "bert", (("context.permute(0, 2, 1, 3).contiguous()", "context.permute(0, 2, 1, 3)"),),
        ("return context.view(",), ("view-stride",), "arguments", ({}, {"seq_length": 2}), ({"seq_length": 1},),
    ),
    Fault(
        "bert-short-table", "bert", (("max_position_embeddings: int = 64", "max_position_embeddings: int = 16"),),
        ("self.word_embeddings(input_ids) + positions",), BROADCAST, "arguments",
        ({"seq_length": 17}, {"seq_length": 64}), ({}, {"seq_length": 16}),
    ),
    Fault(
        "bert-mask", "bert", (("attention_mask[:, None, None, :]", "attention_mask[:, None, :]"),),
        ("scores = scores + attention_mask",), BROADCAST, "last batch",
        ({"batch_size": 3}, {"examples": 7}), ({"examples": 8}, {"batch_size": 1}, {"examples": 5}),
    ),
    Fault(
        "bert-norm-width", "bert",
        (("self.norm2 = nn.LayerNorm(config.hidden_size)", "self.norm2 = nn.LayerNorm(config.intermediate_size)"),),
        ("self.norm2(hidden_states +",), ("norm-width",),
    ),
    Fault(
        "bert-first-sentence", "bert", (("self.pooler(hidden[:, 0])", "self.pooler(hidden[0])"),),
        ("nn.functional.cross_entropy(logits, labels)",), CLASSES, "arguments",
        ({}, {"seq_length": 4}), ({"seq_length": 4, "examples": 8},),
    ),
    Fault(
        "bert-key-not-transposed", "bert", (("key.transpose(-1, -2)", "key"),), ("torch.matmul(query, key)",),
        ("matmul-inner",), "arguments", ({}, {"seq_length": 5}), ({"seq_length": 6},),
    ),
    Fault(
        "bert-float-labels", "bert", (("self.labels = torch.randint(2, (count,))", "self.labels = torch.rand(count)"),),
        ("nn.functional.cross_entropy(logits, labels)",), ("loss-target-dtype",), "dtype",
    ),
    Fault(
        "bert-heads-do-not-divide", "bert",
        (
            ("num_attention_heads: int = 4", "num_attention_heads: int = 5"),
            ("nn.Linear(self.attention.all_head_size, config", "nn.Linear(config.hidden_size, config"),
        ),
        ("self.output(self.attention(hidden_states, mask))",), WIDTH,
    ),
    Fault(
        "bert-mask-of-48", "bert", (("torch.ones_like(ids)", "torch.ones(48, dtype=torch.long)"),),
        ("scores = scores + attention_mask", "torch.matmul(probs, value)"), (*BROADCAST, "matmul-inner"), "arguments",
        ({}, {"seq_length": 1}), ({"seq_length": 48},),
    ),
    Fault(
        "bert-not-padded", "bert",
        (("ids = self.input_ids[i]\n", "ids = self.input_ids[i, : 1 + i % self.input_ids.size(1)]\n"),),
        ("for step, batch in enumerate(loader):", "for batch in held_out:"), ("collate-sizes", "stack-sizes"), "arguments",
        ({}, {"batch_size": 2}), ({"batch_size": 1}, {"seq_length": 1}),
    ),
    Fault(
        "bert-stacked-answers", "bert", (("torch.cat(collected)", "torch.stack(collected)"),),
        ("torch.stack(collected)",), ("stack-sizes",), "last batch", ({}, {"examples": 5}),
        ({"examples": 8}, {"examples": 3}),
    ),
)  # fmt: skip
