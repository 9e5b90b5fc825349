// What the processes of a run say to each other costs, and how much of that hides behind the
// backward pass; and the memory of each.
//
//   mpirun -np 2 crnet_bench_data_parallel [--shard none,optimizer,parameters] …
//
// For each way of sharing: a whole step; the same work without any communication; and the same
// communication without the work, in turn in one process, ratios round by round.
#include <torch/torch.h>
#include <torch/version.h>

#include <chrono>
#include <cstdio>
#include <cxxopts.hpp>
#include <fstream>
#include <string>
#include <vector>

#include "counting_allocator.h"
#include "crnet/core/error.h"
#include "crnet/train/optimizer.h"
#include "crnet/train/parallel_model.h"
#include "crnet/train/run_config.h"
#include "train/timing.h"

namespace {

using crnet::median;
using crnet::testing::CountingAllocator;
using torch::Tensor;
constexpr double kMiB = 1024.0 * 1024.0;

struct Arguments {
  std::string size;
  std::vector<std::string> shards;
  std::vector<std::string> settings;
  int64_t batch = 0, length = 0, rounds = 0, threads = 0;
};

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Bytes that this host's loopback has carried: of all processes, if they are on one host.
double loopback_bytes() {
  std::ifstream table("/proc/net/dev");
  for (std::string line; std::getline(table, line);) {
    double received = 0;
    if (std::sscanf(line.c_str(), " lo: %lf", &received) == 1) return received;
  }
  return 0;
}

// A model with its optimizer, in a group.
class Trained {
 public:
  Trained(const crnet::RunConfig& config, const crnet::Runtime& runtime, crnet::Group& group)
      : group_(group),
        model_(config.model, config.dist, runtime, group),
        optimizer_(model_.parallel->pieces(), config.optimizer) {
    model_.model->set_recompute(config.recompute);
    model_.initialize(1);
    model_.parallel->synchronize();
  }

  void step(const Tensor& tokens) {
    auto& parallel = *model_.parallel;
    parallel.backward(model_.model->loss(tokens, tokens), /*reduce=*/true);
    optimizer_.clip_grad_norm(1.0, 1, [&](double norm) {
      return std::sqrt(group_.sum({norm * norm}, "the norm")[0] / parallel.copies());
    });
    optimizer_.step(1e-4, [&](size_t bucket) { parallel.updated(bucket); });
    optimizer_.zero_grad();
  }

  // Gradients of zero, made of next to nothing, take the way of true ones; so do weights.
  void communicate() {
    auto& parallel = *model_.parallel;
    const auto units = model_.model->parameter_units();
    Tensor nothing = torch::zeros({});
    const bool gathers = parallel.forward_communicates();
    for (size_t unit = 0; unit < units.size(); ++unit) {
      if (gathers) parallel.before_use(unit, /*forward=*/true), parallel.after_use(unit);
    }
    for (size_t unit = 0; unit < units.size(); ++unit) {
      for (const auto& [name, parameter] : units[unit]) nothing = nothing + hollow(parameter);
    }
    parallel.backward(nothing, /*reduce=*/true);
    for (size_t unit = units.size(); unit-- > 0;) {
      if (gathers) parallel.before_use(unit, /*forward=*/false), parallel.after_use(unit);
    }
    for (size_t bucket = 0; bucket < parallel.pieces().size(); ++bucket) parallel.updated(bucket);
    for (size_t unit = 0; unit < units.size(); ++unit) {
      if (!gathers) parallel.before_use(unit, /*forward=*/true), parallel.after_use(unit);
    }
    optimizer_.zero_grad();
  }

 private:
  // Does not read the values, which may be absent.
  struct Hollow : torch::autograd::Function<Hollow> {
    static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& parameter) {
      ctx->saved_data["shape"] = parameter.sizes();
      ctx->saved_data["dtype"] = static_cast<int64_t>(parameter.scalar_type());
      return torch::zeros({});
    }
    static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::tensor_list&) {
      const auto dtype = static_cast<torch::ScalarType>(ctx->saved_data["dtype"].toInt());
      return {torch::zeros(ctx->saved_data["shape"].toIntVector(), dtype)};
    }
  };
  static Tensor hollow(const Tensor& parameter) { return Hollow::apply(parameter); }

  crnet::Group& group_;
  crnet::ParallelModel model_;
  crnet::AdamW optimizer_;
};

