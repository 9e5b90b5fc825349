// What strategies of recomputation keep and need, by count, against the formulas.
#include <c10/core/CachingDeviceAllocator.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "counting_allocator.h"
#include "crnet/model/memory.h"
#include "model/recompute_cases.h"

namespace crnet {
namespace {

using testing::kVocab, testing::shape, testing::strategy;
using torch::Tensor;

TEST(RecomputeMemory, NothingStaysAfterAStep) {
  for (const auto kind :
       {RecomputeStrategy::kFull, RecomputeStrategy::kInverse, RecomputeStrategy::kReplay}) {
    CausalLM model(shape(Architecture::kCRNet, 5));
    initialize(*model, 3);
    model->set_recompute(strategy(kind));
    const Tensor tokens = torch::randint(kVocab, {2, 7});
    model->loss(tokens, tokens).backward();  // makes the gradients
    const testing::CountingAllocator allocator;
    for (int step = 0; step < 1000; ++step) model->loss(tokens, tokens).backward();
    EXPECT_EQ(allocator.live_bytes(), 0) << enum_name(kind);
    // Nor where the backward pass never comes.
    static_cast<void>(model->loss(tokens, tokens));
    EXPECT_EQ(allocator.live_bytes(), 0) << enum_name(kind);
  }
}

// Bytes that the forward pass through the blocks leaves alive, by the formula and by count.
void expect_kept_bytes(const ModelConfig& config, const RecomputePlan& plan, bool bf16) {
  const StepShape step{4, 50, bf16, plan};
  CausalLM model(config);
  initialize(*model, 1);
  model->set_compute_dtype(bf16 ? torch::kBFloat16 : torch::kFloat32);
  model->set_recompute(plan);
  const Tensor tokens = torch::randint(kVocab, {step.batch, step.sequence_length});
  const MemoryCounts predicted = count_memory(config, step);
  const testing::CountingAllocator allocator;
  const Tensor loss = model->loss(tokens, tokens);
  const auto kept = static_cast<double>(predicted.activations.total() + predicted.weight_copies +
                                        predicted.head_gradient);
  EXPECT_NEAR(static_cast<double>(allocator.live_bytes()), kept, 0.02 * kept)
      << describe(plan) << (bf16 ? " bf16" : " fp32");
}

void expect_kept_bytes(const ModelConfig& config, const RecomputeConfig& recompute, bool bf16) {
  expect_kept_bytes(config, make_plan(recompute, config), bf16);
}

TEST(RecomputeMemory, AStrategyKeepsWhatItsPlanSays) {
  for (const bool bf16 : {false, true}) {
    auto crnet = shape(Architecture::kCRNet, 9);
    expect_kept_bytes(crnet, strategy(RecomputeStrategy::kNone), bf16);
    expect_kept_bytes(crnet, strategy(RecomputeStrategy::kFull), bf16);
    auto mixed = make_plan(strategy(RecomputeStrategy::kReplay, int64_t{3}), crnet);
    mixed.blocks[7] = mixed.blocks[8] = {.graph = true};
    expect_kept_bytes(crnet, mixed, bf16);
    expect_kept_bytes(crnet, strategy(RecomputeStrategy::kInverse), bf16);
    expect_kept_bytes(crnet, strategy(RecomputeStrategy::kInverse, int64_t{2}), bf16);
    expect_kept_bytes(crnet, strategy(RecomputeStrategy::kReplay), bf16);
    crnet.r = std::map<std::string, int64_t>{{"default", 4}, {"up", 9}};
    crnet.num_kv_heads = 2;
    crnet.low_rank_first_block = true;
    expect_kept_bytes(crnet, strategy(RecomputeStrategy::kReplay), bf16);
    auto with_attention = strategy(RecomputeStrategy::kReplay);
    with_attention.keep_attention = true;
    expect_kept_bytes(crnet, with_attention, bf16);
    for (const auto kind : {RecomputeStrategy::kNone, RecomputeStrategy::kFull}) {
      expect_kept_bytes(shape(Architecture::kLlama, 3), strategy(kind), bf16);
    }
    auto cola = shape(Architecture::kCoLA, 3);
    for (const bool activation : {true, false}) {
      cola.cola_mlp_activation = activation;
      expect_kept_bytes(cola, strategy(RecomputeStrategy::kNone), bf16);
      expect_kept_bytes(cola, strategy(RecomputeStrategy::kColaM), bf16);
    }
  }
}

// Bytes at the worst moment of a step, beyond the weights.
void expect_peak_bytes(const ModelConfig& config, const RecomputeConfig& recompute, bool bf16) {
  // Large enough that what the threads work with does not show.
  const StepShape step{32, 64, bf16, make_plan(recompute, config)};
  CausalLM model(config);
  initialize(*model, 1);
  model->set_compute_dtype(bf16 ? torch::kBFloat16 : torch::kFloat32);
  model->set_recompute(recompute);
  const Tensor tokens = torch::randint(kVocab, {step.batch, step.sequence_length});
  const MemoryCounts predicted = count_memory(config, step);
  const testing::CountingAllocator allocator;
  model->loss(tokens, tokens).backward();
  const auto peak = static_cast<double>(predicted.peak - predicted.weights - predicted.optimizer);
  // An estimate: which tensors pass while a kernel works is LibTorch's matter.
  EXPECT_NEAR(static_cast<double>(allocator.peak_bytes()), peak, 0.12 * peak)
      << enum_name(recompute.strategy) << (bf16 ? " bf16" : " fp32");
}

// Bytes that LibTorch has handed out on the first GPU.
int64_t live_on_gpu() {
  return c10::getDeviceAllocator(torch::kCUDA)
      ->getDeviceStats(0)
      .allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)]
      .current;
}

