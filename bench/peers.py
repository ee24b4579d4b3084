#!/usr/bin/env python3
"""One peer in a process of its own: reads commands, answers each with a line.

    python bench/peers.py ENGINE FOLDER THREADS

Commands: a JSON list of rows of token ids (the batch from now on); `run` (one forward pass; answers
seconds); `write PATH` (the states of all tokens in order, as raw F32).
"""

import json
import os
import pathlib
import sys
import time

ENGINE, FOLDER, THREADS = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
os.environ["OMP_NUM_THREADS"] = str(THREADS)
import numpy as np  # noqa: E402  after the number of threads
from onnx_export import export  # noqa: E402


def padded(rows):
    """Ids and mask, as long as the longest row."""
    ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def torch_engine():
    import torch
    from transformers import BertModel

    torch.set_num_threads(THREADS)
    model = BertModel.from_pretrained(FOLDER, attn_implementation="sdpa").eval()

    def forward(ids, mask):
        with torch.inference_mode():
            # Without a mask nothing is masked, which is faster.
            mask = None if mask.all() else torch.from_numpy(mask)
            return model(input_ids=torch.from_numpy(ids), attention_mask=mask).last_hidden_state.numpy()

    return forward


def onnx_file():
    """The model as ONNX, exported once."""
    export(FOLDER, FOLDER / "model.onnx")
    return FOLDER / "model.onnx"


def onnxruntime_engine(fused):
    import onnxruntime

    path = onnx_file()
    if fused:
        path = FOLDER / "fused.onnx"
        if not path.exists():
            from onnxruntime.transformers import optimizer

            config = json.loads((FOLDER / "config.json").read_text())
            optimizer.optimize_model(
                str(onnx_file()), model_type="bert",
                num_heads=config["num_attention_heads"], hidden_size=config["hidden_size"],
            ).save_model_to_file(str(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(path), options)

    def forward(ids, mask):
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return session.run(["last_hidden_state"], inputs)[0]

    return forward


def openvino_engine():
    import openvino

    settings = {"INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(str(onnx_file()), "CPU", settings).create_infer_request()

    def forward(ids, mask):
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return request.infer(inputs)["last_hidden_state"]

    return forward


def ctranslate2_engine():
    import ctranslate2

    path = FOLDER / "ctranslate2"
    if not path.exists():
        ctranslate2.converters.TransformersConverter(str(FOLDER)).convert(str(path))
    encoder = ctranslate2.Encoder(str(path), compute_type="float32", intra_threads=THREADS)

    def forward(ids, mask):
        rows = [row[: int(count)].tolist() for row, count in zip(ids, mask.sum(1))]
        return np.array(encoder.forward_batch(rows).last_hidden_state)

    return forward


ENGINES = {
    "pytorch": torch_engine,
    "onnxruntime": lambda: onnxruntime_engine(False),
    "onnxruntime-fused": lambda: onnxruntime_engine(True),
    "openvino": openvino_engine,
    "ctranslate2": ctranslate2_engine,
}
NAME, _, SORTED = ENGINE.partition("+")


def main():
    forward = ENGINES[NAME]()
    batches, order, states = [], [], []
    print("ready", flush=True)
    for line in sys.stdin:
        command, _, rest = line.strip().partition(" ")
        if command == "run":
            states = []  # the last pass's are no part of this one's memory
            start = time.perf_counter()
            states = [forward(*padded(rows)) for rows in batches]
            print(time.perf_counter() - start, flush=True)
        elif command == "write":
            out = [None] * len(order)
            places = iter(order)
            for rows, state in zip(batches, states):
                for row, values in zip(rows, state):
                    out[next(places)] = np.asarray(values[: len(row)], dtype=np.float32)
            np.concatenate(out).tofile(rest)
            print("ok", flush=True)
        else:
            rows = json.loads(line)
            order, size = list(range(len(rows))), len(rows)
            if SORTED:
                order.sort(key=lambda i: len(rows[i]))
                size = 8
            batches = [[rows[i] for i in order[start : start + size]] for start in range(0, len(rows), size)]
            print("ok", flush=True)


main()
