"""What other trainers call our keys, and what to type instead.

Of transformers' TrainingArguments and TRL, nanoGPT, lm-eval, Axolotl, LLaMA-Factory, torchtune and litgpt.
"""

from collections.abc import Mapping

RATE = (
    "optimization.matrices.learning_rate={value}; optimization.embeddings.learning_rate and "
    "optimization.vectors.learning_rate are set apart"
)
DECAY = "optimization.matrices.weight_decay={value}; optimization.embeddings.weight_decay is set apart"
EPOCHS = (
    "max_steps=N, for one epoch the rows of the data over batch_size; thetahat explain says how many rows there are"
)
ACCUMULATION = (
    "batch_size=ROWS of a whole step, over all devices, and micro_batch_size=ROWS that are read at once: the number of "
    "accumulation steps follows from them"
)
PER_DEVICE = "micro_batch_size={value}, the rows that are read at once; batch_size=ROWS is that of a whole step"
WARMUP_SHARE = "optimization.schedule.warmup_steps=N, in steps: {value} times max_steps"
SCHEDULE = (
    "optimization.schedule.kind=cosine, wsd or constant; all of them begin with optimization.schedule.warmup_steps, "
    "and a linear decline is wsd with optimization.schedule.decay=1"
)
LOGGED = "nothing: every step has a line in metrics.jsonl of the run's folder"
LM_EVAL = "thetahat lm-eval --help, lm-eval's own command line"
TARGETS = 'adapter.targets=\'["*.query", "*.value"]\', by our names of modules: thetahat keys adapter.targets'
FLOAT16 = "dtype=bfloat16; float16 would need scaled gradients, and is not there"
ATTENTION = "nothing: the kernel of attention follows from what is read"
OUT = "--out {value}"
MEMORY = "objective.chunk_size=4096, which saves most where the vocabulary is large, or a smaller micro_batch_size"
SAVES = "checkpoint.every=STEPS"
EVALUATES = "evaluation.every=STEPS"
BETA = "optimization.embeddings.{name}={{value}}, and optimization.vectors.{name}={{value}}"

