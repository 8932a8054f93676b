"""Names in the configurations of a model's parts: those that change nothing, and those that are refused."""

from __future__ import annotations

ANYWHERE = frozenset({"_class_name", "_diffusers_version", "_name_or_path", "_commit_hash", "_use_default_values"})
"""What diffusers writes down for itself."""

EMA = frozenset({
    "decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup",
})  # fmt: skip
"""What diffusers' training scripts leave in the configuration of averaged weights."""

CLIP = frozenset({
    "add_cross_attention", "architectures", "attention_dropout", "bad_words_ids", "begin_suppress_tokens",
    "chunk_size_feed_forward", "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty",
    "do_sample", "dropout", "dtype", "early_stopping", "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id",
    "gradient_checkpointing", "id2label", "initializer_factor", "initializer_range", "is_decoder",
    "is_encoder_decoder", "label2id", "length_penalty", "max_length", "min_length", "model_type",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels", "num_return_sequences", "output_attentions",
    "output_hidden_states", "output_scores", "prefix", "problem_type", "remove_invalid_values", "repetition_penalty",
    "return_dict", "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params",
    "temperature", "tf_legacy_loss", "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "top_k",
    "top_p", "torch_dtype", "torchscript", "transformers_version", "typical_p", "use_bfloat16", "use_cache",
    "use_return_dict",
})  # fmt: skip
"""What transformers writes into every configuration, and what only training or generated text would read."""

SAMPLERS = frozenset({
    "algorithm_type", "clip_sample_range", "corrector_order", "denoise_to_zero", "disable_corrector",
    "dynamic_thresholding_ratio", "euler_at_final", "final_sigmas_type", "interpolation_type", "lambda_min_clipped",
    "lower_order_final", "noise_sampler_seed", "predict_x0", "predictor_order", "sample_max_value", "shift_terminal",
    "sigma_max", "sigma_min", "skip_prk_steps", "solver_order", "solver_p", "solver_type", "tau_func",
    "time_shift_type", "timestep_type", "use_beta_sigmas", "use_exponential_sigmas", "use_karras_sigmas",
    "use_lu_lambdas", "variance_type",
})  # fmt: skip
"""What only samplers other than DDIM read, and what only decides how pixels would be clipped."""

REFUSED = {
    "attn_implementation": "names an attention kernel; the attention is chosen here, so remove that setting",
    "auto_map": "names code to import, which is never done; expected a model without code of its own",
    "quantization_config": "says that the weights are quantized; expected float32, float16 or bfloat16 weights",
    "transformers_weights": "names a weight file; the weights are read under their usual names, so remove that setting",
}

OUR_ATTENTION = ("eager", "sdpa", None, True, False)
"""Values of ``attn_implementation`` that transformers itself may have written; none of them is obeyed."""
