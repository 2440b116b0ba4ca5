#!/usr/bin/env python3
"""Writes the first inputs of every harness of tests/fuzz, a few kB each, and a dictionary of the words in them.

  make_seeds.py DIR      DIR/PARSER/… and DIR/PARSER.dict

Most are files of tests/data, or smaller ones of the same form."""

import json
import re
import struct
import sys
import zipfile
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "data"
NUMBERS = ["-1", "0", "1e999", "0.5", "18446744073709551615", "9223372036854775807", "null", "true", "[]", "{}", '""', '"\\ud800"', "\ufeff"]


def text_of(value):
    return json.dumps(value, ensure_ascii=False).encode()


def read(name):
    return (DATA / name).read_bytes()


def adapter_bin():
    """A file that PEFT wrote, its pickle, and pickles of other values."""
    archive = DATA / "lora/versions/0.10.0/adapter_model.bin"
    with zipfile.ZipFile(archive) as opened:
        pickle = opened.read("adapter_model/data.pkl")
    storage = b"(X\x07\x00\x00\x00storagectorch\n%sStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x08tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(%sK\x00%s\x89ccollections\nOrderedDict\n)RtR"
    sizes = b"K\x02K\x04\x86K\x04K\x01\x86"
    one = lambda kind, shape=sizes: b"\x80\x02}X\x01\x00\x00\x00a" + tensor % (storage % kind, shape) + b"s."
    yield archive.read_bytes()
    yield pickle
    for kind in (b"Float", b"Half", b"BFloat16", b"Int", b"Bool", b"ComplexFloat"):
        yield one(kind)
    yield one(b"Float", b"K\x08\x85K\x00\x85")
    yield one(b"Float", b"))")
    yield b"\x80\x02}."
    yield b"\x80\x02}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00b]q\x01(K\x02h\x01eX\x01\x00\x00\x00cG?\xf0\x00\x00\x00\x00\x00\x00\x88u."
    yield b"\x80\x02ccollections\nOrderedDict\n)R}(X\x01\x00\x00\x00aNX\x01\x00\x00\x00bM\x00\x01\x86u."


def adapter_config():
    yield from (path.read_bytes() for path in sorted(DATA.glob("lora/**/adapter_config.json")))
    base = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
    for more in (
        {"target_modules": r".*\.layers\.(0|1)\..*q_proj", "exclude_modules": "lm_head", "task_type": "CAUSAL_LM"},
        {"target_modules": "all-linear", "use_rslora": True, "use_dora": True},
        {"rank_pattern": {"q_proj": 2, r"layers\.[01]\.k": 8}, "alpha_pattern": {"^q": 2.5}, "lora_alpha": 0.5},
        {"layers_to_transform": [0, 1], "layers_pattern": ["layers", "h"], "lora_dropout": 0.1},
        {"layers_to_transform": 3, "layers_pattern": "blocks", "layer_replication": [[0, 2], [1, 3]]},
        {"init_lora_weights": "corda", "corda_config": {"corda_method": "ipm"}},
        {"init_lora_weights": "lora_ga", "lora_ga_config": {"direction": "ArBr", "scale": "stable", "stable_gamma": 16}},
        {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4, "loftq_iter": 1}},
        {"init_lora_weights": "eva", "eva_config": {"rho": 2.0, "tau": 0.99, "whiten": False, "adjust_scaling_factors": True}},
        {"velora_config": {"num_groups": 2, "scale": 1.0, "init_type": "batch_average"}},
        {"kasa_config": {"beta": 1e-4, "gamma": 1e-3}, "init_lora_weights": "pissa_niter_4"},
        {"trainable_token_indices": {"embed_tokens": [1, 2]}, "modules_to_save": ["head"], "bias": "lora_only"},
        {"target_parameters": ["experts.up_proj"], "unknown_key": [1, {"a": None}], "ensure_weight_tying": True},
    ):
        yield text_of(base | more)


def chat():
    yield b"\x00Hello\n"
    yield b"\x02Be brief.\0\x00Why?\0\x01<|channel>thought\nHm.<channel|> Because.\0\x01And so on."
    yield b"\x80one\ntwo \n three\0\x81a\nb\0\x03late"
    yield "\x00\u00a0\u2581 <bos>é日🙂<turn|>\0\x04tool".encode()
    yield b"\x00\xff\xe2\x96 <0x41>\0"


def checkpoint():
    yield from (read(f"tiny/{kind}/{name}") for kind in ("E2B", "31B") for name in ("config.json", "config_resaved.json"))
    yield text_of({"metadata": {"total_size": 20}, "weight_map": {key: "model-00001-of-00001.safetensors" for key in "ab"}})
    yield text_of({"weight_map": {"a": "../model.safetensors"}})


def dataset():
    standard = {"prompt": "The sky is", "chosen": " blue.", "rejected": " a pie."}
    turn = lambda role, content: {"role": role, "content": content}
    conversation = {
        "prompt": [turn("system", "Be brief."), turn("user", [{"type": "text", "text": "Why?"}])],
        "chosen": [turn("assistant", "Because.")],
        "rejected": [turn("assistant", "<|channel>Hm.<channel|>No.")],
    }
    yield text_of(standard) + b"\n\n" + text_of(standard | {"chosen": "", "images": []})
    yield text_of({"chosen": "A day é b", "rejected": "A day è"}) + b"\r\n"
    yield text_of(conversation) + b"\n"
    yield text_of({"chosen": conversation["prompt"] + conversation["chosen"], "rejected": conversation["prompt"] + conversation["rejected"]})
    yield text_of(conversation | {"chosen": [turn("assistant", "x") | {"tool_calls": None, "reasoning": ""}], "extra": 1e3})


