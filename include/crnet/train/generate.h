// Text from a model, token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "crnet/model/causal_lm.h"

namespace crnet {

struct GenerateOptions {
  int64_t max_tokens = 100;  ///< new tokens at most
  double temperature = 0.8;  ///< 0: always the most likely token
  double top_p = 0.95;       ///< least set of most likely tokens with this much probability; 1: all
  uint64_t seed = 0;
  int64_t vocab_size = 0;  ///< ids below it are drawn: the tokenizer's; 0: all that the model has
  int64_t eos_id = -1;     ///< ends the text; −1: nothing does
  bool use_cache = true;   ///< false: recompute everything per token (slow; the same logits)
};

/// Continues `prompt` (at least one token). Calls `on_token` for each new one, which ends the text
/// by returning false. Stops at max_tokens, at eos_id (not reported), or where the model's
/// max_sequence_length is reached. Keys and values of earlier tokens are cached; the cross-layer
/// path needs nothing of them, as it adds outputs of one and the same token. Equal seeds give equal
/// text. A model may have more entries than its tokenizer has pieces; those are not drawn where
/// vocab_size is set. Throws UsageError for options out of range or a prompt that leaves no room.
std::vector<int32_t> generate(CausalLMImpl& model, torch::Device device,
                              const std::vector<int32_t>& prompt, const GenerateOptions& options,
                              const std::function<bool(int32_t)>& on_token = {});

/// What generate() checks first: throws UsageError for options out of range, or a prompt of
/// `prompt_tokens` that is empty or leaves no room.
void check_generation(const ModelConfig& config, int64_t prompt_tokens,
                      const GenerateOptions& options);

/// Draws an index: probabilities ∝ exp(logits / temperature) within the top-p set; `uniform` in
/// [0, 1). logits: fp32 [V] on the CPU.
int32_t sample_token(const torch::Tensor& logits, double temperature, double top_p, double uniform);

}  // namespace crnet
