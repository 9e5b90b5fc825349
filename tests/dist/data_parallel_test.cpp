#include "crnet/dist/data_parallel.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>

#include "crnet/core/error.h"
#include "in_process_group.h"

namespace crnet {
namespace {

using testing::run_processes;
using torch::Tensor;

// y = ((x W0 + b0) W1 + b1) …: a unit a layer. Sizes that no number of processes divides.
struct Layers {
  Layers() {
    const std::vector<std::vector<int64_t>> shapes = {{5, 7}, {7, 13}, {13, 3}};
    for (size_t i = 0; i < shapes.size(); ++i) {
      const auto seed = static_cast<int64_t>(10 * i);
      weights.push_back(values(shapes[i], seed).requires_grad_());
      biases.push_back(values({shapes[i][1]}, seed + 1).requires_grad_());
    }
  }

  // The same in every thread: the default generator is shared.
  static Tensor values(const std::vector<int64_t>& shape, int64_t seed) {
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    return torch::sin(torch::arange(count, torch::kFloat32) * 1.7 + static_cast<double>(seed))
        .view(shape);
  }

  [[nodiscard]] std::vector<ParameterUnit> units() const {
    std::vector<ParameterUnit> all;
    for (size_t i = 0; i < weights.size(); ++i) {
      const std::string name = "layers." + std::to_string(i);
      all.push_back({{{name + ".weight", weights[i]}, {name + ".bias", biases[i]}}});
    }
    return all;
  }

  // As a model would that rebuilds nothing: weights stay in use until the backward pass is done.
  [[nodiscard]] Tensor loss(const Tensor& x, DataParallel* parallel) const {
    Tensor y = x;
    for (size_t i = 0; i < weights.size(); ++i) {
      if (parallel != nullptr) parallel->before_use(i, /*forward=*/true);
      y = torch::mm(y, weights[i]) + biases[i];
    }
    return y.square().mean();
  }

