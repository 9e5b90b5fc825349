#include "crnet/model/init.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/PhiloxRNGEngine.h>

#include <cmath>

#include "ops/parallel.h"

namespace crnet {
namespace {

// The sum of eight uniforms on {0 … 65535}, less its mean. Exact in int32 and in fp32.
float centred_sum(at::Philox4_32& engine) {
  int32_t sum = -8 * 65535 / 2;
  for (int word = 0; word < 4; ++word) {
    const uint32_t bits = engine();
    sum += static_cast<int32_t>(bits & 0xffffu) + static_cast<int32_t>(bits >> 16);
  }
  return static_cast<float>(sum);
}

// Variance of a uniform on n integers: (n² − 1) / 12.
const double kSumStd = std::sqrt(8.0 * (65536.0 * 65536.0 - 1.0) / 12.0);

// FNV-1a: a stream number for a parameter's name, the same everywhere.
uint64_t stream_of(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const unsigned char letter : name) hash = (hash ^ letter) * 0x100000001b3ull;
  return hash;
}

// Only a projection with an output below it may start with B = 0: elsewhere every output, and with
// it every gradient, would be zero for good.
LowRankInit low_rank_init(const ModelConfig& config, const std::string& name) {
  const bool has_output_below =
      config.architecture == Architecture::kCRNet && name.find("layers.0.") == std::string::npos;
  return has_output_below ? config.low_rank_init : LowRankInit::kProduct;
}

}  // namespace

LowRankStds low_rank_stds(int64_t in, int64_t r, double init_std, LowRankInit init) {
  if (init == LowRankInit::kZero) return {1.0 / std::sqrt(static_cast<double>(in)), 0.0};
  // An entry of A·B is a sum of r products: std² = r · std_A² · std_B².
  const double each = std::sqrt(init_std / std::sqrt(static_cast<double>(r)));
  return {each, each};
}

void fill_normal(torch::Tensor tensor, double std, uint64_t seed, uint64_t stream) {
  const torch::NoGradGuard no_grad;
  torch::Tensor values = torch::empty(tensor.sizes(), torch::kFloat32);
  float* out = values.data_ptr<float>();
  const auto scale = static_cast<float>(std / kSumStd);
  parallel_for(0, values.numel(), 4096, [&](int64_t first, int64_t last) {
    // One block of four words each, so element i starts at offset i.
    at::Philox4_32 engine(seed, stream, static_cast<uint64_t>(first));
    for (int64_t i = first; i < last; ++i) out[i] = centred_sum(engine) * scale;
  });
  tensor.copy_(values);
}

void draw_normal(torch::Tensor tensor, double std) {
  if (tensor.is_meta()) return;
  auto generator = at::detail::getDefaultCPUGenerator();
  uint64_t seed = 0;
  {
    const std::lock_guard lock(generator.mutex());
    seed = at::check_generator<at::CPUGeneratorImpl>(generator)->random64();
  }
  fill_normal(std::move(tensor), std, seed, 0);
}

void initialize_parameter(torch::Tensor parameter, const std::string& name,
                          const ModelConfig& config, uint64_t seed) {
  const torch::NoGradGuard no_grad;
  if (name.ends_with(".beta")) {
    parameter.fill_(config.beta_init);
  } else if (name.ends_with("norm.weight")) {
    parameter.fill_(1.0);
  } else if (name.ends_with(".A") || name.ends_with(".B")) {
    const bool is_A = name.ends_with(".A");
    const int64_t in = parameter.size(0), r = parameter.size(is_A ? 1 : 0);
    const auto stds = low_rank_stds(in, r, config.init_std, low_rank_init(config, name));
    fill_normal(parameter, is_A ? stds.A : stds.B, seed, stream_of(name));
  } else {
    fill_normal(parameter, config.init_std, seed, stream_of(name));
  }
}

void initialize(torch::nn::Module& model, const ModelConfig& config, uint64_t seed) {
  for (auto& item : model.named_parameters()) {
    initialize_parameter(item.value(), item.key(), config, seed);
  }
}

}  // namespace crnet
