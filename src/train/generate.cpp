#include "crnet/train/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet {
namespace {

// Reproducible everywhere, unlike std::uniform_real_distribution.
double next_uniform(std::mt19937_64& engine) {
  return static_cast<double>(engine() >> 11) * 0x1.0p-53;
}

torch::Tensor as_batch(const std::vector<int32_t>& tokens, torch::Device device) {
  return torch::tensor(tokens, torch::kInt64).unsqueeze(0).to(device);  // [1, T]
}

}  // namespace

void check_generation(const ModelConfig& config, int64_t prompt_tokens,
                      const GenerateOptions& options) {
  if (options.max_tokens < 1) {
    throw UsageError(format("[generate] expected --max-tokens of at least 1, got %ld",
                            static_cast<long>(options.max_tokens)));
  }
  if (!(options.temperature >= 0)) {
    throw UsageError(
        format("[generate] expected --temperature of at least 0, got %g", options.temperature));
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    throw UsageError(format("[generate] expected --top-p in (0, 1], got %g", options.top_p));
  }
  if (options.vocab_size < 0 || options.vocab_size > config.vocab_size) {
    throw UsageError(format("[generate] expected a vocabulary of at most the model's %ld, got %ld",
                            static_cast<long>(config.vocab_size),
                            static_cast<long>(options.vocab_size)));
  }
  if (prompt_tokens < 1 || prompt_tokens >= config.max_sequence_length) {
    throw UsageError(format("[generate] expected a prompt of 1 to %ld tokens, got %ld",
                            static_cast<long>(config.max_sequence_length - 1),
                            static_cast<long>(prompt_tokens)));
  }
}

int32_t sample_token(const torch::Tensor& logits, double temperature, double top_p,
                     double uniform) {
  if (temperature == 0) return static_cast<int32_t>(logits.argmax().item<int64_t>());
  const torch::Tensor p = torch::softmax(logits.to(torch::kFloat64) / temperature, -1);
  const auto sorted = p.sort(/*stable=*/true, /*dim=*/-1, /*descending=*/true);
  const torch::Tensor values = std::get<0>(sorted), indices = std::get<1>(sorted);
  const double* probability = values.data_ptr<double>();
  int64_t kept = 0;
  double mass = 0;
  while (kept < values.numel() && mass < top_p) mass += probability[kept++];
  double rest = uniform * mass;
  int64_t chosen = 0;
  while (chosen + 1 < kept && rest >= probability[chosen]) rest -= probability[chosen++];
  return static_cast<int32_t>(indices.data_ptr<int64_t>()[chosen]);
}

std::vector<int32_t> generate(CausalLMImpl& model, torch::Device device,
                              const std::vector<int32_t>& prompt, const GenerateOptions& options,
                              const std::function<bool(int32_t)>& on_token) {
  check_generation(model.config(), static_cast<int64_t>(prompt.size()), options);
  const torch::NoGradGuard no_grad;
  KeyValueCaches caches(static_cast<size_t>(model.config().num_layers));
  std::mt19937_64 engine(options.seed);
  const int64_t drawable = options.vocab_size > 0 ? options.vocab_size : model.config().vocab_size;
  std::vector<int32_t> text = prompt, pending = prompt, generated;
  while (static_cast<int64_t>(generated.size()) < options.max_tokens &&
         static_cast<int64_t>(text.size()) < model.config().max_sequence_length) {
    const torch::Tensor logits = options.use_cache
                                     ? model.forward(as_batch(pending, device), &caches)
                                     : model.forward(as_batch(text, device));  // [1, t, V]
    const torch::Tensor last =
        logits[0][-1].narrow(0, 0, drawable).to(torch::kCPU, torch::kFloat32);
    const int32_t token =
        sample_token(last, options.temperature, options.top_p, next_uniform(engine));
    if (token == options.eos_id) break;
    generated.push_back(token);
    text.push_back(token);
    pending = {token};
    if (on_token && !on_token(token)) break;
  }
  return generated;
}

}  // namespace crnet
