#include "crnet/train/loss_plot.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <limits>
#include <regex>

#include "crnet/core/error.h"
#include "crnet/core/file.h"
#include "train/plot_axis.h"

namespace crnet {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

LossCurve typical_run(int64_t steps) {
  LossCurve curve;
  double smoothed = 0;
  for (int64_t step = 1; step <= steps; ++step) {
    const double progress = static_cast<double>(step) / static_cast<double>(steps);
    const double noise = 0.15 * std::sin(static_cast<double>(step * step % 1009));
    const double loss = 3.4 + 5.7 * std::exp(-9 * progress) + noise;
    smoothed = step == 1 ? loss : 0.95 * smoothed + 0.05 * loss;
    curve.steps.push_back(step);
    curve.train.push_back(loss);
    curve.smoothed.push_back(smoothed);
    if (step % (steps / 8) == 0) {
      curve.validation_steps.push_back(step);
      curve.validation.push_back(loss - noise + 0.08);
    }
  }
  return curve;
}

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

/// Every number of every path lies within the image.
void expect_drawn_inside(const std::string& svg) {
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
  const std::regex point("[ML](-?[0-9.]+) (-?[0-9.]+)");
  for (std::sregex_iterator match(svg.begin(), svg.end(), point), end; match != end; ++match) {
    const double x = std::stod((*match)[1]), y = std::stod((*match)[2]);
    EXPECT_TRUE(x >= 0 && x <= 800 && y >= 0 && y <= 450) << match->str();
  }
}

TEST(LossPlot, TypicalRunShowsAllThreeCurves) {
  const auto svg = render_loss_svg(typical_run(500), "quickstart & <others>");
  expect_drawn_inside(svg);
  EXPECT_EQ(count(svg, "fill=\"none\""), 3u);
  EXPECT_EQ(count(svg, "<circle"), 8u + 1u);  // one in the legend
  EXPECT_NE(svg.find("quickstart &amp; &lt;others&gt;"), std::string::npos);
  EXPECT_EQ(svg.find("log scale"), std::string::npos);
}

TEST(LossPlot, EmptyRunSaysSo) {
  const auto svg = render_loss_svg({}, "new run");
  expect_drawn_inside(svg);
  EXPECT_NE(svg.find("no loss yet"), std::string::npos);
}

TEST(LossPlot, LossesThatAreNotFiniteOnlyCountAsNone) {
  const auto svg = render_loss_svg({{1, 2}, {kNan, kInfinity}, {}, {2}, {kNan}}, "diverged");
  EXPECT_NE(svg.find("no loss yet"), std::string::npos);
}

TEST(LossPlot, SinglePointIsVisible) {
  for (const int64_t step : {0, 1, 1000}) {
    const auto svg = render_loss_svg({{step}, {9.2}, {9.2}, {}, {}}, "one step");
    expect_drawn_inside(svg);
    EXPECT_EQ(count(svg, "fill=\"none\""), 2u) << step;
  }
}

TEST(LossPlot, GapBreaksTheLine) {
  const auto svg =
      render_loss_svg({{1, 2, 3, 4, 5}, {5, 4, kNan, 3, kInfinity}, {}, {}, {}}, "gap");
  expect_drawn_inside(svg);
  const auto path = svg.substr(svg.find("<path d=\"", svg.find("class=\"legend\"")));
  EXPECT_EQ(count(path, "M"), 2u);
  EXPECT_EQ(count(path, "L"), 1u);
}

TEST(LossPlot, WideRangeIsLogarithmic) {
  const auto svg = render_loss_svg({{1, 2, 3}, {900, 30, 3}, {}, {}, {}}, "spike");
  expect_drawn_inside(svg);
  EXPECT_NE(svg.find("log scale"), std::string::npos);
}

TEST(LossPlot, ZeroAndNegativeValuesStayLinear) {
  const auto svg = render_loss_svg({{1, 2, 3}, {9, 0, -1}, {}, {}, {}}, "odd");
  expect_drawn_inside(svg);
  EXPECT_EQ(svg.find("log scale"), std::string::npos);
}

TEST(LossPlot, LongRunIsThinnedWithItsPeakKept) {
  auto curve = typical_run(200'000);
  curve.train[123'456] = 19.5;
  const auto svg = render_loss_svg(curve, "long");
  expect_drawn_inside(svg);
  EXPECT_LT(svg.size(), 120'000u);
  // The axis goes to 20, so the peak is within 1/20 of the frame's top, and nothing else is.
  EXPECT_TRUE(std::regex_search(svg, std::regex("L[0-9.]+ (7[6-9]|8[0-9])\\.")));
}

TEST(LossPlot, ListsOfDifferentLengthsAreRefused) {
  EXPECT_THROW((void)render_loss_svg({{1, 2}, {1.0}, {}, {}, {}}, ""), Error);
  EXPECT_THROW((void)render_loss_svg({{1}, {1.0}, {1.0, 2.0}, {}, {}}, ""), Error);
  EXPECT_THROW((void)render_loss_svg({{1}, {1.0}, {}, {1}, {}}, ""), Error);
}

TEST(LossPlot, FileHoldsThePictureAndFailureNamesThePath) {
  const auto folder =
      std::filesystem::path(testing::TempDir()) / ("crnet_loss_plot_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  write_loss_svg(folder / "loss.svg", typical_run(80), "run");
  EXPECT_EQ(read_text(folder / "loss.svg"), render_loss_svg(typical_run(80), "run"));
  try {
    write_loss_svg(folder / "missing" / "loss.svg", typical_run(80), "run");
    ADD_FAILURE() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("missing"), std::string::npos);
  }
  std::filesystem::remove_all(folder);
}

TEST(LossPlotAxis, TicksAreRoundAndInside) {
  const detail::Axis axis{0, 250, 0, 1};
  EXPECT_EQ(axis.ticks(7), (std::vector<double>{0, 50, 100, 150, 200, 250}));
  const detail::Axis decades{0.9, 120, 0, 1, true};
  EXPECT_EQ(decades.ticks(7), (std::vector<double>{1, 2, 5, 10, 20, 50, 100}));
}

TEST(LossPlotAxis, LabelsAreShort) {
  EXPECT_EQ(detail::tick_label(0), "0");
  EXPECT_EQ(detail::tick_label(2.5), "2.5");
  EXPECT_EQ(detail::tick_label(12000), "12k");
  EXPECT_EQ(detail::tick_label(1.5e6), "1.5M");
}

}  // namespace
}  // namespace crnet
