"""The configurations and weights of make_gemma4_tiny.py's checkpoints."""
import zlib

import torch

IDS = dict(boi=1017, boa=1018, image=1019, audio=1020, eoi=1021, eoa=1022, video=1023)


# --------------------------------------------------------------------------------------------- configs
def text_cfg(v, hidden, layers):
    s, f = "sliding_attention", "full_attention"
    T = {
        # 4:1 -> here 3:1; all KV-shared layers follow a full layer, double-wide MLP in the shared ones
        "E2B": dict(lt=[s, s, s, f, s, s, s, f], inter=96, nh=4, kv=1, gkv=None, share=4, dw=True, ple=8, keqv=False,
                    moe=False, bid=None, mp=131072),
        # the border of the shared block falls behind a sliding layer
        "E4B": dict(lt=[s, s, f, s, s, f], inter=112, nh=4, kv=2, gkv=None, share=2, dw=False, ple=8, keqv=False,
                    moe=False, bid=None, mp=131072),
        "26B": dict(lt=[s, s, f, s, s, f], inter=40, nh=4, kv=2, gkv=1, share=0, dw=False, ple=0, keqv=True,
                    moe=True, bid="vision", mp=262144),
        "31B": dict(lt=[s, s, f, s, s, f], inter=128, nh=8, kv=4, gkv=2, share=0, dw=False, ple=0, keqv=True,
                    moe=False, bid="vision", mp=262144),
    }[v]
    lt = T["lt"]
    if layers:
        per = lt.index(f) + 1
        lt = [f if (i + 1) % per == 0 or i == layers - 1 else s for i in range(layers)]
    c = {"attention_bias": False, "attention_dropout": 0.0, "attention_k_eq_v": T["keqv"], "bos_token_id": 2,
         "dtype": "bfloat16", "enable_moe_block": T["moe"], "eos_token_id": 1, "final_logit_softcapping": 30.0,
         "global_head_dim": 32, "head_dim": 16, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": hidden,
         "hidden_size_per_layer_input": T["ple"], "initializer_range": 0.02, "intermediate_size": T["inter"],
         "layer_types": lt, "max_position_embeddings": T["mp"], "model_type": "gemma4_text",
         "moe_intermediate_size": 24 if T["moe"] else None, "num_attention_heads": T["nh"],
         "num_experts": 8 if T["moe"] else None, "num_global_key_value_heads": T["gkv"],
         "num_hidden_layers": len(lt), "num_key_value_heads": T["kv"], "num_kv_shared_layers": T["share"],
         "pad_token_id": 0, "rms_norm_eps": 1e-06,
         "rope_parameters": {"full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0,
                                                "rope_type": "proportional"},
                             "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}},
         "sliding_window": 8, "tie_word_embeddings": True, "top_k_experts": 3 if T["moe"] else None,
         "use_bidirectional_attention": T["bid"], "use_cache": True, "use_double_wide_mlp": T["dw"],
         "vocab_size": 1024, "vocab_size_per_layer_input": 1024}
    if v in ("E2B", "E4B", "31B"):
        c["expert_intermediate_size"] = None       # stray key of the hub files
        if v != "26B":
            c.pop("moe_intermediate_size")
    return dict(sorted(c.items()))


def full_cfg(v, hidden, layers, force_clipped=False):
    small = v in ("E2B", "E4B")
    gen = {"chunk_size_feed_forward": 0, "dtype": "bfloat16", "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
           "is_encoder_decoder": False, "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "output_attentions": False,
           "output_hidden_states": False, "problem_type": None, "return_dict": True, "_name_or_path": "",
           "architectures": None}
    hd = 12 if small else 8                        # 8: like 72 in the big towers, head_dim*heads == hidden either way
    vision = dict(gen, attention_bias=False, attention_dropout=0.0, default_output_length=280, global_head_dim=hd,
                  head_dim=hd, hidden_activation="gelu_pytorch_tanh", hidden_size=48, initializer_range=0.02,
                  intermediate_size=96 if small else 100, max_position_embeddings=131072, model_type="gemma4_vision",
                  num_attention_heads=48 // hd, num_hidden_layers=2, num_key_value_heads=48 // hd, patch_size=16,
                  pooling_kernel_size=3, position_embedding_size=64, rms_norm_eps=1e-06,
                  rope_parameters={"rope_theta": 100.0, "rope_type": "default"}, standardize=not small,
                  use_clipped_linears=small or force_clipped)
    chunk = 12 if v == "E2B" else 6                # chunk == context_left - 1 as in the real models
    audio = dict(gen, attention_chunk_size=chunk, attention_context_left=chunk + 1, attention_context_right=0,
                 attention_invalid_logits_value=-1000000000.0, attention_logit_cap=50.0 if v == "E2B" else 6.0, conv_kernel_size=5,
                 gradient_clipping=10000000000.0, hidden_act="silu", hidden_size=48, initializer_range=0.02,
                 model_type="gemma4_audio", num_attention_heads=4, num_hidden_layers=2, output_proj_dims=72,
                 residual_weight=0.5, rms_norm_eps=1e-06, subsampling_conv_channels=[128, 8],
                 use_clipped_linears=True)
    return {"architectures": ["Gemma4ForConditionalGeneration"],
            "audio_config": dict(sorted(audio.items())) if small else None,
            "audio_token_id": IDS["audio"], "boa_token_id": IDS["boa"], "boi_token_id": IDS["boi"], "dtype": "bfloat16",
            "eoa_token_id": IDS["eoa"], "eoa_token_index": IDS["eoa"], "eoi_token_id": IDS["eoi"],
            "eos_token_id": [1, 106], "image_token_id": IDS["image"], "initializer_range": 0.02, "model_type": "gemma4",
            "text_config": text_cfg(v, hidden, layers), "tie_word_embeddings": True,
            "transformers_version": "5.5.0.dev0", "video_token_id": IDS["video"],
            "vision_config": dict(sorted(vision.items())), "vision_soft_tokens_per_image": 280}


