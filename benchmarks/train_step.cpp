// crnet's own contender of the training-step benchmark, the twin of peer.py: times forward +
// backward + gradient clipping + AdamW on random tokens and prints one JSON object.
//
//   crnet_bench_train_step --arch crnet --precision bf16 --steps 5
//
// With --serve it takes turns with others, step by step, under compare_train_step.py.
#include <torch/version.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cxxopts.hpp>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "crnet/core/error.h"
#include "crnet/model/causal_lm.h"
#include "crnet/model/costs.h"
#include "crnet/train/device.h"
#include "crnet/train/optimizer.h"
#include "crnet/train/run_config.h"
#include "train/run_plan.h"
#include "train/timing.h"

namespace {

using crnet::median;
using nlohmann::json;
using torch::Tensor;

struct Arguments {
  std::string arch, size, config, precision;
  std::vector<std::string> settings;
  int64_t batch = 0, length = 0, steps = 0, warmup = 0, threads = 0, seed = 0;
  bool serve = false;
};

Arguments parse(int argc, char** argv) {
  cxxopts::Options options("crnet_bench_train_step", "Times the training step on random tokens.");
  // clang-format off
  options.add_options()
      ("arch", "llama, crnet or cola", cxxopts::value<std::string>()->default_value("crnet"))
      ("size", "of configs/models", cxxopts::value<std::string>()->default_value("60m"))
      ("config", "model file, in place of arch and size",
       cxxopts::value<std::string>()->default_value(""))
      ("set", "KEY=VALUE of the model or of recompute, such as recompute.strategy=auto",
       cxxopts::value<std::string>())
      ("precision", "bf16 or fp32", cxxopts::value<std::string>()->default_value("bf16"))
      ("batch", "sequences per step", cxxopts::value<int64_t>()->default_value("8"))
      ("length", "tokens per sequence", cxxopts::value<int64_t>()->default_value("256"))
      ("steps", "timed steps", cxxopts::value<int64_t>()->default_value("5"))
      ("warmup", "steps before them, at least 1", cxxopts::value<int64_t>()->default_value("2"))
      ("threads", "CPU threads", cxxopts::value<int64_t>()->default_value("2"))
      ("seed", "of weights and tokens", cxxopts::value<int64_t>()->default_value("0"))
      ("serve", "after the warm-up, run N steps for each line N on stdin")
      ("help", "print this");
  // clang-format on
  const auto result = options.parse(argc, argv);
  if (!result.unmatched().empty()) {
    throw crnet::UsageError("expected options alone, got " + result.unmatched().front());
  }
  if (result.count("help") > 0) {
    std::cout << options.help();
    std::exit(0);
  }
  Arguments arguments;
  arguments.arch = result["arch"].as<std::string>();
  arguments.size = result["size"].as<std::string>();
  arguments.config = result["config"].as<std::string>();
  for (const auto& argument : result.arguments()) {  // a list would be split at commas
    if (argument.key() != "set") continue;
    const std::string& setting = argument.value();
    if (!setting.starts_with("model.") && !setting.starts_with("recompute.")) {
      throw crnet::UsageError("--set: expected a key of model or recompute, got " + setting +
                              "; batch, length and precision have options of their own");
    }
    arguments.settings.push_back(setting);
  }
  arguments.precision = result["precision"].as<std::string>();
  arguments.batch = result["batch"].as<int64_t>();
  arguments.length = result["length"].as<int64_t>();
  arguments.steps = result["steps"].as<int64_t>();
  arguments.warmup = result["warmup"].as<int64_t>();
  arguments.threads = result["threads"].as<int64_t>();
  for (const auto value :
       {arguments.batch, arguments.length, arguments.steps, arguments.warmup, arguments.threads}) {
    if (value < 1) {
      throw crnet::UsageError(
          "--batch, --length, --steps, --warmup, --threads: expected integers >= 1, got " +
          std::to_string(value));
    }
  }
  arguments.seed = result["seed"].as<int64_t>();
  arguments.serve = result.count("serve") > 0;
  if (arguments.precision != "bf16" && arguments.precision != "fp32") {
    throw crnet::UsageError("--precision: expected bf16 or fp32, got " + arguments.precision);
  }
  return arguments;
}

crnet::LoadedConfig<crnet::RunConfig> load_config(const Arguments& arguments) {
  const std::string path = arguments.config.empty()
                               ? std::string(CRNET_SOURCE_DIR "/configs/models/") + arguments.arch +
                                     "-" + arguments.size + ".yaml"
                               : arguments.config;
  std::vector<std::string> settings = {"train.micro_batch=" + std::to_string(arguments.batch),
                                       "data.sequence_length=" + std::to_string(arguments.length)};
  settings.insert(settings.end(), arguments.settings.begin(), arguments.settings.end());
  return crnet::load_run_config(path, settings);
}

/// A model with its optimizer and one batch of random tokens that every step sees again.
class Training {
 public:
  explicit Training(const Arguments& arguments)
      : loaded_(load_config(arguments)),
        runtime_(runtime_of(arguments)),
        plan_(crnet::find_plan(loaded_, runtime_, {}, std::nullopt, std::nullopt).plan),
        model_(loaded_.config.model),
        optimizer_(make_optimizer(arguments)) {
    torch::manual_seed(arguments.seed);
    const int64_t vocab = model_->config().vocab_size;
    const Tensor text =
        torch::randint(vocab, {arguments.batch, arguments.length + 1}, torch::kLong);
    tokens_ = text.slice(1, 0, arguments.length).contiguous();
    targets_ = text.slice(1, 1).contiguous();
  }

