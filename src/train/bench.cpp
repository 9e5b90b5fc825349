#include "crnet/train/bench.h"

#include <ATen/Context.h>
#include <ATen/ops/_scaled_dot_product_attention_math.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/core/log.h"
#include "ops/product.h"
#include "train/profiler.h"
#include "train/random_training.h"
#include "train/run_plan.h"
#include "train/step_products.h"
#include "train/step_profile.h"
#include "train/timing.h"

// Shapes: B batch, T sequence, H heads, D head size.

namespace crnet {
namespace {

using torch::Tensor;

// The last one of them records, where steps are CUDA graphs.
constexpr int64_t kWarmup = TrainingPass::kFirstPasses + 1, kProfiledSteps = 3;
constexpr double kMostScores = 512.0 * (1 << 20);  // bytes of unfused attention's [B, H, T, T]

Spread spread_of(const std::vector<double>& values) {
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return {median(values), *least, *most};
}

// While it lives LibTorch's unfused attention multiplies in bf16, if that is what it is given.
class HalfProducts {
 public:
  HalfProducts() { at::globalContext().setAllowFP16BF16ReductionMathSDP(true); }
  ~HalfProducts() { at::globalContext().setAllowFP16BF16ReductionMathSDP(before_); }
  HalfProducts(const HalfProducts&) = delete;
  HalfProducts& operator=(const HalfProducts&) = delete;

 private:
  bool before_ = at::globalContext().allowFP16BF16ReductionMathSDP();
};

// The products and attention calls of a step, in memory of their own.
class Floor {
 public:
  Floor(const StepProducts& step, torch::Device device, torch::ScalarType dtype)
      : options_(torch::TensorOptions().device(device).dtype(
            is_slow_in_libtorch(device, dtype) ? torch::kFloat32 : dtype)) {
    for (const auto& product : step.products) products_.push_back(prepare(product));
    for (const auto& call : step.attentions) attentions_.push_back(prepare(call));
  }

  void run_products() {
    const torch::NoGradGuard no_grad;
    for (auto& product : products_) at::mm_out(product.out, product.left, product.right);
  }

  void run_fused_attention() const {
    run_attention([](const Attention& call) {
      return at::scaled_dot_product_attention(call.q, call.k, call.v, /*attn_mask=*/{},
                                              /*dropout_p=*/0.0, /*is_causal=*/true);
    });
  }

  void run_unfused_attention() const {
    const HalfProducts guard;
    run_attention([](const Attention& call) {
      return std::get<0>(at::_scaled_dot_product_attention_math(call.q, call.k, call.v,
                                                                /*attn_mask=*/{},
                                                                /*dropout_p=*/0.0,
                                                                /*is_causal=*/true));
    });
  }

  [[nodiscard]] bool has_unfused_attention() const {
    const Tensor& q = attentions_.front().q;  // [B, H, T, D]
    return q.device().is_cpu() && static_cast<double>(q.size(0) * q.size(1) * q.size(2) *
                                                      q.size(2) * q.element_size()) <= kMostScores;
  }

 private:
  struct Product {
    Tensor left, right, out;
  };
  struct Attention {
    Tensor q, k, v, gradient;  // [B, H, T, D]
  };
  enum class Role { kLeft, kRight, kOut };

  template <typename Forward>
  void run_attention(const Forward& forward) const {
    const torch::AutoGradMode graph(true);
    for (const auto& call : attentions_) {
      torch::autograd::grad({forward(call)}, {call.q, call.k, call.v}, {call.gradient});
    }
  }

  Tensor matrix(Role role, int64_t rows, int64_t columns, bool transposed) {
    if (transposed) return matrix(role, columns, rows, false).t();
    Tensor& memory = matrices_[{role, rows, columns}];
    if (!memory.defined()) memory = torch::rand({rows, columns}, options_);
    return memory;
  }

  Product prepare(const MatrixProduct& p) {
    return {matrix(Role::kLeft, p.rows, p.inner, p.left_transposed),
            matrix(Role::kRight, p.inner, p.columns, p.right_transposed),
            matrix(Role::kOut, p.rows, p.columns, false)};
  }

  // Those of all blocks are the same.
  Attention prepare(const AttentionCall& call) {
    if (!attentions_.empty()) return attentions_.front();
    const auto make = [&] {  // heads lie beside each other, as the projections leave them
      return torch::randn({call.batch, call.length, call.heads, call.head_size}, options_)
          .transpose(1, 2);
    };
    const auto leaf = [&] { return make().requires_grad_(); };
    return {leaf(), leaf(), leaf(), make()};
  }