# --------------------------------------------------------------------------------------------- weights
def gen_for(seed, name):
    return torch.Generator().manual_seed((zlib.crc32(name.encode()) ^ (seed * 0x9E3779B1)) & 0x7FFFFFFF)


def bf16(t):
    return t.to(torch.bfloat16).float()


def make_tensor(seed, name, shape):
    g = gen_for(seed, name)
    n = lambda std=1.0, mean=0.0: torch.randn(shape, generator=g) * std + mean
    u = lambda a, b: torch.rand(shape, generator=g) * (b - a) + a
    last = name.split(".")[-2] if name.endswith(".weight") else name.split(".")[-1]
    if name.endswith("embed_tokens.weight"):
        t = n(shape[1] ** -0.5)
    elif name.endswith("embed_tokens_per_layer.weight"):
        t = n(0.4)
    elif name == "model.language_model.norm.weight":
        t = n(0.8, 4.0)
    elif last == "q_norm":
        t = n(0.2, 0.9)
    elif last == "k_norm":
        t = n(0.1, 0.4)
    elif last == "layer_scalar":
        t = u(0.75, 1.15)
    elif last == "per_expert_scale" or name.endswith("router.scale"):
        t = n(0.3, 1.0)
    elif name.endswith("router.proj.weight"):
        t = n(1.5)
    elif last == "position_embedding_table":
        t = n(0.4)
    elif last == "std_bias":
        t = n(1.0)
    elif last == "std_scale":
        t = u(0.1, 0.4)
    elif last == "per_dim_scale":
        t = n(0.5)
    elif last == "bias":
        t = n(0.2)
    elif last.startswith("post_") or last == "norm_post_attn":   # keeps the random model well conditioned
        t = n(0.12, 0.6)
    elif len(shape) == 1:                                   # every other norm weight
        t = n(0.25, 1.0)
    elif last in ("gate_up_proj", "down_proj") and len(shape) == 3:
        t = n(shape[2] ** -0.5)
    elif last == "conv":
        t = n((shape[1] * 9) ** -0.5)
    elif last == "depthwise_conv1d":
        t = n(shape[2] ** -0.5)
    elif len(shape) == 2:
        t = n(shape[1] ** -0.5)
    else:
        raise KeyError((name, shape))
    return bf16(t)


def build_model(cfgd, seed):
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration
    cfg = Gemma4Config(**{k: v for k, v in cfgd.items() if k not in ("architectures", "transformers_version")})
    for c in (cfg, cfg.text_config, cfg.vision_config, cfg.audio_config):
        if c is not None:
            c.dtype = torch.float32
    cfg._attn_implementation = "eager"
    cfg._experts_implementation = "eager"
    m = Gemma4ForConditionalGeneration(cfg).float().eval()
    m.tie_weights()
    with torch.no_grad():
        for name, t in m.state_dict().items():
            if name == "lm_head.weight" or name.rsplit(".", 1)[-1] in ("input_min", "input_max", "output_min", "output_max"):
                continue
            t.copy_(make_tensor(seed, name, tuple(t.shape)))
    assert m.lm_head.weight.data_ptr() == m.model.language_model.embed_tokens.weight.data_ptr()
    return m


def calibrate_clips(m, seed, run):
    """One forward pass in which every clippable linear receives bounds around the quantiles of what it sees."""
    from transformers.models.gemma4.modeling_gemma4 import Gemma4ClippableLinear
    handles, share = [], {}

    def bounds(x, g):
        q = torch.quantile(x.flatten().float(), torch.tensor([0.06 + 0.14 * torch.rand(1, generator=g).item(),
                                                              0.80 + 0.14 * torch.rand(1, generator=g).item()]))
        lo, hi = bf16(q)
        if not hi > lo:
            lo, hi = lo - 0.5, hi + 0.5
        return lo, hi

    def pre(mod, args, name):
        if name in share:
            return
        g = gen_for(seed, name + ".clip")
        x = args[0]
        mod.input_min.fill_(0), mod.input_max.fill_(0)
        lo, hi = bounds(x, g)
        mod.input_min.copy_(lo), mod.input_max.copy_(hi)
        y = mod.linear(x.clamp(lo, hi))
        ylo, yhi = bounds(y, g)
        mod.output_min.copy_(ylo), mod.output_max.copy_(yhi)
        share[name] = [round(((x < lo) | (x > hi)).float().mean().item(), 3),
                       round(((y < ylo) | (y > yhi)).float().mean().item(), 3)]

    for name, mod in m.named_modules():
        if isinstance(mod, Gemma4ClippableLinear) and mod.use_clipped_linears:
            handles.append(mod.register_forward_pre_hook(lambda mo, a, name=name: pre(mo, a, name)))
    with torch.no_grad():
        run()
    for h in handles:
        h.remove()
    return share
