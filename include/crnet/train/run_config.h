// Everything that decides a training run, as one plain struct.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "crnet/config/fields.h"
#include "crnet/config/load.h"
#include "crnet/dist/config.h"
#include "crnet/model/config.h"
#include "crnet/recompute/plan.h"

namespace crnet {

/// How the learning rate goes after the linear warm-up from 0 to optimizer.lr.
enum class ScheduleKind {
  kCosine,    ///< half a cosine down to final_lr_ratio · lr at the last step
  kWsd,       ///< warm-up, stable, decay: constant, then linear over the last decay_steps
  kConstant,  ///< stays at lr
};

enum class DeviceChoice { kAuto, kCpu, kCuda };      ///< auto: CUDA where there is a GPU
enum class PrecisionChoice { kAuto, kBf16, kFp32 };  ///< auto: bf16 where it is native

template <>
struct EnumNames<ScheduleKind> {
  static constexpr std::array<EnumName<ScheduleKind>, 3> kValues = {
      {{ScheduleKind::kCosine, "cosine"},
       {ScheduleKind::kWsd, "wsd"},
       {ScheduleKind::kConstant, "constant"}}};
};

template <>
struct EnumNames<DeviceChoice> {
  static constexpr std::array<EnumName<DeviceChoice>, 3> kValues = {
      {{DeviceChoice::kAuto, "auto"}, {DeviceChoice::kCpu, "cpu"}, {DeviceChoice::kCuda, "cuda"}}};
};

template <>
struct EnumNames<PrecisionChoice> {
  static constexpr std::array<EnumName<PrecisionChoice>, 3> kValues = {
      {{PrecisionChoice::kAuto, "auto"},
       {PrecisionChoice::kBf16, "bf16"},
       {PrecisionChoice::kFp32, "fp32"}}};
};

struct DataConfig {
  std::string path;               ///< folder that `crnet prepare` made
  int64_t sequence_length = 256;  ///< tokens per sequence, T
  bool verify = true;             ///< check every shard's checksum at the start

  template <class Visitor>
  void visit_fields(Visitor&& visit) {
    visit(path, {.name = "path", .help = "folder that `crnet prepare` made"});
    visit(sequence_length, {.name = "sequence_length",
                            .help = "tokens per sequence, T",
                            .minimum = 1,
                            .maximum = 100000000});
    visit(verify, {.name = "verify", .help = "check every shard's checksum at the start"});
  }
};

struct OptimizerConfig {
  double lr = 1e-3;            ///< peak learning rate
  double beta1 = 0.9;          ///< decay of AdamW's first moment
  double beta2 = 0.95;         ///< decay of AdamW's second moment
  double epsilon = 1e-8;       ///< added to AdamW's denominator
  double weight_decay = 0.01;  ///< of matrices; norms, β and embeddings have none
  double clip_norm = 1.0;      ///< greatest global gradient norm; 0: no clipping

  template <class Visitor>
  void visit_fields(Visitor&& visit) {
    visit(lr, {.name = "lr", .help = "peak learning rate", .above = 0});
    visit(beta1,
          {.name = "beta1", .help = "decay of AdamW's first moment", .minimum = 0, .below = 1});
    visit(beta2,
          {.name = "beta2", .help = "decay of AdamW's second moment", .minimum = 0, .below = 1});
    visit(epsilon, {.name = "epsilon", .help = "added to AdamW's denominator", .above = 0});
    visit(weight_decay, {.name = "weight_decay",
                         .help = "decay of matrices; norms, beta and embeddings have none",
                         .minimum = 0});
    visit(clip_norm, {.name = "clip_norm",
                      .help = "greatest global gradient norm; 0: no clipping",
                      .minimum = 0});
  }
};

struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::kCosine;
  int64_t warmup_steps = 100;   ///< steps from 0 to lr
  double final_lr_ratio = 0.1;  ///< learning rate at the end, as a part of lr
  int64_t decay_steps = 0;      ///< wsd: steps of the decay at the end

  template <class Visitor>
  void visit_fields(Visitor&& visit) {
    visit(kind, {.name = "kind",
                 .help = "after the warm-up: cosine to the final rate, wsd (stable, then linear "
                         "decay), or constant"});
    visit(warmup_steps, {.name = "warmup_steps",
                         .help = "steps in which the rate rises linearly from 0",
                         .minimum = 0});
    visit(final_lr_ratio, {.name = "final_lr_ratio",
                           .help = "learning rate at the end, as a part of optimizer.lr",
                           .minimum = 0,
                           .maximum = 1});
    visit(decay_steps,
          {.name = "decay_steps", .help = "wsd: steps of the decay at the end", .minimum = 0});
  }
};

