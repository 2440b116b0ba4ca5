"""The inputs and the reference tensors of make_gemma4_tiny.py's checkpoints."""
import torch
from gemma4_tiny_model import IDS, bf16, gen_for

TXT0, TXT1 = 494, 1010          # ids used for random text


# --------------------------------------------------------------------------------------------- inputs
def rnd_ids(g, n):
    return torch.randint(TXT0, TXT1, (n,), generator=g).tolist()


def pad_rows(rows, side):
    n = max(map(len, rows))
    ids, mask = [], []
    for r, s in zip(rows, side):
        k = n - len(r)
        ids.append([0] * k + r if s == "l" else r + [0] * k)
        mask.append([0] * k + [1] * len(r) if s == "l" else [1] * len(r) + [0] * k)
    return torch.tensor(ids), torch.tensor(mask)


def mm_types(ids):
    t = torch.zeros_like(ids)
    t[ids == IDS["image"]] = 1
    t[ids == IDS["video"]] = 2
    t[ids == IDS["audio"]] = 3
    return t


def labels_for(ids, mask):
    lab = ids.clone()
    lab[mask == 0] = -100
    for v in IDS.values():
        lab[ids == v] = -100
    lab[:, :2] = -100
    return lab


def make_images(g, grids, max_soft, patch=16, k=3):
    mp = max_soft * k * k
    px, pos = [], []
    for (w, h) in grids:
        x = torch.randint(0, 256, (h * w, 3 * patch * patch), generator=g).float() / 256.0   # exact in bf16
        p = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy"), -1).reshape(-1, 2)
        n = mp - h * w
        px.append(torch.nn.functional.pad(x, (0, 0, 0, n)))
        pos.append(torch.nn.functional.pad(p, (0, 0, 0, n), value=-1))
    return torch.stack(px), torch.stack(pos)


def scenarios(v, seed):
    g = gen_for(seed, "inputs." + v)
    out = {}
    BOS, T, TE, NL = 2, 105, 106, 107
    rows = [[BOS, T] + rnd_ids(g, 17) + [TE, NL, T] + rnd_ids(g, 2), [BOS] + rnd_ids(g, 15), [BOS, T] + rnd_ids(g, 18)]
    ids, mask = pad_rows(rows, "nlr".replace("n", "r"))
    out["text"] = dict(input_ids=ids, attention_mask=mask)
    # images: 4, 3 and 2 soft tokens out of at most 5
    px, pos = make_images(g, [(6, 6), (9, 3), (3, 6)], 5)
    im = lambda n: [IDS["boi"]] + [IDS["image"]] * n + [IDS["eoi"]]
    rows = [[BOS, T] + rnd_ids(g, 4) + im(4) + rnd_ids(g, 3) + im(3) + rnd_ids(g, 6) + [TE, NL],
            [BOS, T] + im(2) + rnd_ids(g, 14) + [TE, NL]]
    ids, mask = pad_rows(rows, "rl")
    out["image"] = dict(input_ids=ids, attention_mask=mask, pixel_values=px, image_position_ids=pos,
                        mm_token_type_ids=mm_types(ids))
    # video: 2 frames of 2 soft tokens, 1 frame of 3
    px, pos = make_images(g, [(3, 6), (3, 6), (9, 3)], 3)
    vi = lambda n: [IDS["boi"]] + [IDS["video"]] * n + [IDS["eoi"]]
    rows = [[BOS] + rnd_ids(g, 3) + vi(2) + rnd_ids(g, 2) + vi(2) + rnd_ids(g, 5), [BOS] + rnd_ids(g, 2) + vi(3) + rnd_ids(g, 4)]
    ids, mask = pad_rows(rows, "rl")
    out["video"] = dict(input_ids=ids, attention_mask=mask, pixel_values_videos=px, video_position_ids=pos,
                        num_frames_per_video=torch.tensor([2, 1]), mm_token_type_ids=mm_types(ids))
    if v in ("E2B", "E4B"):
        F, lens = 116, [116, 77]
        feats = torch.randn((2, F, 128), generator=g) * 1.5 - 1.0
        fm = torch.arange(F)[None] < torch.tensor(lens)[:, None]
        feats = bf16(feats) * fm[..., None]
        ntok = [int(fm[i, ::2][::2].sum()) for i in range(2)]
        au = lambda n: [IDS["boa"]] + [IDS["audio"]] * n + [IDS["eoa"]]
        rows = [[BOS, T] + au(ntok[0]) + rnd_ids(g, 6), [BOS, T] + rnd_ids(g, 3) + au(ntok[1]) + rnd_ids(g, 8)]
        ids, mask = pad_rows(rows, "rl")
        out["audio"] = dict(input_ids=ids, attention_mask=mask, input_features=feats, input_features_mask=fm,
                            mm_token_type_ids=mm_types(ids))
    return out


