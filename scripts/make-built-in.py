#!/usr/bin/env python3
"""Makes crates/bert/built-in/: a small, untrained BERT with an English vocabulary of its own.

    pip install numpy==2.4.6 safetensors==0.8.0 tokenizers==0.23.3
    python scripts/make-built-in.py

The vocabulary is the special tokens, every printable ASCII character, the words of
built-in-words.txt and common endings, so that no printable ASCII text has an unknown token.
Parameters are drawn as transformers initializes them, with a fixed seed.
"""

import json
import pathlib
import string

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

HERE = pathlib.Path(__file__).parent
OUT = HERE.parent / "crates/bert/built-in"
HIDDEN, LAYERS, HEADS, FEED_FORWARD, POSITIONS = 128, 2, 2, 512, 512
STD = 0.02
ENDINGS = """s es ed d ing er r est ly ness y al ful less ment tion able ible ity ive ous ish ism ist
en ion age ship hood ward 's n't th st nd rd ty teen""".split()


def vocabulary():
    characters = [c for c in string.printable if c.isprintable() and c != " " and not c.isupper()]
    words = (HERE / "built-in-words.txt").read_text().split()
    # Punctuation is always a token of its own, so words and endings are of letters and digits.
    words = [word for word in words if word.isalnum()]
    endings = ["##" + ending for ending in ENDINGS if ending.isalnum()]
    continued = ["##" + c for c in characters if c.isalnum()]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *continued, *words, *endings]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def tokenizer(vocab):
    result = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=64))
    result.normalizer = normalizers.BertNormalizer(lowercase=True)
    # Words longer than WordPiece reads are split, so that they do not become [UNK].
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.FixedLength(64)]
    )
    result.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocab[token]) for token in ("[CLS]", "[SEP]")],
    )
    result.decoder = decoders.WordPiece()
    result.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return result


def parameters(vocab_size):
    random = np.random.default_rng(0)
    tensors = {}

    def matrix(name, *shape):
        tensors[name] = random.normal(0, STD, shape).astype(np.float32)

    def linear(name, outputs, inputs):
        matrix(f"{name}.weight", outputs, inputs)
        tensors[f"{name}.bias"] = np.zeros(outputs, np.float32)

    def norm(name):
        tensors[f"{name}.weight"] = np.ones(HIDDEN, np.float32)
        tensors[f"{name}.bias"] = np.zeros(HIDDEN, np.float32)

    matrix("embeddings.word_embeddings.weight", vocab_size, HIDDEN)
    matrix("embeddings.position_embeddings.weight", POSITIONS, HIDDEN)
    matrix("embeddings.token_type_embeddings.weight", 2, HIDDEN)
    tensors["embeddings.word_embeddings.weight"][0] = 0  # the padding row
    norm("embeddings.LayerNorm")
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            linear(f"{name}.attention.self.{part}", HIDDEN, HIDDEN)
        linear(f"{name}.attention.output.dense", HIDDEN, HIDDEN)
        norm(f"{name}.attention.output.LayerNorm")
        linear(f"{name}.intermediate.dense", FEED_FORWARD, HIDDEN)
        linear(f"{name}.output.dense", HIDDEN, FEED_FORWARD)
        norm(f"{name}.output.LayerNorm")
    linear("pooler.dense", HIDDEN, HIDDEN)
    return tensors


def main():
    vocab = vocabulary()
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": len(vocab),
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": FEED_FORWARD,
        "max_position_embeddings": POSITIONS,
        "dtype": "float32",
        "untrained": True,
    }
    OUT.mkdir(exist_ok=True)
    (OUT / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    # Long words are cut before WordPiece, which no BertTokenizer does.
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names, "model_input_names": inputs}
    text = json.dumps(settings, indent=2)
    (OUT / "tokenizer_config.json").write_text(text + "\n")
    tokenizer(vocab).save(str(OUT / "tokenizer.json"), pretty=False)
    save_file(parameters(len(vocab)), OUT / "model.safetensors", metadata={"format": "pt"})
    print(f"{len(vocab)} tokens, {sum(f.stat().st_size for f in OUT.iterdir()) / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
