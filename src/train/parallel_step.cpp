#include "train/parallel_step.h"

#include <algorithm>
#include <array>
#include <deque>
#include <optional>
#include <utility>

#include "dist/sharded_parameters.h"
#include "train/collective_time.h"
#include "train/step_time.h"

namespace crnet {
namespace {

constexpr double kFp32 = 4;
constexpr int64_t kMiB = 1024 * 1024;
// Bytes per element that the update moves: AdamW reads four numbers and writes three; before, the
// norm reads one.
constexpr double kUpdateBytes = 7 * kFp32, kNormBytes = kFp32;

// Of a shard group, or of all where nothing is split; and of the replicas of a part.
enum Link : size_t { kGroup, kReplicas, kNumLinks };

// What is computed, and beside it what travels.
class Timeline {
 public:
  void compute(double seconds) { now_ += seconds; }
  // Returns when it will have arrived.
  double send(const Transfer& transfer, Link link = kGroup) {
    double& busy = busy_until_[link];
    busy = std::max(busy, now_) + transfer.seconds;
    times_.communication += transfer.seconds;
    times_.bytes += transfer.bytes;
    return busy;
  }
  void wait_until(double moment) {
    times_.exposed += std::max(0.0, moment - now_);
    now_ = std::max(now_, moment);
  }
  void wait_for_all() {
    for (const double moment : busy_until_) wait_until(moment);
  }
  [[nodiscard]] StepTimes times() const {
    StepTimes times = times_;
    times.seconds = now_;
    return times;
  }

 private:
  double now_ = 0;
  std::array<double, kNumLinks> busy_until_{};
  StepTimes times_;
};

class ParallelStep {
 public:
  ParallelStep(const ModelConfig& config, const StepShape& shape, const MachineRates& rates,
               int64_t num_micro_batches, const Sharing& sharing, const Network& network)
      : config_(config),
        plan_(shape.recompute),
        num_micro_batches_(num_micro_batches),
        sharing_(sharing),
        network_(network),
        memory_rate_(rates.memory),
        seconds_(predict_units(config, shape, rates)),
        units_(lay_out_units(config, shape.bf16, sharing.shard_size())),
        buckets_(reducer_buckets(units_, sharing.dist.bucket_mib * kMiB)),
        arrivals_(units_.size()) {}

  // From the moment in which a step's gradients are there to the same moment of the next step.
  [[nodiscard]] StepTimes run() {
    update();
    for (int64_t i = 0; i < num_micro_batches_; ++i) {
      forward();
      backward(/*is_last=*/i + 1 == num_micro_batches_);
    }
    return time_.times();
  }

 private:
  [[nodiscard]] bool releases() const {
    return sharing_.is_sharded() && sharing_.dist.shard == Sharding::kParameters;
  }
  [[nodiscard]] size_t small() const { return units_.size() - 1; }
  [[nodiscard]] size_t head() const { return config_.tie_embeddings ? 0 : units_.size() - 2; }
  [[nodiscard]] bool is_rebuilt(size_t unit) const {
    return unit > 0 && unit <= plan_.blocks.size() && !plan_.blocks[unit - 1].graph;
  }

  void update();
  void update(size_t unit);
  void forward();
  void backward(bool is_last);
  void backward_of(size_t unit, bool is_last);
  void replay_up_to(size_t unit, std::vector<bool>& has_outputs);
  void start_gather(size_t unit);
  void begin_use(size_t unit, bool forward);
  void end_use(size_t unit);
  void reduce_scatter(size_t unit);
  void average(int64_t elements);
  void finish_sum();

