// What the strategies of recomputation cost and save, and how exact they are.
//
//   crnet_bench_recompute                       step time and memory of every strategy
//   crnet_bench_recompute --beside cola         the same of CoLA with as many parameters, in turn
//   crnet_bench_recompute --drift               error of rebuilt outputs and of the gradient
//
// Strategies take turns in one process; ratios are taken round by round.
#include <c10/core/CachingDeviceAllocator.h>
#include <torch/torch.h>
#include <torch/version.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cxxopts.hpp>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "counting_allocator.h"
#include "crnet/core/error.h"
#include "crnet/model/causal_lm.h"
#include "crnet/model/costs.h"
#include "crnet/model/init.h"
#include "crnet/model/memory.h"
#include "crnet/train/device.h"
#include "crnet/train/run_config.h"
#include "train/timing.h"

namespace {

using crnet::median;
using crnet::RecomputeConfig;
using crnet::RecomputeStrategy;
using torch::Tensor;
constexpr double kMiB = 1024.0 * 1024.0;

struct Arguments {
  std::string arch, size, beside;
  std::vector<std::string> settings;  // key=value, as of crnet's --set
  int64_t batch = 0, length = 0, rounds = 0, threads = 0, stride = 0;
  bool bf16 = false;
  torch::Device device = torch::kCPU;
};

// Bytes that tensors hold on a device, counted from its construction on.
class MemoryProbe {
 public:
  explicit MemoryProbe(torch::Device device) {
    if (!device.is_cuda()) {
      counter_.emplace();
      return;
    }
    cuda_ = c10::getDeviceAllocator(torch::kCUDA);
    cuda_->resetPeakStats(0);
    before_ = stat().current;
  }
  [[nodiscard]] double live_mib() const {
    return static_cast<double>(counter_ ? counter_->live_bytes() : stat().current - before_) / kMiB;
  }
  [[nodiscard]] double peak_mib() const {
    return static_cast<double>(counter_ ? counter_->peak_bytes() : stat().peak - before_) / kMiB;
  }