# --------------------------------------------------------------------------------------------- reference
class Tap:
    """Forward hooks that keep what the named modules return."""

    def __init__(self, m):
        self.m, self.h, self.d = m, [], {}

    def out(self, key, mod, pick=lambda o: o):
        def f(_m, _a, o):
            o = pick(o)
            self.d[key] = o.detach().clone()
        self.h.append(mod.register_forward_hook(f))

    def kw(self, mod, fn):
        self.h.append(mod.register_forward_pre_hook(lambda m, a, k: fn(self.d, a, k), with_kwargs=True))

    def close(self):
        for h in self.h:
            h.remove()


def taps(m, tag):
    t, lm = Tap(m), m.model.language_model
    first = lambda o: o[0] if isinstance(o, tuple) else o

    def masks(d, a, k, lt):
        am = k.get("attention_mask")
        if am is not None:
            d[f"{tag}.mask.{lt}"] = (am == 0)
        if tag == "text":
            d[f"text.rope.{lt}.cos"], d[f"text.rope.{lt}.sin"] = (x.detach().clone() for x in k["position_embeddings"])
    for i, layer in enumerate(lm.layers):
        if tag != "video":
            t.out(f"{tag}.layer{i}", layer, first)
        if tag == "text":
            t.out(f"{tag}.layer{i}.attn", layer.self_attn, first)
        if getattr(layer, "router", None) is not None and tag == "text":
            t.out(f"{tag}.layer{i}.router_probs", layer.router, lambda o: o[0])
            t.out(f"{tag}.layer{i}.topk_weights", layer.router, lambda o: o[1])
            t.out(f"{tag}.layer{i}.topk_index", layer.router, lambda o: o[2])
            t.out(f"{tag}.layer{i}.experts", layer.experts)
        lt = m.config.text_config.layer_types[i]
        t.kw(layer, lambda d, a, k, lt=lt: masks(d, a, k, lt))

    def l0(d, a, k):
        d[f"{tag}.layer0.input"] = a[0].detach().clone()
    t.kw(lm.layers[0], l0)
    if m.config.text_config.hidden_size_per_layer_input:
        def ple(d, a, k, i):
            p = a[1] if len(a) > 1 else k.get("per_layer_input")
            d[f"{tag}.per_layer_input{i}"] = p.detach().clone()
        for i in (0, len(lm.layers) - 1):
            t.kw(lm.layers[i], lambda d, a, k, i=i: ple(d, a, k, i))
    t.out(f"{tag}.final_norm", lm.norm)
    vt = m.model.vision_tower
    if tag in ("image", "video"):
        t.out(f"{tag}.vision.patch_embed", vt.patch_embedder)
        if tag == "image":
            t.out(f"{tag}.vision.rope_cos", vt.encoder.rotary_emb, lambda o: o[0])
            t.out(f"{tag}.vision.rope_sin", vt.encoder.rotary_emb, lambda o: o[1])
        for i, l in enumerate(vt.encoder.layers):
            t.out(f"{tag}.vision.layer{i}", l, first)
            if tag == "image":
                t.out(f"{tag}.vision.layer{i}.attn", l.self_attn, first)
        t.out(f"{tag}.vision.pooled", vt.pooler, lambda o: o[0])
        t.out(f"{tag}.vision.pooled_mask", vt.pooler, lambda o: o[1])
        t.out(f"{tag}.vision.out", vt, lambda o: o.last_hidden_state)
        t.out(f"{tag}.vision.projected", m.model.embed_vision)
    at = m.model.audio_tower
    if tag == "audio":
        t.out("audio.tower.subsample", at.subsample_conv_projection, lambda o: o[0])
        t.out("audio.tower.mask", at.subsample_conv_projection, lambda o: o[1])
        t.out("audio.tower.conv0", at.subsample_conv_projection.layer0, lambda o: o[0][:, :, ::8, ::8].contiguous())
        t.out("audio.tower.rel_pos", at.rel_pos_enc)
        for i, l in enumerate(at.layers):
            t.out(f"audio.tower.layer{i}", l)
            t.out(f"audio.tower.layer{i}.ffw1", l.feed_forward1)
            t.out(f"audio.tower.layer{i}.attn", l.self_attn, first)
            t.out(f"audio.tower.layer{i}.lconv", l.lconv1d)
        def amask(d, a, k):
            d["audio.tower.blocked_mask"] = (k["attention_mask"] == 0)
        t.kw(at.layers[0], amask)
        t.out("audio.tower.out", at, lambda o: o.last_hidden_state)
        t.out("audio.tower.projected", m.model.embed_audio)
    return t


