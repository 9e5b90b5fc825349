// How the time of a training step grows with what makes it larger, beside how its FLOPs grow: the
// slopes of both in log-log.
//
//   crnet_bench_growth [MODEL.yaml] [--rounds N] [--set KEY=VALUE …]
//
// The points of one axis take turns in one process, which holds the state of all of them; a slope
// is fitted in every round by itself.
#include <torch/torch.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cxxopts.hpp>
#include <memory>
#include <string>
#include <vector>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/model/costs.h"
#include "crnet/train/device.h"
#include "crnet/train/run_config.h"
#include "train/random_training.h"
#include "train/timing.h"

namespace {

using crnet::median;
using crnet::RunConfig;
using Overrides = std::vector<std::string>;

constexpr int kWarmUp = 1;

struct Axis {
  const char* name;
  const char* key;
  std::vector<int64_t> values;
  Overrides beside;  // what else is set for it
};

const std::vector<Axis>& axes() {
  static const std::vector<Axis> kAxes = {
      {"tokens per batch, as sequences of 256", "train.micro_batch", {2, 4, 8, 16}, {}},
      {"sequence length, one sequence",
       "data.sequence_length",
       {512, 1024, 2048, 4096},
       {"train.micro_batch=1", "model.max_sequence_length=4096"}},
      {"blocks", "model.num_layers", {4, 8, 16, 32}, {}},
      {"r", "model.r", {32, 64, 128, 256}, {}},
      {"vocabulary", "model.vocab_size", {8000, 16000, 32000, 64000}, {}},
  };
  return kAxes;
}

struct Point {
  double value = 0, flops = 0;  // FLOPs of a step
  torch::Device device;
  std::unique_ptr<crnet::RandomTraining> training;
};

double flops_of_step(const RunConfig& config) {
  return crnet::count_flops(config.model, config.data.sequence_length).training() *
         static_cast<double>(config.micro_batch_tokens());
}

// The slope of log y over log x by least squares.
double slope(const std::vector<double>& x, const std::vector<double>& y) {
  const auto n = static_cast<double>(x.size());
  double sum_x = 0, sum_y = 0, sum_xx = 0, sum_xy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double log_x = std::log(x[i]), log_y = std::log(y[i]);
    sum_x += log_x;
    sum_y += log_y;
    sum_xx += log_x * log_x;
    sum_xy += log_x * log_y;
  }
  return (n * sum_xy - sum_x * sum_y) / (n * sum_xx - sum_x * sum_x);
}

std::vector<Point> make_points(const Axis& axis, const std::string& file, const Overrides& given) {
  std::vector<Point> points;
  for (const int64_t value : axis.values) {
    Overrides overrides = {"train.micro_batch=8", "data.sequence_length=256"};
    overrides.insert(overrides.end(), axis.beside.begin(), axis.beside.end());
    overrides.insert(overrides.end(), given.begin(), given.end());
    overrides.push_back(axis.key + ("=" + std::to_string(value)));
    const RunConfig config = crnet::load_run_config(file, overrides).config;
    const crnet::Runtime runtime = crnet::select_runtime(config.train);
    points.push_back({static_cast<double>(value), flops_of_step(config), runtime.device,
                      std::make_unique<crnet::RandomTraining>(
                          config, runtime, crnet::make_plan(config.recompute, config.model))});
  }
  return points;
}

void measure(const Axis& axis, const std::string& file, const Overrides& given, int rounds) {
  const auto points = make_points(axis, file, given);
  std::vector<double> values, flops, slopes;
  for (const Point& point : points) {
    values.push_back(point.value);
    flops.push_back(point.flops);
  }
  std::vector<std::vector<double>> times(points.size());
  for (int round = -kWarmUp; round < rounds; ++round) {
    std::vector<double> now(points.size());
    for (size_t k = 0; k < points.size(); ++k) {
      // Up, then down: a machine that slows down does not look like growth.
      const size_t i = round % 2 == 0 ? k : points.size() - 1 - k;
      now[i] = crnet::milliseconds(points[i].device, [&] { points[i].training->step(); });
    }
    if (round < 0) continue;
    slopes.push_back(slope(values, now));
    for (size_t i = 0; i < points.size(); ++i) times[i].push_back(now[i]);
  }
  std::string at, took;
  for (size_t i = 0; i < points.size(); ++i) {
    at += crnet::format("%s%ld", i > 0 ? ", " : "", static_cast<long>(axis.values[i]));
    took += crnet::format("%s%.0f", i > 0 ? ", " : "", median(times[i]));
  }
  const auto [least, most] = std::minmax_element(slopes.begin(), slopes.end());
  std::printf("| %s | %s | %s | %.2f [%.2f–%.2f] | %.2f |\n", axis.name, at.c_str(), took.c_str(),
              median(slopes), *least, *most, slope(values, flops));
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  cxxopts::Options options("crnet_bench_growth", "How the time of a training step grows.");
  // clang-format off
  options.add_options()
      ("model", "a model file", cxxopts::value<std::string>()
          ->default_value(CRNET_SOURCE_DIR "/configs/models/crnet-60m.yaml"))
      ("rounds", "of one step at every point", cxxopts::value<int>()->default_value("5"))
      ("set", "override: key=value (may be repeated)", cxxopts::value<Overrides>())
      ("help", "print this");
  // clang-format on
  options.parse_positional({"model"});
  options.positional_help("[MODEL.yaml]");
  const auto parsed = options.parse(argc, argv);
  if (parsed.count("help") > 0) {
    std::printf("%s", options.help().c_str());
    return 0;
  }
  const int rounds = parsed["rounds"].as<int>();
  if (rounds < 1) {
    throw crnet::UsageError(crnet::format("--rounds: expected at least 1, got %d", rounds));
  }
  const std::string file = parsed["model"].as<std::string>();
  const Overrides given = parsed.count("set") > 0 ? parsed["set"].as<Overrides>() : Overrides{};
  const auto train = crnet::load_run_config(file, given).config.train;
  std::printf("%s; LibTorch %s; %s, 8 × 256 tokens where nothing else is said; median of %d\n\n",
              crnet::describe(crnet::select_runtime(train)).c_str(), TORCH_VERSION, file.c_str(),
              rounds);
  std::printf("| grows | to | ms a step | slope of the time | slope of the FLOPs |\n");
  std::printf("|---|---|---|---|---|\n");
  for (const Axis& axis : axes()) measure(axis, file, given, rounds);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  crnet::keep_freed_memory();
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "crnet_bench_growth: %s\n", error.what());
    return 1;
  }
}