void expect_kept_bytes_on_gpu(const ModelConfig& config, const RecomputeConfig& recompute) {
  const StepShape step{.batch = 8,
                       .sequence_length = 256,
                       .bf16 = true,
                       .recompute = make_plan(recompute, config),
                       .on_cpu = false};
  CausalLM model(config, torch::Device(torch::kCUDA, 0));
  initialize(*model, 1);
  model->set_compute_dtype(torch::kBFloat16);
  model->set_recompute(step.recompute);
  const Tensor tokens = torch::randint(kVocab, {step.batch, step.sequence_length}).to(torch::kCUDA);
  const MemoryCounts predicted = count_memory(config, step);
  {
    const torch::NoGradGuard no_grad;
    model->loss(tokens, tokens);  // the first products get LibTorch's workspaces, which stay
  }
  const auto before = live_on_gpu();
  const Tensor loss = model->loss(tokens, tokens);
  const auto kept = static_cast<double>(predicted.activations.total() + predicted.weight_copies +
                                        predicted.head_gradient);
  EXPECT_NEAR(static_cast<double>(live_on_gpu() - before), kept, 0.02 * kept)
      << enum_name(config.architecture) << ", " << config.kv_heads() << " heads of keys, "
      << enum_name(recompute.strategy) << ", attention kept: " << recompute.keep_attention;
}

TEST(RecomputeMemoryOnAGpu, AStrategyKeepsWhatItsPlanSays) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU that LibTorch can use";
  auto crnet = shape(Architecture::kCRNet, 9);
  crnet.hidden_size = 256;
  crnet.ffn_size = 688;
  crnet.max_sequence_length = 256;
  auto grouped = crnet, llama = crnet;
  grouped.num_kv_heads = crnet.num_heads / 2;
  llama.architecture = Architecture::kLlama;
  RecomputeConfig keeps_attention = strategy(RecomputeStrategy::kReplay);
  keeps_attention.keep_attention = true;
  for (const RecomputeConfig& recompute :
       {strategy(RecomputeStrategy::kNone), strategy(RecomputeStrategy::kFull),
        strategy(RecomputeStrategy::kInverse), strategy(RecomputeStrategy::kReplay),
        keeps_attention}) {
    expect_kept_bytes_on_gpu(crnet, recompute);
    expect_kept_bytes_on_gpu(grouped, recompute);
  }
  expect_kept_bytes_on_gpu(llama, strategy(RecomputeStrategy::kNone));
}

// Everything but the gradients is small, then so are they.
TEST(RecomputeMemory, ThePeakCountsTheEmbeddingsGradient) {
  auto config = shape(Architecture::kCRNet, 2);
  config.vocab_size = 5000;
  const MemoryCounts memory = count_memory(config, {1, 2, /*bf16=*/false});
  EXPECT_GE(memory.peak, memory.weights + memory.optimizer + memory.gradients);
}

TEST(RecomputeMemory, ThePeakIsAboutWhatIsPlanned) {
  auto config = shape(Architecture::kCRNet, 9);
  config.hidden_size = 64;
  config.ffn_size = 172;
  config.r = int64_t{8};
  for (const bool bf16 : {false, true}) {
    for (const auto kind : {RecomputeStrategy::kNone, RecomputeStrategy::kFull,
                            RecomputeStrategy::kInverse, RecomputeStrategy::kReplay}) {
      expect_peak_bytes(config, strategy(kind), bf16);
    }
  }
}

}  // namespace
}  // namespace crnet