  torch::TensorOptions options_;
  std::map<std::tuple<Role, int64_t, int64_t>, Tensor> matrices_;
  std::vector<Product> products_;
  std::vector<Attention> attentions_;
};

// What each round took, ms.
struct Rounds {
  std::vector<double> step, products, fused, unfused;
};

Rounds measure_rounds(RandomTraining& training, Floor* floor, torch::Device device,
                      int64_t rounds) {
  Rounds times;
  for (int64_t round = -kWarmup; round < rounds; ++round) {
    const auto time = [&](std::vector<double>& into, const auto& part) {
      const double taken = milliseconds(device, part);
      if (round >= 0) into.push_back(taken);
    };
    time(times.step, [&] { training.step(); });
    if (floor == nullptr) continue;
    time(times.products, [&] { floor->run_products(); });
    time(times.fused, [&] { floor->run_fused_attention(); });
    if (!floor->has_unfused_attention()) continue;
    time(times.unfused, [&] { floor->run_unfused_attention(); });
  }
  return times;
}

FloorTimes summarise(const Rounds& times, const StepProducts& unavoidable) {
  FloorTimes floor;
  floor.num_products = static_cast<int64_t>(unavoidable.products.size());
  floor.num_attentions = static_cast<int64_t>(unavoidable.attentions.size());
  floor.attention_is_fused = times.unfused.empty() || median(times.fused) <= median(times.unfused);
  const auto& attention = floor.attention_is_fused ? times.fused : times.unfused;
  const auto& other = floor.attention_is_fused ? times.unfused : times.fused;
  std::vector<double> both, ratio;
  for (size_t i = 0; i < times.step.size(); ++i) {
    both.push_back(times.products[i] + attention[i]);
    ratio.push_back(times.step[i] / both[i]);
  }
  floor.products = spread_of(times.products);
  floor.attention = spread_of(attention);
  if (!other.empty()) floor.other_attention = spread_of(other);
  floor.both = spread_of(both);
  floor.ratio = spread_of(ratio);
  return floor;
}

void profile_steps(RandomTraining& training, torch::Device device, BenchReport& report) {
  Profiler profiler(device);
  milliseconds(device, [&] {  // and waits for the last kernel
    for (int64_t i = 0; i < kProfiledSteps; ++i) training.step();
  });
  report.profiled_steps = kProfiledSteps;
  report.breakdown = break_down(profiler.stop(), /*of_kernels=*/!device.is_cpu());
}

}  // namespace

BenchReport measure_training_step(const LoadedConfig<RunConfig>& loaded,
                                  const BenchOptions& options) {
  if (options.rounds < 1) {
    throw UsageError(format("[bench] --rounds: expected at least 1, got %ld",
                            static_cast<long>(options.rounds)));
  }
  const RunConfig& config = loaded.config;
  BenchReport report;
  report.runtime = select_runtime(config.train);
  const torch::Device device = report.runtime.device;
  const RecomputePlan plan = find_plan(loaded, report.runtime, {}, std::nullopt, std::nullopt).plan;
  report.recompute = describe(plan);
  report.tokens = config.micro_batch_tokens();
  const StepProducts unavoidable =
      list_step_products(config.model, config.train.micro_batch, config.data.sequence_length,
                         device.is_cpu(), report.runtime.compute_dtype);
  report.flops = unavoidable.flops();
  report.peak_flops = measure_peak_flops(report.runtime);
  log::info(format("timing %ld round%s of a step%s, after %ld to warm up",
                   static_cast<long>(options.rounds), options.rounds == 1 ? "" : "s",
                   options.floor ? " and its floor" : "", static_cast<long>(kWarmup)));
  RandomTraining training(config, report.runtime, plan);
  std::optional<Floor> floor;
  if (options.floor) floor.emplace(unavoidable, device, report.runtime.compute_dtype);
  const Rounds times = measure_rounds(training, floor ? &*floor : nullptr, device, options.rounds);
  report.step = spread_of(times.step);
  if (floor) {
    report.floor = summarise(times, unavoidable);
  } else {
    report.peak_bytes = peak_memory_bytes(device);
  }
  profile_steps(training, device, report);
  return report;
}

}  // namespace crnet
