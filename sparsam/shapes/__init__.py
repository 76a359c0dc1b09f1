"""Static checking of tensor shapes: every path of a PyTorch program, for all sizes, before any of it runs for real.

The program's own Python runs on tensors without data whose sizes are symbols, in a process of its own that can touch
nothing. What the framework and the program compare on the way is recorded; for every comparison that could have gone
the other way, sizes that make it so are looked for and the program runs again with them. When nothing is left that
could go otherwise, all sizes are covered: the program is proved, or there are sizes for which it fails.

After H. Y. Jhoo and others, *A Static Analyzer for Detecting Tensor Shape Errors in Deep Neural Network Training Code*,
ICSE 2022 companion, [doi:10.1145/3510454.3528638](https://doi.org/10.1145/3510454.3528638).
"""