def patterns():
    subject = "\nmodel.layers.11.self_attn.q_proj"
    for pattern in (
        r".*language_model\..*\.(q_proj|v_proj)",
        r"(.*\.)?(^q|k)$",
        r"(?:^|.*?\.)layers\.(?P<idx>\d+)\.",
        r"(?i:MODEL)\.[^.]+\.(?P<idx>[0-9]{1,2})(?!\d).*(?<=q)_proj",
        r"(?x) model # name" + "\n",
        r"(?s-i:.)*\Z|\A\w+\b\B[\]\d-][^]\-a-z\s]",
        r"(?>a|b)*+c{,3}?(?P=a)(?(1)a|b)\1\07\x41\u0041",
        "[[a]é日]+",
    ):
        yield (pattern + subject).encode()
    yield "(a*)*b\naaaaaaaaaaaaaaaaaaaaaaaa".encode()
    yield "\\S+\né日".encode()


def safetensors():
    yield read("safetensors/all_dtypes.safetensors")
    entry = lambda dtype, shape, begin, end: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    for header, size in (
        ({}, 0),
        ({"__metadata__": {"format": "pt"}, "a": entry("F32", [2, 3], 0, 24), "b": entry("BF16", [], 24, 26)}, 26),
        ({"a": entry("U8", [0, 7], 0, 0), "b": entry("I64", [1], 1, 9), "c": entry("BOOL", [1], 0, 1)}, 9),
    ):
        text = text_of(header)
        yield struct.pack("<Q", len(text)) + text + bytes(range(size))
        yield text + b"\0" + bytes(range(size))


def tokenizer():
    """Small vocabularies with the parts of Gemma's tokenizer.json."""
    letters = ["<unk>", "<bos>", "<eos>", "a", "b", "ab", "\u2581", "aab", "é"]
    octets = ["<0x%02X>" % octet for octet in range(256)]
    added = lambda index, content, special=True: {"id": index, "content": content, "single_word": False, "lstrip": False,
                                                  "rstrip": False, "normalized": False, "special": special}  # fmt: skip

    def file(tokens, **model):
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [added(1, "<bos>"), added(2, "<eos>"), added(len(tokens), "<new>", False)],
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": {"<bos>": {"id": "<bos>", "ids": [1], "tokens": ["<bos>"]}},
            },
            "decoder": {
                "type": "Sequence",
                "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}],
            },
            "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": False,
                      "vocab": {token: index for index, token in enumerate(tokens)}, "merges": [["a", "b"], "a ab"]} | model,
        }  # fmt: skip

    text, config = "aab \u2581é<new><bos> \u00a0日<0xE2>".encode(), {"bos_token": "<bos>", "eos_token": {"content": "<eos>"}}
    plain = file(letters)
    yield text_of(plain) + b"\0" + text + b"\0" + text_of(config)
    yield text_of(file(letters, fuse_unk=False, unk_token=None, dropout=None)) + b"\0" + text
    yield text_of(plain | {"normalizer": None, "pre_tokenizer": None, "post_processor": None}) + b"\0" + text + b"\xff\0" + text_of({})
    yield text_of(plain | {"normalizer": {"type": "Sequence", "normalizers": [plain["normalizer"]] * 2}, "decoder": {"type": "Fuse"}}) + b"\0" + text
    yield text_of(file(letters + octets, byte_fallback=True)) + b"\0" + text + b"\xff"


PARSERS = [adapter_bin, adapter_config, chat, checkpoint, dataset, patterns, safetensors, tokenizer]


def words_of(parser, seeds):
    """What a mutation may insert: names and strings of JSON, words of the other formats."""
    if parser is patterns:
        return ["(?P<", "(?P=", "(?:", "(?<=", "(?<!", "(?=", "(?!", "(?>", "(?#", "(?(1)", "(?i:", "(?-i:", "(?aiLmsux)", "{,", "{2}", "*+", "??",
                "[^]", "[[:alpha:]]", "\\Z", "\\A", "\\b", "\\d", "\\x4", "\\u0041", "\\N{", "\\1", "\\8", "\\07", "\\Q", "\\p{L}"]  # fmt: skip
    if parser is chat:
        return ["<|channel>", "<channel|>", "<|turn>", "<turn|>", "<bos>", "<0x41>", "\u00a0", "\u2581"]
    if parser is adapter_bin:
        return ["ctorch._utils\n_rebuild_tensor_v2\n", "ctorch._utils\n_rebuild_sparse_tensor\n", "ctorch._utils\n_rebuild_qtensor\n",
                "ctorch\nFloatStorage\n", "ctorch\nHalfStorage\n", "ccollections\nOrderedDict\n", "c__torch__\nA\n", "storage", "cpu", "cuda:0"]  # fmt: skip
    found = sorted({word for seed in seeds for word in re.findall(rb'"(?!<0x)[\w.<>|-]{1,40}"', seed)})
    return [word.decode() for word in found] + NUMBERS


def main():
    folder = Path(sys.argv[1])
    for parser in PARSERS:
        seeds = list(parser())
        (folder / parser.__name__).mkdir(parents=True, exist_ok=True)
        for index, seed in enumerate(seeds):
            (folder / parser.__name__ / f"seed{index}").write_bytes(seed)
        quoted = ("".join(f"\\x{octet:02x}" for octet in word.encode("utf-8", "surrogatepass")) for word in words_of(parser, seeds))
        (folder / f"{parser.__name__}.dict").write_text("".join(f'"{word}"\n' for word in quoted))


if __name__ == "__main__":
    main()
