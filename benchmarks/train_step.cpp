// crnet's own contender of the training-step benchmark, the twin of peer.py: times forward +
// backward + gradient clipping + AdamW on random tokens and prints one JSON object.
//
//   crnet_bench_train_step --arch crnet --precision bf16 --steps 5
//
// With --serve it takes turns with others, step by step, under compare_train_step.py.
#include <c10/core/CachingDeviceAllocator.h>
#include <torch/version.h>

#include <algorithm>
#include <cstdio>
#include <cxxopts.hpp>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "crnet/core/error.h"
#include "crnet/model/costs.h"
#include "crnet/train/device.h"
#include "crnet/train/run_config.h"
#include "train/random_training.h"
#include "train/run_plan.h"
#include "train/timing.h"

namespace {

using crnet::median;
using crnet::RandomTraining;
using nlohmann::json;

struct Arguments {
  std::string arch, size, config, precision, device;
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
      ("set", "KEY=VALUE of the model or of recompute, or train.cuda_graphs=true",
       cxxopts::value<std::string>())
      ("precision", "bf16 or fp32", cxxopts::value<std::string>()->default_value("bf16"))
      ("device", "cpu or cuda", cxxopts::value<std::string>()->default_value("cpu"))
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
    if (!setting.starts_with("model.") && !setting.starts_with("recompute.") &&
        !setting.starts_with("train.cuda_graphs=")) {
      throw crnet::UsageError(
          "--set: expected a key of model or recompute, or train.cuda_graphs, got " + setting +
          "; others have options of their own, see --help");
    }
    arguments.settings.push_back(setting);
  }
  arguments.precision = result["precision"].as<std::string>();
  arguments.device = result["device"].as<std::string>();
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
  return arguments;
}

crnet::LoadedConfig<crnet::RunConfig> load_config(const Arguments& arguments) {
  const std::string path = arguments.config.empty()
                               ? std::string(CRNET_SOURCE_DIR "/configs/models/") + arguments.arch +
                                     "-" + arguments.size + ".yaml"
                               : arguments.config;
  std::vector<std::string> settings = {"train.micro_batch=" + std::to_string(arguments.batch),
                                       "train.threads=" + std::to_string(arguments.threads),
                                       "train.seed=" + std::to_string(arguments.seed),
                                       "train.precision=" + arguments.precision,
                                       "train.device=" + arguments.device,
                                       "data.sequence_length=" + std::to_string(arguments.length),
                                       "optimizer.weight_decay=0.1"};
  settings.insert(settings.end(), arguments.settings.begin(), arguments.settings.end());
  return crnet::load_run_config(path, settings);
}

struct Timing {
  std::vector<double> seconds;
  double loss = 0;
};

Timing time_steps(torch::Device device, RandomTraining& training, int64_t count) {
  Timing timing;
  for (int64_t i = 0; i < count; ++i) {
    const double ms = crnet::milliseconds(device, [&] { timing.loss = training.step().loss; });
    timing.seconds.push_back(ms / 1000);
  }
  return timing;
}

/// Answers each line `N` on stdin with N timed steps as JSON, until the end of input.
Timing serve(torch::Device device, RandomTraining& training) {
  Timing all;
  for (std::string line; std::getline(std::cin, line);) {
    const Timing latest = time_steps(device, training, std::stoll(line));
    std::cout << json{{"step_seconds", latest.seconds}, {"loss", latest.loss}} << std::endl;
    all.seconds.insert(all.seconds.end(), latest.seconds.begin(), latest.seconds.end());
    all.loss = latest.loss;
  }
  return all;
}

/// Starts the peak of memory anew. For resident memory not allowed everywhere.
void forget_peak(torch::Device device) {
  if (device.is_cuda()) {
    c10::getDeviceAllocator(torch::kCUDA)->resetPeakStats(device.index());
  } else {
    std::ofstream("/proc/self/clear_refs") << "5";
  }
}

/// Of the device's allocator on CUDA, resident on the CPU. Null of what a CUDA graph replays: that
/// allocates nothing.
json peak_memory_mib(torch::Device device, bool is_replayed) {
  if (is_replayed) return nullptr;
  if (device.is_cuda()) return static_cast<double>(crnet::peak_memory_bytes(device)) / (1 << 20);
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) / 1024;
  }
  return 0;
}

json run(const Arguments& arguments) {
  const auto loaded = load_config(arguments);
  const crnet::RunConfig& config = loaded.config;
  const crnet::Runtime runtime = crnet::select_runtime(config.train);
  RandomTraining training(config, runtime,
                          crnet::find_plan(loaded, runtime, {}, std::nullopt, std::nullopt).plan);
  const double loss_first = training.step().loss;
  const torch::Device device = runtime.device;
  time_steps(device, training, arguments.warmup - 1);
  forget_peak(device);
  if (arguments.serve) std::cout << json{{"ready", true}} << std::endl;
  const Timing timing =
      arguments.serve ? serve(device, training) : time_steps(device, training, arguments.steps);
  return {
      {"contender", "crnet"},
      {"arch", arguments.config.empty() ? arguments.arch : arguments.config},
      {"size", arguments.config.empty() ? arguments.size : ""},
      {"device", crnet::describe(runtime)},
      {"precision", arguments.precision},
      {"batch", arguments.batch},
      {"length", arguments.length},
      {"threads", torch::get_num_threads()},
      {"parameters", crnet::count_parameters(config.model).total()},
      {"flops_per_token", crnet::count_flops(config.model, arguments.length).training()},
      {"tokens_per_s", static_cast<double>(config.micro_batch_tokens()) / median(timing.seconds)},
      {"step_seconds", timing.seconds},
      {"peak_memory_mib", peak_memory_mib(device, config.train.cuda_graphs)},
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
