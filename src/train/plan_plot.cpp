#include "crnet/train/plan_plot.h"

#include <algorithm>

#include "crnet/core/error.h"
#include "crnet/core/file.h"
#include "crnet/core/format.h"
#include "train/plot_axis.h"
#include "train/svg.h"

namespace crnet {
namespace {

using detail::Axis, detail::dot, detail::text_at;
using detail::kBottom, detail::kLeft, detail::kRight, detail::kTop;

constexpr int kTicks = 7;
constexpr const char *kFrontColour = "#1c5cab", *kStrategyColour = "#e0701b";

struct Point {
  double memory = 0, time = 0;  // GiB; percent more than the first strategy
};

struct Plot {
  double base_seconds = 1;
  Axis x, y;

  [[nodiscard]] Point point(const PlanEstimate& estimate) const {
    return {static_cast<double>(estimate.memory.peak) / 0x1p30,
            100 * (estimate.seconds / base_seconds - 1)};
  }
  void include(const std::vector<PlanEstimate>& estimates) {
    for (const auto& estimate : estimates) {
      const Point p = point(estimate);
      x.low = std::min(x.low, p.memory);
      x.high = std::max(x.high, p.memory);
      y.low = std::min(y.low, p.time);
      y.high = std::max(y.high, p.time);
    }
  }
};

Plot lay_out(const std::vector<PlanEstimate>& strategies, const std::vector<PlanEstimate>& front) {
  Plot plot;
  plot.base_seconds = strategies.front().seconds;
  const Point first = plot.point(strategies.front());
  plot.x = {first.memory, first.memory, kLeft, kRight};
  plot.y = {0, 0, kBottom, kTop};
  plot.include(strategies);
  plot.include(front);
  detail::widen_to_ticks(plot.x, kTicks);
  detail::widen_to_ticks(plot.y, kTicks);
  return plot;
}

std::string front_line(const Plot& plot, const std::vector<PlanEstimate>& front) {
  std::string path, dots;
  for (const auto& estimate : front) {
    const Point p = plot.point(estimate);
    const double x = plot.x.position(p.memory), y = plot.y.position(p.time);
    path += format("%s%.1f %.1f", path.empty() ? "M" : "L", x, y);
    dots += dot(x, y, kFrontColour);
  }
  return format("<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.8\"/>\n", path.c_str(),
                kFrontColour) +
         dots;
}

// A name to the right of its dot, or to the left where there is no room.
std::string named_dot(const Plot& plot, const PlanEstimate& estimate) {
  const Point p = plot.point(estimate);
  const double x = plot.x.position(p.memory), y = plot.y.position(p.time);
  const bool fits = x < kRight - 70;
  return dot(x, y, kStrategyColour) +
         text_at(fits ? x + 8 : x - 8, y - 8,
                 fits ? "class=\"legend\"" : "text-anchor=\"end\" class=\"legend\"", estimate.name);
}

}  // namespace

std::string render_plan_svg(const std::vector<PlanEstimate>& strategies,
                            const std::vector<PlanEstimate>& front, const std::string& title) {
  if (strategies.empty()) throw Error("[plan plot] expected at least one strategy, got none");
  const Plot plot = lay_out(strategies, front);
  std::string svg =
      detail::svg_head(title) + detail::axes(plot.x, plot.x.ticks(kTicks), "peak memory (GiB)",
                                             plot.y, plot.y.ticks(kTicks), "time added (%)");
  svg += dot(kLeft + 10, 54, kFrontColour) +
         text_at(kLeft + 20, 58, "class=\"legend\"", "plans that no other beats");
  svg += dot(kLeft + 200, 54, kStrategyColour) +
         text_at(kLeft + 210, 58, "class=\"legend\"", "strategies without options");
  svg += front_line(plot, front);
  for (const auto& strategy : strategies) svg += named_dot(plot, strategy);
  return svg + "</svg>\n";
}

void write_plan_svg(const std::filesystem::path& path, const std::vector<PlanEstimate>& strategies,
                    const std::vector<PlanEstimate>& front, const std::string& title) {
  write_text_atomic(path, render_plan_svg(strategies, front, title));
}

}  // namespace crnet