FULL_GRADS = ("layers.0.self_attn.q_norm.weight", "layers.0.self_attn.k_proj.weight", "layers.2.mlp.down_proj.weight",
              "layers.0.per_layer_input_gate.weight", "router.scale", "router.per_expert_scale", "language_model.norm.weight",
              "per_layer_projection_norm.weight", "encoder.layers.0.self_attn.q_proj.linear.weight",
              "encoder.layers.0.input_layernorm.weight", "encoder.layers.1.mlp.down_proj.linear.weight",
              "embed_vision.embedding_projection.weight", "layers.0.self_attn.per_dim_scale",
              "layers.0.self_attn.relative_k_proj.weight", "layers.1.lconv1d.depthwise_conv1d.weight",
              "layers.0.feed_forward1.ffw_layer_2.linear.weight", "subsample_conv_projection.layer0.conv.weight",
              "embed_audio.embedding_projection.weight", "audio_tower.output_proj.bias")


def run_reference(m, v, seed):
    ref, meta = {}, {"loss": {}, "grad_norms": {}, "logits_abs_max": {}, "top1_margin_min": {}}
    V = m.config.text_config.vocab_size
    for tag, inp in scenarios(v, seed).items():
        for k, x in inp.items():                    # float inputs hold bf16 values and are stored as BF16
            ref[f"{tag}.in.{k}"] = x.to(torch.bfloat16) if x.is_floating_point() else x
        lab = labels_for(inp["input_ids"], inp["attention_mask"])
        ref[f"{tag}.in.labels"] = lab
        m.zero_grad(set_to_none=True)
        t = taps(m, tag)
        o = m(**inp, labels=lab, use_cache=False)
        t.close()
        o.loss.backward()
        ref[f"{tag}.logits"] = o.logits.detach().clone()
        ref.update(t.d)
        meta["loss"][tag] = float(o.loss)
        meta["logits_abs_max"][tag] = float(o.logits.abs().max())
        gn = {n: float(p.grad.double().norm()) for n, p in m.named_parameters() if p.grad is not None}
        meta["grad_norms"][tag] = dict(sorted(gn.items()))
        meta.setdefault("no_grad", {})[tag] = sorted(n for n, p in m.named_parameters() if p.grad is None)
        for n, p in m.named_parameters():
            if p.grad is not None and n.endswith(FULL_GRADS) and p.numel() <= 5000 and (tag != "video"):
                if tag == "text" or "language_model" not in n:
                    ref[f"{tag}.grad.{n}"] = p.grad.detach().clone()
        if tag == "text":
            gE = m.model.language_model.embed_tokens.weight.grad
            rows = torch.tensor([0, 2, 105, 106, int(inp["input_ids"][0, 3]), 5])
            ref["text.grad_embed_rows.index"], ref["text.grad_embed_rows.value"] = rows, gE[rows].detach().clone()
            if m.config.text_config.hidden_size_per_layer_input:
                gP = m.model.language_model.embed_tokens_per_layer.weight.grad
                ref["text.grad_ple_rows.value"] = gP[rows].detach().clone()
            pos = (inp["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            with torch.no_grad():
                o2 = m(**inp, position_ids=pos, use_cache=False)
            ref["text.in.position_ids_from_mask"] = pos
            ref["text.logits_positions_from_mask_row1"] = o2.logits[1:2].clone()
    # text only, without attention mask, no padding: the plain case
    with torch.no_grad():
        ids = scenarios(v, seed)["text"]["input_ids"][:1]
        ref["plain.in.input_ids"] = ids
        ref["plain.logits"] = m(input_ids=ids, use_cache=False).logits
    # greedy generation with the KV cache, left padding
    gm = {}
    for tag in ("text", "image") + (("audio",) if v in ("E2B", "E4B") else ()):
        inp = scenarios(v, seed)[tag]
        row = 1
        sub = {k: x[row:row + 1] for k, x in inp.items() if k in ("input_ids", "attention_mask", "mm_token_type_ids")}
        if tag == "image":
            sub.update(pixel_values=inp["pixel_values"][2:], image_position_ids=inp["image_position_ids"][2:])
        if tag == "audio":
            sub.update(input_features=inp["input_features"][1:], input_features_mask=inp["input_features_mask"][1:])
        with torch.no_grad():
            r = m.generate(**sub, do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=0,
                           return_dict_in_generate=True, output_logits=True)
        lg = torch.stack(r.logits, 1)[0]
        top = lg.topk(2, -1).values
        gm[tag] = {"row": row, "new_ids": r.sequences[0, sub["input_ids"].shape[1]:].tolist(),
                   "min_top1_margin": float((top[:, 0] - top[:, 1]).min())}
        ref[f"generate.{tag}.logits_last"] = lg[-1].clone()
    meta["generate"] = gm
    return ref, meta
