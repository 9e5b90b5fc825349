#include "train/plot_axis.h"

#include <algorithm>
#include <cmath>

#include "crnet/core/format.h"

namespace crnet::detail {
namespace {

/// The smallest of 1, 2, 5 · 10^k that cuts `span` into at most `wanted` pieces.
double round_step(double span, int wanted) {
  const double rough = span / wanted;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough * (1 - 1e-9)) return factor * power;
  }
  return 10 * power;
}

std::vector<double> linear_ticks(double low, double high, int wanted) {
  const double step = round_step(high - low, wanted);
  std::vector<double> ticks;
  const double slack = 1e-6 * step;
  for (double i = std::ceil((low - slack) / step); i * step <= high + slack; ++i) {
    ticks.push_back(i * step);
  }
  return ticks;
}

/// 1, 2, 5 · 10^k, or the powers alone where these would crowd.
std::vector<double> logarithmic_ticks(double low, double high) {
  const bool dense = high / low < 1e4;
  std::vector<double> ticks;
  for (double k = std::floor(std::log10(low)); k <= std::ceil(std::log10(high)); ++k) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double tick = factor * std::pow(10.0, k);
      const bool inside = tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9);
      if (inside && (dense || factor == 1.0)) ticks.push_back(tick);
    }
  }
  return ticks;
}

}  // namespace

double Axis::position(double value) const {
  const double share =
      logarithmic ? std::log(value / low) / std::log(high / low) : (value - low) / (high - low);
  return from + share * (to - from);
}

std::vector<double> Axis::ticks(int wanted) const {
  return logarithmic ? logarithmic_ticks(low, high) : linear_ticks(low, high, wanted);
}

void widen_to_ticks(Axis& axis, int wanted) {
  if (axis.logarithmic) {
    axis.low /= 1.1;
    axis.high *= 1.1;
    return;
  }
  if (axis.high <= axis.low) {
    const double room = std::max(0.1 * std::abs(axis.low), 0.1);
    axis.low -= room;
    axis.high += room;
  }
  const double step = round_step(axis.high - axis.low, wanted);
  axis.low = step * std::floor(axis.low / step + 1e-6);
  axis.high = step * std::ceil(axis.high / step - 1e-6);
}

std::string tick_label(double value) {
  const double size = std::abs(value);
  if (size < 1e-12) return "0";
  if (size >= 1e9) return format("%gG", value / 1e9);
  if (size >= 1e6) return format("%gM", value / 1e6);
  if (size >= 1e4) return format("%gk", value / 1e3);
  return format("%g", value);
}

}  // namespace crnet::detail
