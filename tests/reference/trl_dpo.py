#!/usr/bin/env python3
"""Reference run of TRL's DPOTrainer with PEFT's LoRA on the CPU, in float32 unless told otherwise.

Writes under --out:
  model/                    the tiny base checkpoint, unless --model is given
  train.jsonl, eval.jsonl   the rows of the run
  init_adapter/             the adapter before the first step
  final_adapter/            the adapter at the end
  grads_step1.safetensors   gradients of the first step before clipping, named as in an adapter file
  reference.json            arguments, versions, token ids and log-probabilities of every pair, log records
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import trl_common as common  # sets the environment before transformers is imported

import torch

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="checkpoint folder; default: a tiny random one below --out")
    parser.add_argument("--data", type=Path, default=common.PREFERENCES)
    parser.add_argument("--rows", type=int, help="rows of the data; default: as many as the steps take")
    parser.add_argument("--eval_data", type=Path)
    parser.add_argument("--eval_rows", type=int, default=8)
    parser.add_argument("--chat", action="store_true", help="string prompts become a user turn")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--grad_accum", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--lr_scheduler_type", default="linear")
    parser.add_argument("--warmup_steps", type=float, default=0)
    parser.add_argument("--weight_decay", type=float, default=0.0)
    parser.add_argument("--max_grad_norm", type=float, default=1.0)
    parser.add_argument("--max_length", type=int, default=256)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--dtype", default="float32", help="of the frozen weights")
    parser.add_argument("--bf16", action="store_true", help="bf16 autocast")
    parser.add_argument("--order", default="sequential", choices=["sequential", "random"])
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--lora_r", type=int, default=8)
    parser.add_argument("--lora_alpha", type=int, default=16)
    parser.add_argument("--lora_target_modules", nargs="+", default=PROJECTIONS)
    parser.add_argument("--use_rslora", action="store_true")
    parser.add_argument("--lora_b_std", type=float, default=0.0, help="> 0: lora_B from N(0, std) instead of zero")
    parser.add_argument("--weighted_means", action="store_true", help="record means of all pairs and tokens, as torchlora does")
    return parser.parse_args(argv)


def as_chat(row):
    question = row["prompt"].replace("\n\nHuman: ", "").replace("\n\nAssistant:", "")
    return {
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": row["chosen"].strip()}],
        "rejected": [{"role": "assistant", "content": row["rejected"].strip()}],
    }


@torch.no_grad()
def pair_records(trainer, model, batch_size):
    """Token ids of every pair with its log-probabilities, adapter off and on."""
    records, data = [], trainer.train_dataset
    model.eval()
    for start in range(0, len(data), batch_size):
        rows = [data[i] for i in range(start, min(start + batch_size, len(data)))]
        batch = trainer.data_collator(rows)
        reference = trainer.compute_ref_log_probs(model, batch)
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
        output = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels,
            use_cache=False, fused_lm_head=True,
        )  # fmt: skip
        policy = output.log_probs.sum(1).chunk(2)
        for i, row in enumerate(rows):
            records.append(
                {key: row[key] for key in ("prompt_ids", "chosen_ids", "rejected_ids")}
                | {
                    "ref_chosen_logps": reference[0][i].item(), "ref_rejected_logps": reference[1][i].item(),
                    "init_chosen_logps": policy[0][i].item(), "init_rejected_logps": policy[1][i].item(),
                }  # fmt: skip
            )
    model.train()
    return records


def run(args):
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer
    from trl.trainer.utils import create_model_from_path

    args.out.mkdir(parents=True, exist_ok=True)
    common.determinism(args.seed)
    model_dir = args.model or common.ensure_model(args.out / "model")
    rows = common.read_jsonl(args.data, args.rows or args.steps * args.batch_size * args.grad_accum)
    if args.chat:
        rows = [as_chat(row) for row in rows]
    common.write_jsonl(args.out / "train.jsonl", rows)
    eval_rows = common.read_jsonl(args.eval_data, args.eval_rows) if args.eval_data else None
    if eval_rows:
        common.write_jsonl(args.out / "eval.jsonl", eval_rows)

    evaluation = {"eval_strategy": "no"}
    if eval_rows:
        evaluation = {
            "eval_strategy": "steps", "eval_steps": max(1, args.steps // 2),
            "per_device_eval_batch_size": args.batch_size,
        }  # fmt: skip
    config = DPOConfig(
        output_dir=str(args.out / "trainer"), per_device_train_batch_size=args.batch_size,
        gradient_accumulation_steps=args.grad_accum, max_steps=args.steps, learning_rate=args.lr,
        lr_scheduler_type=args.lr_scheduler_type, warmup_steps=args.warmup_steps, weight_decay=args.weight_decay,
        max_grad_norm=args.max_grad_norm, beta=args.beta, max_length=args.max_length, seed=args.seed,
        train_sampling_strategy=args.order, bf16=args.bf16, use_cpu=True, gradient_checkpointing=False,
        logging_steps=1, report_to="none", save_strategy="no", dataloader_pin_memory=False, disable_tqdm=True,
        **evaluation,
    )  # fmt: skip
    # As TRL does: one entry is passed on as a string, which PEFT takes for a regular expression.
    targets = args.lora_target_modules[0] if len(args.lora_target_modules) == 1 else args.lora_target_modules
    trainer_class = common.dumping_gradients(DPOTrainer, args.out, steps=[1])
    if args.weighted_means:
        trainer_class = common.weighing_metrics(trainer_class)
    trainer = trainer_class(
        model=create_model_from_path(str(model_dir), dtype=args.dtype, attn_implementation="eager", device_map=None),
        args=config,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(eval_rows) if eval_rows else None,
        processing_class=AutoTokenizer.from_pretrained(model_dir),
        peft_config=LoraConfig(
            r=args.lora_r, lora_alpha=args.lora_alpha, task_type="CAUSAL_LM", target_modules=targets,
            use_rslora=args.use_rslora,
        ),  # fmt: skip
    )
    model = trainer.model
    if args.lora_b_std > 0:
        common.fill_lora_b(model, args.lora_b_std, args.seed)
    model.save_pretrained(args.out / "init_adapter", selected_adapters=["default"])
    pairs = pair_records(trainer, model, args.batch_size)
    trainer.train()
    trainer.save_model(str(args.out / "final_adapter"))

    history = trainer.state.log_history
    common.write_json(
        args.out / "reference.json",
        {
            "args": {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()},
            "versions": common.versions(),
            "pairs": pairs,
            "steps": [record for record in history if "loss" in record],
            "evals": [record for record in history if "eval_loss" in record],
        },
    )


if __name__ == "__main__":
    run(arguments())