void measure(const Arguments& arguments, const std::string& shard, crnet::Group& group,
             const crnet::Runtime& runtime) {
  auto settings = arguments.settings;
  settings.push_back("dist.shard=" + shard);
  const auto config = crnet::load_run_config(arguments.size, settings).config;
  const Tensor tokens = torch::randint(config.model.vocab_size, {arguments.batch, arguments.length},
                                       torch::TensorOptions(torch::kInt64));
  crnet::Group alone;
  double held = 0, peak = 0;
  std::vector<double> step, work, talk, exposed, hidden;
  double bytes = 0;
  {
    const CountingAllocator memory;
    Trained together(config, runtime, group);
    together.step(tokens);
    CountingAllocator::reset_peak();
    together.step(tokens);
    held = static_cast<double>(CountingAllocator::live_bytes()) / kMiB;
    peak = static_cast<double>(CountingAllocator::peak_bytes()) / kMiB;
  }
  auto unshared = config;
  unshared.dist.shard = crnet::Sharding::kNone;
  Trained together(config, runtime, group), by_itself(unshared, runtime, alone);
  for (int64_t round = 0; round < arguments.rounds + 1; ++round) {
    (void)group.sum({0}, "a common start");
    const double s = seconds_of([&] { together.step(tokens); });
    (void)group.sum({0}, "a common start");
    const double w = seconds_of([&] { by_itself.step(tokens); });
    (void)group.sum({0}, "a common start");
    const double before = loopback_bytes();
    const double t = seconds_of([&] { together.communicate(); });
    (void)group.sum({0}, "a common start");
    if (round == 0) continue;  // warm-up
    bytes = loopback_bytes() - before;
    step.push_back(s), work.push_back(w), talk.push_back(t);
    exposed.push_back(s - w), hidden.push_back((w + t - s) / t);
  }
  if (!group.is_first()) return;
  std::printf("%-11s %7.3f %7.3f %7.3f %8.3f %7.0f%% %9.1f %9.0f %9.0f\n", shard.c_str(),
              median(step), median(work), median(talk), median(exposed), 100 * median(hidden),
              bytes / group.size() / kMiB, held, peak);
  std::fflush(stdout);
}

Arguments parse(int argc, char** argv) {
  cxxopts::Options options("crnet_bench_data_parallel", "Communication against work, and memory.");
  const std::string models = std::string(CRNET_SOURCE_DIR) + "/configs/models/";
  options.add_options()("model", "model file",
                        cxxopts::value<std::string>()->default_value(models + "crnet-60m.yaml"))(
      "shard", "values of dist.shard, in turn",
      cxxopts::value<std::vector<std::string>>()->default_value("none,optimizer,parameters"))(
      "set", "override: key=value", cxxopts::value<std::string>())(
      "batch", "sequences of a process", cxxopts::value<int64_t>()->default_value("4"))(
      "length", "tokens of a sequence", cxxopts::value<int64_t>()->default_value("256"))(
      "rounds", "", cxxopts::value<int64_t>()->default_value("5"))(
      "threads", "of a process", cxxopts::value<int64_t>()->default_value("1"));
  const auto parsed = options.parse(argc, argv);
  Arguments arguments{parsed["model"].as<std::string>(),
                      parsed["shard"].as<std::vector<std::string>>(),
                      {},
                      parsed["batch"].as<int64_t>(),
                      parsed["length"].as<int64_t>(),
                      parsed["rounds"].as<int64_t>(),
                      parsed["threads"].as<int64_t>()};
  for (const auto& argument : parsed.arguments()) {
    if (argument.key() == "set") arguments.settings.push_back(argument.value());
  }
  return arguments;
}

void run(const Arguments& arguments) {
  const crnet::Launch launch = crnet::detect_launch();
  auto config = crnet::load_run_config(arguments.size, arguments.settings).config;
  config.train.threads = arguments.threads;
  const crnet::Runtime runtime = crnet::select_runtime(config.train, launch);
  // With what splits parameters, so that there are groups for it.
  config.dist.shard = crnet::Sharding::kOptimizer;
  crnet::Group group(launch, config.dist, runtime.device);
  if (group.is_first()) {
    std::printf("%d processes; %s; LibTorch %s; %s; micro-batches of %ld x %ld; medians of %ld\n",
                group.size(), describe(runtime).c_str(), TORCH_VERSION, arguments.size.c_str(),
                static_cast<long>(arguments.batch), static_cast<long>(arguments.length),
                static_cast<long>(arguments.rounds));
    std::printf(
        "step, work alone, communication alone, exposed: seconds; hidden: part of the "
        "communication "
        "that does not lengthen the step;\nMiB on the wire, held between steps, and at the peak of "
        "one: of a process\n%-11s %7s %7s %7s %8s %8s %9s %9s %9s\n",
        "dist.shard", "step", "work", "comm", "exposed", "hidden", "wire", "held", "peak");
  }
  for (const auto& shard : arguments.shards) measure(arguments, shard, group, runtime);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    crnet::keep_freed_memory();
    run(parse(argc, argv));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "crnet_bench_data_parallel: %s\n", error.what());
    return 1;
  }
}
