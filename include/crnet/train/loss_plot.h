// The picture of a run's loss.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace crnet {

/// Loss in nats per token over optimizer steps. Values that are not finite leave a gap.
struct LossCurve {
  std::vector<int64_t> steps;
  std::vector<double> train;     ///< As long as `steps`.
  std::vector<double> smoothed;  ///< As long as `steps`, or empty.
  std::vector<int64_t> validation_steps;
  std::vector<double> validation;  ///< As long as `validation_steps`.
};

/// The curve as an SVG image of 800 × 450 that any browser shows. The loss axis is logarithmic
/// where the largest value is 20 times the smallest or more. Long runs are thinned to what can be
/// seen, with peaks kept. Throws Error for lists of different lengths.
[[nodiscard]] std::string render_loss_svg(const LossCurve& curve, const std::string& title);

/// Writes render_loss_svg's image; a reader never sees a part of it. Throws Error that names
/// `path`.
void write_loss_svg(const std::filesystem::path& path, const LossCurve& curve,
                    const std::string& title);

}  // namespace crnet
