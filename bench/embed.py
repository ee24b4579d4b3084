#!/usr/bin/env python3
"""Texts to vectors: this library beside sentence-transformers, fastembed and OpenVINO, in turns.

    bench/embed [TURNS]                       # makes the Python, builds, compares
    python bench/embed.py compare FOLDER THREADS TURNS RECORD
    python bench/embed.py ENGINE FOLDER THREADS    # one of them: commands as in src/embed.rs

FOLDER has the real all-MiniLM-L6-v2 (scripts/fetch-minilm). Each engine is a process of its own; the others are
stopped while it runs. A turn is 500 of 20,000 texts of 5 to 60 words, log-normal, about 22 tokens each.
"""

import csv
import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time

from onnx_export import export

HERE = pathlib.Path(__file__).parent
ENGINES = ["ours", "sentence-transformers", "fastembed", "fastembed+32", "openvino+sorted"]
TEXTS = 20_000


def make_texts(folder):
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    words = [word for word in vocabulary if word.isascii() and word.isalpha() and len(word) > 2]
    draw = random.Random(1)
    length = lambda: min(60, max(5, round(draw.lognormvariate(2.85, 0.55))))
    return [" ".join(draw.choices(words, k=length())) for _ in range(TEXTS)]


def onnx_file(folder):
    """The model as ONNX, exported once, with the files that fastembed reads beside it."""
    path = HERE / "target" / "minilm-onnx" / "model.onnx"
    export(folder, path)
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(folder / file, path.parent)
    return path


def sentence_transformers_engine(folder, threads):
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(str(folder), device="cpu")
    return lambda texts: model.encode(texts)


def fastembed_engine(folder, threads, batch):
    from fastembed import TextEmbedding

    path = onnx_file(folder).parent
    model = TextEmbedding("sentence-transformers/all-MiniLM-L6-v2", specific_model_path=str(path), threads=threads)
    options = dict(batch_size=batch) if batch else {}
    return lambda texts: list(model.embed(texts, **options))


def openvino_engine(folder, threads):
    import numpy as np
    import openvino
    from tokenizers import Tokenizer

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(str(onnx_file(folder)), "CPU", settings).create_infer_request()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)

    def encode(texts):
        encodings = tokenizer.encode_batch(texts)
        order = sorted(range(len(texts)), key=lambda i: len(encodings[i].ids))
        vectors = np.empty((len(texts), 384), dtype=np.float32)
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            longest = len(encodings[rows[-1]].ids)
            ids = np.zeros((len(rows), longest), dtype=np.int64)
            mask = np.zeros_like(ids)
            for i, row in enumerate(rows):
                ids[i, : len(encodings[row].ids)] = encodings[row].ids
                mask[i, : len(encodings[row].ids)] = 1
            states = request.infer({"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})
            means = (states["last_hidden_state"] * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
            vectors[rows] = means / np.linalg.norm(means, axis=1, keepdims=True)
        return vectors

    return encode


def serve(engine, folder, threads):
    encode = {
        "sentence-transformers": lambda: sentence_transformers_engine(folder, threads),
        "fastembed": lambda: fastembed_engine(folder, threads, None),
        "fastembed+32": lambda: fastembed_engine(folder, threads, 32),
        "openvino+sorted": lambda: openvino_engine(folder, threads),
    }[engine]()
    texts, vectors = [], []
    print("ready", flush=True)
    for line in sys.stdin:
        command, *rest = line.split()
        if command == "texts":
            texts = json.loads(pathlib.Path(rest[0]).read_text())
            print("ok", flush=True)
        elif command == "run":
            chosen = texts[int(rest[0]) : int(rest[1])]
            start = time.perf_counter()
            vectors = encode(chosen)
            print(time.perf_counter() - start, flush=True)
        elif command == "write":
            import numpy as np

            np.asarray(vectors, dtype=np.float32).tofile(rest[0])
            print("ok", flush=True)


class Worker:
    def __init__(self, engine, folder, threads):
        ours = [HERE / "target/release/bert-bench", "embed", folder]
        peer = [sys.executable, __file__, engine, folder, str(threads)]
        environment = os.environ | dict(RAYON_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads),
                                        HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="true")
        self.process = subprocess.Popen(ours if engine == "ours" else peer, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=environment)
        assert self.answer() == "ready", engine
        self.stop()

    def answer(self):
        return self.process.stdout.readline().strip()

    def stop(self):
        self.process.send_signal(signal.SIGSTOP)

    def ask(self, command):
        self.process.send_signal(signal.SIGCONT)
        print(command, file=self.process.stdin, flush=True)
        answer = self.answer()
        self.stop()
        return answer


def compare(folder, threads, turns, record):
    import numpy as np

    texts = HERE / "target" / "texts.json"
    texts.write_text(json.dumps(make_texts(folder)))
    workers = {engine: Worker(engine, folder, threads) for engine in ENGINES}
    vectors = {}
    for engine, worker in workers.items():
        worker.ask(f"texts {texts}")
        worker.ask("run 0 256")  # to wake up, and to compare
        worker.ask(f"write {texts}.{engine}")
        vectors[engine] = np.fromfile(f"{texts}.{engine}", dtype=np.float32).reshape(256, -1)
    for engine in ENGINES:
        cosine = (vectors[engine] * vectors["sentence-transformers"]).sum(1).min()
        assert cosine > 0.9999, (engine, cosine)
    each, seconds = 500, {engine: [] for engine in ENGINES}
    for turn in range(turns):
        for engine in ENGINES[turn % len(ENGINES) :] + ENGINES[: turn % len(ENGINES)]:
            seconds[engine].append(float(workers[engine].ask(f"run {turn * each} {turn * each + each}")))
    with open(record, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["engine", "threads", "texts/s, median", "ours / engine, median", "lowest", "highest"])
        for engine in ENGINES:
            ratios = [theirs / ours for theirs, ours in zip(seconds[engine], seconds["ours"])]
            speed = statistics.median(each / time for time in seconds[engine])
            values = (speed, statistics.median(ratios), min(ratios), max(ratios))
            rows.writerow([engine, threads, *(f"{value:.3f}" for value in values)])
    print(pathlib.Path(record).read_text())
    print(f"ours: {int(workers['ours'].ask('memory')) / 1e6:.0f} MB above the loaded model")
    for worker in workers.values():
        worker.process.kill()


if __name__ == "__main__":
    if sys.argv[1] == "compare":
        compare(pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        serve(sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]))