 private:
  [[nodiscard]] c10::CachingAllocator::Stat stat() const {
    return cuda_->getDeviceStats(0)
        .allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
  }
  std::optional<crnet::testing::CountingAllocator> counter_;
  c10::DeviceAllocator* cuda_ = nullptr;
  int64_t before_ = 0;
};

// Every strategy, those that leave attention out also with its result kept, which a GPU does not.
std::vector<RecomputeConfig> strategies_of(crnet::Architecture architecture,
                                           const Arguments& arguments) {
  using enum RecomputeStrategy;
  std::vector<RecomputeStrategy> rebuilding;
  if (architecture == crnet::Architecture::kCRNet) rebuilding = {kInverse, kReplay};
  if (architecture == crnet::Architecture::kCoLA) rebuilding = {kColaM};
  std::vector<RecomputeConfig> configs(2);
  configs[1].strategy = kFull;
  for (const auto strategy : rebuilding) {
    for (const bool attention : {false, true}) {
      if (attention && arguments.device.is_cuda()) continue;
      auto& config = configs.emplace_back();
      config.strategy = strategy;
      config.keep_attention = attention;
      if (arguments.stride > 0 && strategy != kColaM) config.anchors = arguments.stride;
    }
  }
  return configs;
}

std::string name_of(const RecomputeConfig& config) {
  return std::string(crnet::enum_name(config.strategy)) +
         (config.keep_attention ? ", attention kept" : "");
}

struct Step {
  double milliseconds = 0, peak_mib = 0, kept_mib = 0;  // memory beyond the weights
};

Step measure(crnet::CausalLM& model, const Tensor& tokens) {
  for (auto& parameter : model->parameters()) parameter.mutable_grad().reset();
  const auto synchronize = [&] {
    if (tokens.is_cuda()) torch::cuda::synchronize();
  };
  synchronize();
  const MemoryProbe memory(tokens.device());
  const auto begin = std::chrono::steady_clock::now();
  const Tensor loss = model->loss(tokens, tokens);
  const double kept = memory.live_mib();
  loss.backward();
  synchronize();
  const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
  return {time.count(), memory.peak_mib(), kept};
}

crnet::ModelConfig model_config(const Arguments& arguments, const std::string& architecture) {
  return crnet::load_run_config(std::string(CRNET_SOURCE_DIR "/configs/models/") + architecture +
                                    "-" + arguments.size + ".yaml",
                                arguments.settings)
      .config.model;
}

// With the r that comes nearest to as many parameters as `other` has.
crnet::ModelConfig of_equal_size(crnet::ModelConfig config, const crnet::ModelConfig& other) {
  const auto parameters = [&config](int64_t r) {
    config.r = r;
    return crnet::count_parameters(config).total();
  };
  const double per_r = static_cast<double>(parameters(2) - parameters(1));
  const auto wanted = static_cast<double>(crnet::count_parameters(other).total() - parameters(1));
  config.r = static_cast<int64_t>(std::lround(1 + wanted / per_r));
  return config;
}

struct Contender {
  std::string name;
  crnet::ModelConfig config;
  RecomputeConfig recompute;
  crnet::CausalLM model;
};

void add_contenders(const Arguments& arguments, const std::string& name,
                    const crnet::ModelConfig& config, std::vector<Contender>& contenders) {
  crnet::CausalLM model(config, arguments.device);
  crnet::initialize(*model, 1);
  model->set_compute_dtype(arguments.bf16 ? torch::kBFloat16 : torch::kFloat32);
  for (const auto& recompute : strategies_of(config.architecture, arguments)) {
    contenders.push_back({name, config, recompute, model});
  }
}

std::vector<Contender> contenders_of(const Arguments& arguments) {
  std::vector<Contender> contenders;
  const auto config = model_config(arguments, arguments.arch);
  add_contenders(arguments, arguments.arch + "-" + arguments.size, config, contenders);
  if (arguments.beside.empty()) return contenders;
  const auto rival = of_equal_size(model_config(arguments, arguments.beside), config);
  add_contenders(arguments, arguments.beside + ", r " + std::to_string(std::get<int64_t>(rival.r)),
                 rival, contenders);
  return contenders;
}

void print_costs(const Arguments& arguments) {
  auto contenders = contenders_of(arguments);
  torch::manual_seed(1);
  const Tensor tokens =
      torch::randint(contenders[0].config.vocab_size, {arguments.batch, arguments.length})
          .to(arguments.device);
  std::vector<std::vector<double>> times(contenders.size()), ratios(contenders.size());
  std::vector<Step> last(contenders.size());
  for (int64_t round = -1; round < arguments.rounds; ++round) {  // one to warm up
    for (size_t i = 0; i < contenders.size(); ++i) {
      contenders[i].model->set_recompute(contenders[i].recompute);
      last[i] = measure(contenders[i].model, tokens);
      if (round < 0) continue;
      times[i].push_back(last[i].milliseconds);
      ratios[i].push_back(last[i].milliseconds / times[0].back());
    }
  }
  for (size_t i = 0; i < contenders.size(); ++i) {
    const auto& [name, config, recompute, model] = contenders[i];
    const auto memory = crnet::count_memory(config, {.batch = arguments.batch,
                                                     .sequence_length = arguments.length,
                                                     .bf16 = arguments.bf16,
                                                     .recompute = make_plan(recompute, config),
                                                     .on_cpu = !arguments.device.is_cuda()});
    const auto [least, most] = std::minmax_element(ratios[i].begin(), ratios[i].end());
    const auto kept = memory.activations.total() + memory.weight_copies + memory.head_gradient;
    std::printf("| %s, %.1f M | %s | %s | %.1f | %.3f [%.2f–%.2f] | %.0f | %.0f | %.0f | %.0f |\n",
                name.c_str(), static_cast<double>(crnet::count_parameters(config).total()) / 1e6,
                arguments.bf16 ? "bf16" : "fp32", name_of(recompute).c_str(), median(times[i]),
                median(ratios[i]), *least, *most, static_cast<double>(kept) / kMiB,
                last[i].kept_mib,
                static_cast<double>(memory.peak - memory.weights - memory.optimizer) / kMiB,
                last[i].peak_mib);
  }
}

// ---- exactness

constexpr int64_t kBlocks = 16;

crnet::ModelConfig small_model(double beta) {
  crnet::ModelConfig config;
  config.vocab_size = 512;
  config.hidden_size = 256;
  config.num_layers = kBlocks;
  config.num_heads = 4;
  config.ffn_size = 688;
  config.max_sequence_length = 256;
  config.r = int64_t{64};
  config.beta_init = beta;
  config.low_rank_init = crnet::LowRankInit::kProduct;
  return config;
}

std::vector<Tensor> gradients(crnet::CausalLM& model, const Tensor& tokens) {
  return torch::autograd::grad({model->loss(tokens, tokens.roll(-1, 1))}, model->parameters());
}

double distance(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  double off = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    off += (a[i] - b[i]).to(torch::kFloat64).square().sum().item<double>();
    norm += b[i].to(torch::kFloat64).square().sum().item<double>();
  }
  return std::sqrt(off / norm);
}

