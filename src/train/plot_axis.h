// One axis of a chart: range, position of a value, round numbers to label.
#pragma once

#include <string>
#include <vector>

namespace crnet::detail {

/// Maps [low, high] onto pixels; `from` may be beyond `to`, as for a vertical axis.
struct Axis {
  double low = 0;
  double high = 1;
  double from = 0;
  double to = 1;
  bool logarithmic = false;

  [[nodiscard]] double position(double value) const;

  /// Round numbers within the range, about `wanted` of them where the axis is linear.
  [[nodiscard]] std::vector<double> ticks(int wanted) const;
};

/// Widens the axis to round numbers around its values, and gives a single value some room.
void widen_to_ticks(Axis& axis, int wanted);

/// 12000 → "12k", 2.5 → "2.5".
std::string tick_label(double value);

}  // namespace crnet::detail