struct TrainConfig {
  int64_t steps = 1000;             ///< updates
  int64_t micro_batch = 8;          ///< sequences per forward pass of a process
  int64_t global_batch_tokens = 0;  ///< tokens per update; 0: one micro-batch of every process
  int64_t seed = 0;                 ///< of the initial weights and of the data's order
  DeviceChoice device = DeviceChoice::kAuto;
  PrecisionChoice precision = PrecisionChoice::kAuto;
  int64_t threads = 0;         ///< CPU threads; 0: this process's share of the cores
  int64_t eval_every = 100;    ///< steps between validations; 0: only at the start and the end
  int64_t eval_tokens = 0;     ///< tokens per validation; 0: all there are
  int64_t log_every = 10;      ///< steps between log lines where there is no terminal
  bool cuda_graphs = false;    ///< passes are recorded, and a GPU gets each as a whole
  int64_t max_bad_steps = 10;  ///< non-finite updates in a row that end the run
  std::string run_dir = "runs/run";  ///< folder for everything that the run writes

  template <class Visitor>
  void visit_fields(Visitor&& visit) {
    visit(steps, {.name = "steps", .help = "updates", .minimum = 1});
    visit(micro_batch, {.name = "micro_batch",
                        .help = "sequences per forward pass of a process",
                        .minimum = 1,
                        .maximum = 1000000});
    visit(global_batch_tokens,
          {.name = "global_batch_tokens",
           .help = "tokens per update, a multiple of micro_batch * sequence_length * processes; "
                   "0: one micro-batch of every process",
           .minimum = 0});
    visit(seed, {.name = "seed",
                 .help = "seed of the initial weights and of the data's order",
                 .minimum = 0});
    visit(device, {.name = "device", .help = "auto: CUDA where there is a GPU"});
    visit(precision,
          {.name = "precision", .help = "auto: bf16 where the device multiplies it natively"});
    visit(threads, {.name = "threads",
                    .help = "CPU threads; 0: this process's share of the cores, whatever "
                            "OMP_NUM_THREADS says (torchrun sets it to 1)",
                    .minimum = 0,
                    .maximum = 4096});
    visit(eval_every, {.name = "eval_every",
                       .help = "steps between validations; 0: only at the start and the end",
                       .minimum = 0});
    visit(eval_tokens,
          {.name = "eval_tokens", .help = "tokens per validation; 0: all there are", .minimum = 0});
    visit(log_every, {.name = "log_every",
                      .help = "steps between log lines where there is no terminal",
                      .minimum = 1});
    visit(cuda_graphs,
          {.name = "cuda_graphs",
           .help = "a GPU gets each forward and backward pass as one CUDA graph; one process, and "
                   "no strategy that inverts"});
    visit(max_bad_steps, {.name = "max_bad_steps",
                          .help = "non-finite updates in a row that end the run",
                          .minimum = 1});
    visit(run_dir, {.name = "run_dir", .help = "folder for everything that the run writes"});
  }
};

struct CheckpointConfig {
  int64_t every = 0;       ///< steps between checkpoints; 0: only at the end
  int64_t keep_last = 2;   ///< newest checkpoints that stay
  int64_t keep_every = 0;  ///< checkpoints at multiples of this step stay for good; 0: none
  bool background = true;  ///< training goes on while a copy is written

  template <class Visitor>
  void visit_fields(Visitor&& visit) {
    visit(every,
          {.name = "every", .help = "steps between checkpoints; 0: only at the end", .minimum = 0});
    visit(keep_last, {.name = "keep_last", .help = "newest checkpoints that stay", .minimum = 1});
    visit(keep_every, {.name = "keep_every",
                       .help = "checkpoints at multiples of this step stay for good; 0: none",
                       .minimum = 0});
    visit(background, {.name = "background",
                       .help = "training goes on while a copy of the weights and the optimizer's "
                               "state is written; false: it waits, without a copy"});
  }
};

struct RunConfig {
  ModelConfig model;
  DataConfig data;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  TrainConfig train;
  RecomputeConfig recompute;
  CheckpointConfig checkpoint;
  DistConfig dist;

  template <class Visitor>
  void visit_fields(Visitor&& visit) {
    visit(model, {.name = "model", .help = "shape of the model"});
    visit(data, {.name = "data", .help = "what is trained on"});
    visit(optimizer, {.name = "optimizer", .help = "AdamW"});
    visit(schedule, {.name = "schedule", .help = "learning rate over the steps"});
    visit(train, {.name = "train", .help = "the run"});
    visit(recompute, {.name = "recompute", .help = "activations that are not kept"});
    visit(checkpoint, {.name = "checkpoint", .help = "what is saved, and when"});
    visit(dist, {.name = "dist", .help = "several processes"});
  }

  /// Tokens of one forward pass.
  [[nodiscard]] int64_t micro_batch_tokens() const {
    return train.micro_batch * data.sequence_length;
  }
  /// Forward passes of each process per update.
  [[nodiscard]] int64_t accumulation_steps(int64_t num_processes = 1) const {
    const int64_t at_once = num_processes * micro_batch_tokens();
    return train.global_batch_tokens == 0 ? 1 : train.global_batch_tokens / at_once;
  }

  /// Checks every limit and what no single field can, the model's rules included. An empty
  /// data.path passes: only training needs one. Throws UsageError whose text starts with the key at
  /// fault ("train.global_batch_tokens: expected …").
  void validate() const;
};

/// Reads and validates a recipe or model file; see config/load.h.
[[nodiscard]] LoadedConfig<RunConfig> load_run_config(
    const std::string& path, const std::vector<std::string>& overrides = {});

}  // namespace crnet
