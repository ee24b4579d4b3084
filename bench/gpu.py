#!/usr/bin/env python3
"""The limits of a GPU and PyTorch on it, as lines of CSV: engine,case,tokens,dtype,median_us,p10_us,p90_us,n,status.

    python bench/gpu.py CASES.json

CASES.json: the lengths of each case's texts, which `bert-bench gpu` writes.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from transformers import BertConfig, BertModel
from triton.testing import do_bench

ENOUGH = 4  # seconds after which a case ends early
torch.manual_seed(0)


def report(engine, case, tokens, dtype, times, status="ok"):
    times = sorted(times) or [float("nan")]
    at = [1e6 * times[min(int(len(times) * q), len(times) - 1)] for q in (0.5, 0.1, 0.9)]
    print(f"{engine},{case},{tokens},{dtype},{at[0]:.1f},{at[1]:.1f},{at[2]:.1f},{len(times)},{status}", flush=True)


def kernel(name, run, dtype="bf16", tokens=0, work=None):
    """One operation's time on the device, and what it makes of its limit."""
    seconds = [x / 1e3 for x in do_bench(run, warmup=20, rep=60, quantiles=[0.5, 0.1, 0.9])]
    note = "" if work is None else f"{work / seconds[0] / 1e12:.1f} T/s"
    print(f"kernel,{name},{tokens},{dtype},{1e6 * seconds[0]:.1f},{1e6 * seconds[1]:.1f},{1e6 * seconds[2]:.1f},0,{note}",
          flush=True)


def limits():
    def tensor(*shape, dtype=torch.bfloat16):
        return torch.randn(*shape, device="cuda", dtype=dtype)

    a, b = tensor(8192, 8192), tensor(8192, 8192)
    kernel("product of 8192^3", lambda: a @ b, work=2 * 8192**3)
    half_a, half_b = a.half(), b.half()
    kernel("product of 8192^3", lambda: half_a @ half_b, "f16", work=2 * 8192**3)
    single_a, single_b = a.float(), b.float()
    kernel("product of 8192^3", lambda: single_a @ single_b, "f32", work=2 * 8192**3)
    source = torch.empty(1 << 32, device="cuda", dtype=torch.uint8).random_()
    target = torch.empty_like(source)
    kernel("copy of 4 GiB (bytes read and written)", lambda: target.copy_(source), "u8", work=2 * (1 << 32))
    del a, b, half_a, half_b, single_a, single_b, source, target
    for rows in (8, 128, 2816, 5632, 16384, 32768):
        x, wide = tensor(rows, 768), tensor(rows, 3072)
        for name, inputs, outputs, source in (
            ("QKV", 768, 2304, x), ("output", 768, 768, x), ("FF1", 768, 3072, x), ("FF2", 3072, 768, wide),
        ):
            weight, bias = tensor(outputs, inputs), tensor(outputs)
            kernel(f"linear {name}", lambda: F.linear(source, weight, bias), tokens=rows, work=2 * rows * inputs * outputs)
        kernel("gelu in place", lambda: torch.ops.aten.gelu_(wide), tokens=rows, work=4 * wide.numel())
        gamma = tensor(768)
        kernel("add and LayerNorm", lambda: F.layer_norm(x + x, (768,), gamma, gamma), tokens=rows)
        kernel("LayerNorm", lambda: F.layer_norm(x, (768,), gamma, gamma), tokens=rows, work=4 * x.numel())
    w1, b1, w2, b2 = tensor(3072, 768), tensor(3072), tensor(768, 3072), tensor(768)
    x, y = tensor(32768, 768), torch.empty(32768, 768, device="cuda", dtype=torch.bfloat16)
    for part in (1408, 2816, 5632, 8192, 11264, 32768):
        middle = torch.empty(part, 3072, device="cuda", dtype=torch.bfloat16)

        def feed_forward():
            for start in range(0, 32768, part):
                rows = min(part, 32768 - start)
                inner = torch.addmm(b1, x[start : start + rows], w1.t(), out=middle[:rows])
                torch.ops.aten.gelu_(inner)
                torch.addmm(b2, inner, w2.t(), out=y[start : start + rows])

        kernel(f"feed forward in parts of {part}", feed_forward, tokens=32768, work=4 * 32768 * 768 * 3072)
    for batch, length in ((1, 8), (1, 128), (64, 512), (256, 128)):
        q, k, v = (tensor(batch, length, 12, 64).transpose(1, 2) for _ in range(3))
        kernel(f"sdpa B{batch} S{length}", lambda: F.scaled_dot_product_attention(q, k, v),
               tokens=batch * length, work=4 * batch * 12 * length * length * 64)


def passes(forward):
    """Seconds of passes, from ids on the host to states that are ready on the device."""
    times, start = [], None
    for i in range(5 + 30):
        begun = time.perf_counter()
        start = begun if i == 5 else start  # torch.compile works during the first passes
        forward()
        torch.cuda.synchronize()
        if i >= 5:
            times.append(time.perf_counter() - begun)
        if len(times) >= 7 and time.perf_counter() - start > ENOUGH:
            break
    return times


def batch(lengths):
    ids = torch.randint(5, 30000, (len(lengths), max(lengths)))
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    return ids, None if mask.all() else mask


def main():
    print(f"# {torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
    print("engine,case,tokens,dtype,median_us,p10_us,p90_us,n,status", flush=True)
    limits()
    with open(sys.argv[1]) as file:
        cases = json.load(file)
    model = BertModel(BertConfig(), add_pooling_layer=True).eval().cuda()

    def measure(engine, run, case, lengths, name, size):
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        batches = [batch([lengths[i] for i in order[at : at + size]]) for at in range(0, len(order), size)]

        def forward():
            states = []
            for ids, mask in batches:
                mask = None if mask is None else mask.cuda()
                states.append(run(input_ids=ids.cuda(), attention_mask=mask).last_hidden_state)
            return states

        try:
            report(engine, case, sum(lengths), name, passes(forward))
        except Exception as error:  # one case that fails must not end the others
            report(engine, case, sum(lengths), name, [], f"{error!r}"[:90].replace(",", " ").replace("\n", " "))

    with torch.inference_mode():
        for dtype, name in ((torch.bfloat16, "bf16"), (torch.float16, "f16"), (torch.float32, "f32")):
            model = model.to(dtype)
            for case, lengths in cases.items():
                measure("eager", model, case, lengths, name, len(lengths))
                if len(set(lengths)) > 1:
                    measure("eager sorted 32 at a time", model, case, lengths, name, 32)
        model = model.to(torch.bfloat16)
        for mode in ("default", "reduce-overhead"):
            for case, lengths in cases.items():
                if mode == "default" or len(lengths) == 1:
                    torch._dynamo.reset()
                    compiled = torch.compile(model, mode=mode, dynamic=False)
                    measure(f"compile {mode}", compiled, case, lengths, "bf16", len(lengths))


main()