  const ModelConfig& config_;
  const RecomputePlan& plan_;
  const int64_t num_micro_batches_;
  const Sharing& sharing_;
  const Network& network_;
  const double memory_rate_;
  const std::vector<UnitSeconds> seconds_;    // without what is small
  const std::vector<UnitLayout> units_;       // with it
  const std::vector<ReducerBucket> buckets_;  // where nothing is sharded
  size_t next_bucket_ = 0;
  std::vector<std::optional<double>> arrivals_;  // of gathered weights
  size_t in_use_ = 0;                            // in its backward pass; 0: none
  std::deque<std::pair<size_t, double>> sums_;   // under way: of which unit, and until when
  Timeline time_;
};

void ParallelStep::update() {
  double elements = 0;
  for (const auto& unit : units_) elements += static_cast<double>(unit.part);
  time_.compute(elements * kNormBytes / memory_rate_);
  update(small());
  for (size_t unit = 0; unit < small(); ++unit) update(unit);
}

void ParallelStep::update(size_t unit) {
  time_.compute(static_cast<double>(units_[unit].part) * kUpdateBytes / memory_rate_);
  if (sharing_.is_sharded() && (!releases() || unit == small())) start_gather(unit);
}

void ParallelStep::start_gather(size_t unit) {
  const UnitLayout& layout = units_[unit];
  if (arrivals_[unit] || layout.whole == 0) return;
  const auto bytes = static_cast<double>(layout.element_bytes * layout.whole);
  arrivals_[unit] =
      time_.send(ring_pass(bytes, Ring::of_neighbours(sharing_.shard_size(), network_), network_));
}

// As ShardedParameters::before_use() and after_use().
void ParallelStep::begin_use(size_t unit, bool forward) {
  if (!sharing_.is_sharded()) return;
  time_.wait_until(arrivals_[small()].value_or(0));
  start_gather(unit);
  if (releases() && forward && unit + 2 < units_.size()) start_gather(unit + 1);
  if (releases() && !forward && unit > 1) start_gather(unit - 1);
  time_.wait_until(arrivals_[unit].value_or(0));
}

void ParallelStep::end_use(size_t unit) {
  if (releases()) arrivals_[unit].reset();
}

void ParallelStep::forward() {
  for (size_t unit = 0; unit + 1 < seconds_.size(); ++unit) {
    begin_use(unit, /*forward=*/true);
    time_.compute(seconds_[unit].forward);
    end_use(unit);
  }
  begin_use(head(), /*forward=*/true);
  time_.compute(seconds_.back().forward);
  end_use(head());
}

void ParallelStep::backward(bool is_last) {
  std::vector<bool> has_outputs(units_.size(), true);
  for (size_t unit = 1; unit + 1 < seconds_.size(); ++unit) {
    const bool missing = is_rebuilt(unit) && plan_.blocks[unit - 1].products && !plan_.inverts &&
                         config_.architecture == Architecture::kCRNet;
    has_outputs[unit] = !missing || plan_.blocks[unit - 1].outputs;
  }
  backward_of(seconds_.size() - 1, is_last);
  for (size_t unit = seconds_.size() - 2; unit > 0; --unit) {
    begin_use(unit, /*forward=*/false);
    in_use_ = unit;
    replay_up_to(unit, has_outputs);
    replay_up_to(unit - 1, has_outputs);
    in_use_ = 0;
    backward_of(unit, is_last);
    end_use(unit);
  }
  backward_of(0, is_last);
  if (!is_last) return;
  if (sharing_.is_sharded()) reduce_scatter(small());
  while (!sums_.empty()) finish_sum();
  time_.wait_for_all();
}

// Computes, and lets gradients go as they come: those of a rebuilt block come together.
void ParallelStep::backward_of(size_t unit, bool is_last) {
  const double seconds = seconds_[unit].backward;
  if (!is_last || sharing_.num_processes == 1) return time_.compute(seconds);
  if (sharing_.is_sharded()) {
    time_.compute(seconds);
    return reduce_scatter(unit);
  }
  double made = 0;
  for (; next_bucket_ < buckets_.size() && buckets_[next_bucket_].unit == unit; ++next_bucket_) {
    const double share = is_rebuilt(unit) ? 1 : buckets_[next_bucket_].made;
    time_.compute(seconds * (share - made));
    made = share;
    average(buckets_[next_bucket_].elements);
  }
  time_.compute(seconds * (1 - made));
}

void ParallelStep::average(int64_t elements) {
  const auto bytes = static_cast<double>(sharing_.wire_bytes() * elements);
  time_.send(all_reduce(bytes, Ring::of_neighbours(sharing_.num_processes, network_), network_));
}

void ParallelStep::reduce_scatter(size_t unit) {
  if (units_[unit].whole == 0) return;
  const auto bytes = static_cast<double>(sharing_.wire_bytes() * units_[unit].whole);
  const Ring ring = Ring::of_neighbours(sharing_.shard_size(), network_);
  sums_.emplace_back(unit, time_.send(ring_pass(bytes, ring, network_)));
  if (sums_.size() > kSumsAtOnce) finish_sum();
}

// Waits for the oldest, and starts the sum over the replicas of its part, in fp32.
void ParallelStep::finish_sum() {
  const auto [unit, arrival] = sums_.front();
  sums_.pop_front();
  time_.wait_until(arrival);
  const int64_t size = sharing_.shard_size();
  const Ring replicas = Ring::with_stride(sharing_.num_processes / size, size, network_);
  const auto bytes = kFp32 * static_cast<double>(units_[unit].part);
  time_.send(all_reduce(bytes, replicas, network_), kReplicas);
}

// Y of a block and of those below it that were not kept, upwards from one that was.
void ParallelStep::replay_up_to(size_t unit, std::vector<bool>& has_outputs) {
  size_t start = unit;
  while (start > 0 && !has_outputs[start]) --start;
  for (size_t next = start + 1; next <= unit; ++next) {
    has_outputs[next] = true;
    if (next == in_use_) continue;
    begin_use(next, /*forward=*/true);
    end_use(next);
  }
}

}  // namespace

StepTimes predict_step(const ModelConfig& config, const StepShape& shape, const MachineRates& rates,
                       int64_t num_micro_batches, const Sharing& sharing, const Network& network) {
  return ParallelStep(config, shape, rates, num_micro_batches, sharing, network).run();
}

}  // namespace crnet
