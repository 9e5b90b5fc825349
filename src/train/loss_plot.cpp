#include "crnet/train/loss_plot.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "crnet/core/error.h"
#include "crnet/core/file.h"
#include "crnet/core/format.h"
#include "train/plot_axis.h"
#include "train/svg.h"

namespace crnet {
namespace {

using detail::Axis, detail::dot, detail::line, detail::text_at;
using detail::kBottom, detail::kLeft, detail::kRight, detail::kTop;

constexpr double kRatioForLogarithm = 20;
constexpr int kTicks = 7;

constexpr const char* kTrainColour = "#a9c7ea";
constexpr const char* kSmoothedColour = "#1c5cab";
constexpr const char* kValidationColour = "#e0701b";

struct Point {
  double step;
  double loss;
};
using Points = std::vector<Point>;  // those not finite are gaps

Points join(const std::vector<int64_t>& steps, const std::vector<double>& losses) {
  Points points(losses.size());
  for (size_t i = 0; i < losses.size(); ++i) {
    points[i] = {static_cast<double>(steps[i]), losses[i]};
  }
  return points;
}

void check_lengths(const LossCurve& curve) {
  const bool smoothed_fits = curve.smoothed.empty() || curve.smoothed.size() == curve.steps.size();
  if (curve.train.size() == curve.steps.size() && smoothed_fits &&
      curve.validation.size() == curve.validation_steps.size()) {
    return;
  }
  throw Error(
      format("[loss plot] expected one loss per step, got %zu training and %zu smoothed "
             "losses for %zu steps, %zu validation losses for %zu",
             curve.train.size(), curve.smoothed.size(), curve.steps.size(), curve.validation.size(),
             curve.validation_steps.size()));
}

struct Plot {
  Points train, smoothed, validation;
  Axis x, y;
  bool empty = true;
};

void include(Plot& plot, const Points& points) {
  for (const auto& [step, loss] : points) {
    if (!std::isfinite(loss)) continue;
    plot.empty = false;
    plot.x.low = std::min(plot.x.low, step);
    plot.x.high = std::max(plot.x.high, step);
    plot.y.low = std::min(plot.y.low, loss);
    plot.y.high = std::max(plot.y.high, loss);
  }
}

Plot lay_out(const LossCurve& curve) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Plot plot{join(curve.steps, curve.train),
            join(curve.steps, curve.smoothed),
            join(curve.validation_steps, curve.validation),
            {},
            {}};
  plot.x = {kInfinity, -kInfinity, kLeft, kRight};
  plot.y = {kInfinity, -kInfinity, kBottom, kTop};
  for (const auto* points : {&plot.train, &plot.smoothed, &plot.validation}) include(plot, *points);
  if (plot.empty) {
    plot.x.low = plot.y.low = 0;
    plot.x.high = plot.y.high = 1;
    return plot;
  }
  plot.y.logarithmic = plot.y.low > 0 && plot.y.high >= kRatioForLogarithm * plot.y.low;
  widen_to_ticks(plot.y, kTicks);
  // Steps are counted from the start of a run; its middle alone begins where it begins.
  if (plot.x.low <= 0.2 * plot.x.high) plot.x.low = 0;
  if (plot.x.high <= plot.x.low) {
    plot.x.low = std::max(0.0, plot.x.low - 1);
    ++plot.x.high;
  }
  return plot;
}

/// At most the first, lowest, highest and last point of every column of one pixel.
Points thin(const Points& points, const Axis& x) {
  Points kept;
  for (size_t begin = 0, end = 0; begin < points.size(); begin = end) {
    const auto column = [&](size_t i) { return std::floor(x.position(points[i].step)); };
    while (end < points.size() && column(end) == column(begin) &&
           std::isfinite(points[end].loss) == std::isfinite(points[begin].loss)) {
      ++end;
    }
    const auto first = points.begin() + static_cast<std::ptrdiff_t>(begin);
    const auto last = points.begin() + static_cast<std::ptrdiff_t>(end);
    const auto by_loss = [](const Point& a, const Point& b) { return a.loss < b.loss; };
    // Losses that are not finite have no order; they are all alike.
    const bool gap = !std::isfinite(first->loss);
    auto [low, high] = gap ? std::pair(first, first) : std::minmax_element(first, last, by_loss);
    if (high < low) std::swap(low, high);
    auto previous = points.end();
    for (const auto point : {first, low, high, last - 1}) {
      if (point != previous) kept.push_back(*point);
      previous = point;
    }
  }
  return kept;
}

std::string axes(const Plot& plot) {
  auto steps = plot.x.ticks(kTicks + 1);
  // Whole steps only: a run of two steps has no step 0.5.
  std::erase_if(steps, [](double tick) { return std::abs(tick - std::round(tick)) > 1e-6; });
  return detail::axes(
      plot.x, steps, "step", plot.y, plot.y.ticks(kTicks),
      plot.y.logarithmic ? "loss (nats per token, log scale)" : "loss (nats per token)");
}

/// One line with a break at every gap. Points that no line joins show by its round ends.
std::string curve_line(const Points& points, const Plot& plot, const char* colour, double width) {
  std::string path;
  bool drawing = false;
  for (const auto& [step, loss] : thin(points, plot.x)) {
    if (std::isfinite(loss)) {
      const double x = plot.x.position(step), y = plot.y.position(loss);
      path += drawing ? format("L%.1f %.1f", x, y) : format("M%.1f %.1fh0", x, y);
    }
    drawing = std::isfinite(loss);
  }
  if (path.empty()) return "";
  const bool joined = path.find('L') != std::string::npos;
  return format(
      "<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"%.1f\" "
      "stroke-linejoin=\"round\" stroke-linecap=\"round\"/>\n",
      path.c_str(), colour, joined ? width : 3 * width);
}

std::string validation_dots(const Plot& plot) {
  std::string svg = curve_line(plot.validation, plot, kValidationColour, 1.2);
  for (const auto& [step, loss] : plot.validation) {
    if (!std::isfinite(loss)) continue;
    svg += dot(plot.x.position(step), plot.y.position(loss), kValidationColour);
  }
  return svg;
}

/// The last finite loss, as the legend shows it.
std::string last_of(const Points& points) {
  for (auto point = points.rbegin(); point != points.rend(); ++point) {
    if (std::isfinite(point->loss)) return format(" %.3f", point->loss);
  }
  return "";
}

/// The names above the frame, from left to right, each with the last value where one can be read.
std::string legend(const Plot& plot) {
  constexpr double kLine = 54, kCharacter = 6.6;
  std::string svg;
  double x = kLeft;
  const auto entry = [&](const std::string& mark, const std::string& name) {
    svg += mark + text_at(x + 28, kLine + 4, "class=\"legend\"", name);
    x += 28 + kCharacter * static_cast<double>(name.size()) + 22;
  };
  const auto stroke = [&](const char* colour, double width) {
    return format(
        "<path d=\"M%.1f %.1fh20\" stroke=\"%s\" stroke-width=\"%.1f\" "
        "stroke-linecap=\"round\"/>\n",
        x, kLine, colour, width);
  };
  if (!plot.train.empty()) entry(stroke(kTrainColour, 1.2), "training");
  if (!plot.smoothed.empty()) {
    entry(stroke(kSmoothedColour, 2.4), "training, smoothed" + last_of(plot.smoothed));
  }
  if (!plot.validation.empty()) {
    entry(stroke(kValidationColour, 1.2) + dot(x + 10, kLine, kValidationColour),
          "validation" + last_of(plot.validation));
  }
  return svg;
}

}  // namespace

std::string render_loss_svg(const LossCurve& curve, const std::string& title) {
  check_lengths(curve);
  const Plot plot = lay_out(curve);
  std::string svg = detail::svg_head(title) + axes(plot);
  if (plot.empty) {
    svg += text_at((kLeft + kRight) / 2, (kTop + kBottom) / 2,
                   "text-anchor=\"middle\" class=\"legend\"", "no loss yet");
  } else {
    svg += legend(plot) + curve_line(plot.train, plot, kTrainColour, 1.0) +
           curve_line(plot.smoothed, plot, kSmoothedColour, 2.4) + validation_dots(plot);
  }
  return svg + "</svg>\n";
}

void write_loss_svg(const std::filesystem::path& path, const LossCurve& curve,
                    const std::string& title) {
  write_text_atomic(path, render_loss_svg(curve, title));
}

}  // namespace crnet
