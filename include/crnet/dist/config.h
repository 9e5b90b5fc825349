// How the processes of a run talk to each other.
#pragma once

#include <array>
#include <cstdint>

#include "crnet/config/fields.h"

namespace crnet {

enum class Backend {
  kAuto,  ///< NCCL on CUDA, Gloo on CPUs
  kGloo,
  kNccl,
};

template <>
struct EnumNames<Backend> {
  static constexpr std::array<EnumName<Backend>, 3> kValues = {
      {{Backend::kAuto, "auto"}, {Backend::kGloo, "gloo"}, {Backend::kNccl, "nccl"}}};
};

enum class GradientPrecision { kFp32, kBf16 };

template <>
struct EnumNames<GradientPrecision> {
  static constexpr std::array<EnumName<GradientPrecision>, 2> kValues = {
      {{GradientPrecision::kFp32, "fp32"}, {GradientPrecision::kBf16, "bf16"}}};
};

/// What is split over the processes of a shard group instead of being whole in each.
enum class Sharding {
  kNone,
  kOptimizer,   ///< AdamW's state and the fp32 master weights (ZeRO-1, arXiv 1910.02054)
  kParameters,  ///< these, and the weights that are computed with, block by block (ZeRO-3)
};

template <>
struct EnumNames<Sharding> {
  static constexpr std::array<EnumName<Sharding>, 3> kValues = {
      {{Sharding::kNone, "none"},
       {Sharding::kOptimizer, "optimizer"},
       {Sharding::kParameters, "parameters"}}};
};

struct DistConfig {
  Backend backend = Backend::kAuto;
  int64_t start_timeout_s = 60;   ///< longest wait until all processes have come
  int64_t timeout_s = 300;        ///< longest wait for another process in a training step
  int64_t slow_timeout_s = 1800;  ///< longest wait while data are opened or a checkpoint is saved
  int64_t bucket_mib = 25;        ///< gradients that are reduced at once
  GradientPrecision gradients = GradientPrecision::kFp32;  ///< in which they are reduced
  Sharding shard = Sharding::kNone;
  int64_t shard_group = 0;  ///< processes that share one copy of what is split; 0: all

  template <class Visitor>
  void visit_fields(Visitor&& visit) {
    visit(backend, {.name = "backend", .help = "auto: nccl on CUDA, gloo on CPUs"});
    visit(start_timeout_s, {.name = "start_timeout_s",
                            .help = "longest wait until all processes have come, seconds",
                            .minimum = 1,
                            .maximum = 1000000});
    visit(timeout_s, {.name = "timeout_s",
                      .help = "longest wait for another process in a training step, seconds",
                      .minimum = 1,
                      .maximum = 1000000});
    visit(slow_timeout_s,
          {.name = "slow_timeout_s",
           .help = "longest wait while data are opened or a checkpoint is saved, seconds",
           .minimum = 1,
           .maximum = 1000000});
    visit(bucket_mib, {.name = "bucket_mib",
                       .help = "gradients that are reduced at once, MiB",
                       .minimum = 1,
                       .maximum = 100000});
    visit(gradients,
          {.name = "gradients", .help = "precision in which gradients are summed over processes"});
    visit(shard, {.name = "shard",
                  .help = "what is split over processes: none, the optimizer's state and master "
                          "weights, or all parameters"});
    visit(shard_group, {.name = "shard_group",
                        .help = "processes that share one copy of what is split, e.g. those of a "
                                "node; 0: all",
                        .minimum = 0,
                        .maximum = 1000000});
  }
};

}  // namespace crnet
