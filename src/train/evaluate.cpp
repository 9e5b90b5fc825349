#include "crnet/train/evaluate.h"

#include <cmath>

#include "crnet/data/loader.h"

namespace crnet {
namespace {

int64_t rounded_up_quotient(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

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
  const int64_t max_windows = rounded_up_quotient(options.max_tokens, T);
  SequentialWindows windows(dataset, options.batch, T, max_windows, options.num_processes,
                            options.process);
  // With as many passes as anybody makes; who has no text left passes one token, which is not
  // counted.
  const int64_t passes =
      options.in_step
          ? rounded_up_quotient(windows.num_windows(), options.batch * options.num_processes)
          : 0;
  EvalResult result;
  double total = 0;
  for (int64_t pass = 0;; ++pass) {
    const auto batch = windows.next();
    if (!batch && pass >= passes) break;
    const torch::Tensor nothing = torch::zeros({1, 1}, torch::kInt64);
    const torch::Tensor loss = model.loss((batch ? batch->inputs : nothing).to(device),
                                          (batch ? batch->targets : nothing).to(device));
    if (batch) {
      total += loss.item<double>() * static_cast<double>(batch->targets.numel());
      result.tokens += batch->targets.numel();
    }
    if (keep_going && !keep_going()) break;
  }
  if (result.tokens > 0) result.loss = total / static_cast<double>(result.tokens);
  return result;
}

}  // namespace crnet