  double step() {
    const Tensor loss = model_->loss(tokens_, targets_);
    loss.backward();
    optimizer_.clip_grad_norm(1.0);
    optimizer_.step(kLearningRate);
    model_->zero_grad();
    return loss.item<double>();
  }

  [[nodiscard]] double flops_per_token() const {
    return crnet::count_flops(model_->config(), tokens_.size(1)).training();
  }
  [[nodiscard]] int64_t num_parameters() const {
    int64_t count = 0;
    for (const Tensor& parameter : model_->parameters()) count += parameter.numel();
    return count;
  }

 private:
  static constexpr double kLearningRate = 1e-3;

  static crnet::Runtime runtime_of(const Arguments& arguments) {
    crnet::Runtime runtime;
    runtime.threads = arguments.threads;
    if (arguments.precision == "bf16") runtime.compute_dtype = torch::kBFloat16;
    return runtime;
  }

  crnet::AdamW make_optimizer(const Arguments& arguments) {
    crnet::initialize(*model_, static_cast<uint64_t>(arguments.seed));
    model_->set_compute_dtype(runtime_.compute_dtype);
    model_->set_recompute(plan_);
    crnet::OptimizerConfig config;
    config.weight_decay = 0.1;
    return crnet::AdamW(model_->named_parameters(), config);
  }

  const crnet::LoadedConfig<crnet::RunConfig> loaded_;
  const crnet::Runtime runtime_;
  const crnet::RecomputePlan plan_;  // before the model: what the process holds counts for it
  crnet::CausalLM model_;
  crnet::AdamW optimizer_;
  Tensor tokens_, targets_;  // [B, T]
};

struct Timing {
  std::vector<double> seconds;
  double loss = 0;
};

Timing time_steps(Training& training, int64_t count) {
  Timing timing;
  for (int64_t i = 0; i < count; ++i) {
    const auto start = std::chrono::steady_clock::now();
    timing.loss = training.step();
    timing.seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return timing;
}

/// Answers each line `N` on stdin with N timed steps as JSON, until the end of input.
Timing serve(Training& training) {
  Timing all;
  for (std::string line; std::getline(std::cin, line);) {
    const Timing latest = time_steps(training, std::stoll(line));
    std::cout << json{{"step_seconds", latest.seconds}, {"loss", latest.loss}} << std::endl;
    all.seconds.insert(all.seconds.end(), latest.seconds.begin(), latest.seconds.end());
    all.loss = latest.loss;
  }
  return all;
}

/// Starts the high-water mark of resident memory anew. Not allowed everywhere.
void forget_peak_rss() {
  std::ofstream("/proc/self/clear_refs") << "5";
}

double peak_rss_mib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) / 1024;
  }
  return 0;
}

json run(const Arguments& arguments) {
  torch::set_num_threads(static_cast<int>(arguments.threads));
  Training training(arguments);
  const double loss_first = training.step();
  time_steps(training, arguments.warmup - 1);
  forget_peak_rss();
  if (arguments.serve) std::cout << json{{"ready", true}} << std::endl;
  const Timing timing = arguments.serve ? serve(training) : time_steps(training, arguments.steps);
  const double tokens = static_cast<double>(arguments.batch * arguments.length);
  return {{"contender", "crnet"},
          {"arch", arguments.config.empty() ? arguments.arch : arguments.config},
          {"size", arguments.config.empty() ? arguments.size : ""},
          {"precision", arguments.precision},
          {"batch", arguments.batch},
          {"length", arguments.length},
          {"threads", torch::get_num_threads()},
          {"parameters", training.num_parameters()},
          {"flops_per_token", training.flops_per_token()},
          {"tokens_per_s", tokens / median(timing.seconds)},
          {"step_seconds", timing.seconds},
          {"peak_rss_mib", peak_rss_mib()},
          {"loss_first", loss_first},
          {"loss_last", timing.loss},
          {"versions", {{"LibTorch", TORCH_VERSION}}}};
}

}  // namespace

int main(int argc, char** argv) {
  crnet::keep_freed_memory();
  try {
    std::cout << run(parse(argc, argv)) << std::endl;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
