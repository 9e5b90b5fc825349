#include "crnet/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace crnet {
namespace {

// How far `step` is from `begin` (0) to the last of `total` steps (1).
double progress(int64_t step, int64_t begin, int64_t total) {
  const auto length = static_cast<double>(std::max<int64_t>(total - 1 - begin, 1));
  return std::clamp(static_cast<double>(step - begin) / length, 0.0, 1.0);
}

}  // namespace

double learning_rate(const ScheduleConfig& schedule, double lr, int64_t step, int64_t total) {
  const int64_t warmup = schedule.warmup_steps;
  if (step < warmup) return lr * static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double floor = lr * schedule.final_lr_ratio;
  switch (schedule.kind) {
    case ScheduleKind::kConstant:
      return lr;
    case ScheduleKind::kWsd: {
      const int64_t decay_begin = total - schedule.decay_steps;
      if (step < decay_begin) return lr;
      return lr + (floor - lr) * progress(step, decay_begin - 1, total);
    }
    case ScheduleKind::kCosine:
      break;
  }
  const double angle = std::numbers::pi * progress(step, warmup, total);
  return floor + (lr - floor) * 0.5 * (1 + std::cos(angle));
}

}  // namespace crnet