  std::vector<Tensor> weights, biases;
};

Tensor input(int process, int micro_batch) {
  return Layers::values({4, 5}, 100 + 10 * process + micro_batch);
}

// By name: the mean over processes of gradients summed over micro-batches, as one process in fp64.
std::map<std::string, Tensor> expected_gradients(int processes, int micro_batches) {
  Layers layers;
  for (auto* tensors : {&layers.weights, &layers.biases}) {
    for (auto& t : *tensors) t = t.detach().to(torch::kFloat64).requires_grad_();
  }
  for (int process = 0; process < processes; ++process) {
    for (int i = 0; i < micro_batches; ++i) {
      (layers.loss(input(process, i).to(torch::kFloat64), nullptr) / processes).backward();
    }
  }
  std::map<std::string, Tensor> gradients;
  for (const auto& unit : layers.units()) {
    for (const auto& [name, parameter] : unit.parameters) gradients[name] = parameter.grad();
  }
  return gradients;
}

struct Case {
  Sharding shard;
  int processes, shard_group, micro_batches;
  GradientPrecision gradients = GradientPrecision::kFp32;
};

DistConfig config_of(const Case& c) {
  DistConfig config;
  config.shard = c.shard;
  config.shard_group = c.shard_group;
  config.gradients = c.gradients;
  config.timeout_s = 30;
  return config;
}

void accumulate(const Layers& layers, DataParallel& parallel, int rank, int micro_batches) {
  for (int i = 0; i < micro_batches; ++i) {
    parallel.backward(layers.loss(input(rank, i), &parallel), /*reduce=*/i + 1 == micro_batches);
    for (size_t unit = 0; unit < layers.weights.size(); ++unit) parallel.after_use(unit);
  }
}

class DataParallelTest : public ::testing::TestWithParam<Case> {};

TEST_P(DataParallelTest, GradientsAreThoseOfOneProcessWithAllMicroBatches) {
  const Case& c = GetParam();
  const DistConfig config = config_of(c);
  const auto expected = expected_gradients(c.processes, c.micro_batches);
  const double tolerance = c.gradients == GradientPrecision::kBf16 ? 1e-2 : 1e-5;
  run_processes(c.processes, config, [&](Group& group) {
    const Layers layers;
    const auto parallel = make_data_parallel(group, layers.units(), config, torch::kCPU);
    const Layers fresh;
    for (const auto& bucket : parallel->pieces()) {  // a shard begins empty
      for (const auto& piece : bucket) {
        const bool is_bias = piece.name.ends_with("bias");
        const auto& whole = (is_bias ? fresh.biases : fresh.weights)[piece.name[7] - '0'];
        torch::NoGradGuard no_grad;
        Tensor values = piece.values.detach();
        values.view({-1}).copy_(whole.view({-1}).narrow(0, piece.begin, values.numel()));
      }
    }
    parallel->synchronize();
    accumulate(layers, *parallel, group.rank(), c.micro_batches);
    int64_t count = 0;
    for (const auto& bucket : parallel->pieces()) {
      for (const auto& piece : bucket) {
        const Tensor whole = expected.at(piece.name).view({-1});
        const Tensor wanted = whole.narrow(0, piece.begin, piece.values.numel());
        const Tensor got = piece.values.grad().view({-1}).to(torch::kFloat64);
        EXPECT_LT((got - wanted).abs().max().item<double>(),
                  tolerance * whole.abs().max().item<double>())
            << piece.name << " from " << piece.begin << " on process " << group.rank();
        count += piece.values.numel();
      }
    }
    // All of it is updated by somebody, as often as copies() says.
    const double all = group.sum({static_cast<double>(count)}, "a count")[0];
    EXPECT_EQ(all / parallel->copies(), 5 * 7 + 7 + 7 * 13 + 13 + 13 * 3 + 3);
  });
}

TEST_P(DataParallelTest, UpdatedPiecesAreTheNextForwardPassesWeights) {
  const Case& c = GetParam();
  const DistConfig config = config_of(c);
  run_processes(c.processes, config, [&](Group& group) {
    const Layers layers;
    const auto parallel = make_data_parallel(group, layers.units(), config, torch::kCPU);
    const auto buckets = parallel->pieces();
    for (size_t bucket = 0; bucket < buckets.size(); ++bucket) {
      for (const auto& piece : buckets[bucket]) {  // element i becomes i
        torch::NoGradGuard no_grad;
        Tensor values = piece.values.detach();
        values.view({-1}).copy_(torch::arange(piece.begin, piece.begin + values.numel()));
      }
      parallel->updated(bucket);
    }
    for (size_t unit = 0; unit < layers.weights.size(); ++unit) {
      parallel->before_use(unit, /*forward=*/true);
      for (const auto& t : {layers.weights[unit], layers.biases[unit]}) {
        const Tensor flat = t.detach().view({-1});
        EXPECT_TRUE(torch::equal(flat, torch::arange(flat.numel(), torch::kFloat32)));
      }
      parallel->after_use(unit);
    }
  });
}

TEST_P(DataParallelTest, ReleasedWeightsHaveNoMemory) {
  const Case& c = GetParam();
  if (c.shard != Sharding::kParameters || c.processes == 1) return;
  const DistConfig config = config_of(c);
  run_processes(c.processes, config, [&](Group& group) {
    const Layers layers;
    const auto parallel = make_data_parallel(group, layers.units(), config, torch::kCPU);
    parallel->synchronize();
    parallel->before_use(0, /*forward=*/true);
    parallel->before_use(0, /*forward=*/true);  // uses nest
    parallel->after_use(0);
    EXPECT_GT(layers.weights[0].storage().nbytes(), 0u);
    parallel->after_use(0);
    EXPECT_EQ(layers.weights[0].storage().nbytes(), 0u);
    EXPECT_EQ(layers.weights[2].storage().nbytes(), 0u);
    EXPECT_GT(layers.biases[2].storage().nbytes(), 0u);  // small ones stay
  });
}

INSTANTIATE_TEST_SUITE_P(
    Sharding, DataParallelTest,
    ::testing::Values(Case{Sharding::kNone, 1, 0, 2}, Case{Sharding::kNone, 2, 0, 2},
                      Case{Sharding::kOptimizer, 1, 0, 1}, Case{Sharding::kOptimizer, 2, 0, 1},
                      Case{Sharding::kOptimizer, 3, 0, 2}, Case{Sharding::kOptimizer, 4, 2, 2},
                      Case{Sharding::kOptimizer, 2, 0, 2, GradientPrecision::kBf16},
                      Case{Sharding::kOptimizer, 2, 1, 1}, Case{Sharding::kParameters, 2, 0, 1},
                      Case{Sharding::kParameters, 3, 0, 2}, Case{Sharding::kParameters, 4, 2, 1},
                      Case{Sharding::kParameters, 2, 0, 1, GradientPrecision::kBf16}),
    [](const auto& info) {
      const Case& c = info.param;
      return std::string(enum_name(c.shard)) + "_" + std::to_string(c.processes) + "in" +
             std::to_string(c.shard_group) + "_" + std::to_string(c.micro_batches) +
             (c.gradients == GradientPrecision::kBf16 ? "_bf16" : "");
    });

}  // namespace
}  // namespace crnet