void print_drift(double beta, int64_t stride, torch::ScalarType dtype) {
  constexpr int kSeeds = 3;
  double worst_output = 0, gradient = 0, own = 0;
  for (int seed = 1; seed <= kSeeds; ++seed) {
    crnet::CausalLM model(small_model(beta));
    crnet::initialize(*model, static_cast<uint64_t>(seed));
    torch::manual_seed(seed);
    const Tensor tokens = torch::randint(512, {1, 256});
    const auto exact = gradients(model, tokens);  // fp32, everything kept
    model->set_compute_dtype(dtype);
    const auto kept = gradients(model, tokens);
    own += distance(kept, exact) / kSeeds;
    RecomputeConfig recompute;
    recompute.strategy = RecomputeStrategy::kInverse;
    recompute.anchors = stride;
    recompute.max_amplification = std::numeric_limits<double>::max();
    model->set_recompute(recompute);
    for (int64_t block = 0; block < kBlocks; ++block) {
      model->stack().check_next();
      const auto rebuilt = gradients(model, tokens);
      if (block == 0) gradient += distance(rebuilt, kept) / kSeeds;
      for (const double drift : model->stack().drift().relative) {
        worst_output = std::max(worst_output, drift);
      }
    }
  }
  std::printf("| %.1f | %ld | %s | %.2g | %.2g | %.2g |\n", beta, static_cast<long>(stride),
              crnet::dtype_name(dtype).c_str(), worst_output, gradient, own);
}

void print_all_drifts() {
  std::printf(
      "| beta | stride | dtype | worst rebuilt Y | whole gradient | the dtype's own error of the "
      "gradient |\n|---|---|---|---|---|---|\n");
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    for (const double beta : {1.0, 0.9, 0.7, 0.5, 0.1}) {
      for (const int64_t stride : {2, 4, 8}) print_drift(beta, stride, dtype);
    }
  }
}

void run(int argc, char** argv) {
  cxxopts::Options options("crnet_bench_recompute", "Cost and exactness of recomputation.");
  // clang-format off
  options.add_options()
      ("arch", "llama, crnet or cola", cxxopts::value<std::string>()->default_value("crnet"))
      ("beside", "another architecture to measure in turn, with r for as many parameters",
       cxxopts::value<std::string>()->default_value(""))
      ("size", "of configs/models", cxxopts::value<std::string>()->default_value("130m"))
      ("precision", "bf16 or fp32", cxxopts::value<std::string>()->default_value("bf16"))
      ("batch", "sequences", cxxopts::value<int64_t>()->default_value("8"))
      ("length", "tokens per sequence", cxxopts::value<int64_t>()->default_value("256"))
      ("rounds", "after one of warm-up", cxxopts::value<int64_t>()->default_value("5"))
      ("stride", "recompute.anchors; 0: the strategy's own",
       cxxopts::value<int64_t>()->default_value("0"))
      ("set", "override a key of the model: key=value (may be repeated)",
       cxxopts::value<std::vector<std::string>>()->default_value(""))
      ("device", "cpu or cuda", cxxopts::value<std::string>()->default_value("cpu"))
      ("threads", "CPU threads", cxxopts::value<int64_t>()->default_value("2"))
      ("drift", "measure errors in place of costs")
      ("help", "print this");
  // clang-format on
  const auto parsed = options.parse(argc, argv);
  if (parsed.count("help") > 0) {
    std::printf("%s", options.help().c_str());
    return;
  }
  Arguments arguments;
  arguments.arch = parsed["arch"].as<std::string>();
  arguments.beside = parsed["beside"].as<std::string>();
  arguments.size = parsed["size"].as<std::string>();
  arguments.batch = parsed["batch"].as<int64_t>();
  arguments.length = parsed["length"].as<int64_t>();
  arguments.rounds = std::max<int64_t>(1, parsed["rounds"].as<int64_t>());
  arguments.stride = parsed["stride"].as<int64_t>();
  arguments.threads = parsed["threads"].as<int64_t>();
  for (const auto& setting : parsed["set"].as<std::vector<std::string>>()) {
    if (!setting.empty()) arguments.settings.push_back(setting);
  }
  arguments.device = torch::Device(parsed["device"].as<std::string>());
  arguments.bf16 = parsed["precision"].as<std::string>() == "bf16";
  torch::set_num_threads(static_cast<int>(arguments.threads));
  if (parsed.count("drift") > 0) {
    print_all_drifts();
    return;
  }
  crnet::Runtime runtime;
  runtime.device = arguments.device;
  runtime.compute_dtype = arguments.bf16 ? torch::kBFloat16 : torch::kFloat32;
  runtime.threads = arguments.threads;
  std::printf("%s; %ld x %ld tokens, LibTorch %s; forward and backward, median of %ld rounds\n\n",
              crnet::describe(runtime).c_str(), static_cast<long>(arguments.batch),
              static_cast<long>(arguments.length), TORCH_VERSION,
              static_cast<long>(arguments.rounds));
  std::printf(
      "| model | precision | strategy | ms | x first | kept: planned, MiB | measured | peak: "
      "planned, "
      "MiB | measured |\n|---|---|---|---|---|---|---|---|---|\n");
  print_costs(arguments);
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // a line as soon as it is known
  crnet::keep_freed_memory();
  try {
    run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