NAMES: Mapping[str, str | tuple[str, ...]] = {
    # learning rates, schedules, optimizers
    RATE: ("lr", "learning_rate", "max_lr", "peak_lr", "base_lr", "lr_max"),
    DECAY: ("weight_decay", "wd"),
    "optimization.clip={value}": ("max_grad_norm", "grad_clip", "clip_grad", "clip_grad_norm", "gradient_clip_val"),
    SCHEDULE: ("lr_scheduler_type", "lr_scheduler", "scheduler", "lr_schedule", "decay_lr"),
    "optimization.schedule.warmup_steps={value}": ("warmup", "warmup_steps", "warmup_iters", "num_warmup_steps"),
    WARMUP_SHARE: ("warmup_ratio", "warmup_fraction", "warmup_proportion"),
    "optimization.matrices.kind=muon or adamw": ("optim", "optimizer", "optimizer_type"),
    "optimization.schedule.final=SHARE, which is {value} over the peak learning rate": ("min_lr", "lr_min"),
    "optimization.schedule.final={value}": ("min_lr_ratio", "min_lr_rate"),
    "nothing: the schedule goes over max_steps": ("lr_decay_iters", "lr_decay_steps"),
    BETA.format(name="beta1"): ("adam_beta1", "beta1"),
    BETA.format(name="beta2"): ("adam_beta2", "beta2"),
    BETA.format(name="epsilon"): ("adam_epsilon", "adam_eps", "eps"),
    # lengths of a run, batches
    EPOCHS: ("num_train_epochs", "num_epochs", "epochs", "epoch", "max_epochs"),
    "max_steps={value}": ("max_iters", "max_iterations", "num_steps", "steps", "total_steps", "iterations", "iters"),
    "max_tokens={value}": ("num_tokens", "train_tokens", "token_budget"),
    PER_DEVICE: ("per_device_train_batch_size", "micro_batch_size_per_gpu", "train_micro_batch_size_per_gpu"),
    "micro_batch_size={value}": ("micro_batch", "device_batch_size", "microbatch_size", "mbs"),
    "batch_size={value}": ("global_batch_size", "train_batch_size", "bs", "total_batch_size", "batch"),
    ACCUMULATION: ("gradient_accumulation_steps", "grad_accum", "grad_accum_steps", "accumulate_grad_batches"),
    "evaluation.batch_size={value}": ("per_device_eval_batch_size", "eval_batch_size"),
    # devices, dtypes, memory
    "dtype=bfloat16": ("bf16", "bfloat16", "use_bf16"),
    "float8=true dtype=bfloat16": ("fp8", "use_fp8", "fp8_training"),
    FLOAT16: ("fp16", "float16", "half"),
    "dtype={value}, float32, bfloat16 or float64": ("precision", "torch_dtype", "mixed_precision", "model_dtype"),
    "device=cpu": ("use_cpu", "no_cuda", "cpu"),
    "device=cuda": ("gpu", "gpus", "cuda", "use_cuda"),
    "threads={value}": ("num_threads", "n_threads", "omp_num_threads"),
    MEMORY: ("gradient_checkpointing", "activation_checkpointing", "enable_activation_checkpointing"),
    "compile=true": ("torch_compile", "use_compile"),
    ATTENTION: ("flash_attention", "flash_attn", "attn_implementation", "use_flash_attention_2", "sdpa_attention"),
    "deterministic=true": ("full_determinism", "cudnn_deterministic"),
    "seed={value}": ("data_seed", "random_seed", "rng_seed", "manual_seed"),
    # logs, checkpoints, evaluations
    LOGGED: ("logging_steps", "log_interval", "log_every_n_steps", "logging_strategy", "log_every"),
    "track={value}: tensorboard, wandb, trackio, mlflow": ("report_to", "tracker", "trackers", "log_with", "logger"),
    "track=wandb": ("use_wandb", "wandb", "wandb_project", "wandb_log"),
    "optimization.ema=0.999": ("ema", "ema_decay", "use_ema"),
    "diagnosis.patience=3 diagnosis.policies.no-improvement=stop": (
        *("early_stopping", "early_stopping_patience", "patience"),
    ),
    "checkpoint.every={value}": ("save_steps", "save_interval", "save_every", "checkpoint_interval", "ckpt_every"),
    SAVES: ("save_strategy", "always_save_checkpoint"),
    "checkpoint.keep={value}": ("save_total_limit", "max_checkpoints", "keep_last"),
    "evaluation.every={value}": ("eval_steps", "eval_interval", "eval_every", "val_interval", "val_check_interval"),
    EVALUATES: ("eval_strategy", "evaluation_strategy"),
    "nothing: all that is held out is scored, however it is cut into batches": ("eval_iters", "val_batches"),
    "RUN@best, a name of the best checkpoint in every command": ("load_best_model_at_end", "metric_for_best_model"),
    OUT: ("output_dir", "out_dir", "output", "save_dir", "logging_dir", "run_name", "name", "checkpoint_dir"),
    "the same command again: a run goes on where it stopped": ("resume", "resume_from_checkpoint", "auto_resume"),
    # data
    "data.train={value}": ("dataset", "datasets", "dataset_name", "train_file", "train_data", "train_dataset"),
    "data.held_out={value}": (
        *("validation_file", "eval_file", "eval_dataset", "val_data", "test_file", "val_set_size", "validation_split"),
        *("val_split", "test_size", "eval_split"),
    ),
    "data.context={value}": (
        *("block_size", "max_seq_length", "max_seq_len", "seq_len", "seq_length", "sequence_len", "sequence_length"),
        *(
            "cutoff_len",
            "max_length",
            "model_max_length",
            "context_length",
            "context_size",
            "ctx",
            "n_ctx",
            "n_positions",
        ),
    ),
    "data.source_context={value}": ("max_source_length", "max_input_length"),
    "data.packing=best-fit or none": ("packing", "sample_packing", "packed", "neat_packing", "pack"),
    "data.over_long=truncate-right": ("truncation", "truncate"),
    "data.tokenizer={value}": ("tokenizer_name", "tokenizer_path", "tokenizer_name_or_path", "tokenizer_file"),
    "data.chat.template={value}": ("chat_template", "template", "conversation_template"),
    "data.columns.text={value}": ("dataset_text_field", "text_column", "text_field"),
    "data.columns.prompt={value}": ("prompt_column", "instruction_column"),
    "nothing: prompts are never targets": ("completion_only_loss", "train_on_inputs", "train_on_input", "mask_inputs"),
    "nothing: of a dialogue, what the assistant says is learned": (
        "assistant_only_loss",
        "train_on_responses_only",
    ),
    "nothing: data is prepared once and kept": ("dataloader_num_workers", "num_workers", "preprocessing_num_workers"),
    # shapes
    "model.num_layers={value}": (
        *("n_layer", "n_layers", "num_hidden_layers", "layers", "depth", "num_layer", "nlayers"),
    ),
    "model.num_heads={value}": ("n_head", "n_heads", "num_attention_heads", "heads", "nheads", "num_head"),
    "model.num_kv_heads={value}": (
        "n_kv_head",
        "n_kv_heads",
        "num_key_value_heads",
        "num_query_groups",
        "n_query_groups",
    ),
    "model.width={value}": ("n_embd", "d_model", "hidden_size", "dim", "embed_dim", "embedding_dim", "hidden_dim"),
    "model.head_width={value}": ("head_dim", "d_head", "head_size", "d_kv"),
    "model.inner_width={value}": ("intermediate_size", "d_ff", "ffn_dim", "n_inner", "ffn_hidden_size", "mlp_dim"),
    "model.experts.num_experts={value}": ("num_local_experts", "n_routed_experts", "n_experts", "moe_num_experts"),
    "model.experts.num_chosen={value}": (
        *("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_router_topk", "experts_per_token"),
    ),
    "model.experts.inner_width={value}": ("moe_intermediate_size", "moe_ffn_hidden_size", "expert_hidden_size"),
    "model.experts.shared_width={value}": ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"),
    "model.experts.num_dense={value}": ("first_k_dense_replace", "moe_first_k_dense"),
    "model.experts.num_groups={value}": ("n_group", "n_groups", "moe_router_num_groups", "num_expert_group"),
    "model.experts.num_chosen_groups={value}": ("topk_group", "moe_router_group_topk"),
    "model.experts.scale={value}": ("routed_scaling_factor", "moe_router_topk_scaling_factor"),
    "model.layers=[{kind='latent',latent_width={value}}]": ("kv_lora_rank",),
    "model.layers=[{kind='latent',query_width={value}}]": ("q_lora_rank",),
    "model.layers=[{kind='latent',rotary_width={value}}]": ("qk_rope_head_dim",),
    "objective.z_loss={value}": ("z_loss_weight", "z_loss_multiplier", "zloss", "lm_z_loss", "z_loss_coeff"),
    "objective.balance.sequence={value}": ("router_aux_loss_coef", "moe_aux_loss_coeff", "aux_loss_alpha"),
    "objective.balance.router_z={value}": ("moe_z_loss_coeff", "router_z_loss_coef", "moe_zloss_weight"),
    "objective.balance.bias_rate={value}": ("moe_router_bias_update_rate", "bias_update_speed"),
    "model.num_future={value}": ("num_nextn_predict_layers", "mtp_num_layers", "num_mtp_layers", "n_future_tokens"),
    "objective.future=[{value}]": ("mtp_loss_scaling_factor", "mtp_loss_weight"),
    "nothing: no position is dropped": ("moe_capacity_factor", "capacity_factor", "expert_capacity"),
    "model.num_encoder_layers={value}": ("encoder_layers", "n_encoder_layers"),
    "model.rope_base={value}": ("rope_theta", "theta"),
    "model.dropout={value}": ("resid_pdrop", "attn_pdrop", "embd_pdrop", "hidden_dropout_prob", "dropout_rate"),
    "model.ties_embeddings={value}": ("tie_word_embeddings", "tie_weights", "weight_tying", "tie_embeddings"),
    "model.mlp.activation={value}": ("hidden_act", "activation_function", "act_fn"),
    "model.norm_epsilon={value}": ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"),
    "data.vocab_size={value}": ("padded_vocab_size", "n_vocab"),
    # a model to start from, adapters
    "base={value}": (
        *("model_name_or_path", "model_name", "init_from", "base_model", "pretrained", "pretrained_model_name_or_path"),
        *("model_path", "from_pretrained", "init"),
    ),
    "adapter.rank={value}": ("lora_r", "lora_rank", "r", "peft_lora_r"),
    "adapter.alpha={value}": ("lora_alpha", "peft_lora_alpha"),
    TARGETS: ("lora_target_modules", "target_modules", "lora_target", "lora_target_linear", "lora_attn_modules"),
    "adapter.also='[\"embedding.*\"]', by our names of parameters": ("modules_to_save", "lora_modules_to_save"),
    "nothing: adapters have no dropout": ("lora_dropout", "peft_lora_dropout"),
    "adapter.rank=8": ("use_peft", "lora", "peft", "finetuning_type", "use_lora", "qlora"),
    "nothing: weights are trained as they are": ("load_in_4bit", "load_in_8bit", "quantization_bit"),
    "frozen='[\"embedding.*\"]', by patterns": (
        "freeze",
        "freeze_layers",
        "unfrozen_parameters",
        "freeze_trainable_layers",
    ),
    # evaluation by others
    LM_EVAL: ("model_args", "num_fewshot", "tasks", "limit", "gen_kwargs", "apply_chat_template"),
    "objective.normalization=token, sequence, ...": ("loss_reduction", "reduction", "average_tokens_across_devices"),
    "thetahat generate --temperature {value}": ("temperature",),
    "thetahat generate --max-tokens {value}": ("max_new_tokens",),
}
"""What to type, by the names of others; `{value}` is what was typed."""

MEANT: Mapping[str, str] = {name: told for told, names in NAMES.items() for name in names}
"""The same by name."""

COMMANDS: Mapping[str, str] = {
    **dict.fromkeys(("eval", "evaluate", "perplexity", "ppl"), "thetahat score MODEL DATA"),
    **dict.fromkeys(("sample", "complete", "predict", "infer", "inference", "run"), "thetahat generate MODEL"),
    **dict.fromkeys(("sft", "finetune", "fine-tune", "pretrain", "fit", "resume"), "thetahat train"),
    **dict.fromkeys(("config", "configs", "options", "settings", "help"), "thetahat keys, or thetahat --help"),
    **dict.fromkeys(("convert", "push", "save"), "thetahat export MODEL DIR"),
    **dict.fromkeys(("ls", "models"), "thetahat recipes"),
}
"""What other programs call our commands."""
