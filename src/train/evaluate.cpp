#include "crnet/train/evaluate.h"

#include <cmath>

#include "crnet/data/loader.h"

namespace crnet {

double EvalResult::perplexity() const {
  return std::exp(loss);
}

double EvalResult::bits_per_byte(double bytes_per_token) const {
  return loss / std::log(2.0) / bytes_per_token;
}

EvalResult evaluate(CausalLMImpl& model, torch::Device device, const DataSet& dataset,
                    const EvalOptions& options, const std::function<bool()>& keep_going) {
  const torch::NoGradGuard no_grad;
  const int64_t T = options.sequence_length;
  const int64_t max_windows = options.max_tokens == 0 ? 0 : (options.max_tokens + T - 1) / T;
  SequentialWindows windows(dataset, options.batch, T, max_windows, options.num_processes,
                            options.process);
  EvalResult result;
  double total = 0;
  while (const auto batch = windows.next()) {
    const torch::Tensor loss = model.loss(batch->inputs.to(device), batch->targets.to(device));
    total += loss.item<double>() * static_cast<double>(batch->targets.numel());
    result.tokens += batch->targets.numel();
    if (keep_going && !keep_going()) break;
  }
  if (result.tokens > 0) result.loss = total / static_cast<double>(result.tokens);
  return result;
}

}  // namespace crnet
